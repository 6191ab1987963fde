"""The glue between a model and the searches, on tiny random models in float64."""

import random
from dataclasses import replace
from itertools import pairwise
from math import exp, inf, log
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core import steps
from janus_cli.core.batch import BOS, EOS, MASK, PAD, UNK
from janus_cli.core.generate import generate, length_limit
from janus_cli.core.knobs import ARSide, Decoding, Mode
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.objectives.bang import bridge
from janus_cli.core.search import Output
from janus_cli.core.search.mask_predict import Update
from janus_cli.core.steps import ar_scores
from janus_cli.core.stream import ar_stream, framed, masked
from janus_cli.core.writing import Unwritten
from tests.core.random_model import random_model, sentences, source

OPTIONS = Decoding(beam=1, nbest=1, length_beam=3, iters=3)
Rerank = Literal["none", "nar", "ar"]
SIDES: list[ARSide] = ["content", "query", "self", "masks"]
SPECULATIVE: list[dict[str, Any]] = [
    {}, {"draft_iters": 2}, {"draft_length": 2}, {"verify_window": 1}, {"redraft": "ar"},
    {"redraft": "ar", "draft_length": 3, "verify_window": 2}, {"draft_length": 3, "verify_window": 2},
]  # fmt: skip


def allowed(logits: Tensor, *never: int) -> Tensor:
    return logits.index_fill(-1, torch.tensor([PAD, BOS, MASK, *never]), -torch.inf).log_softmax(-1)


def limits(model: Transformer, ids: Tensor, options: Decoding = OPTIONS) -> list[int]:
    return length_limit((ids != PAD).sum(1) - 1, model.knobs.max_length, options).tolist()


def plain(outputs: list[list[Output]]) -> list[list[list[int]]]:
    return [[output.tokens for output in each] for each in outputs]


def slow_greedy(model: Transformer, row: list[int], side: ARSide, most: int) -> list[int]:
    """No cache, no batch: the whole prefix goes through the decoder for every token."""
    ids = source([row])
    memory = model.encode(ids, ids != PAD)
    tokens: list[int] = []
    while True:
        stream = ar_stream(torch.tensor([[BOS, *tokens, UNK]]), side)  # UNK stands for the token to come
        logp = allowed(model.logits(model.decode(stream, memory)[0, -1]))
        token = EOS if len(tokens) + 1 == most else int(logp.argmax())
        if token == EOS:
            return tokens
        tokens.append(token)


@pytest.mark.parametrize("options", [{}, {"causal_attention": True, "embedding": "concat"}], ids=["plain", "causal"])
@pytest.mark.parametrize("side", ["content", "query", "self"])
def test_greedy_with_a_cache_equals_reading_the_whole_prefix_again(side: ARSide, options: dict[str, Any]) -> None:
    """And speculative decoding, with whatever draft."""
    model, rows = random_model(**options), sentences(24)
    most = limits(model, source(rows))
    expected = [[slow_greedy(model, row, side, m)] for row, m in zip(rows, most, strict=True)]
    assert len({len(tokens) for (tokens,) in expected}) > 2
    outputs = generate(model, source(rows), "ar", OPTIONS, side)
    assert plain(outputs) == expected
    assert [o.passes for (o,) in outputs] == [len(tokens) + 1 for (tokens,) in expected]
    for changes in SPECULATIVE if side != "self" else ():
        found = generate(model, source(rows), "spec", replace(OPTIONS, **changes), side)
        assert plain(found) == expected, changes
        for (ours,), (theirs,) in zip(found, outputs, strict=True):
            assert ours.logps == pytest.approx(theirs.logps, abs=1e-9)
            assert ours.passes <= 2 * theirs.passes * changes.get("draft_iters", 1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("beam", [1, 4])
def test_the_score_of_an_output_is_what_one_pass_over_it_gives(side: ARSide, beam: int) -> None:
    """Token by token with a cache, rows leaving as they end: what training's slots say of the whole text."""
    model, rows = random_model(), sentences(9)
    outputs = generate(model, source(rows), "ar", replace(OPTIONS, beam=beam, nbest=beam), side)
    for row, found in zip(rows, outputs, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        for output in found:
            (score,) = ar_scores(model, memory, torch.tensor([output.tokens], dtype=torch.int64), side)
            size = len(output.tokens)  # and EOS, which `masks` does not predict
            share = size / (size + 1) if side == "masks" else 1.0
            assert output.score == pytest.approx(float(score) * share, abs=1e-5)
        assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)


INDEPENDENT: list[tuple[Mode, ARSide, dict[str, Any]]] = [
    *(("ar", side, {"beam": beam, "nbest": beam}) for side in SIDES for beam in (1, 5)),
    *(("ar", side, {"temperature": 0.9, "nbest": 3, "seed": 4}) for side in SIDES),
    *(("ar", side, {"beam": 4, "nbest": 4, "diversity": 0.5, "groups": 2}) for side in SIDES),
    *(("ar", side, {"beam": beam, "no_repeat_ngram": 2, "unk": "ban"}) for side in SIDES for beam in (1, 3)),
    ("ar", "content", {"temperature": 1.2, "top_k": 4, "top_p": 0.8}), ("ar", "query", {"beam": 1, "min_length": 7}),
    ("spec", "content", {"draft_length": 4}), ("spec", "query", {}),
    ("spec", "query", {"redraft": "ar"}), ("semi", "self", {"block": 3}),
    ("semi", "self", {"block": 3, "remove_repeats": True, "no_repeat_ngram": 2}),
    *(
        ("nar", "content", changes)
        for changes in (
            {}, {"update": "all"}, {"rerank": "ar"}, {"remove_repeats": True, "rerank": "ar"},
            {"rewrite_repeats": 1}, {"avoid_repeats": True, "iters": 1}, {"avoid_repeats": True, "rewrite_repeats": 1},
            {"rewrite_repeats": 2, "no_repeat_ngram": 2, "rerank": "ar", "keep_lengths": 2},
            {"rewrite_repeats": 2, "update": "all", "remove_repeats": True},
            {"length_beam": 1, "iters": 9}, {"unk": "ban", "rerank": "ar"},
            {"rerank": "nar", "keep_lengths": 0}, {"length_beam": 6, "rerank": "ar", "keep_lengths": 2, "sure": 0.2},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"causal_attention": True, "embedding": "concat"}], ids=["plain", "causal"])
@pytest.mark.parametrize(("mode", "side", "changes"), INDEPENDENT, ids=str)
def test_outputs_do_not_depend_on_batch_order_size_or_padding(
    mode: Mode, side: ARSide, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    model, rows = random_model(2, **options), sentences(24, 2)

    def decode(ids: Tensor) -> list[list[Output]]:
        return generate(model, ids, mode, replace(OPTIONS, **changes), side)

    together = decode(source(rows))
    assert len({tuple(found[0].tokens) for found in together}) > len(rows) // 3
    order = random.Random(0).sample(range(len(rows)), len(rows))
    for size, stop in ((1, 6), (5, len(rows))):
        for start in range(0, stop, size):
            places = order[start : start + size]
            for place, found in zip(places, decode(source([rows[p] for p in places])), strict=True):
                assert [(o.tokens, o.passes) for o in found] == [(o.tokens, o.passes) for o in together[place]]
                assert [o.score for o in found] == pytest.approx([o.score for o in together[place]], abs=1e-5)
    assert plain(decode(F.pad(source(rows), (0, 3), value=PAD))) == plain(together)


def slow_mask_predict(
    model: Transformer, row: list[int], n: int, iters: int, everywhere: bool, *never: int
) -> tuple[list[int], list[float]]:
    """The published loop in plain Python, for one sentence and one length."""
    ids = source([row])
    memory = model.encode(ids, ids != PAD)
    tokens, sure = [MASK] * n, [0.0] * n
    for done in range(1, iters + 1):
        target = torch.tensor([[BOS, *tokens, EOS]])
        states = model.decode(masked(target, torch.zeros_like(target)), memory)
        logp = allowed(model.logits(states), EOS, *never)[0, 1:-1]
        for place in range(n):
            if everywhere or tokens[place] == MASK:
                tokens[place], sure[place] = int(logp[place].argmax()), float(logp[place].max())
        for place in sorted(range(n), key=lambda p: sure[p])[: n * (iters - done) // iters]:
            tokens[place] = MASK
    return tokens, sure


def first_entropies(model: Transformer, row: list[int], n: int) -> list[float]:
    """At each place of n MASKs, before anything is written."""
    ids, target = source([row]), torch.tensor([[BOS, *[MASK] * n, EOS]])
    states = model.decode(masked(target, torch.zeros_like(target)), model.encode(ids, ids != PAD))
    logp = allowed(model.logits(states), EOS)[0, 1:-1]
    return [-sum(exp(p) * p for p in place if p > -inf) for place in logp.tolist()]


@pytest.mark.parametrize(("rerank", "keep"), [("none", 3), ("nar", 0), ("nar", 2)])
@pytest.mark.parametrize("update", ["hidden", "all"])
def test_mask_predict_equals_the_plain_loop_over_its_lengths(update: Update, rerank: Rerank, keep: int) -> None:
    model, rows = random_model(), sentences(8)
    options = replace(OPTIONS, update=update, rerank=rerank, keep_lengths=keep)
    outputs = generate(model, source(rows), "nar", options, None)
    for row, (output,) in zip(rows, outputs, strict=True):
        ids = source([row])
        prior = model.length_logits(model.encode(ids, ids != PAD))[0, 1:19].log_softmax(0).tolist()
        lengths = sorted(range(1, 19), key=lambda n: -prior[n - 1])[:3]
        doubt = {n: (prior[n - 1] - sum(first_entropies(model, row, n))) / (n + 1) for n in lengths}
        kept = sorted(lengths, key=lambda n: -doubt[n])[: 1 if rerank == "none" else keep or 3]
        candidates = [slow_mask_predict(model, row, n, OPTIONS.iters, update == "all") for n in kept]
        tokens, sure = max(candidates, key=lambda pair: sum(pair[1]) / len(pair[1]))
        assert output.tokens == tokens
        assert output.logps == pytest.approx(sure, abs=1e-5)
        score = doubt[len(tokens)] if rerank == "none" else sum(sure) / len(sure)
        assert output.score == pytest.approx(score, abs=1e-5)
        assert output.length == len(tokens)
        assert output.passes == OPTIONS.iters or len(tokens) < OPTIONS.iters


def test_with_one_length_the_score_is_that_of_what_is_left_without_repeats() -> None:
    model, ids, options = random_model(), source(sentences(30)), replace(OPTIONS, length_beam=1)
    whole, outputs = (
        [found[0] for found in generate(model, ids, "nar", replace(options, remove_repeats=remove), None)]
        for remove in (False, True)
    )
    assert any(len(one.tokens) > len(other.tokens) for one, other in zip(whole, outputs, strict=True))
    for output in outputs:
        assert output.score == pytest.approx(sum(output.logps) / len(output.logps), abs=1e-5)


def test_of_equal_neighbours_of_a_pass_the_less_certain_is_the_next_likeliest() -> None:
    model, rows, changed = random_model(), sentences(30), 0
    options = replace(OPTIONS, length_beam=1, iters=1)
    free, outputs = (
        generate(model, source(rows), "nar", replace(options, avoid_repeats=avoid), None) for avoid in (False, True)
    )
    for row, (before,), (after,) in zip(rows, free, outputs, strict=True):
        ids, n = source([row]), len(before.tokens)
        target = torch.tensor([[BOS, *[MASK] * n, EOS]])
        states = model.decode(masked(target, torch.zeros_like(target)), model.encode(ids, ids != PAD))
        likeliest, tokens = allowed(model.logits(states), EOS)[0, 1:-1].topk(2), list(before.tokens)
        for place in range(n - 1):
            if before.tokens[place] == before.tokens[place + 1]:
                less = place if before.logps[place] < before.logps[place + 1] else place + 1
                tokens[less], changed = int(likeliest.indices[less, 1]), changed + 1
        assert after.tokens == tokens
        second = [int(one != other) for one, other in zip(tokens, before.tokens, strict=True)]
        expected = [float(likeliest.values[place, rank]) for place, rank in enumerate(second)]
        assert after.logps == pytest.approx(expected, abs=1e-5)
    assert changed > 9


def test_more_hypotheses_change_nothing_about_the_best() -> None:
    model, rows = random_model(), sentences(12)
    for rerank in ("none", "ar"):
        options = replace(OPTIONS, length_beam=6, rerank=rerank, keep_lengths=4)
        one, many = (generate(model, source(rows), "nar", replace(options, nbest=n), "content") for n in (1, 3))
        assert [found[0].tokens for found in one] == [found[0].tokens for found in many]
        for found in many:
            assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)


def test_the_rerank_picks_what_the_ar_side_likes_best_in_one_more_pass() -> None:
    model, rows = random_model(), sentences(12)
    own, ranked = (
        generate(model, source(rows), "nar", replace(OPTIONS, nbest=3, rerank=rerank), "content")
        for rerank in ("nar", "ar")
    )
    for row, by_itself, by_ar in zip(rows, own, ranked, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        scores = [float(ar_scores(model, memory, torch.tensor([o.tokens]), "content")) for o in by_itself]
        assert sorted(o.tokens for o in by_itself) == sorted(o.tokens for o in by_ar)
        assert [o.score for o in by_ar] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
        assert {o.passes for o in by_ar} == {OPTIONS.iters + 1}
    assert [found[0].tokens for found in own] != [found[0].tokens for found in ranked]


@pytest.mark.parametrize("block", [1, 2, 3, None])
def test_blocks_give_what_training_saw(block: int | None) -> None:
    """A token in place j of a block is what the slot s = j of BANG predicts; with blocks of one it is greedy text."""
    model, rows = random_model(), sentences(9)
    if block is None:
        model.length_table = None  # then `nar` is one block for all
    options = replace(OPTIONS, block=block or 1)
    outputs = generate(model, source(rows), "semi" if block else "nar", options, None)
    if block == 1:
        assert plain(outputs) == plain(generate(model, source(rows), "ar", options, "self"))
    for row, (output,) in zip(rows, outputs, strict=True):
        count, ids = len(output.tokens), source([row])
        stream = bridge(framed(torch.tensor([output.tokens], dtype=torch.int64)), count + 1)
        states = model.decode(stream, model.encode(ids, ids != PAD))
        for place, (token, logp) in enumerate(zip(output.tokens, output.logps, strict=True)):
            known = 0 if block is None else place // block * block
            at = (stream.positions[0] == place + 1) & (stream.time[0].floor() == known) & stream.labelled[0]
            (slot,) = at.nonzero()[:, 0].tolist()
            assert stream.time[0, slot] == pytest.approx(known + (place + 1 - known) / (count + 2))
            assert logp == pytest.approx(float(allowed(model.logits(states[0, slot]))[token]), abs=1e-6)
        most = limits(model, ids)[0]
        assert output.passes == (1 if block is None else -(-min(count + 1, most) // block))


BANNED: list[tuple[Mode, ARSide, dict[str, Any]]] = [
    *(("ar", side, {"beam": beam, "nbest": beam}) for side in SIDES for beam in (1, 4)),
    *(("ar", side, {"temperature": 1.0, "nbest": 2}) for side in SIDES),
    ("ar", "content", {"beam": 3, "nbest": 3, "diversity": 0.4}), ("spec", "content", {}), ("spec", "query", {}),
    ("spec", "content", {"redraft": "ar"}),
]  # fmt: skip


def likes_unk() -> Transformer:
    """A model that would write <unk> often."""
    model = random_model()
    model.output_weight[UNK] = 1.3 * model.output_weight[9]
    return model


@pytest.mark.parametrize(("mode", "side", "changes"), BANNED, ids=str)
def test_a_banned_unk_has_no_probability_which_the_other_tokens_share(
    mode: Mode, side: ARSide, changes: dict[str, Any]
) -> None:
    model, rows = likes_unk(), sentences(12)
    options = [replace(OPTIONS, **{**changes, "unk": unk}) for unk in ("keep", "ban")]
    keep, ban = (generate(model, source(rows), mode, each, side) for each in options)
    assert any(UNK in each.tokens for found in keep for each in found)
    for row, found in zip(rows, ban, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        for output in found:
            assert UNK not in output.tokens
            tokens = torch.tensor([output.tokens], dtype=torch.int64)
            mean = float(ar_scores(model, memory, tokens, side, Unwritten((PAD, BOS, MASK, UNK))))
            size = len(output.tokens) + (side != "masks")
            assert sum(output.logps) == pytest.approx(mean * size, abs=1e-5)


def test_equal_texts_take_no_place_from_different_ones(model: Transformer) -> None:
    """Without repeats, what several lengths wrote may be one text."""
    rows = source([[5 + n, 6 + n % 3, 7] for n in range(12)])
    options = replace(OPTIONS, length_beam=5, rerank="ar", keep_lengths=0, remove_repeats=True)
    some, every = (generate(model, rows, "nar", replace(options, nbest=count), "content") for count in (3, 5))
    texts = [[[output.tokens for output in each] for each in outputs] for outputs in (some, every)]
    assert texts[0] == [each[:3] for each in texts[1]]
    assert all(len({*map(tuple, each)}) == len(each) for each in texts[1])
    assert min(map(len, texts[1])) < 5, "some are equal"


@pytest.mark.parametrize(
    ("mode", "side", "changes"),
    [(*case[:2], {**case[2], "unwritten": (MASK, 9)}) for case in BANNED if case[1] != "masks"], ids=str,
)  # fmt: skip
def test_what_is_not_written_may_keep_its_probability(mode: Mode, side: ARSide, changes: dict[str, Any]) -> None:
    """As where transformers suppresses tokens; <pad> and <s>, which are not named, leave theirs to the others."""
    model, rows = random_model(), sentences(12)
    model.output_weight[MASK] = 1.3 * model.output_weight[10]
    found = generate(model, source(rows), mode, replace(OPTIONS, **changes), side)
    assert any(9 in one.tokens for (one,) in generate(model, source(rows), "ar", OPTIONS, side))
    for row, outputs in zip(rows, found, strict=True):
        ids = source([row])
        memory = model.encode(ids, ids != PAD)
        for output in outputs:
            assert not {MASK, 9} & {*output.tokens}
            stream = ar_stream(framed(torch.tensor([output.tokens], dtype=torch.int64)), side)
            states = model.decode(stream, memory)[stream.labelled]
            logps = model.logits(states).index_fill(-1, torch.tensor([PAD, BOS]), -inf).log_softmax(-1)
            expected = logps.gather(1, stream.labels[stream.labelled][:, None])[:, 0]
            assert output.logps == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("side", ["content", "query"])
@pytest.mark.parametrize("given", [{"first_token": 7}, {"free_end": True}, {"first_token": 9, "free_end": True}])
def test_drafts_change_nothing_about_a_given_first_token_and_end(side: ARSide, given: dict[str, Any]) -> None:
    model, rows = random_model(), sentences(24)
    options = replace(OPTIONS, max_ratio=0.5, max_extra=2, **given)
    expected = generate(model, source(rows), "ar", options, side)
    if "first_token" in given:
        assert {one.tokens[0] for (one,) in expected} == {given["first_token"]}
    assert any(one.limited and one.logps[-1] == 0 for (one,) in expected) == ("free_end" in given)
    for changes in SPECULATIVE:
        found = generate(model, source(rows), "spec", replace(options, **changes), side)
        assert plain(found) == plain(expected)
        for (ours,), (theirs,) in zip(found, expected, strict=True):
            assert ours.logps == pytest.approx(theirs.logps, abs=1e-6)
            assert (ours.score, ours.limited) == (pytest.approx(theirs.score), theirs.limited)
            assert ours.passes <= 2 * theirs.passes * changes.get("draft_iters", 1)


@pytest.mark.parametrize("changes", [{"beam": 1}, {"beam": 3}, {"temperature": 1.0}], ids=str)
def test_rules_that_leave_no_room_for_an_end_do_not_leave_without_an_output(changes: dict[str, Any]) -> None:
    model, rows = random_model(), sentences(4)
    for rules in ({"min_length": 100}, {"first_token": 7, "max_ratio": 0.0, "max_extra": 0}):
        for (output,) in generate(model, source(rows), "ar", replace(OPTIONS, **changes, **rules), "content"):
            assert len(output.tokens) == (18 if "min_length" in rules else 0)
            assert output.score > -inf


def test_a_banned_unk_in_mask_predict_blocks_and_in_the_rerank() -> None:
    model, rows = likes_unk(), sentences(12)
    options = replace(OPTIONS, unk="ban", length_beam=1)

    def has_unk(mode: Mode, options: Decoding) -> bool:
        return any(UNK in each.tokens for (each,) in generate(model, source(rows), mode, options, None))

    assert has_unk("nar", replace(options, unk="keep"))
    for row, (output,) in zip(rows, generate(model, source(rows), "nar", options, None), strict=True):
        tokens, sure = slow_mask_predict(model, row, output.length, OPTIONS.iters, False, UNK)
        assert output.tokens == tokens
        assert output.logps == pytest.approx(sure, abs=1e-5)
        ids = source([row])
        (again,) = generate(model, ids, "nar", replace(options, rerank="ar"), "content")[0]
        never = Unwritten((PAD, BOS, MASK, UNK))
        score = ar_scores(model, model.encode(ids, ids != PAD), torch.tensor([again.tokens]), "content", never)
        assert again.score == pytest.approx(float(score), abs=1e-5)
    assert has_unk("semi", replace(options, unk="keep"))
    assert not has_unk("semi", options)


@pytest.mark.parametrize("side", SIDES)
def test_greedy_with_rules_is_greedy_in_plain_python(side: ARSide) -> None:
    """The best token that repeats no pair of tokens and does not end too early."""
    model, rows = random_model(), sentences(12)
    options = replace(OPTIONS, no_repeat_ngram=2, min_length=0 if side == "masks" else 6)
    outputs = generate(model, source(rows), "ar", options, side)
    assert plain(outputs) != plain(generate(model, source(rows), "ar", OPTIONS, side))
    for (output,) in outputs:
        pairs = list(pairwise(output.tokens))
        assert len(set(pairs)) == len(pairs)
        assert len(output.tokens) >= options.min_length
    if side == "masks":
        return
    for row, (output,) in zip(rows, outputs, strict=True):
        ids = source([row])
        memory, tokens = model.encode(ids, ids != PAD), list[int]()
        for written in [*output.tokens, EOS]:
            stream = ar_stream(torch.tensor([[BOS, *tokens, UNK]]), side)
            logp = allowed(model.logits(model.decode(stream, memory)[0, -1]))
            again = [after for before, after in pairwise(tokens) if before == tokens[-1]]
            logp[[*again, *[EOS] * (len(tokens) < 6)]] = -torch.inf
            best = EOS if len(tokens) + 1 == limits(model, ids, options)[0] else int(logp.argmax())
            assert written == best
            tokens.append(written)


def test_outputs_that_the_limit_has_shaped_are_marked() -> None:
    """Left to right whatever the search had still alive; samples only if they are cut themselves."""
    model, rows = random_model(), sentences(24)
    short = replace(OPTIONS, max_ratio=0.0, max_extra=4)
    for changes in ({}, {"beam": 3, "nbest": 3}, {"beam": 4, "nbest": 2, "diversity": 0.5}):
        outputs = generate(model, source(rows), "ar", replace(short, **changes), "content")
        free = generate(model, source(rows), "ar", replace(short, **changes, max_extra=15), "content")
        marks = [{each.limited for each in found} for found in outputs]
        sure = [not changes and found[0].logps[-1] > log(0.5) for found in outputs]  # greedy would have ended there
        assert marks == [{found[0].passes == 5 and not ended} for found, ended in zip(outputs, sure, strict=True)]
        assert {True} in marks
        assert {False} in marks
        for found, unlimited, mark in zip(outputs, free, marks, strict=True):
            if mark == {False} and len(found) == 1:
                assert found[0].tokens == unlimited[0].tokens
    samples = generate(model, source(rows), "ar", replace(short, temperature=1.0, nbest=3), "content")
    assert all(each.limited == (len(each.tokens) == 4) for found in samples for each in found)
    for (output,) in generate(model, source(rows), "spec", short, "content"):
        assert output.limited == (len(output.tokens) == 4 and output.logps[-1] <= log(0.5))
    rows = sentences(400)
    blocks, longer = (
        [each for (each,) in generate(model, source(rows), "semi", replace(short, block=2, max_extra=extra), None)]
        for extra in (5, 15)
    )
    assert [each.limited for each in blocks] == [len(each.tokens) > 5 for each in longer]
    assert {(len(each.tokens), each.limited) for each in blocks} >= {(5, True), (5, False), (3, False)}
    assert not any(each.limited for (each,) in generate(model, source(rows), "ar", short, "masks"))


@pytest.mark.parametrize("rules", [{}, {"no_repeat_ngram": 3}])
def test_greedy_outputs_that_end_by_themselves_at_the_limit_are_not_marked(rules: dict[str, Any]) -> None:
    model, rows = random_model(), sentences(24)
    model.output_weight.mul_(1.5)  # so that some ends are sure
    options = replace(OPTIONS, max_ratio=0.0, **rules)
    free = generate(model, source(rows), "ar", replace(options, max_extra=15), "content")
    ended = [(row, found) for row, (found,) in zip(rows, free, strict=True) if found.length < 16]
    sure = [found.logps[-1] > log(0.5) for _, found in ended]
    assert {*sure} == {True, False}
    for (row, found), likely in zip(ended, sure, strict=True):
        exact = replace(options, max_extra=len(found.tokens))
        ((again,),) = generate(model, source([row]), "ar", exact, "content")
        assert (again.tokens, again.limited) == (found.tokens, not likely)


def test_all_samples_of_a_batch_share_one_encoded_source(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, encoded = random_model(), sentences(5), list[int]()
    plain_encode = Transformer.encode

    def encode(self: Transformer, ids: Tensor, real: Tensor) -> Memory:
        encoded.append(len(ids))
        return plain_encode(self, ids, real)

    monkeypatch.setattr(Transformer, "encode", encode)
    outputs = generate(model, source(rows), "ar", replace(OPTIONS, temperature=1.0, nbest=7), "content")
    assert [len(found) for found in outputs] == [7] * 5
    assert encoded == [5]


def test_a_limit_that_nobody_has_set_is_that_of_before() -> None:
    lengths = torch.tensor([0, 1, 5, 100])
    for options in (Decoding(), Decoding(max_ratio=1.2, max_extra=10)):
        assert length_limit(lengths, 256, options).tolist() == [11, 12, 17, 131]
    assert length_limit(lengths, 256, Decoding(min_length=14)).tolist() == [25, 25, 25, 131], "room beyond it"
    assert length_limit(lengths, 12, Decoding(min_length=9)).tolist() == [11, 11, 11, 11]


def test_special_ids_are_never_written() -> None:
    model, rows = random_model(), sentences(20)
    table = model.output_weight
    table[[PAD, BOS, MASK]] = table[[6, 7, 8]] * 9
    for mode, options in (("ar", replace(OPTIONS, beam=4, nbest=4)), ("nar", OPTIONS)):
        outputs = generate(model, source(rows), mode, options, "query")
        written = {token for found in outputs for output in found for token in output.tokens}
        assert written
        assert not written & {PAD, BOS, EOS, MASK}


def test_every_length_at_once_and_a_source_of_padding_stay_finite() -> None:
    model, ids = random_model(), source(sentences(2))
    ids = torch.cat([ids, torch.full_like(ids[:1], PAD)])
    for found in generate(model, ids, "nar", replace(OPTIONS, length_beam=18, nbest=18), None):
        assert sorted(len(o.tokens) for o in found) == list(range(1, 19))
        assert all(torch.tensor(o.logps).isfinite().all() for o in found)
    for found in generate(model, ids, "ar", replace(OPTIONS, beam=3), "content"):
        assert torch.tensor(found[0].logps).isfinite().all()


def test_ar_outputs_stay_within_the_limit() -> None:
    model, ids = random_model(), source([[5] * 9, [5], [5] * 5])
    assert limits(model, ids) == [19, 12, 17]  # 9 * 1.2 + 10 + EOS is more than 20 positions hold
    short = replace(OPTIONS, max_ratio=0.0, max_extra=0)
    assert limits(model, ids, short) == [1, 1, 1]
    assert plain(generate(model, ids, "ar", short, "content")) == [[[]]] * 3


def test_chunks_change_nothing_and_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, options = random_model(), source(sentences(7)), replace(OPTIONS, rerank="ar")
    whole = [plain(generate(model, ids, mode, options, "query")) for mode in ("nar", "ar")]
    monkeypatch.setattr(steps, "at_once", lambda model: 3)
    model.train()  # dropout is off all the same
    assert [plain(generate(model, ids, mode, options, "query")) for mode in ("nar", "ar")] == whole
    assert model.training


def test_the_trace_shows_every_pass_of_the_chosen_candidate() -> None:
    model, ids = random_model(), source(sentences(6))
    for (output,) in generate(model, ids, "nar", OPTIONS, None, trace=True):
        n = output.length
        assert [sum(i.hidden) for i in output.trace] == [n * 2 // 3, n // 3, 0]
        assert (output.trace[-1].tokens, output.trace[-1].logps) == (output.tokens, output.logps)
        for before, after in zip(output.trace, output.trace[1:], strict=False):
            kept = [p for p in range(n) if not before.hidden[p]]
            assert [before.tokens[p] for p in kept] == [after.tokens[p] for p in kept]
    assert generate(model, ids, "nar", OPTIONS, None)[0][0].trace == ()


@pytest.mark.parametrize("keep", [0, 2])
def test_the_trace_tells_of_every_length_and_of_the_chosen_one_the_best_score(keep: int) -> None:
    options = replace(OPTIONS, keep_lengths=keep, rerank="nar")
    for (output,) in generate(random_model(), source(sentences(6)), "nar", options, None, trace=True):
        sizes, logps, scores = zip(*output.tried, strict=True)
        assert (len(set(sizes)), list(logps)) == (3, sorted(logps, reverse=True))
        assert scores.count(None) == (3 - keep if keep else 0)
        assert scores[sizes.index(output.length)] == output.score == max(s for s in scores if s is not None)
