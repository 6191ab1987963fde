"""ONNX Runtime's searches against those of torch: the same texts, passes and scores, whatever the model and options."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.generate import Generator
from janus_cli.core.knobs import Decoding, Model
from janus_cli.core.model import Transformer
from janus_cli.engines.engine import Engine, without_graph

SOURCES = [[7, 8, 9, 10, 11, EOS], [12, 13, 14, EOS], [20, 21, 22, 23, 24, 25, 26, EOS], [EOS]]
WIDTH = max(map(len, SOURCES))
BATCH = torch.tensor([row + [PAD] * (WIDTH - len(row)) for row in SOURCES])

MODELS = {
    "pre": {"norm": "pre"},
    "post, gelu, sinusoids": {"activation": "gelu", "positions": "sinusoidal"},
    "concatenated, silu, no table shared": {"embedding": "concat", "activation": "silu", "tie": "none"},
    "causal attention": {"causal_attention": True, "norm": "pre", "embedding_scale": False},
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
    "short": ("ar", {"beam": 3, "nbest": 2, "max_ratio": 0.7, "max_extra": 1}),
    "greedy and short": ("ar", {"beam": 1, "max_ratio": 0.7, "max_extra": 1}),
    "nothing of these": ("nar", {"length_beam": 3, "iters": 3, "unwritten": (7, 9, 30)}),
    "one length": ("nar", {"length_beam": 1, "iters": 4}),
    "five lengths": ("nar", {"length_beam": 5, "iters": 4, "nbest": 3}),
    "one pass": ("nar", {"length_beam": 3, "iters": 1, "rerank": "nar", "keep_lengths": 0}),
    "AR reranks": ("nar", {"length_beam": 5, "iters": 10, "rerank": "ar"}),
    "sure": ("nar", {"length_beam": 5, "iters": 6, "sure": 0.3}),
    "all anew": ("nar", {"length_beam": 3, "iters": 4, "update": "all"}),
}


def model_of(**knobs: Any) -> Transformer:
    """Ends a third of its outputs before the limit."""
    torch.manual_seed(1)
    shape = Model(width=32, feedforward=64, heads=4, encoder_layers=2, decoder_layers=2, max_length=32, init="xavier")
    model = Transformer(replace(shape, **knobs), 50, 50, length_head=True).eval()
    with torch.no_grad():
        model.output_weight[EOS] *= 2
        if model.output_bias is not None:
            model.output_bias.normal_()
    return model


@pytest.mark.parametrize("side", ["content", "query"])
@pytest.mark.parametrize("knobs", MODELS.values(), ids=MODELS.keys())
def test_a_graph_finds_what_torch_finds(knobs: dict[str, Any], side: Any) -> None:
    model = model_of(**knobs)
    by_torch, engine = Generator(model), Engine(model)
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
        ("ar", {"beam": 3, "no_repeat_ngram": 2}, "content"),
        ("ar", {"beam": 4, "nbest": 4, "diversity": 0.5}, "content"),
        ("ar", {"temperature": 0.7}, "content"),
        ("ar", {"beam": 1, "min_length": 9}, "content"),
        ("ar", {"beam": 1}, "masks"),
        ("nar", {"remove_repeats": True}, "content"),
        ("nar", {"no_repeat_ngram": 2, "rewrite_repeats": 1, "avoid_repeats": True}, "content"),
        ("spec", {}, "content"),
    ],
)
def test_what_has_no_graph_is_left_to_torch(mode: Any, changes: dict[str, Any], side: Any) -> None:
    model, options = model_of(norm="pre"), Decoding(**changes)
    assert without_graph(mode, options, side, "cpu", lengths=True)
    expected = Generator(model)(BATCH, mode, options, side)
    assert Engine(model)(BATCH, mode, options, side) == expected


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
