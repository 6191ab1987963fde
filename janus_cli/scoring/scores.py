"""A score, and what functions of `metrics.METRICS` are made of.

Every metric is a function of a sum: each sentence gives a row of counts (its sufficient statistics), and
`Score.aggregate` turns the sum of the rows into the score. So a bootstrap sample only adds up rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from janus_cli.measures import MEASURES, Measure

Hypotheses = Sequence[str]
References = Sequence[Sequence[str | None]]  # R lists of N lines; None if a line has fewer than R references
Aggregate = Callable[[NDArray[np.float64]], float]
# The name, hypotheses, references, and how BLEU splits words: a value of `measures.Tokenize`, but auto.
Metric = Callable[[str, Hypotheses, References, str], "Score"]


@dataclass(frozen=True)
class Score:
    """One metric's score of a whole text.

    value: see `Measure`. statistics: (N, K), one row a sentence, in input order. aggregate: from the sum of the rows,
    (K,), to the value.
    """

    name: str
    value: float
    signature: str
    statistics: NDArray[np.float64]
    aggregate: Aggregate

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]


def summed(name: str, signature: str, rows: Sequence[Sequence[float]], aggregate: Aggregate) -> Score:
    """A score that is a function of the sum of rows, one a sentence."""
    statistics = np.array(rows, dtype=np.float64)
    return Score(name, aggregate(statistics.sum(axis=0)), signature, statistics, aggregate)


def percentage(total: NDArray[np.float64]) -> float:
    """100 × the second sum over the first; 0 if that is 0."""
    return float(100 * total[1] / total[0]) if total[0] else 0.0


def by_line(
    row: Callable[[str, list[str]], Sequence[float]], aggregate: Aggregate, signature: str, package: str = ""
) -> Metric:
    """A metric whose rows each come from a line and the references that it has.

    signature: what follows the number of references. package: the one whose version is a part of it.
    """

    def metric(name: str, hypotheses: Hypotheses, references: References, _: str) -> Score:
        rows = [row(line, others) for line, others in pairs(hypotheses, references)]
        made_by = f"|version:{package}-{version(package)}" if package else ""
        return summed(name, f"nrefs:{reference_count(references)}|{signature}{made_by}", rows, aggregate)

    return metric


def mean_of_lines(value: Callable[[str, list[str]], float], signature: str, package: str = "") -> Metric:
    """100 × the mean over lines; see `by_line`."""
    return by_line(lambda line, others: [1.0, value(line, others)], percentage, signature, package)


def pairs(hypotheses: Hypotheses, references: References) -> Iterator[tuple[str, list[str]]]:
    """Each line with the references that it has."""
    for line, others in zip(hypotheses, zip(*references, strict=True), strict=True):
        yield line, [other for other in others if other is not None]


def reference_count(references: References) -> str:
    counts = {sum(line is not None for line in lines) for lines in zip(*references, strict=True)}
    return str(counts.pop()) if len(counts) == 1 else "var"
