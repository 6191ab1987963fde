"""`janus bench`: every decoding mode of a run in one table, and what users would pick instead beside it."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console
from janus_cli.core.generate import Generator
from janus_cli.data.lines import Lines
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import DataError, JanusError, UsageError
from janus_cli.files import read_json, write_atomically
from janus_cli.lab import machine, peers, plots, rows, worker
from janus_cli.lab.bench_table import BASELINES
from janus_cli.lab.tables import json_file
from janus_cli.lab.timing import Decoded, Row, Timed, Work, measure, own, ratios, timings
from janus_cli.recipe import (
    BENCH_BATCHES,
    BENCH_REPEATS,
    BENCH_SEED,
    BENCH_SENTENCES,
    BENCH_SINGLES,
    BENCH_WARMUP,
    Recipe,
)
from janus_cli.runs import Run, find_split
from janus_cli.scoring.metrics import score
from janus_cli.training.checkpoint import STATE, find_checkpoint, fingerprint

SPLIT = "test"


def run_bench(
    *, run: Path | None = None, checkpoint: Path | None = None, modes: Sequence[str] = (),
    sentences: int | None = None, batches: Sequence[int] = BENCH_BATCHES, repeats: int = BENCH_REPEATS,
    warmup: int = BENCH_WARMUP, against: Sequence[peers.Peer] = (), changes: Sequence[str] = (),
    out: Path | None = None, plot: Path | None = None, device: str = "auto", threads: int | None = None,
    force: bool = False, dry_run: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """Measures and returns all results as plain values; a dry run returns None. Options: those of `janus bench`.

    Everything that could go wrong is checked before the measurements begin.

    Raises:
        UsageError: options that do not fit the run, an extra that is missing, or files that are there already.
        DataError: the test split is gone, or has no text.
    """
    load_before = machine.load_average()
    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device)
    found, folder = find_checkpoint(run, checkpoint)
    recipe = own_recipe(folder, changes)
    _refuse_options_of_rows(changes)
    selection = rows.select(recipe, modes)
    for peer in against:
        peers.load(peer)
    if plot is not None:
        plots.must_be_installed("bench")
    _must_be_writable(out, plot, force=force)
    lines, references = sampled(found, recipe, sentences)
    choice = random.Random(BENCH_SEED)
    timed = _some(lines, BENCH_SENTENCES, choice)
    singles = _some([line for line in lines if line.strip()], BENCH_SINGLES, choice)
    work = Work(timed, singles, tuple(dict.fromkeys(batches)), repeats, warmup)
    computer = {**machine.describe(where), "load": load_before}
    bench = Bench(found, folder, recipe, changes, where, selection, against, lines, references, work, computer)
    if reason := machine.too_busy(load_before, computer["cores"]):
        bench.warn(reason)
    bench.load_model()
    bench.announce("would measure" if dry_run else "measuring")
    if dry_run:
        bench.estimate()
        return None
    results = bench.measure()
    try:
        console.say(f"kept as {keep(found, results)}")
    except DataError as problem:  # the run belongs to others
        console.warn(f"{problem.message}; kept is only what --out and --plot name")
    if out is not None:
        write_atomically(out, json_file(results))
    if plot is not None:
        write_atomically(plot, plots.bleu_against_latency(results))
    return results


def _refuse_options_of_rows(changes: Sequence[str]) -> None:
    """Raises UsageError where a change is one that every row makes itself."""
    taken = {"nbest", *(option for options in rows.known().values() for option in options)}
    for change in changes:
        if change.partition("=")[0].removeprefix("decoding.") in taken:
            raise UsageError(f"--set {change}: each row says this itself", "name rows, as in --mode ar.beam4,nar6.lb3")


def _must_be_writable(*paths: Path | None, force: bool) -> None:
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}", "make it, or name another file")
        if path is not None and path.exists() and not force:
            raise UsageError(f"{path} is there already", "overwrite it with --force, or name another file")


def sampled(run: Run, recipe: Recipe, count: int | None) -> tuple[list[str], list[str] | None]:
    """Lines of the test split and their references, in order; all of them, or `count`, the same ones every time."""
    source, reference = find_split(run, recipe, SPLIT)
    lines = list(Lines(source))
    chosen = _some(range(len(lines)), len(lines) if count is None else count, random.Random(BENCH_SEED))
    if not any(lines[index].strip() for index in chosen):
        raise DataError(f"the {SPLIT} split of {run.path} has no text")
    references = None if reference is None else list(Lines(reference))
    return [lines[index] for index in chosen], references and [references[index] for index in chosen]


def _some(items: Sequence[Any], count: int, choice: random.Random) -> list[Any]:
    """`count` items, or all where there are not so many, in their order."""
    if count >= len(items):
        return list(items)
    return [items[index] for index in sorted(choice.sample(range(len(items)), count))]


@dataclass
class Bench:
    """A run, ready to be measured. lines, references: sampled from the test split, in its order."""

    run: Run
    folder: Path
    recipe: Recipe
    changes: Sequence[str]
    device: torch.device
    selection: rows.Selection
    against: Sequence[peers.Peer]
    lines: list[str]
    references: list[str] | None
    work: Work
    machine: Mapping[str, Any]
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Says it now and again under the table."""
        self.warnings.append(text)
        console.warn(text)

    def load_model(self) -> None:
        self.generator: Generator
        self.tokenizers: Tokenizers
        model, self.tokenizers = read_model(self.run, self.folder, self.device, self.recipe.decoding.precision)
        self.generator = Generator(model)
        self.rows = [own(label, plan, self.generator, self.tokenizers) for label, plan in self.selection.plans.items()]

    @property
    def labels(self) -> list[str]:
        """Of all rows, those of peers included."""
        return [*self.selection.plans, *(label for peer in self.against for label in peers.labels(peer, self.device))]

    @property
    def translations(self) -> int:
        """Sentences decoded in all: quality, timing, memory."""
        count = len(self.labels)
        return count * (len(self.lines) + len(self.work.lines)) + self.work.translations(count)

    def announce(self, verb: str) -> None:
        """What is measured, on what, and what is left out."""
        work, where = self.work, machine.in_words(self.machine)
        console.say(f"{verb} {self.run.path}, checkpoint {self.folder.name}, on {where}: {', '.join(self.labels)}")
        for label, reason in self.selection.left_out.items():
            console.say(f"left out: {label}: {reason}")
        console.say(
            f"quality on {len(self.lines):,} sentences, batches of {', '.join(map(str, work.batches))} on "
            f"{len(work.lines):,}, one by one {len(work.singles):,}; {work.repeats} repeats, {work.warmup} to warm up"
        )

    def estimate(self) -> None:
        """Decodes a few sentences one by one; in batches it goes faster, so what follows is an upper bound."""
        probe = self.work.singles[: max(1, self.work.warmup)]
        times = measure(self.rows, Work(probe, probe, (1,), 1, 1), lambda *_: None)
        seconds = sum(sum(timed.singles[0]) / len(probe) for timed in times.values())
        most = console.duration(seconds * self.translations / len(self.labels))
        beside = " (peers not counted)" if self.against else ""
        console.say(f"{self.translations:,} translations: at most {most}{beside}; batches make it several times faster")

    def measure(self) -> dict[str, Any]:
        """Quality, then timing, then memory: decoding everything once for its quality is a warm-up, too.

        Every row of a peer has a process of its own, which lives until the end.
        """
        keep_freed_memory()
        identity = self._identity()
        decoded: dict[str, Decoded] = {}
        memory: dict[str, Any] = {}
        with ExitStack() as closing, console.progress("measuring", self.translations) as bar:

            def decode(row: Row) -> None:
                decoded[row.label] = row.translate(self.lines, self.recipe.decoding.batch_sentences)
                bar.advance(len(self.lines), f"{row.label}: quality")

            for row in self.rows:
                decode(row)
            exported = Path(closing.enter_context(tempfile.TemporaryDirectory())) / "model"
            workers: dict[str, worker.Worker] = {}
            orders = {row.label: self._order(row.label) for row in self.rows}
            for peer in self.against:
                shared = self._peer_order(peer, decoded.get("ar.beam1"), exported)
                for label in peers.labels(peer, self.device):
                    orders[label] = self._order(label) | shared
                    workers[label] = closing.enter_context(worker.started(orders[label]))
                    decode(workers[label].row)
            all_rows = [*self.rows, *(each.row for each in workers.values())]
            times = measure(all_rows, self.work, bar.advance)
            for row in all_rows:
                batch = times[row.label].batch
                if self.device.type == "cuda":
                    memory[row.label] = self._allocated(row, batch, workers.get(row.label))
                else:
                    memory[row.label] = self._resident(orders[row.label], batch)
                bar.advance(len(self.work.lines), f"{row.label}: memory")
        return identity | self._results(all_rows, decoded, times, memory)

    def _identity(self) -> dict[str, Any]:
        """What is measured, read at once: a training may prune the checkpoint now that its weights are loaded."""
        return {
            "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": str(self.run.path), "checkpoint": self.folder.name, "changes": list(self.changes),
            "step": read_json(self.folder / STATE).get("step"), "sha256": fingerprint(self.folder),
            "objective": self.recipe.objective.name, "split": SPLIT, "machine": dict(self.machine),
        }  # fmt: skip

    def _order(self, label: str) -> dict[str, Any]:
        """What a process of its own is told for this row."""
        return {
            "label": label, "run": str(self.run.path), "folder": str(self.folder), "changes": list(self.changes),
            "device": str(self.device), "threads": torch.get_num_threads(), "lines": list(self.lines),
        }  # fmt: skip

    def _peer_order(self, peer: peers.Peer, greedy: Decoded | None, exported: Path) -> dict[str, Any]:
        """What every process of a peer is told on top.

        With random weights it writes as much as our greedy search, or as the references where there is no such side.
        """
        writer = "ar.beam1 does"
        if greedy is not None:
            sizes = greedy.sizes
        elif self.recipe.ar_stream is not None:
            plan = choose(self.recipe, {"mode": "ar", "beam": 1, "nbest": 1})
            row = own("ar.beam1", plan, self.generator, self.tokenizers)
            sizes = row.translate(self.lines, self.recipe.decoding.batch_sentences).sizes
        else:
            texts = self.references or self.lines
            sizes, writer = [len(row) for row in self.tokenizers.target.encode(texts)], "the references have"
        trained = peer == "ctranslate2" and peers.export(
            self.recipe, self.generator.model, self.tokenizers, self.run, exported
        )  # fmt: skip
        lengths = dict(zip(self.lines, sizes, strict=True))
        return {
            "peer": peer, "writer": writer, "exported": str(exported), "own_weights": trained, "lengths": lengths
        }  # fmt: skip

    def _resident(self, order: Mapping[str, Any], batch: int) -> dict[str, int] | None:
        """The most memory of a process that decodes once."""
        try:
            return worker.peak_memory({**order, "lines": list(self.work.lines)}, batch)
        except JanusError as problem:
            self.warn(f"{order['label']}: its memory could not be measured: {problem.message}")
            return None

    def _allocated(self, row: Row, batch: int, own_process: worker.Worker | None) -> dict[str, int] | None:
        """The most that torch held on a GPU, which it can be asked anew for each row: weights and one decoding."""
        if row.label in peers.labels("ctranslate2", self.device):
            return None  # its memory is not torch's
        self.generator.forget()  # what the other rows have recorded
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            row.translate(self.work.lines, batch)
        except JanusError as problem:
            self.warn(f"{row.label}: its memory could not be measured: {problem.message}")
            return None
        peak = torch.cuda.max_memory_allocated(self.device) if own_process is None else own_process.peak
        return {"before": 0, "peak": peak}

    def _results(
        self, all_rows: Sequence[Row], decoded: Mapping[str, Decoded], times: Mapping[str, Timed],
        memory: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """What was measured, as plain values."""
        work = self.work
        faster = ratios(times, [*BASELINES, *(row.label for row in all_rows if row.mode == "peer")])
        return {
            "work": {
                "sentences": len(self.lines), "lines": len(work.lines), "singles": len(work.singles),
                "batches": list(work.batches), "repeats": work.repeats, "warmup": work.warmup, "seed": BENCH_SEED,
            },
            "rows": [
                {
                    "label": row.label, "mode": row.mode, "options": dict(row.options), "note": row.note,
                    "quality": self._quality(row, decoded[row.label]),
                    "passes": None if (passes := decoded[row.label].passes) is None else passes / len(self.lines),
                    **timings(times[row.label], len(work.lines)),
                    "memory": memory[row.label], "ratios": faster[row.label],
                }
                for row in all_rows
            ],
            "left_out": self.selection.left_out, "warnings": self.warnings,
        }  # fmt: skip

    def _quality(self, row: Row, decoded: Decoded) -> dict[str, Any] | None:
        if self.references is None or not row.comparable:
            return None
        bleu = score(decoded.texts, [self.references], ["bleu"])[0]
        return {"metric": bleu.name, "value": bleu.value, "signature": bleu.signature}


def keep(run: Run, results: Mapping[str, Any]) -> str:
    """Writes bench/<date>.json into the run, never over another, and returns its path.

    Raises:
        DataError: it cannot be written.
    """
    folder = run.path / "bench"
    stem = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    try:
        folder.mkdir(exist_ok=True)
        while True:
            path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
            try:
                path.touch(exist_ok=False)  # ours from here on
                break
            except FileExistsError:
                number += 1
        write_atomically(path, json_file(results))
    except OSError as problem:
        raise DataError(f"{folder} cannot be written: {problem.strerror}", "name a file with --out") from None
    return str(path)
