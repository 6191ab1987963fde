"""Timing rows against each other on a machine that may drift: warm-up, then repeats that take turns.

Every repeat times every row, and each repeat begins with the next row: what slows the machine for a while slows all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from janus_cli.errors import OutOfMemoryError
from janus_cli.lab.benching.contestant import Contestant

Item = TypeVar("Item")
Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class Work:
    """What is timed.

    lines: decoded in batches. singles: decoded one by one. warmup: lines that are decoded untimed before a row's first
    timing at each batch size.
    """

    lines: Sequence[str]
    singles: Sequence[str]
    batches: Sequence[int]
    repeats: int
    warmup: int

    def translations(self, rows: int) -> int:
        """Sentences that `measure` decodes."""
        warm = self.warm_lines(self.lines) * len(self.batches) + self.warm_lines(self.singles)
        timed = len(self.lines) * (len(self.batches) + self.repeats) + len(self.singles) * self.repeats
        return rows * (warm + timed)

    def warm_lines(self, lines: Sequence[str]) -> int:
        return min(self.warmup, len(lines))


@dataclass
class Timed:
    """Seconds, as measured.

    trials: all lines once at each batch size; a size that does not fit into memory is missing. batch: the fastest.
    batched: all lines at that size, each repeat. singles: each single line, each repeat; (repeats, lines).
    """

    trials: dict[int, float] = field(default_factory=dict)
    batch: int = 0
    batched: list[float] = field(default_factory=list)
    singles: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """The median of some values, and their range."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank: the smallest value that at least `percent` of all do not exceed."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items in the order of this turn: each turn begins with the next one."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def measure(
    rows: Sequence[Contestant], work: Work, advance: Advance, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timed]:
    """Times every row, by label.

    advance: told how many sentences were decoded, and by whom. clock: seconds.

    Raises:
        OutOfMemoryError: a row does not fit into memory at any batch size.
    """
    found = {row.label: Timed() for row in rows}
    _try_batches(rows, work, found, advance, clock)
    for turn in range(work.repeats):
        for row in rotated(rows, turn):
            timed = found[row.label]
            timed.batched.append(_seconds(row, work.lines, timed.batch, clock))
            advance(len(work.lines), row.label)
    for row in rows:
        warm = work.singles[: work.warmup]
        for line in warm:
            row.translate([line], 1)
        advance(len(warm), row.label)
    for turn in range(work.repeats):
        for row in rotated(rows, turn):
            found[row.label].singles.append([_seconds(row, [line], 1, clock) for line in work.singles])
            advance(len(work.singles), row.label)
    return found


def _try_batches(
    rows: Sequence[Contestant],
    work: Work,
    found: dict[str, Timed],
    advance: Advance,
    clock: Callable[[], float],
) -> None:
    """Each batch size once, and the choice of the fastest. The repeats then measure it anew: luck is not kept."""
    warm = work.warm_lines(work.lines)
    for turn, batch in enumerate(work.batches):
        for row in rotated(rows, turn):
            try:
                if warm:
                    row.translate(work.lines[:warm], batch)
                found[row.label].trials[batch] = _seconds(row, work.lines, batch, clock)
            except OutOfMemoryError as problem:
                if batch == min(work.batches):
                    raise OutOfMemoryError(
                        f"{row.label}, batch {batch}: {problem.message}", "try smaller sizes with --batches"
                    ) from None
            advance(warm + len(work.lines), row.label)
    for timed in found.values():
        timed.batch = min(timed.trials, key=lambda batch: (timed.trials[batch], batch))


def _seconds(row: Contestant, lines: Sequence[str], batch: int, clock: Callable[[], float]) -> float:
    started = clock()
    found = row.translate(lines, batch)
    return clock() - started if found.seconds is None else found.seconds
