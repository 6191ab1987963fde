"""Scores for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from janus_cli.errors import DataError
from janus_cli.scoring.bootstrap import Comparison, Interval, compare, intervals
from janus_cli.scoring.inputs import References
from janus_cli.scoring.metrics import Score
from janus_cli.scoring.metrics import score as score_lines


@dataclass(frozen=True)
class Output:
    """What one system wrote: where it stands, and its N lines."""

    name: str
    lines: list[str]


@dataclass(frozen=True)
class Report:
    """What one `janus score` found.

    spread: an interval for each score; none without a bootstrap.
    against_scores, comparisons: of the second output; none without one. samples 0: no bootstrap.
    """

    hypotheses: str
    references: Sequence[str]
    scores: Sequence[Score]
    spread: Sequence[Interval] = ()
    against: str | None = None
    against_scores: Sequence[Score] = ()
    comparisons: Sequence[Comparison] = ()
    samples: int = 0
    seed: int = 0

    @property
    def sentences(self) -> int:
        return len(self.scores[0].statistics)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names and cells."""
        columns = ["metric", "score"] if self.against is None else ["metric", "first", "second", "difference"]
        cells = [[score.name, f"{score.value:.2f}"] for score in self.scores]
        for row, one, other in zip(cells, self.scores, self.against_scores, strict=False):
            row += [f"{other.value:.2f}", f"{one.value - other.value:+.2f}"]
        for row, spread in zip(cells, self.spread, strict=False):
            row.append(_range(spread))
        for row, found in zip(cells, self.comparisons, strict=False):
            row += [_range(found.interval, "+"), f"{found.wins:.1%}", f"{found.p:.3f}"]
        columns += ["95 % interval"] if self.samples else []
        columns += ["first better", "p"] if self.comparisons else []
        return columns, cells

    def notes(self) -> list[str]:
        """What must stand with the numbers: the texts, the signatures, the bootstrap."""
        lines = [
            f"{score.name:<{max(len(score.name) for score in self.scores)}}  {score.signature}" for score in self.scores
        ]
        if self.against is not None:
            lines += [f"first: {self.hypotheses}", f"second: {self.against}"]
        if self.samples:
            paired = "paired bootstrap" if self.against is not None else "bootstrap"
            lines.append(f"{paired}: {self.samples:,} samples of {self.sentences:,} lines, seed {self.seed}")
        return lines

    def plain(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        spread: Sequence[Interval | None] = self.spread or [None] * len(self.scores)
        return {
            "hypotheses": self.hypotheses,
            "references": list(self.references),
            "sentences": self.sentences,
            "scores": [_plain(score, found) for score, found in zip(self.scores, spread, strict=True)],
            "against": self.against,
            "against_scores": [_plain(score) for score in self.against_scores],
            "comparisons": [asdict(found) for found in self.comparisons],
            "bootstrap": {"samples": self.samples, "seed": self.seed} if self.samples else None,
        }


def measure(
    first: Output,
    second: Output | None,
    references: Sequence[References],
    metrics: Sequence[str],
    samples: int,
    seed: int,
) -> Report:
    """Scores one output, or two, on the same references.

    Args:
        second: an output to compare the first with.
        metrics: names of `METRICS`.
        samples, seed: of the bootstrap; 0 samples for none.

    Raises:
        DataError: line counts differ, or there is nothing to score.
    """
    for file in references:
        _must_align(first, file.name, len(file.columns[0]))
    columns = [column for file in references for column in file.columns]
    scores = score_lines(first.lines, columns, metrics)
    report = Report(first.name, [file.name for file in references], scores, samples=samples, seed=seed)
    if second is None:
        return replace(report, spread=intervals(scores, samples, seed) if samples else ())
    _must_align(first, second.name, len(second.lines))
    others = score_lines(second.lines, columns, metrics)
    found = compare(scores, others, samples, seed) if samples else ()
    return replace(report, against=second.name, against_scores=others, comparisons=found)


def _must_align(output: Output, name: str, lines: int) -> None:
    if lines != len(output.lines):
        raise DataError(
            f"{output.name} has {len(output.lines):,} lines, {name} has {lines:,}", "score files that belong together"
        )


def _plain(score: Score, spread: Interval | None = None) -> dict[str, Any]:
    plain = {"name": score.name, "value": score.value, "signature": score.signature}
    return plain | ({"interval": asdict(spread)} if spread else {})


def _range(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.2f} … {interval.high:{sign}.2f}"
