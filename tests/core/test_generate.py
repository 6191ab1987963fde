"""The glue between a model and the decoders, on tiny random models in float64."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core import steps
from janus_cli.core.batch import BOS, EOS, MASK, PAD, SPECIAL, UNK, pad
from janus_cli.core.generate import generate, most_tokens
from janus_cli.core.knobs import ARSide, ARStream, Decoding, Model
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.core.steps import ar_scores
from janus_cli.core.stream import base, beside, content, framed, queries

VOCABULARY = 19
OPTIONS = Decoding(beam=1, nbest=1, length_beam=3, iters=3)


def tiny(seed: int = 1, **options: Any) -> Transformer:
    """A random model whose outputs vary in length and content (a fresh one would say the same everywhere)."""
    torch.manual_seed(seed)
    knobs = Model(
        width=16, feedforward=24, heads=2, encoder_layers=1, decoder_layers=2,
        max_length=20, norm="pre", tie="none", embedding_scale=False, **options,
    )  # fmt: skip
    model = Transformer(knobs, VOCABULARY, VOCABULARY, length_head=True).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * (1.0 if re.search("cross|output|length", name) else 0.5))
    return model.requires_grad_(False)


def sentences(count: int, seed: int = 3) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.choice([UNK, *range(SPECIAL, VOCABULARY)]) for _ in range(draw.randint(1, 9))] for _ in range(count)]


def source(rows: list[list[int]]) -> Tensor:
    return pad([[*row, EOS] for row in rows])


def allowed(logits: Tensor, *never: int) -> Tensor:
    return logits.index_fill(-1, torch.tensor([PAD, BOS, MASK, *never]), -torch.inf).log_softmax(-1)


def slow_greedy(model: Transformer, row: list[int], ar_stream: ARStream, most: int) -> list[int]:
    """No cache, no batch: the whole prefix goes through the decoder for every token."""
    ids = source([row])
    memory = model.encode(ids, ids != PAD)
    tokens: list[int] = []
    while True:
        target = torch.tensor([[BOS, *tokens, UNK]])  # UNK stands for the token to come
        stream = content(target) if ar_stream == "content" else beside(content(target), queries(target))
        logp = allowed(model.logits(model.decode(stream, memory)[0, -1]))
        token = EOS if len(tokens) + 1 == most else int(logp.argmax())
        if token == EOS:
            return tokens
        tokens.append(token)


def plain(outputs: list[list[Output]]) -> list[list[list[int]]]:
    return [[output.tokens for output in row] for row in outputs]


@pytest.mark.parametrize("ar_stream", ["content", "query"])
def test_greedy_with_a_cache_equals_reading_the_whole_prefix_again(ar_stream: ARStream) -> None:
    model, rows = tiny(), sentences(12)
    most = most_tokens(source(rows), model, OPTIONS).tolist()
    expected = [slow_greedy(model, row, ar_stream, m) for row, m in zip(rows, most, strict=True)]
    assert len({len(tokens) for tokens in expected}) > 2
    outputs = generate(model, source(rows), "ar", OPTIONS, ar_stream)
    assert plain(outputs) == [[tokens] for tokens in expected]
    assert [o.passes for (o,) in outputs] == [len(tokens) + 1 for tokens in expected]


@pytest.mark.parametrize("ar_stream", ["content", "query"])
def test_a_causal_self_attention_decodes_in_every_mode(ar_stream: ARStream) -> None:
    """Greedy, beam and speculative decoding read the cache, mask-predict and reranking do not."""
    model, rows = tiny(causal_attention=True, embedding="concat"), sentences(12)
    most = most_tokens(source(rows), model, OPTIONS).tolist()
    expected = [[slow_greedy(model, row, ar_stream, m)] for row, m in zip(rows, most, strict=True)]
    assert expected != plain(generate(tiny(), source(rows), "ar", OPTIONS, ar_stream))
    assert plain(generate(model, source(rows), "ar", OPTIONS, ar_stream)) == expected
    for changes in SPECULATIVE:
        found = generate(model, source(rows), "spec", replace(OPTIONS, **changes), ar_stream)
        assert plain(found) == expected, changes
    beam = replace(OPTIONS, beam=4, nbest=4)
    check_independence(rows, lambda part: generate(model, part, "ar", beam, ar_stream))
    nar = replace(OPTIONS, update="all", rerank="ar")
    check_independence(rows, lambda part: generate(model, part, "nar", nar, ar_stream))


@pytest.mark.parametrize("ar_stream", ["content", "query", "self", "masks"])
@pytest.mark.parametrize("beam", [1, 4])
def test_the_score_of_an_output_is_what_one_pass_over_it_gives(ar_stream: ARSide, beam: int) -> None:
    model, rows = tiny(), sentences(9)
    options = replace(OPTIONS, beam=beam, nbest=beam)
    outputs = generate(model, source(rows), "ar", options, ar_stream)
    for row, found in zip(rows, outputs, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        for output in found:
            (score,) = ar_scores(model, memory, torch.tensor([output.tokens], dtype=torch.int64), ar_stream)
            size = len(output.tokens)  # and EOS, which `masks` does not predict
            share = size / (size + 1) if ar_stream == "masks" else 1.0
            assert output.score == pytest.approx(float(score) * share, abs=1e-5)
        assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("ar_stream", ["content", "query"])
@pytest.mark.parametrize("beam", [1, 5])
def test_ar_outputs_do_not_depend_on_batch_order_size_or_padding(seed: int, ar_stream: ARStream, beam: int) -> None:
    model, rows = tiny(seed), sentences(24, seed)
    options = replace(OPTIONS, beam=beam, nbest=beam)
    check_independence(rows, lambda part: generate(model, part, "ar", options, ar_stream))


SPECULATIVE = [
    {}, {"draft_iters": 2}, {"draft_length": 2}, {"verify_window": 1}, {"redraft": "ar"},
    {"redraft": "ar", "draft_length": 3, "verify_window": 2}, {"redraft": "joint"},
    {"redraft": "joint", "draft_length": 3, "verify_window": 2},
]  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("ar_stream", ["content", "query"])
@pytest.mark.parametrize("changes", SPECULATIVE)
def test_speculative_text_is_greedy_text(seed: int, ar_stream: ARStream, changes: dict[str, object]) -> None:
    model, rows = tiny(seed), sentences(24, seed)
    options = replace(OPTIONS, **changes)
    expected = generate(model, source(rows), "ar", options, ar_stream)
    found = generate(model, source(rows), "spec", options, ar_stream)
    assert plain(found) == plain(expected)
    for (ours,), (theirs,) in zip(found, expected, strict=True):
        assert ours.logps == pytest.approx(theirs.logps, abs=1e-9)
        assert ours.passes <= 2 * theirs.passes * options.draft_iters


@pytest.mark.parametrize(("ar_stream", "redraft"), [("content", "joint"), ("query", "joint"), ("query", "ar")])
def test_speculative_outputs_do_not_depend_on_batch_order_size_or_padding(ar_stream: ARStream, redraft: str) -> None:
    model, rows = tiny(), sentences(24)
    options = replace(OPTIONS, redraft=redraft, draft_length=4)
    check_independence(rows, lambda part: generate(model, part, "spec", options, ar_stream))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {"update": "all"}, {"rerank": "ar"}, {"remove_repeats": True, "rerank": "ar"}, {"length_beam": 1, "iters": 9}],
)
def test_nar_outputs_do_not_depend_on_batch_order_size_or_padding(seed: int, changes: dict[str, object]) -> None:
    model, rows = tiny(seed), sentences(24, seed)
    options = replace(OPTIONS, **changes)
    check_independence(rows, lambda part: generate(model, part, "nar", options, "content"))


def check_independence(rows: list[list[int]], decode: Callable[[Tensor], list[list[Output]]]) -> None:
    together = decode(source(rows))
    assert len({tuple(found[0].tokens) for found in together}) > len(rows) // 3
    order = random.Random(0).sample(range(len(rows)), len(rows))
    for size, stop in ((1, 6), (5, len(rows))):
        for start in range(0, stop, size):
            places = order[start : start + size]
            for place, found in zip(places, decode(source([rows[p] for p in places])), strict=True):
                assert [o.tokens for o in found] == [o.tokens for o in together[place]]
                assert [o.passes for o in found] == [o.passes for o in together[place]]
                assert [o.score for o in found] == pytest.approx([o.score for o in together[place]], abs=1e-5)
    wide = F.pad(source(rows), (0, 3), value=PAD)
    assert plain(decode(wide)) == plain(together)


def slow_mask_predict(
    model: Transformer, row: list[int], n: int, iters: int, everywhere: bool
) -> tuple[list[int], list[float]]:
    """The published loop in plain Python, for one sentence and one length."""
    ids = source([row])
    memory = model.encode(ids, ids != PAD)
    tokens, sure = [MASK] * n, [0.0] * n
    for done in range(1, iters + 1):
        target = torch.tensor([[BOS, *tokens, EOS]])
        logp = allowed(model.logits(model.decode(base(target, torch.zeros_like(target)), memory)), EOS)[0, 1:-1]
        for place in range(n):
            if everywhere or tokens[place] == MASK:
                tokens[place], sure[place] = int(logp[place].argmax()), float(logp[place].max())
        for place in sorted(range(n), key=lambda p: sure[p])[: n * (iters - done) // iters]:
            tokens[place] = MASK
    return tokens, sure


@pytest.mark.parametrize("update", ["hidden", "all"])
def test_mask_predict_equals_the_plain_loop_over_every_length(update: Literal["hidden", "all"]) -> None:
    model, rows = tiny(), sentences(8)
    outputs = generate(model, source(rows), "nar", replace(OPTIONS, update=update), None)
    for row, (output,) in zip(rows, outputs, strict=True):
        ids = source([row])
        lengths = model.length_logits(model.encode(ids, ids != PAD))[0, 1:19].argsort(descending=True)[:3] + 1
        candidates = [slow_mask_predict(model, row, n, OPTIONS.iters, update == "all") for n in lengths.tolist()]
        tokens, sure = max(candidates, key=lambda pair: sum(pair[1]) / len(pair[1]))
        assert output.tokens == tokens
        assert output.logps == pytest.approx(sure, abs=1e-5)
        assert output.score == pytest.approx(sum(sure) / len(sure), abs=1e-5)
        assert (output.length, output.passes) == (len(tokens), OPTIONS.iters)


def test_the_rerank_picks_what_the_ar_side_likes_best_in_one_more_pass() -> None:
    model, rows = tiny(), sentences(12)
    all_three = replace(OPTIONS, nbest=3)
    by_itself = generate(model, source(rows), "nar", all_three, None)
    by_ar = generate(model, source(rows), "nar", replace(all_three, rerank="ar"), "content")
    moved = 0
    for row, own, ranked in zip(rows, by_itself, by_ar, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        tokens = [output.tokens for output in own]
        scores = [float(ar_scores(model, memory, torch.tensor([t]), "content")) for t in tokens]
        assert sorted(tokens) == sorted(output.tokens for output in ranked)
        assert [o.score for o in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
        assert {output.passes for output in ranked} == {OPTIONS.iters + 1}
        moved += own[0].tokens != ranked[0].tokens
    assert moved > 0


def test_special_ids_are_never_written() -> None:
    model, rows = tiny(), sentences(20)
    table = model.output_table.weight
    table[[PAD, BOS, MASK]] = table[[6, 7, 8]] * 9
    several = replace(OPTIONS, beam=4, nbest=4)
    for mode, options in (("ar", several), ("nar", OPTIONS)):
        outputs = generate(model, source(rows), mode, options, "query")
        written = {token for found in outputs for output in found for token in output.tokens}
        assert written
        assert not written & {PAD, BOS, EOS, MASK}


@pytest.mark.parametrize(("boost", "expected"), [(0, 1), (1, 1), (18, 18), (19, 18)])
def test_a_length_head_that_says_nothing_or_too_much_is_kept_in_range(
    monkeypatch: pytest.MonkeyPatch, boost: int, expected: int
) -> None:
    model = tiny()
    says = -((torch.arange(20.0) - boost) ** 2)
    monkeypatch.setattr(model, "length_logits", lambda memory: says.expand(len(memory.real), -1))
    outputs = generate(model, source(sentences(3)), "nar", replace(OPTIONS, length_beam=1), None)
    assert [len(o.tokens) for (o,) in outputs] == [expected] * 3


def test_every_length_at_once_and_a_source_of_padding_stay_finite() -> None:
    model = tiny()
    ids = torch.cat([source(sentences(2)), torch.full((1, source(sentences(2)).shape[1]), PAD)])
    every = replace(OPTIONS, length_beam=18, nbest=18)
    for found in generate(model, ids, "nar", every, None):
        assert sorted(len(o.tokens) for o in found) == list(range(1, 19))
        assert all(torch.tensor(o.logps).isfinite().all() for o in found)
    for found in generate(model, ids, "ar", replace(OPTIONS, beam=3), "content"):
        assert torch.tensor(found[0].logps).isfinite().all()


def test_ar_outputs_stay_within_the_limit() -> None:
    model, ids = tiny(), source([[5] * 9, [5], [5] * 5])
    assert most_tokens(ids, model, OPTIONS).tolist() == [
        19,
        12,
        17,
    ]  # 9 * 1.2 + 10 + EOS is more than 20 positions hold
    short = replace(OPTIONS, max_ratio=0.0, max_extra=0)
    assert most_tokens(ids, model, short).tolist() == [1, 1, 1]
    assert plain(generate(model, ids, "ar", short, "content")) == [[[]]] * 3


def test_chunks_change_nothing_and_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny(), source(sentences(7))
    options = replace(OPTIONS, rerank="ar")
    whole = generate(model, ids, "nar", options, "query")
    monkeypatch.setattr(steps, "at_once", lambda model: 3)
    model.train()
    assert plain(generate(model, ids, "nar", options, "query")) == plain(whole)  # dropout is off
    assert model.training
    assert plain(generate(model, ids, "ar", OPTIONS, "content")) == plain(
        generate(model.eval(), ids, "ar", OPTIONS, "content")
    )


def test_the_trace_shows_every_pass_of_the_chosen_candidate() -> None:
    model, ids = tiny(), source(sentences(6))
    for (output,) in generate(model, ids, "nar", OPTIONS, None, trace=True):
        n = output.length
        assert [sum(i.hidden) for i in output.trace] == [n * 2 // 3, n // 3, 0]
        assert output.trace[-1].tokens == output.tokens
        assert output.trace[-1].logps == output.logps
        for before, after in zip(output.trace, output.trace[1:], strict=False):
            kept = [p for p in range(n) if not before.hidden[p]]
            assert [before.tokens[p] for p in kept] == [after.tokens[p] for p in kept]
    assert generate(model, ids, "nar", OPTIONS, None)[0][0].trace == ()


def test_framed_puts_bos_and_eos_around_each_row() -> None:
    tokens = torch.tensor([[7, 8, 9], [MASK, PAD, PAD], [PAD, PAD, PAD]])
    assert framed(tokens).tolist() == [[BOS, 7, 8, 9, EOS], [BOS, MASK, EOS, PAD, PAD], [BOS, EOS, PAD, PAD, PAD]]
