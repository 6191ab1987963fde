"""Times rows against each other on a machine that may drift: warm-up, then repeats in which the rows take turns.

Every repeat times every row, and each repeat begins with the next row: what slows the machine for a while slows all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from janus_cli.core.generate import Generator
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import Plan
from janus_cli.decoding.translate import Translator
from janus_cli.errors import OutOfMemoryError

REPEATS = 3
WARMUP = 8  # sentences that nobody times, for each row and batch size

Item = TypeVar("Item")
Advance = Callable[[int, str], None]


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


@dataclass(frozen=True)
class Decoded:
    """The outputs for some lines, in order.

    sizes: tokens of each output, EOS not counted. passes: decoder passes, summed over the lines; None: not known.
    seconds, peak: what it took in another process, peak in bytes of memory; None: the caller measures that.
    """

    texts: list[str]
    sizes: list[int]
    passes: int | None = None
    seconds: float | None = None
    peak: int | None = None


@dataclass
class Row:
    """A way to decode, and its timings in seconds.

    translate: lines and the batch size -> their outputs, from text to text.
    note: what a reader of the table must know. comparable: whether the texts are worth a score.
    trials: all lines once at each batch size; a size that does not fit into memory is missing. batch: the fastest.
    batched: all lines at that size, each repeat. singles: each single line, each repeat; (repeats, lines).
    """

    label: str
    mode: str
    translate: Callable[[Sequence[str], int], Decoded]
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    comparable: bool = True
    trials: dict[int, float] = field(default_factory=dict)
    batch: int = 0
    batched: list[float] = field(default_factory=list)
    singles: list[list[float]] = field(default_factory=list)

    def latencies(self, percent: int) -> list[float]:
        """This percentile of a single line's seconds, each repeat."""
        return [percentile(seconds, percent) for seconds in self.singles]

    def timings(self, sentences: int) -> dict[str, Any]:
        """Latency and throughput: medians over the repeats with their range, and every raw number."""
        p50, p95 = (asdict(Spread.of(self.latencies(percent))) for percent in (50, 95))
        return {
            "latency": {"p50": p50, "p95": p95, "seconds": self.singles},
            "throughput": {
                "batch": self.batch,
                "sentences_per_second": asdict(Spread.of([sentences / seconds for seconds in self.batched])),
                "seconds": self.batched,
                "trials": {str(batch): seconds for batch, seconds in self.trials.items()},
            },
        }

    def speed_against(self, base: Row) -> dict[str, float]:
        """How many times as fast as `base` this row is, in latency (p50) and in throughput.

        Rows of one repeat ran close together, so each is the median over the repeats of the ratio within a repeat.
        """
        latency = [theirs / ours for ours, theirs in zip(self.latencies(50), base.latencies(50), strict=True)]
        throughput = [theirs / ours for ours, theirs in zip(self.batched, base.batched, strict=True)]
        return {"latency": Spread.of(latency).median, "throughput": Spread.of(throughput).median}


def own(label: str, plan: Plan, generator: Generator, tokenizers: Tokenizers) -> Row:
    """A mode of janus itself, through the same `Translator` that `janus decode` uses."""
    translators: dict[int, Translator] = {}

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        if batch not in translators:
            options = replace(plan.options, batch_sentences=batch)
            translators[batch] = Translator(generator, tokenizers, replace(plan, options=options))
        results = [result for window in translators[batch].windows(lines) for result in window]
        best = [result.outputs[0] for result in results]
        passes = sum(output.passes for output in best)
        return Decoded([result.texts[0] for result in results], [len(output.tokens) for output in best], passes)

    options = {name: value for name, value in plan.used.items() if name not in ("batch_sentences", "nbest")}
    return Row(label, plan.mode, translate, options)


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
        warm = min(self.warmup, len(self.lines)) * len(self.batches) + min(self.warmup, len(self.singles))
        timed = len(self.lines) * (len(self.batches) + self.repeats) + len(self.singles) * self.repeats
        return rows * (warm + timed)


def measure(rows: Sequence[Row], work: Work, advance: Advance, clock: Callable[[], float] = time.perf_counter) -> None:
    """Times every row.

    advance: called with the number of sentences decoded, and the row's label. clock: seconds.

    Raises:
        OutOfMemoryError: a row does not fit into memory at any batch size.
    """

    def seconds_of(row: Row, lines: Sequence[str], batch: int) -> float:
        started = clock()
        decoded = row.translate(lines, batch)
        return clock() - started if decoded.seconds is None else decoded.seconds

    warm = work.lines[: work.warmup]
    for turn, batch in enumerate(work.batches):
        for row in rotated(rows, turn):
            try:
                if warm:
                    row.translate(warm, batch)
                row.trials[batch] = seconds_of(row, work.lines, batch)
            except OutOfMemoryError as problem:
                if batch == min(work.batches):
                    raise OutOfMemoryError(
                        f"{row.label}, batch {batch}: {problem.message}", "try smaller sizes with --batches"
                    ) from None
            advance(len(warm) + len(work.lines), row.label)
    for row in rows:  # the repeats measure it again, so that a lucky trial is not reported
        row.batch = min((seconds, batch) for batch, seconds in row.trials.items())[1]
    for turn in range(work.repeats):
        for row in rotated(rows, turn):
            row.batched.append(seconds_of(row, work.lines, row.batch))
            advance(len(work.lines), row.label)
    for row in rows:
        for line in work.singles[: work.warmup]:
            row.translate([line], 1)
        advance(min(work.warmup, len(work.singles)), row.label)
    for turn in range(work.repeats):
        for row in rotated(rows, turn):
            row.singles.append([seconds_of(row, [line], 1) for line in work.singles])
            advance(len(work.singles), row.label)
