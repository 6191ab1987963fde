"""ONNX Runtime's searches against those of torch: the same texts, passes and scores, whatever the model and options."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from janus_cli.core.batch import EOS, MASK, PAD
from janus_cli.core.draft_head import DraftHead
from janus_cli.core.generate import Generator
from janus_cli.core.knobs import Decoding, Model
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.core.shapes import NEAR
from janus_cli.core.weights import Weights
from janus_cli.engines import engine as module
from janus_cli.engines import screen
from janus_cli.engines.choice import without_graph
from janus_cli.engines.engine import Engine
from janus_cli.engines.int8 import levels
from janus_cli.engines.network import Network
from janus_cli.errors import UsageError

SOURCES = [[7, 8, 9, 10, 11, EOS], [12, 13, 14, EOS], [20, 21, 22, 23, 24, 25, 26, EOS], [EOS]]
WIDTH = max(map(len, SOURCES))
BATCH = torch.tensor([row + [PAD] * (WIDTH - len(row)) for row in SOURCES])

MODELS = {
    "pre": {"norm": "pre"},
    "post, gelu, sinusoids": {"activation": "gelu", "positions": "sinusoidal"},
    "concatenated, silu, no table shared": {"embedding": "concat", "activation": "silu", "tie": "none"},
    "causal attention": {"causal_attention": True, "norm": "pre", "embedding_scale": False},
    "many words": {"vocabulary": 1100},
    "as imported": {"output_bias": True, "embedding_norm": True, "source_suffix": 5, "positions": "marian"},
}
SEARCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "greedy": ("ar", {"beam": 1}),
    "beam": ("ar", {"beam": 5}),
    "n-best": ("ar", {"beam": 4, "nbest": 3, "length_penalty": 0.6}),
    "stops when likely": ("ar", {"beam": 3, "early_stopping": "likely", "unk": "ban"}),
    "stops when sure": ("ar", {"beam": 3, "early_stopping": "never", "free_end": True}),
    "tokens that keep their probability": ("ar", {"beam": 3, "unwritten": (PAD, 9, 17)}),
    "the last EOS is free": ("ar", {"beam": 1, "free_end": True, "unwritten": (5,)}),
    "no bigram twice, greedy": ("ar", {"beam": 1, "no_repeat_ngram": 2, "min_length": 9}),
    "no word twice": ("ar", {"beam": 4, "nbest": 4, "no_repeat_ngram": 1, "max_ratio": 3.0, "max_extra": 9}),
    "no trigram twice": ("ar", {"beam": 3, "no_repeat_ngram": 3, "max_ratio": 5.0, "max_extra": 9}),
    "at least so many tokens": ("ar", {"beam": 3, "min_length": 6, "length_penalty": 0.5}),
    "a first token": ("ar", {"beam": 3, "first_token": 11}),
    "a first token, greedy": ("ar", {"beam": 1, "first_token": 11, "no_repeat_ngram": 1}),
    "EOS is never written": ("ar", {"beam": 3, "unwritten": (EOS,)}),
    "room for EOS only": ("ar", {"beam": 2, "first_token": 11, "max_ratio": 0.0, "max_extra": 0}),
    "short": ("ar", {"beam": 3, "nbest": 2, "max_ratio": 0.7, "max_extra": 1}),
    "greedy and short": ("ar", {"beam": 1, "max_ratio": 0.7, "max_extra": 1}),
    "nothing of these": ("nar", {"length_beam": 3, "iters": 3, "unwritten": (7, 9, 30)}),
    "one length": ("nar", {"length_beam": 1, "iters": 4}),
    "five lengths": ("nar", {"length_beam": 5, "iters": 4, "nbest": 3}),
    "one pass": ("nar", {"length_beam": 3, "iters": 1, "rerank": "nar", "keep_lengths": 0}),
    "AR reranks": ("nar", {"length_beam": 5, "iters": 10, "rerank": "ar"}),
    "sure": ("nar", {"length_beam": 5, "iters": 6, "sure": 0.3}),
    "no token twice in a row": ("nar", {"length_beam": 3, "iters": 4, "remove_repeats": True, "rerank": "nar"}),
    "equal neighbours again": ("nar", {"length_beam": 3, "iters": 5, "rewrite_repeats": 1, "sure": 0.1}),
    "both": ("nar", {"length_beam": 5, "iters": 4, "rewrite_repeats": 1, "remove_repeats": True, "rerank": "ar"}),
    "different texts": (
        "nar",
        {"length_beam": 5, "iters": 2, "remove_repeats": True, "nbest": 3, "rerank": "nar", "keep_lengths": 0},
    ),
    "both, all anew": (
        "nar",
        {"length_beam": 2, "iters": 3, "rewrite_repeats": 1, "remove_repeats": True, "update": "all"},
    ),
    "all anew": ("nar", {"length_beam": 3, "iters": 4, "update": "all"}),
}


RULES = ("no_repeat_ngram", "min_length", "first_token", "remove_repeats", "rewrite_repeats")


def model_of(vocabulary: int = 50, **knobs: Any) -> Transformer:
    """Ends a third of its outputs before the limit."""
    torch.manual_seed(1)
    shape = Model(width=32, feedforward=64, heads=4, encoder_layers=2, decoder_layers=2, max_length=32, init="xavier")
    model = Transformer(replace(shape, **knobs), vocabulary, vocabulary, length_head=True).eval()
    with torch.no_grad():
        model.output_weight[EOS] *= 2
        if model.output_bias is not None:
            model.output_bias.normal_()
    return model


def stored(model: Transformer) -> Weights:
    """What a checkpoint has of it."""
    weights = {name: weight.numpy() for name, weight in model.weights().items()}
    head = {name: each.numpy() for name, each in model.draft_head._asdict().items()} if model.draft_head else {}
    return Weights(model.knobs, (len(model.source_table.weight), len(model.target_table.weight)), weights, head)


@pytest.mark.parametrize("side", ["content", "query"])
@pytest.mark.parametrize("knobs", MODELS.values(), ids=MODELS.keys())
def test_a_graph_finds_what_torch_finds(knobs: dict[str, Any], side: Any) -> None:
    model = model_of(**knobs)
    by_torch, engine = Generator(model), Engine(stored(model))
    for mode, changes in SEARCHES.values():
        options = Decoding(**changes)
        assert not without_graph(mode, options, side, "cpu", lengths=True)
        for source in (BATCH, BATCH[2:3]):
            expected, found = by_torch(source, mode, options, side), engine(source, mode, options, side)
            for those, these in zip(expected, found, strict=True):
                assert [(o.tokens, o.passes, o.limited) for o in these] == [
                    (o.tokens, o.passes, o.limited) for o in those
                ]
                for this, that in zip(these, those, strict=True):
                    assert this.score == pytest.approx(that.score, abs=1e-5)
                    assert this.logps == pytest.approx(that.logps, abs=1e-5)


def test_passes_that_would_read_the_same_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred passes over few tokens, those in which no more of them are hidden than in the last."""
    made: list[Any] = []

    def profiled(graph: bytes, options: Any, **more: Any) -> Any:
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        made.append(plain(graph, options, **more))
        return made[-1]

    plain = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", profiled)
    options = Decoding(length_beam=1, iters=100)
    [[found]] = Engine(stored(model_of()))(BATCH[:1], "nar", options, "content")
    events = json.loads(Path(made[-1].end_profiling()).read_bytes())
    attention = sum(each.get("args", {}).get("op_name") == "MultiHeadAttention" for each in events)
    layers = 2
    assert found.passes < 40
    assert attention == layers + found.passes * 2 * layers


exact_int8 = pytest.mark.skipif(levels() != 127, reason="this processor's products in int8 may overflow")
SCREENED: list[tuple[Any, dict[str, Any]]] = [
    *((mode, changes) for mode, changes in SEARCHES.values() if mode == "ar" and changes["beam"] == 1),
    ("spec", {}), ("spec", {"redraft": "source"}), ("spec", {"free_end": True, "unwritten": (5, 9)}),
    ("spec", {"max_ratio": 0.7, "max_extra": 1}), ("spec", {"unwritten": (EOS,)}), ("ar", {"unwritten": (EOS,)}),
]  # fmt: skip


@pytest.fixture
def small_tables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches without scores screen tables of any size."""
    monkeypatch.setattr(screen, "LEAST", 0)


def greedy(model: Transformer, source: Sequence[int], options: Decoding, side: Any = "content") -> Output:
    """What torch writes."""
    return Generator(model)(torch.tensor([source]), "ar", options, side)[0][0]


def unscored(engine: Engine, source: Sequence[int], mode: Any, options: Decoding, side: Any = "content") -> Output:
    """What a graph writes without scores."""
    return engine(torch.tensor([source]), mode, options, side, scores=False)[0][0]


@exact_int8
@pytest.mark.usefixtures("small_tables_too")
@pytest.mark.parametrize("side", ["content", "query"])
@pytest.mark.parametrize("knobs", MODELS.values(), ids=MODELS.keys())
def test_without_scores_the_texts_are_the_same(knobs: dict[str, Any], side: Any) -> None:
    model = headed(model_of(**knobs))
    engine = Engine(stored(model))
    for mode, changes in SCREENED:
        options = Decoding(**{"beam": 1, **changes})
        for source in SOURCES:
            expected, found = greedy(model, source, options, side), unscored(engine, source, mode, options, side)
            assert (found.tokens, found.limited) == (expected.tokens, expected.limited)
            assert math.isnan(found.score)
            assert not found.logps


@exact_int8
@pytest.mark.usefixtures("small_tables_too")
@pytest.mark.parametrize("mode", ["ar", "spec"])
def test_tokens_that_int8_cannot_tell_apart_are_told_apart(mode: Any) -> None:
    model = headed(model_of(vocabulary=400))
    with torch.no_grad():
        table = model.output_weight
        table[EOS + 1 :] = table[40] + 1e-4 * torch.randn_like(table[EOS + 1 :])
    engine, options, written = Engine(stored(model)), Decoding(beam=1), set[int]()
    for source in torch.randint(5, 400, (20, 9)).tolist():
        expected = greedy(model, source, options).tokens
        assert unscored(engine, source, mode, options).tokens == expected
        written |= set(expected)
    assert len(written) > 2  # not always the same one


@exact_int8
@pytest.mark.usefixtures("small_tables_too")
@pytest.mark.parametrize("mode", ["ar", "spec"])
def test_without_scores_all_logits_are_computed_only_in_doubt(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = headed(model_of(vocabulary=400))
    with torch.no_grad():
        model.output_weight.mul_(20)  # sure of itself
    options = Decoding(beam=1, max_ratio=0.0, max_extra=20, free_end=True)
    expected = [greedy(model, source, options).tokens for source in SOURCES]
    logits = Network.logits
    monkeypatch.setattr(Network, "logits", lambda *given: logits(*given) * -1.0)
    engine = Engine(stored(model))
    assert [unscored(engine, source, mode, options).tokens for source in SOURCES] == expected
    assert max(map(len, expected)) > 5


def headed(model: Transformer) -> Transformer:
    """With a draft head of large random numbers."""
    vocabulary, width = model.output_weight.shape
    shapes = (width, 8), (width, 8), (vocabulary,), (NEAR,), (1,)
    model.draft_head = DraftHead(*(torch.randn(shape) for shape in shapes))._replace(scale=torch.tensor([20.0]))
    return model


def few(source: torch.Tensor) -> torch.Tensor:
    """The same with the ids of a vocabulary of nine, of which one draws what is right now and then."""
    return torch.where(source > MASK, MASK + 1 + source % 4, source)


@pytest.mark.parametrize(("head", "vocabulary"), [(False, 50), (True, 9)])
@pytest.mark.parametrize("side", ["content", "query"])
@pytest.mark.parametrize("knobs", MODELS.values(), ids=MODELS.keys())
def test_speculative_text_is_greedy_text(knobs: dict[str, Any], side: Any, head: bool, vocabulary: int) -> None:
    model, sources = model_of(**{"vocabulary": vocabulary, **knobs}), few(BATCH) if vocabulary == 9 else BATCH
    greedy, engine = Generator(model), Engine(stored(headed(model) if head else model))
    for changes in (
        {}, {"verify_window": 3, "unk": "ban"}, {"draft_length": 1, "free_end": True, "max_extra": 0},
        {"redraft": "source"}, {"redraft": "source", "verify_window": 2, "max_extra": 1},
    ):  # fmt: skip
        options = Decoding(**changes)
        assert not without_graph("spec", options, side, "cpu", lengths=True)
        expected = greedy(sources, "ar", replace(options, beam=1), side)
        for (this,), (that,) in zip(engine(sources, "spec", options, side), expected, strict=True):
            assert (this.tokens, this.limited) == (that.tokens, that.limited)
            assert this.logps == pytest.approx(that.logps, abs=1e-5)
            assert this.score == pytest.approx(that.score, abs=1e-5)
            assert this.passes <= that.passes + (options.redraft == "nar")  # also where the limit cuts the text


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_an_output_that_is_its_source_takes_few_passes(engine: Any) -> None:
    model, words = model_of(norm="pre"), [6, 9, 7, 6, 9, 8, *range(10, 29), EOS]
    with torch.no_grad():  # what it writes, its positions say
        model.target_table.weight.div_(model.target_table.weight.norm(dim=1, keepdim=True).clamp(min=1e-6))
        for place, word in enumerate(words):
            model.target_positions[place] += 100 * model.output_weight[word]
    options = Decoding(max_ratio=0, max_extra=30, redraft="source", engine=engine)
    far = [30, 31, 32]
    for source, most in ((words, 2), (far + words, 4), (words[:8] + far + words[8:], 3)):
        ((found,),) = Engine(model)(torch.tensor([[*source, EOS]]), "spec", options, "content")
        assert (found.tokens, found.passes <= most) == (words[:-1], True), source
    ((found,),) = Engine(model)(torch.tensor([[*far, EOS]]), "spec", options, "content")
    assert (found.tokens, found.passes) == (words[:-1], 26)


def test_drafts_that_hold_save_passes() -> None:
    """Where the decoder does not see what it wrote, the query side writes what the NAR side writes: here 11 tokens."""
    model = model_of(norm="pre")
    with torch.no_grad():
        for layer in model.decoder:
            layer.attention.out.weight.zero_()
        model.target_positions[12] += 100 * model.output_weight[EOS]
        model.encoder_norm.bias[0] += 50
        model.length_table.zero_()[11, 0] = 1.0
    nothing, far = torch.zeros(32, 1), torch.tensor([-1e5, 0.0, -1e5, -1e5])  # each token at its place
    model.draft_head = DraftHead(nothing, nothing, torch.zeros(50), 100 * far, torch.tensor([1e4]))
    engine = Engine(model)
    expected = engine(BATCH[:3], "ar", Decoding(beam=1, max_ratio=3.0), "query")
    assert {output.passes for (output,) in expected} == {12}
    for window, passes in ((64, 2), (11, 2), (5, 3), (3, 4), (1, 7)):  # one drafts
        found = engine(BATCH[:3], "spec", Decoding(max_ratio=3.0, verify_window=window), "query")
        assert [one.tokens for (one,) in found] == [one.tokens for (one,) in expected]
        assert {output.passes for (output,) in found} == {passes}


def test_outputs_of_different_lengths_are_compared() -> None:
    """Otherwise the test above would not see how searches end."""
    model = model_of(**MODELS["pre"])
    for changes in ({"beam": 1}, {"beam": 5}):
        outputs = Engine(model)(BATCH, "ar", Decoding(**changes), "content")
        assert len({len(output.tokens) for (output,) in outputs}) > 1
        assert not all(output.limited for (output,) in outputs)


@pytest.mark.parametrize("search", ["greedy", "beam", "five lengths", "AR reranks"])
def test_a_text_does_not_depend_on_its_neighbours(search: str) -> None:
    mode, changes = SEARCHES[search]
    engine, options = Engine(model_of(norm="pre")), Decoding(**changes)
    together = engine(BATCH, mode, options, "content")
    for row, source in enumerate(SOURCES):
        (alone,) = engine(torch.tensor([source]), mode, options, "content")
        assert [o.tokens for o in alone] == [o.tokens for o in together[row]]


@pytest.mark.parametrize(
    ("mode", "changes", "side"),
    [
        ("ar", {"beam": 4, "nbest": 4, "diversity": 0.5}, "content"),
        ("ar", {"temperature": 0.7}, "content"),
        ("ar", {"beam": 1}, "masks"),
        ("nar", {"avoid_repeats": True}, "content"),
        ("nar", {"no_repeat_ngram": 2, "rewrite_repeats": 1, "avoid_repeats": True}, "content"),
        ("spec", {"redraft": "ar"}, "content"),
        ("spec", {"draft_iters": 2}, "content"),
        ("spec", {"first_token": 7}, "content"),
    ],
)
def test_what_has_no_graph_is_left_to_torch(mode: Any, changes: dict[str, Any], side: Any) -> None:
    model, options = model_of(norm="pre"), Decoding(**changes)
    assert without_graph(mode, options, side, "cpu", lengths=True)
    expected = Generator(model)(BATCH, mode, options, side)
    assert Engine(model)(BATCH, mode, options, side) == expected


def test_a_beam_of_one_is_greedy_search_whatever_ends_a_beam() -> None:
    model, options = model_of(norm="pre"), Decoding(beam=1, early_stopping="never", no_repeat_ngram=3)
    found = [decode(BATCH, "ar", options, "content") for decode in (Engine(model), Generator(model))]
    ends = Generator(model)(BATCH, "ar", replace(options, early_stopping="full"), "content")
    for texts in zip(*found, ends, strict=True):
        assert len({(tuple(text.tokens), text.passes) for (text,) in texts}) == 1


def test_a_trace_has_every_pass() -> None:
    engine, options = Engine(model_of(norm="pre")), Decoding(length_beam=1, iters=4)
    ((output,), *_) = engine(BATCH, "nar", options, "content", True)
    assert len(output.trace) == 4


def test_a_batch_that_does_not_fit_raises_memory_error() -> None:
    """Which `janus decode` turns into a smaller --batch-sentences."""
    script = """
import resource, torch
from janus_cli.core.knobs import Decoding
from janus_cli.engines.engine import Engine
from janus_cli.errors import UsageError
from tests.engines.test_engine import BATCH, model_of
engine, options = Engine(model_of(norm='pre')), Decoding(length_beam=20, iters=2)
engine(BATCH, 'nar', options, 'content')
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
try:
    engine(BATCH.repeat(20_000, 1), 'nar', options, 'content')
except MemoryError:
    print('smaller')
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "smaller\n", done.stderr


def test_what_only_a_graph_could_do_is_refused() -> None:
    assert not without_graph("ar", Decoding(engine="onnx"), "content", "cpu", lengths=True)
    for options in (Decoding(engine="onnx", temperature=1.0), Decoding(precision="int8", diversity=0.5)):
        with pytest.raises(UsageError):
            Engine(model_of())(BATCH, "ar", options, "content")
    for options in (Decoding(engine="onnx"), Decoding(precision="int8")):
        with pytest.raises(UsageError):
            Engine(model_of().bfloat16())(BATCH, "ar", options, "content")
        with pytest.raises(UsageError):
            Engine(model_of())(BATCH, "nar", options, "content", trace=True)
    with pytest.raises(UsageError):
        without_graph("ar", Decoding(engine="onnx"), "content", "cuda", lengths=True)


@pytest.mark.parametrize(
    "name", [name for name in SEARCHES if name.startswith(("no ", "at least", "a first", "equal", "both"))]
)
def test_each_rule_changes_something(name: str) -> None:
    """Otherwise the first test would not see it."""
    mode, changes = SEARCHES[name]
    free = {key: value for key, value in changes.items() if key not in RULES}
    engine = Engine(model_of(**MODELS["pre"]))
    ruled, other = (engine(BATCH, mode, Decoding(**each), "content") for each in (changes, free))
    assert [row[0].tokens for row in ruled] != [row[0].tokens for row in other]


def test_a_batch_may_be_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    for mode, changes in (("ar", {"beam": 3}), ("nar", {"length_beam": 3, "rerank": "ar"})):
        whole = Engine(model)(BATCH, mode, Decoding(**changes), "content")
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 3 * WIDTH * 50)
        parts = Engine(model)(BATCH, mode, Decoding(**changes), "content")
        monkeypatch.undo()
        assert [row[0].tokens for row in parts] == [row[0].tokens for row in whole]
