"""Passes over fixed buffers: what they write is what the other steps write, in every order of shapes."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from janus_cli.core import graphs
from janus_cli.core.batch import UNK
from janus_cli.core.generate import Generator
from janus_cli.core.graphs import RecordedNext, RecordedVerify, Recordings
from janus_cli.core.knobs import ARSide, Decoding, Mode
from janus_cli.core.stream import NEVER
from tests.core.random_model import random_model, source

ONE = source([[5, 6, 7]])
BATCHES = [ONE, source([[9] * 12, [8, 5], [6, 7, 8, 9, 10]]), source([[7, 6]]), source([[5] * 3, [4, 5, 6, 7], [9]]),
           source([[11, 8, 7, 6] * 4])]  # fmt: skip


def generator(*, recorded: bool = True, likes_unk: bool = False) -> Generator:
    model = random_model(2, width=32, heads=4, encoder_layers=2, norm="post", max_length=48)
    if likes_unk:
        model.output_weight[UNK] = 1.2 * model.output_weight[9]
    made = Generator(model)
    made.recordings = Recordings(made.model) if recorded else None
    return made


def outputs(decode: Generator, mode: Mode, options: Decoding, side: ARSide) -> list[tuple[list[int], int, float]]:
    """Shapes come again, with other sentences and behind others."""
    found = [output for batch in [*BATCHES, *BATCHES[::-1]] for output in decode(batch, mode, options, side)]
    return [(one.tokens, one.passes, round(one.score, 4)) for nbest in found for one in nbest]


def cases() -> Iterator[tuple[Mode, ARSide, dict[str, Any]]]:
    for side in ("content", "query", "self", "masks"):
        yield "ar", side, {"beam": 1}
        yield "ar", side, {"beam": 3, "nbest": 2}
        yield "ar", side, {"temperature": 0.8, "nbest": 3}
        yield "ar", side, {"beam": 4, "nbest": 2, "diversity": 0.5, "unk": "ban"}
        yield "ar", side, {"beam": 1, "no_repeat_ngram": 1}
        yield "nar", side, {"iters": 4, "length_beam": 3, "rerank": "ar"}
    yield "nar", "content", {"iters": 1, "length_beam": 1}
    yield "nar", "content", {"iters": 2, "length_beam": 2, "unk": "ban", "rerank": "ar"}
    yield "nar", "content", {"iters": 5, "length_beam": 3, "nbest": 3}
    yield "nar", "content", {"iters": 4, "length_beam": 3, "update": "all", "remove_repeats": True}
    yield "nar", "content", {"iters": 5, "length_beam": 4, "rerank": "ar", "keep_lengths": 2, "sure": 0.15}
    yield "nar", "content", {"iters": 5, "length_beam": 2, "rewrite_repeats": 2, "no_repeat_ngram": 3}
    yield "nar", "content", {"iters": 3, "length_beam": 2, "avoid_repeats": True}
    yield "nar", "content", {"iters": 4, "length_beam": 3, "rerank": "nar", "keep_lengths": 0}
    for side in ("content", "query"):
        yield "spec", side, {"redraft": "nar", "draft_iters": 2}
        yield "spec", side, {"unk": "ban"}
        yield "spec", side, {"redraft": "ar", "verify_window": 3}
        yield "spec", side, {"redraft": "nar", "first_token": 7, "free_end": True, "max_ratio": 0.7, "max_extra": 2}
        yield "spec", side, {"redraft": "ar", "first_token": 7, "unwritten": (9, 11)}
        yield "ar", side, {"beam": 1, "free_end": True, "max_ratio": 0.7, "max_extra": 2, "unwritten": (9, 11)}
        yield "ar", side, {"beam": 3, "unwritten": (9, 11)}
        yield "spec", side, {"draft_length": 3, "verify_window": 2}


@pytest.mark.parametrize(("mode", "side", "knobs"), list(cases()), ids=str)
def test_texts_passes_and_scores_are_those_of_the_other_steps(mode: Mode, side: ARSide, knobs: dict[str, Any]) -> None:
    options, likes_unk = Decoding(**knobs), "unk" in knobs
    recorded = generator(likes_unk=likes_unk)
    expected = outputs(generator(recorded=False, likes_unk=likes_unk), mode, options, side)
    assert len({tuple(tokens) for tokens, *_ in expected}) > 4
    assert outputs(recorded, mode, options, side) == expected
    if (mode, side) != ("ar", "masks"):  # which is not recorded
        assert len(recorded.recordings.sources) == 4, "shapes (1, 8), (3, 16), (3, 8), (1, 24) of sources"
        assert all(each.steps for each in recorded.recordings.sources.values())


def test_large_batches_traces_and_who_does_not_want_it_go_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = generator()
    decode(ONE, "nar", Decoding(), "content", trace=True)
    decode(ONE, "ar", Decoding(cuda_graphs=False), "content")
    monkeypatch.setattr("janus_cli.core.generate.MOST_ROWS", 4)
    decode(ONE, "ar", Decoding(beam=5), "content")
    assert not decode.recordings.sources


def test_only_so_many_shapes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_TOKENS", 60)
    options, recorded = Decoding(beam=1), generator()
    assert outputs(recorded, "ar", options, "content") == outputs(generator(recorded=False), "ar", options, "content")
    assert list(recorded.recordings.sources) == [(3, 16), (1, 8)], "48 + 8 tokens: the last two of four"


def step_of(decode: Generator, kind: type) -> Any:
    (read,) = decode.recordings.sources.values()
    return next(each for each in read.steps.values() if isinstance(each, kind))


def test_a_text_does_not_see_the_one_before() -> None:
    decode = generator()
    decode(ONE, "spec", Decoding(), "content")
    step = step_of(decode, RecordedVerify)
    assert (step.cache.birth < NEVER).any()
    with torch.inference_mode():
        step.begin()
    assert (step.cache.birth == NEVER).all()


def test_what_is_not_kept_is_freed_at_once() -> None:
    decode = generator()
    for mode, options in (("ar", Decoding(beam=2)), ("spec", Decoding()), ("nar", Decoding())):
        decode(ONE, mode, options, "content")
    read = weakref.ref(next(iter(decode.recordings.sources.values())))
    cache = weakref.ref(step_of(decode, RecordedNext).cache)
    gc.disable()
    try:
        decode.forget()
        assert read() is None
        assert cache() is None
    finally:
        gc.enable()
