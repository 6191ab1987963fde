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
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import DataError, JanusError, UsageError, require
from janus_cli.files import read_json, write_atomically
from janus_cli.lab import machine, peers, plots, rows, worker
from janus_cli.lab.bench_table import BASELINES
from janus_cli.lab.tables import json_file
from janus_cli.lab.timing import Decoded, Row, Work, measure, own
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring.metrics import score
from janus_cli.training.checkpoint import STATE, find_checkpoint, fingerprint

SPLIT = "test"
BATCHES = (16, 32, 64, 128)  # tried for the best throughput
SENTENCES = 1000  # timed in batches; quality uses the whole split
SINGLES = 100  # timed one by one
SEED = 1  # which sentences of the split


def sampled(run: Run, recipe: Recipe, count: int | None) -> tuple[list[str], list[str] | None]:
    """Lines of the test split and their references, in order; all of them, or `count`, the same ones every time.

    Raises:
        DataError: the test split is gone, or has no text.
    """
    lines, references = rows.sentences(run, recipe, SPLIT)
    chosen = _some(range(len(lines)), len(lines) if count is None else count, random.Random(SEED))
    if not any(lines[index].strip() for index in chosen):
        raise DataError(f"the {SPLIT} split of {run.path} has no text")
    return [lines[index] for index in chosen], references and [references[index] for index in chosen]


def _some(items: Sequence[Any], count: int, choice: random.Random) -> list[Any]:
    """`count` items, or all where there are not so many, in their order."""
    if count >= len(items):
        return list(items)
    return [items[index] for index in sorted(choice.sample(range(len(items)), count))]


@dataclass
class Bench:
    """What is measured, and how: the options of `janus bench`. batches, repeats, warmup: see `timing.Work`."""

    batches: Sequence[int]
    repeats: int
    warmup: int
    run: Path | None = None
    checkpoint: Path | None = None
    modes: Sequence[str] = ()
    sentences: int | None = None
    against: Sequence[peers.Peer] = ()
    changes: Sequence[str] = ()
    out: Path | None = None
    plot: Path | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    warnings: list[str] = field(default_factory=list)

    def measure(self, *, dry_run: bool = False) -> dict[str, Any] | None:
        """Measures and returns all results as plain values; a dry run returns None.

        Everything that could go wrong is checked before the measurements begin.

        Raises:
            UsageError: options that do not fit the run, an extra that is missing, or files that are there already.
            DataError: the test split is gone, or has no text.
        """
        self._prepare()
        self._announce("would measure" if dry_run else "measuring")
        if dry_run:
            self._estimate()
            return None
        keep_freed_memory()
        results = self._identity() | self._measure()
        try:
            console.say(f"kept as {keep(self.found, results)}")
        except DataError as problem:  # the run belongs to others
            console.warn(f"{problem.message}; kept is only what --out and --plot name")
        if self.out is not None:
            write_atomically(self.out, json_file(results))
        if self.plot is not None:
            write_atomically(self.plot, plots.bleu_against_latency(results))
        return results

    def _prepare(self) -> None:
        """Checks the options and loads the model."""
        load_before = machine.load_average()
        torch.set_num_threads(self.threads or torch.get_num_threads())
        self.where = choose_device(self.device)
        self.found, self.folder = find_checkpoint(self.run, self.checkpoint)
        self.recipe = own_recipe(self.folder, self.changes)
        self._check()
        self.selection = rows.select(self.recipe, self.modes)
        for peer in self.against:
            peers.load(peer)
        self.lines, self.references = sampled(self.found, self.recipe, self.sentences)
        choice = random.Random(SEED)
        batched = _some(self.lines, SENTENCES, choice)
        singles = _some([line for line in self.lines if line.strip()], SINGLES, choice)
        self.work = Work(batched, singles, tuple(dict.fromkeys(self.batches)), self.repeats, self.warmup)
        self.machine = {**machine.describe(self.where), "load": load_before}
        if reason := machine.too_busy(load_before, self.machine["cores"]):
            self._warn(reason)
        model, self.tokenizers = read_model(self.found, self.folder, self.where, self.recipe.decoding.precision)
        self.generator = Generator(model)
        self.rows = [own(label, plan, self.generator, self.tokenizers) for label, plan in self.selection.plans.items()]
        others = [label for peer in self.against for label in peers.labels(peer, self.where)]
        self.labels = [*self.selection.plans, *others]

    def _check(self) -> None:
        """Raises UsageError where a change is one that every row makes itself, or a file cannot be written."""
        taken = {"nbest", *(option for options in rows.known().values() for option in options)}
        for change in self.changes:
            if change.partition("=")[0].removeprefix("decoding.") in taken:
                hint = "name rows, as in --mode ar.beam4,nar6.lb3"
                raise UsageError(f"--set {change}: each row says this itself", hint)
        if self.plot is not None:
            require("matplotlib", "bench")
        for path in (path for path in (self.out, self.plot) if path is not None):
            if not path.absolute().parent.is_dir():
                raise UsageError(f"{path}: there is no folder {path.parent}", "make it, or name another file")
            if path.exists() and not self.force:
                raise UsageError(f"{path} exists already", "overwrite it with --force, or name another file")

    def _warn(self, text: str) -> None:
        """Says it now and again under the table."""
        self.warnings.append(text)
        console.warn(text)

    @property
    def translations(self) -> int:
        """Sentences decoded in all: quality, timing, memory."""
        count = len(self.labels)
        return count * (len(self.lines) + len(self.work.lines)) + self.work.translations(count)

    def _announce(self, verb: str) -> None:
        """What is measured, on what, and what is left out."""
        work, where = self.work, machine.in_words(self.machine)
        console.say(f"{verb} {self.found.path}, checkpoint {self.folder.name}, on {where}: {', '.join(self.labels)}")
        for label, reason in self.selection.left_out.items():
            console.say(f"left out: {label}: {reason}")
        console.say(
            f"quality on {len(self.lines):,} sentences, batches of {', '.join(map(str, work.batches))} on "
            f"{len(work.lines):,}, one by one {len(work.singles):,}; {work.repeats} repeats, {work.warmup} to warm up"
        )

    def _estimate(self) -> None:
        """Decodes a few sentences one by one; in batches it goes faster, so what follows is an upper bound."""
        probe = self.work.singles[: max(1, self.warmup)]
        measure(self.rows, Work(probe, probe, (1,), 1, 1), lambda *_: None)
        seconds = sum(sum(row.singles[0]) / len(probe) for row in self.rows)
        most = console.duration(seconds * self.translations / len(self.labels))
        beside = " (peers not counted)" if self.against else ""
        console.say(f"{self.translations:,} translations: at most {most}{beside}; batches make it several times faster")

    def _identity(self) -> dict[str, Any]:
        """What is measured, read at once: a training may prune the checkpoint now that its weights are loaded."""
        return {
            "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": str(self.found.path), "checkpoint": self.folder.name, "changes": list(self.changes),
            "step": read_json(self.folder / STATE).get("step"), "sha256": fingerprint(self.folder),
            "objective": self.recipe.objective.name, "split": SPLIT, "machine": self.machine,
        }  # fmt: skip

    def _measure(self) -> dict[str, Any]:
        """Quality, then timing, then memory: decoding everything once for its quality is a warm-up, too.

        Every row of a peer has a process of its own, which lives until the end.
        """
        decoded: dict[str, Decoded] = {}
        memory: dict[str, Any] = {}
        with ExitStack() as closing, console.progress("measuring", self.translations) as bar:

            def decode(row: Row) -> None:
                decoded[row.label] = row.translate(self.lines, self.recipe.decoding.batch_sentences)
                bar.advance(len(self.lines), f"{row.label}: quality")

            for row in self.rows:
                decode(row)
            every = list(self.rows)
            orders = {row.label: self._order(row.label) for row in self.rows}
            exported = Path(closing.enter_context(tempfile.TemporaryDirectory())) / "model"
            for peer in self.against:
                shared = self._peer_order(peer, decoded.get("ar.beam1"), exported)
                for label in peers.labels(peer, self.where):
                    orders[label] = self._order(label) | shared
                    every.append(closing.enter_context(worker.started(orders[label]))[0])
                    decode(every[-1])
            measure(every, self.work, bar.advance)
            for row in every:
                memory[row.label] = self._memory(row, orders[row.label])
                bar.advance(len(self.work.lines), f"{row.label}: memory")
        return self._results(every, decoded, memory)

    def _order(self, label: str) -> dict[str, Any]:
        """What a process of its own is told for this row."""
        return {
            "label": label, "run": str(self.found.path), "folder": str(self.folder), "changes": list(self.changes),
            "device": str(self.where), "threads": torch.get_num_threads(), "lines": self.lines,
        }  # fmt: skip

    def _peer_order(self, peer: peers.Peer, greedy: Decoded | None, exported: Path) -> dict[str, Any]:
        """What every process of a peer is told on top.

        With random weights it writes as much as our greedy search, or as the references where there is no such side.
        """
        model, writer = self.generator.model, "ar.beam1 does"
        if greedy is None and self.recipe.ar_stream is not None:
            plan = choose(self.recipe, {"mode": "ar", "beam": 1, "nbest": 1})
            row = own("ar.beam1", plan, self.generator, self.tokenizers)
            greedy = row.translate(self.lines, self.recipe.decoding.batch_sentences)
        if greedy is not None:
            sizes = greedy.sizes
        else:
            texts = self.references or self.lines
            sizes, writer = [len(row) for row in self.tokenizers.target.encode(texts)], "the references have"
        own_weights = peer == "ctranslate2" and peers.export(self.recipe, model, self.tokenizers, self.found, exported)
        lengths = dict(zip(self.lines, sizes, strict=True))
        exported_to = {"exported": str(exported), "own_weights": own_weights}
        return {"peer": peer, "writer": writer, "lengths": lengths, **exported_to}

    def _memory(self, row: Row, order: Mapping[str, Any]) -> dict[str, int | None] | None:
        """On a CPU the most that a process which decodes once holds.

        On a GPU the most that torch held, which it counts afresh for each row: weights and one decoding.
        """
        try:
            if self.where.type == "cpu":
                return worker.peak_memory({**order, "lines": list(self.work.lines)}, row.batch)
            if row.label in peers.labels("ctranslate2", self.where):
                return None  # its memory is not torch's
            self.generator.forget()  # what the other rows have recorded
            torch.cuda.reset_peak_memory_stats(self.where)
            peak = row.translate(self.work.lines, row.batch).peak
            return {"before": 0, "peak": torch.cuda.max_memory_allocated(self.where) if peak is None else peak}
        except JanusError as problem:
            self._warn(f"{row.label}: its memory could not be measured: {problem.message}")
            return None

    def _results(
        self, every: Sequence[Row], decoded: Mapping[str, Decoded], memory: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What was measured, as plain values."""
        work = self.work
        bases = [row for row in every if row.label in BASELINES or row.mode == "peer"]
        return {
            "work": {
                "sentences": len(self.lines), "lines": len(work.lines), "singles": len(work.singles),
                "batches": list(work.batches), "repeats": work.repeats, "warmup": work.warmup, "seed": SEED,
            },
            "rows": [
                {
                    "label": row.label, "mode": row.mode, "options": dict(row.options), "note": row.note,
                    "quality": self._quality(row, decoded[row.label]),
                    "passes": None if (passes := decoded[row.label].passes) is None else passes / len(self.lines),
                    **row.timings(len(work.lines)),
                    "memory": memory[row.label], "ratios": {base.label: row.speed_against(base) for base in bases},
                }
                for row in every
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
    folder, stem = run.path / "bench", time.strftime("%Y%m%d-%H%M%S")
    names = (f"{stem}-{number}.json" if number else f"{stem}.json" for number in (0, *range(2, 1000)))
    try:
        folder.mkdir(exist_ok=True)
        for path in map(folder.joinpath, names):
            try:
                path.touch(exist_ok=False)  # ours from here on
                break
            except FileExistsError:
                continue
        write_atomically(path, json_file(results))
    except OSError as problem:
        raise DataError(f"{folder} cannot be written: {problem.strerror}", "name a file with --out") from None
    return str(path)
