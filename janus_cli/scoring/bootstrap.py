"""Paired bootstrap resampling (Koehn 2004): would one output be better than the other on another test set, too?

A sample draws N of the N lines with replacement, the same lines for both outputs, and recomputes each metric from the
rows of `Score.statistics`. sacrebleu's `PairedTest` is not used: it calls identical outputs different
(p = 1 / (samples + 1)), takes its seed from the environment, and knows neither ROUGE nor the interval of a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from janus_cli.measures import MEASURES
from janus_cli.scoring.scores import Score

SAMPLES = 1000  # Koehn 2004
FEW_LINES = 100


@dataclass(frozen=True)
class Interval:
    """The mean of a value over the bootstrap samples, and the bounds of the middle 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One metric on two outputs.

    difference: first minus second, and its interval. wins: the share of samples in which the first is strictly better
    (Koehn 2004). p: two-sided, the probability of a difference at least as large between two equal systems.
    """

    name: str
    first: Interval
    second: Interval
    difference: float
    interval: Interval
    wins: float
    p: float


def intervals(scores: Sequence[Score], samples: int, seed: int) -> list[Interval]:
    """Each score's interval over bootstrap samples; deterministic for a seed."""
    return [_interval(values) for values in _resample(scores, samples, seed)]


def compare(first: Sequence[Score], second: Sequence[Score], samples: int, seed: int) -> list[Comparison]:
    """Compares two outputs for the same references, metric by metric; deterministic for a seed.

    first, second: the same metrics in the same order, from N lines each.
    """
    values = _resample([*first, *second], samples, seed)
    pairs = zip(first, second, values[: len(first)], values[len(first) :], strict=True)
    return [_compare(one, one.value - other.value, *drawn) for one, other, *drawn in pairs]


def compare_seeds(
    first: Sequence[Score], second: Sequence[Score], samples: int, seed: int, *, one_system: bool
) -> Comparison:
    """Compares the means of two systems over the seeds that they were trained with; deterministic for a seed.

    first, second: one metric, a score for each seed, the same seeds in the same order. A sample draws seeds as well as
    lines: the interval and p are about other seeds, too, as far as so few show how much they differ. one_system: these
    are two ways to decode the same models, so a sample has the same seeds for both; else each system's are drawn on
    their own.
    """
    values, rng = _resample([*first, *second], samples, seed), np.random.default_rng([seed, 1])
    sides = values[: len(first)], values[len(first) :]
    drawn = [rng.integers(0, len(side), side.shape) for side in sides]
    drawn = drawn[:1] * 2 if one_system else drawn
    means = (np.take_along_axis(side, seeds, axis=0).mean(axis=0) for side, seeds in zip(sides, drawn, strict=True))
    observed = fmean(each.value for each in first) - fmean(each.value for each in second)
    return _compare(first[0], observed, *means)


def says_little(values: Mapping[str, Sequence[float]], lines: int) -> str:
    """Why the p of a comparison says little, in words; empty if nothing keeps it from that.

    values: by metric, the scores of all outputs that are compared. lines: of the test set.
    """
    low = [MEASURES[name] for name, scores in values.items() if max(scores, default=1.0) < 1]
    why = [f"there are fewer than {FEW_LINES} lines"] * (lines < FEW_LINES)
    why += [f"every {measure.title} is near 0" for measure in low if measure.higher_is_better]
    return f"p says little: {' and '.join(why)}" if why else ""


def _compare(metric: Score, observed: float, firsts: NDArray[np.float64], seconds: NDArray[np.float64]) -> Comparison:
    """observed: the difference on the test set. firsts, seconds: the values of the samples, (samples,)."""
    differences = firsts - seconds
    # Centred at zero, the samples are the null distribution of two equal systems. The +1 keeps p above zero: it counts
    # the test set itself as one more sample. The tolerance allows for rounding in the mean.
    by_chance = np.abs(differences - differences.mean())
    extreme = int(np.sum(by_chance >= abs(observed) - 1e-9))
    better = differences > 0 if metric.measure.higher_is_better else differences < 0
    return Comparison(
        metric.name, _interval(firsts), _interval(seconds), observed, _interval(differences), float(better.mean()),
        p=(extreme + 1) / (len(differences) + 1),
    )  # fmt: skip


def _resample(scores: Sequence[Score], samples: int, seed: int) -> NDArray[np.float64]:
    """(scores, samples) values; within a sample, all scores are of the same lines."""
    lines = len(scores[0].statistics)
    rng = np.random.default_rng(seed)
    values = np.empty((len(scores), samples))
    for sample in range(samples):
        drawn = np.bincount(rng.integers(0, lines, lines), minlength=lines)  # how often each line was drawn
        for row, score in enumerate(scores):
            values[row, sample] = score.aggregate(drawn @ score.statistics)
    return values


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
