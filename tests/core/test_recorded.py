"""Passes over fixed buffers: what they write is what the other steps write, in every order of shapes."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from janus_cli.core import graphs
from janus_cli.core.batch import EOS, pad
from janus_cli.core.generate import Mode, generate
from janus_cli.core.graphs import RecordedNext, RecordedVerify, Recordings
from janus_cli.core.knobs import ARSide, Decoding, Model
from janus_cli.core.model import Transformer
from janus_cli.core.stream import NEVER

BATCHES = [
    [[5, 6, 7]],
    [[9] * 12, [8, 5], [6, 7, 8, 9, 10]],
    [[7, 6]],
    [[5] * 3, [4, 5, 6, 7], [9]],
    [[11, 8, 7, 6] * 4],
]


def sources() -> Iterator[Tensor]:
    for rows in [*BATCHES, *BATCHES[::-1]]:  # shapes come again, with other sentences and behind others
        yield pad([[*row, EOS] for row in rows])


@pytest.fixture
def model() -> Transformer:
    """Random, in float64, and such that what it writes depends on the source and on all that is written."""
    torch.manual_seed(4)
    knobs = Model(
        width=32, feedforward=64, heads=4, encoder_layers=2, decoder_layers=2, max_length=48, tie="none",
        embedding_scale=False,
    )  # fmt: skip
    model = Transformer(knobs, 40, 40, length_head=True).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * (1.0 if re.search("cross|output|length", name) else 0.5))
    return model.requires_grad_(False)


def outputs(
    model: Transformer, mode: Mode, options: Decoding, side: ARSide, recordings: Recordings | None = None
) -> list[tuple[list[int], int, float]]:
    batches = (generate(model, source, mode, options, side, recordings=recordings) for source in sources())
    found = [output for batch in batches for output in batch]
    return [(one.tokens, one.passes, round(one.score, 4)) for nbest in found for one in nbest]


DECODINGS: list[tuple[Mode, dict[str, object]]] = [
    ("ar", {"beam": 1}),
    ("ar", {"beam": 3, "nbest": 2}),
    ("nar", {"iters": 1, "length_beam": 1}),
    ("nar", {"iters": 5, "length_beam": 3, "nbest": 3}),
    ("nar", {"iters": 4, "length_beam": 3, "update": "all", "remove_repeats": True}),
    ("nar", {"iters": 4, "length_beam": 3, "rerank": "ar"}),
    ("spec", {"redraft": "nar", "draft_iters": 2}),
    ("spec", {"redraft": "ar", "verify_window": 3}),
    ("spec", {"redraft": "joint"}),
    ("spec", {"redraft": "joint", "draft_length": 3, "verify_window": 2}),
]


def sides(mode: Mode, knobs: dict[str, object]) -> tuple[ARSide, ...]:
    """The AR sides on which it depends, and which some objective has."""
    if mode == "nar" and "rerank" not in knobs:
        return ("content",)
    return ("content", "query") if mode == "spec" else ("content", "query", "self", "masks")


CASES = [(mode, knobs, side) for mode, knobs in DECODINGS for side in sides(mode, knobs)]


@pytest.mark.parametrize(("mode", "knobs", "side"), CASES, ids=str)
def test_texts_and_passes_are_those_of_the_other_steps(
    model: Transformer, mode: Mode, knobs: dict[str, object], side: ARSide
) -> None:
    options = Decoding(**knobs)
    expected = outputs(model, mode, options, side)
    assert len({tuple(tokens) for tokens, *_ in expected}) > 4
    recordings = Recordings(model)
    assert outputs(model, mode, options, side, recordings) == expected
    if (mode, side) == ("ar", "masks"):
        return  # not recorded
    assert len(recordings.sources) == 4, "shapes (1, 8), (3, 16), (3, 8), (1, 24) of sources"
    assert all(source.steps for source in recordings.sources.values())


def test_scores_too(model: Transformer) -> None:
    (plain,) = generate(model, pad([[5, 6, 7, EOS]]), "nar", Decoding(rerank="ar"), "content")
    (again,) = generate(
        model, pad([[5, 6, 7, EOS]]), "nar", Decoding(rerank="ar"), "content", recordings=Recordings(model)
    )
    assert again[0].score == pytest.approx(plain[0].score, abs=1e-5)
    assert again[0].logps == pytest.approx(plain[0].logps, abs=1e-5)


def test_large_batches_traces_and_who_does_not_want_it_go_the_other_way(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, source = Recordings(model), pad([[5, 6, 7, EOS]])
    generate(model, source, "nar", Decoding(), "content", trace=True, recordings=recordings)
    generate(model, source, "ar", Decoding(cuda_graphs=False), "content", recordings=recordings)
    with monkeypatch.context() as patch:
        patch.setattr("janus_cli.core.generate.MOST_ROWS", 4)
        generate(model, source, "ar", Decoding(beam=5), "content", recordings=recordings)
    assert not recordings.sources


def test_only_so_many_shapes_are_kept(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 60)
    options = Decoding(beam=1)
    expected = outputs(model, "ar", options, "content")
    recordings = Recordings(model)
    assert outputs(model, "ar", options, "content", recordings) == expected
    assert list(recordings.sources) == [(3, 16), (1, 8)], "48 + 8 tokens: the last two of four"


def test_a_text_does_not_see_the_drafts_of_the_one_before(model: Transformer) -> None:
    """Spans of time come again, so the cache is emptied."""
    recordings = Recordings(model)
    generate(model, pad([[5, 6, 7, EOS]]), "spec", Decoding(redraft="joint"), "content", recordings=recordings)
    (source,) = recordings.sources.values()
    (step,) = (each for each in source.steps.values() if isinstance(each, RecordedVerify))
    assert (step.cache.birth < NEVER).any()
    with torch.inference_mode():
        step.begin(None)
    assert (step.cache.birth == NEVER).all()


def test_what_is_not_kept_is_freed_at_once(model: Transformer) -> None:
    recordings = Recordings(model)
    for mode, options in (("ar", Decoding(beam=2)), ("spec", Decoding(redraft="joint")), ("nar", Decoding())):
        generate(model, pad([[5, 6, 7, EOS]]), mode, options, "content", recordings=recordings)
    source = weakref.ref(next(iter(recordings.sources.values())))
    cache = weakref.ref(next(each.cache for each in source().steps.values() if isinstance(each, RecordedNext)))
    gc.disable()
    try:
        recordings.forget()
        assert source() is None
        assert cache() is None
    finally:
        gc.enable()
