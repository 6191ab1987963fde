"""The rows of a bench or a comparison: decoding modes by label, which of them a run has, and their timing.

Rows are timed against each other on a machine that may drift: after a warm-up they take turns, and each repeat begins
with the next row, so that whatever slows the machine for a while slows all of them. Each has the number of threads that
is best for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from janus_cli.data.lines import Lines
from janus_cli.data.prepared import find_references, find_split
from janus_cli.data.references import prepared_references
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import Plan, choose, own_recipe
from janus_cli.decoding.translate import Translator, read_model
from janus_cli.engines.engine import Engine
from janus_cli.errors import OutOfMemoryError, UsageError
from janus_cli.lab.labels import matching, row_options
from janus_cli.lab.threads import Threads, current, set_torch
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring.scores import References

Item = TypeVar("Item")
Advance = Callable[[int, str], None]
Parts = Sequence[Sequence[str]]  # lines, as they are given to a row one after the other
TRIED = 8  # sentences decoded one by one with each number of threads, to find the best
ROUNDS = 2  # of them, of which the faster one counts


class Selection(NamedTuple):
    """The plan of each row, by label, in the order of the table; and why the others are left out."""

    plans: dict[str, Plan]
    left_out: dict[str, str]


def select(recipe: Recipe, names: Sequence[str], device: str = "cpu") -> Selection:
    """The rows of a run with this recipe, whose decoding section sets the other options.

    names: a label (ar.beam5, spec), with any numbers; what else labels begin with up to a dot (nar4), or a mode (ar,
    nar, semi), for all of them; none means every usual row. device: its type.

    Raises UsageError if a name matches no row, or the run has none of those named.
    """
    rows = matching(names) if names else row_options()
    single = replace(recipe, decoding=recipe.decoding.one_best)
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for label, options in rows.items():
        try:
            plan = choose(single, options)
            plan.without_graph(device)
        except UsageError as problem:
            left_out[label] = problem.message
            continue
        if recipe.decoding.precision == "bf16" != plan.options.precision:
            left_out[label] = "weights are in bf16 here: leave out decoding.precision"
        elif label == "nar.eos" and recipe.objective.lengths:
            left_out[label] = "this run predicts lengths and refines what it wrote: see the rows nar1, nar4, …"
        else:
            plans[label] = plan
    if not plans:
        raise UsageError(
            f"this run supports none of {', '.join(left_out)}: {next(iter(left_out.values()))}",
            "leave --mode out to measure every row that it can",
        )
    return Selection(plans, left_out)


def sentences(run: Run, recipe: Recipe, split: str) -> list[str]:
    """The source lines of a split of the run's data. Raises DataError: see `find_split`."""
    return list(Lines(find_split(run, recipe, split)[0]))


def references_of(run: Run, recipe: Recipe, split: str) -> References | None:
    """All references of a split of the run's data; None if it has no target. Raises DataError: see `find_split`."""
    file = find_references(run, recipe, split)
    return None if file is None else prepared_references(file.parent, split)


@dataclass(frozen=True)
class Spread:
    """The median of some values, and their range."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items, rotated: each turn begins with the next one."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


@dataclass(frozen=True)
class Decoded:
    """The outputs for some lines, in order.

    sizes: tokens of each output without EOS. passes: decoder passes, summed over the lines; None if unknown. seconds,
    peak: time and peak memory in bytes, measured in another process; None if the caller measures them.
    """

    texts: list[str]
    sizes: list[int]
    passes: int | None = None
    seconds: float | None = None
    peak: int | None = None


@dataclass
class Row:
    """A way to decode, and its timings in seconds.

    translate: lines and a batch size -> outputs, from text to text. engine: what computes. use: sets the threads of
    what is decoded next, untimed. several: whether it can decode several batches at once.

    trials: all lines once, by batch size; sizes that do not fit into memory are missing. batch: the fastest. batched:
    all lines at that size, each repeat. singles: (repeats, lines). one_by_one: the threads of single lines; in_batches:
    those of batches, by size; tried: the seconds of a few sentences by threads, by batch size (0: one by one).
    """

    label: str
    mode: str
    translate: Callable[[Sequence[str], int], Decoded]
    options: Mapping[str, Any] = field(default_factory=dict)
    trials: dict[int, float] = field(default_factory=dict)
    batch: int = 0
    batched: list[float] = field(default_factory=list)
    singles: list[list[float]] = field(default_factory=list)
    engine: str = "torch"
    use: Callable[[Threads], object] = set_torch
    several: bool = False
    one_by_one: Threads = field(default_factory=current)
    in_batches: dict[int, Threads] = field(default_factory=dict)
    tried: dict[int, dict[Threads, float]] = field(default_factory=dict)

    def latencies(self, percent: int) -> list[float]:
        """For each repeat, this percentile (nearest rank) over the seconds of single lines."""
        return [float(np.percentile(seconds, percent, method="inverted_cdf")) for seconds in self.singles]

    def timings(self, sentences: int) -> dict[str, Any]:
        """Latency and throughput: medians over the repeats with their range, and every raw number."""
        p50, p95 = (asdict(Spread.of(self.latencies(percent))) for percent in (50, 95))
        tried = {
            batch: {str(threads): seconds for threads, seconds in each.items()} for batch, each in self.tried.items()
        }
        return {
            "latency": {
                "p50": p50, "p95": p95, "seconds": self.singles, "threads": self.one_by_one._asdict(),
                "tried": tried.pop(0, {}),
            },
            "throughput": {
                "batch": self.batch, "threads": self.in_batches[self.batch]._asdict(),
                "tried": {str(batch): each for batch, each in tried.items()},
                "sentences_per_second": asdict(Spread.of([sentences / seconds for seconds in self.batched])),
                "seconds": self.batched,
                "trials": {str(batch): seconds for batch, seconds in self.trials.items()},
            },
        }  # fmt: skip

    def speed_against(self, base: Row) -> dict[str, float]:
        """How many times as fast as `base` this row is, in latency (p50) and in throughput.

        Rows of one repeat ran close together, so each is the median over the repeats of the ratio within a repeat.
        """
        latency = [theirs / ours for ours, theirs in zip(self.latencies(50), base.latencies(50), strict=True)]
        throughput = [theirs / ours for ours, theirs in zip(self.batched, base.batched, strict=True)]
        return {"latency": statistics.median(latency), "throughput": statistics.median(throughput)}


def janus_row(label: str, plan: Plan, generator: Engine, tokenizers: Tokenizers) -> Row:
    """A row for a mode of janus itself, with the `Translator` that `janus decode` uses."""

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        in_batches = replace(plan, options=replace(plan.options, batch_sentences=batch))
        results = [*Translator(generator, tokenizers, in_batches, scores=False).results(lines)]
        sizes, passes = [len(result.outputs[0].tokens) for result in results], sum(each.passes for each in results)
        return Decoded([result.text for result in results], sizes, passes)

    options = {name: value for name, value in plan.used.items() if name not in ("batch_sentences", "nbest")}
    engine = generator.name(plan.mode, plan.options, plan.recipe.ar_stream)
    return Row(label, plan.mode, translate, options, engine=engine)


def load(label: str, run: Run, folder: Path, changes: Sequence[str], device: torch.device) -> Row:
    """Reads a checkpoint and makes the row of this label."""
    plan = select(own_recipe(folder, changes), [label]).plans[label]
    model, tokenizers = read_model(run, folder, device, plan.options.precision, head=plan.drafts)
    return janus_row(label, plan, Engine(model), tokenizers)


@dataclass(frozen=True)
class Work:
    """The workload that is timed.

    lines: decoded in batches. singles: decoded one by one. warmup: lines decoded untimed before a row is timed at a
    batch size, or with other threads. threads: settings to try, the best one counts; none: torch's own number.
    """

    lines: Sequence[str]
    singles: Sequence[str]
    batches: Sequence[int]
    repeats: int
    warmup: int
    threads: Sequence[Threads] = ()

    def settings(self, several: bool) -> list[Threads]:
        """Those for a row that decodes one batch at a time, or several."""
        return [each for each in self.threads if several or each.workers == 1] or [current()]

    def tried(self, batch: int, settings: Sequence[Threads]) -> Sequence[str]:
        """The lines to try threads on: a batch for every worker."""
        return self.lines[: batch * max(each.workers for each in settings)]

    def translations(self, several: bool = False) -> int:
        """Sentences that `measure` decodes for a row; several: see `Row`."""

        def chosen(warm: int, lines: int, settings: Sequence[Threads]) -> int:
            return warm + (len(settings) > 1) * len(settings) * (warm + ROUNDS * lines)

        warm, few = min(self.warmup, len(self.lines)), min(self.warmup, len(self.singles))
        settings, alone = self.settings(several), self.settings(False)
        trials = sum(chosen(warm, len(self.tried(batch, settings)), settings) for batch in self.batches)
        trials += warm + chosen(few, min(TRIED, len(self.singles)), alone)
        return trials + len(self.lines) * (len(self.batches) + self.repeats) + len(self.singles) * self.repeats


def measure(rows: Sequence[Row], work: Work, advance: Advance, clock: Callable[[], float] = time.perf_counter) -> None:
    """Times every row; OutOfMemoryError if one does not fit into memory at the smallest batch size.

    advance: called with the number of sentences decoded, and the row's label. clock: seconds.
    """
    before = torch.get_num_threads()
    try:
        _Timing(work, advance, clock).measure(rows)
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Timing:
    """See `measure`."""

    work: Work
    advance: Advance
    clock: Callable[[], float]

    def measure(self, rows: Sequence[Row]) -> None:
        work, turns = self.work, [row for turn in range(self.work.repeats) for row in rotated(rows, turn)]
        warm = [work.lines[: work.warmup]] if work.warmup else []
        for turn, batch in enumerate(work.batches):
            for row in rotated(rows, turn):
                try:
                    settings = work.settings(row.several)
                    row.in_batches[batch] = self._choose(row, settings, warm, [work.tried(batch, settings)], batch)
                    (row.trials[batch],) = self._seconds(row, [work.lines], batch)
                except OutOfMemoryError as problem:
                    if batch == min(work.batches):
                        raise OutOfMemoryError(
                            f"{row.label}, batch {batch}: {problem.message}", "try smaller sizes with --batches"
                        ) from None
        for row in rows:  # the repeats measure it again, so that a lucky trial is not reported
            row.batch = min((seconds, batch) for batch, seconds in row.trials.items())[1]
            self._warm_up(row, row.in_batches[row.batch], warm, row.batch)
        for row in turns:
            row.use(row.in_batches[row.batch])
            row.batched += self._seconds(row, [work.lines], row.batch)
        singles = [[line] for line in work.singles]
        for row in rows:
            settings = work.settings(False)
            row.one_by_one = self._choose(row, settings, singles[: work.warmup], singles[:TRIED])
        for row in turns:
            row.use(row.one_by_one)
            row.singles.append(self._seconds(row, singles))

    def _seconds(self, row: Row, parts: Parts, batch: int = 0) -> list[float]:
        """Decodes the parts; seconds of each. batch: 0 for single lines."""
        taken = []
        for lines in parts:
            started = self.clock()
            decoded = row.translate(lines, batch or 1)
            taken.append(self.clock() - started if decoded.seconds is None else decoded.seconds)
        self.advance(sum(map(len, parts)), row.label)
        return taken

    def _warm_up(self, row: Row, threads: Threads, warm: Parts, batch: int) -> None:
        row.use(threads)
        self._seconds(row, warm, batch)

    def _choose(self, row: Row, settings: Sequence[Threads], warm: Parts, parts: Parts, batch: int = 0) -> Threads:
        """The fastest setting on these parts (one alone is not tried); the row has it from here on, and is warm."""
        tried = row.tried.setdefault(batch, {})

        def seconds(threads: Threads) -> float:
            self._warm_up(row, threads, warm, batch)
            tried[threads] = min(sum(self._seconds(row, parts, batch)) for _ in range(ROUNDS))
            return tried[threads]

        best = settings[0] if len(settings) == 1 else min(settings, key=seconds)
        self._warm_up(row, best, warm, batch)
        return best
