"""Denoising: the noise rebuilt in plain Python, how much it hides, and what encoder and decoder are given."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from math import ceil, exp, factorial

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, MASK, PAD, Batch, collate
from janus_cli.core.denoise import denoised
from janus_cli.core.knobs import OBJECTIVES as KNOBS
from janus_cli.core.knobs import Denoising
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES

ENDS = torch.tensor([token in (8, 13) for token in range(40)])
BOTH = Denoising(permute=0.7, visible=0.5)


def batch_of(texts: list[list[int]]) -> Batch:
    return collate([[] for _ in texts], texts, range(100, 100 + len(texts)))


def noisy(batch: Batch, knobs: Denoising, seed: int = 1, epoch: int = 2, ends: Tensor | None = ENDS) -> Batch:
    return denoised(batch, Draws(seed, epoch, batch.ids), knobs, ends)


def rows(source: Tensor) -> list[list[int]]:
    return [[token for token in row if token != PAD] for row in source.tolist()]


def poisson(uniform: float, mean: float) -> int:
    """The length, from 1 to 20, at which the cumulative distribution passes a number."""
    mass = [exp(-mean) * mean**k / factorial(k) for k in range(1, 21)]
    length, passed = 1, mass[0] / sum(mass)
    while uniform >= passed and length < 20:
        passed += mass[length] / sum(mass)
        length += 1
    return length


def rebuilt(text: list[int], draws: Draws, knobs: Denoising) -> tuple[list[int], set[int]]:
    """The source of one text, and the positions that are hidden in its target: token by token, gap by gap."""

    def numbers(count: int) -> list[float]:
        return list(draws.uniform(count)[0].tolist())

    allowed, width = ceil(knobs.share * len(text)), len(text) + 1
    spans: list[int] = []
    for number in numbers(width):
        if sum(spans) < allowed:
            spans.append(min(poisson(number, knobs.span_mean), allowed - sum(spans)))
    zero = exp(-knobs.span_mean)
    zeros = sum(number < zero / (1 - zero) for number in numbers(width)[: len(spans)])
    gaps = len(text) - allowed + 1
    by_score = sorted(range(gaps), key=numbers(width + 1).__getitem__)
    seen = [number < knobs.visible for number in numbers(width + 1)]
    length_at = dict(zip(by_score, sorted(spans, reverse=True), strict=False))
    saved = sum(length - 1 for gap, length in length_at.items() if not seen[gap])
    length_at |= dict.fromkeys(by_score[len(spans) :][: min(zeros, saved)], 0)

    read: list[tuple[int, int]] = []  # position in the text, token
    hidden, place = set[int](), 0
    for gap in range(gaps):
        if gap in length_at:
            span = range(place, place + length_at[gap])
            hidden |= {1 + position for position in span}  # behind BOS
            read += [(position, text[position]) for position in span] if seen[gap] and span else [(place, MASK)]
            place = span.stop
        if gap < gaps - 1:
            read.append((place, text[place]))
            place += 1
    sentence = [sum(bool(ENDS[token]) for token in text[:position]) for position in range(width)]
    order, moved = numbers(width), numbers(1)[0] < knobs.permute
    count = 1 + max(sentence[:-1], default=0)
    places = sorted(range(count), key=order.__getitem__) if moved else range(count)
    sources = [[token for position, token in read if position < len(text) and sentence[position] == s] for s in places]
    at_end = [token for position, token in read if position == len(text)]
    return [*chain.from_iterable(sources), *at_end, EOS], hidden


@pytest.mark.parametrize(
    "knobs",
    [BOTH, Denoising(), Denoising(visible=0.0, permute=1.0), Denoising(share=0.15, span_mean=1.5, visible=1.0),
     Denoising(share=0.5, span_mean=8.0), Denoising(span_mean=0.4)],
)  # fmt: skip
def test_the_noise_is_that_of_plain_python(knobs: Denoising) -> None:
    """Of texts padded to one width and of each alone; so no batch decides what is drawn."""
    draw = torch.Generator().manual_seed(3)
    texts = [torch.randint(5, 40, (n,), generator=draw).tolist() for n in (0, 1, 2, 3, *range(4, 60, 5), *[31] * 40)]
    batch = batch_of(texts)
    made = noisy(batch, knobs)
    assert made.hidden is not None
    for index, text in enumerate(texts):
        source, hidden = rebuilt(text, Draws(1, 2, batch.ids[index : index + 1]), knobs)
        assert rows(made.source)[index] == source
        assert len(source) <= len(text) + 1  # EOS: it fits where the text does
        assert set(made.hidden[index].nonzero().flatten().tolist()) == hidden
    assert torch.equal(made.target, batch.target)


def test_shares_span_lengths_and_places() -> None:
    length, count, mean = 400, 2000, 3.0
    made = noisy(batch_of([list(range(5, 5 + length))] * count), Denoising(), ends=None)
    assert made.hidden is not None
    hidden = made.hidden[:, 1 : length + 1]
    assert (hidden.sum(1) == 120).all()  # 30 %
    spans = (hidden & ~torch.nn.functional.pad(hidden, (1, -1))).sum(1).double()
    assert float(120 / spans.mean()) == pytest.approx(mean / (1 - exp(-mean)), rel=0.02)  # Poisson without 0
    inside = hidden[:, 10:-10].double().mean(0)  # the first and last tokens have neighbours on one side only
    assert (inside - 0.3).abs().max() < 0.05
    masks = (made.source == MASK).sum(1).double().mean()
    zeros = exp(-mean) / (1 - exp(-mean))  # each stands for a span of length 0
    assert float(masks / spans.mean()) == pytest.approx(0.5 + zeros, rel=0.03)  # every second span, and insertions
    unread = length + 1 + float(masks) - float((made.source != PAD).sum(1).double().mean())
    assert unread == pytest.approx(60, rel=0.03)  # half of what is hidden


def test_lengths_of_spans_are_poisson() -> None:
    made = noisy(batch_of([list(range(5, 1005))] * 300), Denoising(visible=0.0), ends=None)
    assert made.hidden is not None
    found = torch.zeros(21, dtype=torch.int64)
    for row in made.hidden.tolist():
        for run in "".join("x" if each else " " for each in row).split():
            found[len(run)] += 1
    expected = torch.tensor([0.0, *(exp(-3) * 3**k / factorial(k) / (1 - exp(-3)) for k in range(1, 21))])
    assert (found / found.sum() - expected).abs().max() < 0.01


def test_noise_depends_on_seed_epoch_and_example() -> None:
    batch = batch_of([list(range(5, 35))] * 50)
    first, again = noisy(batch, BOTH), noisy(batch, BOTH)
    assert torch.equal(first.source, again.source)
    assert len({tuple(row) for row in rows(first.source)}) > 45
    for other in (noisy(batch, BOTH, seed=2), noisy(batch, BOTH, epoch=3)):
        assert rows(other.source) != rows(first.source)
    part = first.select(slice(10, 20)).to("cpu")
    assert part.hidden is not None
    assert rows(part.source) == rows(noisy(batch.select(slice(10, 20)), BOTH).source)


def test_sentences_are_moved_whole_and_the_target_is_not() -> None:
    text = [20, 21, 8, 22, 23, 24, 13, 25, 8, 26, 27]  # three sentences, and one without an end
    batch = batch_of([text] * 400)
    made = noisy(batch, Denoising(share=1e-9, visible=1.0, permute=0.5))
    sentences = [(20, 21, 8), (22, 23, 24, 13), (25, 8), (26, 27)]
    found = set()
    for row in rows(made.source):
        tokens = [token for token in row if token != MASK]  # insertions
        starts = sorted(range(4), key=lambda number: tokens.index(sentences[number][0]))
        assert tokens == [*chain.from_iterable(sentences[number] for number in starts), EOS]
        found.add(tuple(starts))
    assert len(found) == 24
    kept = sum([token for token in row if token != MASK] == [*text, EOS] for row in rows(made.source))
    assert 0.42 < kept / 400 < 0.62  # half, and one shuffled row in 24
    assert torch.equal(made.target, batch.target)


def test_what_every_text_begins_with_stays_where_it_is() -> None:
    """Neither hidden nor moved, and no MASK before it: the rest has the noise that it would have alone."""
    texts = [[20, 21, 8, 22, 23, 24, 13, 25, 8, 26, 27], [30, 31]] * 100
    plain, framed = batch_of(texts), batch_of([[9, 10, *text] for text in texts])
    expected = noisy(plain, BOTH)
    found = denoised(framed, Draws(1, 2, framed.ids), BOTH, ENDS, frame=2)
    assert rows(found.source) == [[9, 10, *row] for row in rows(expected.source)]
    assert found.hidden is not None
    assert expected.hidden is not None
    assert not found.hidden[:, :3].any()
    assert torch.equal(found.hidden[:, 3:], expected.hidden[:, 1:])
    assert torch.equal(found.target, framed.target)


@pytest.mark.parametrize("name", ["janus", "cmlm", "cmlmc", "mpnet"])
def test_the_spans_are_what_the_objective_hides(name: str) -> None:
    batch = noisy(batch_of([list(range(5, 35)), [5, 6, 7]]), Denoising())
    plan = OBJECTIVES[name].plan(batch, Draws(1, 2, batch.ids), KNOBS[name](name))
    assert batch.hidden is not None
    assert plan.counts["hidden"] == int(batch.hidden.sum()) > 0
    stream = next(plan.streams[each] for each in ("nar_aux", "nar", "permuted") if each in plan.streams)
    width = batch.target.shape[1]
    assert torch.equal(stream.tokens[:, :width], batch.target.masked_fill(batch.hidden, MASK))


@pytest.mark.parametrize("name", ["ar", "bang", "prophetnet"])
def test_objectives_that_hide_nothing_predict_the_whole_text(name: str) -> None:
    """`ar` with this noise is BART, `bang` BANG."""
    texts = [list(range(5, 35)), [5, 6, 7]]
    batch = noisy(batch_of(texts), Denoising())
    plan = OBJECTIVES[name].plan(batch, Draws(1, 2, batch.ids), KNOBS[name](name))
    without = OBJECTIVES[name].plan(replace(batch, hidden=None), Draws(1, 2, batch.ids), KNOBS[name](name))
    assert plan.counts == without.counts
    assert plan.counts["tokens"] == sum(len(text) + 1 for text in texts)
    assert all(torch.equal(plan.streams[each].tokens, without.streams[each].tokens) for each in plan.streams)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_reads_the_noisy_source_only(
    name: str, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = noisy(batch_of([list(range(5, 20)), [5, 6, 7]]), Denoising(visible=0.0), ends=None)
    given, encode = list[Tensor](), model.encode

    def noted(source: Tensor, real: Tensor) -> Memory:
        given.append(source)
        assert torch.equal(real, source != PAD)
        return encode(source, real)

    monkeypatch.setattr(model, "encode", noted)
    plan = OBJECTIVES[name].plan(batch, Draws(1, 2, batch.ids), KNOBS[name](name))
    terms = OBJECTIVES[name].loss(model, batch, plan, KNOBS[name](name))
    assert all(bool(term.total.isfinite()) for term in terms.values())
    assert batch.hidden is not None
    unread = batch.target[0][batch.hidden[0]].tolist()
    assert len(unread) == 5
    assert len(given) == 1
    assert set(given[0][0].tolist()).isdisjoint(unread)
    assert set(given[0].flatten().tolist()) <= {*batch.source.flatten().tolist(), MASK}
