"""`janus compare`: several objectives trained, decoded and scored under equal conditions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console, recipe_load, runs
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import DataError, JanusError, UsageError
from janus_cli.files import read_json, write_atomically
from janus_cli.lab import compare_table, machine
from janus_cli.lab.entries import SPLIT, Entry
from janus_cli.lab.jobs import Job, run_jobs
from janus_cli.lab.rows import matching, select, sentences
from janus_cli.lab.systems import System
from janus_cli.lab.timing import REPEATS, WARMUP, Work, measure, own
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.run import prepare_data

MODES = (  # that each system is decoded with, where it can
    "ar.beam1", "ar.beam5", "nar1.lb5", "nar4.lb5", "nar10.lb5", "nar4.lb5.rerank", "nar10.lb5.rerank", "nar.eos",
    "semi4", "spec.redraft-joint",
)  # fmt: skip
UPDATES = 2000  # of each training, where nothing else is asked for
SENTENCES = 200  # of the test split, timed in batches
SINGLES = 50  # timed one by one
UNBOUNDED = 10_000_000  # updates, where minutes decide


@dataclass
class Comparison:
    """What is compared, and how: the options of `janus compare`.

    folder: where it all lies. entries: each system with each seed, in the order of the table.
    """

    systems: Sequence[System]
    modes: Sequence[str]
    base: str = "demo"  # name or file of the recipe
    start: Path | None = None
    steps: int | None = None
    minutes: float | None = None
    seeds: Sequence[int] = ()
    against: str | None = None
    average: int = 0
    speed: bool = True
    out: Path | None = None
    prepared: Path | None = None
    data_dir: Path | None = None
    changes: Sequence[str] = ()
    device: str = "auto"
    threads: int | None = None
    jobs: int = 1
    force: bool = False

    def __post_init__(self) -> None:
        """Checks what needs no files of an earlier call.

        Raises:
            UsageError: options that do not fit each other or the recipes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("janus compare runs in one process", "train with torchrun, then use janus bench and score")
        if self.steps is not None and self.minutes is not None:
            raise UsageError(
                "--steps and --minutes exclude each other", "give each system the same updates or the same time"
            )
        if self.minutes is None:
            self.steps = self.steps or UPDATES
        self.recipe = recipe_load.load(self.base, self.changes)
        self.folder = self.out or runs.RUNS / f"compare-{self.recipe.name}"
        self.entries = [
            Entry(system, seed, Run(self.folder / f"{system.name}.seed{seed}"))
            for seed in self.seeds or [self.recipe.seed]
            for system in self.systems
        ]
        matching(self.modes)
        if self.start is not None:
            checkpoint.locate(self.start)
        rows: list[str] = []
        for system in self.systems:
            recipe = system.recipe(self.base, self.changes)
            self._check(system.name, recipe)
            with suppress(UsageError):  # an objective that can do none of the modes becomes a row that says so
                rows += [f"{system.name} {label}" for label in select(recipe, self.modes).plans]
        if self.against is not None and self.against not in rows:
            raise UsageError(f"--against {self.against}: there will be no such row", f"rows: {'; '.join(rows)}")

    def _check(self, name: str, recipe: Recipe) -> None:
        """Raises UsageError where a system cannot have the budget or the average."""
        if self.average > (kept := recipe.training.keep_last):
            raise UsageError(
                f"--average {self.average}: {name} keeps its last {kept} checkpoints",
                f"--set training.keep_last={self.average}",
            )
        if self.minutes and recipe.training.schedule != "inverse_sqrt":
            raise UsageError(
                f"--minutes: schedule {recipe.training.schedule} must know the number of updates", "use --steps"
            )
        if self.steps and (risen := OBJECTIVES[recipe.objective.name].risen(recipe.objective, self.steps - 1)) < 1:
            console.warn(
                f"{name}: in {self.steps:,} updates its KLs come to {risen:.0%} of their weights; "
                "see objective.kl_start and objective.kl_warmup"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps, "minutes": self.minutes, "average": self.average, "jobs": self.jobs}

    def run(self, *, dry_run: bool = False) -> tuple[str, int] | None:
        """Compares, and returns the table and how many rows failed; a dry run returns None.

        Raises:
            UsageError: the folder holds something else, or trainings that cannot become what is asked for now.
            DataError: the folder cannot be written, or the data has nothing to decode.
            Stopped: a signal came; the same command continues.
        """
        load_before = machine.load_average()
        count = len(self.entries)
        budget = compare_table.budget(self.settings)
        console.say(f"comparing {count} system{'s' * (count != 1)} in {self.folder}: {budget}")
        self._must_be_ours()
        self._must_have_split()
        if not self.force:
            self._must_continue()
        if dry_run:
            for entry in self.entries:
                verb = "continues" if entry.run.recipe.exists() else "begins"
                console.say(f"{entry.name}: {verb} in {entry.run.path}")
            console.say(f"each is then decoded, as far as it can, with {', '.join(self.modes)}")
            return None
        torch.set_num_threads(self.threads or torch.get_num_threads())
        keep_freed_memory()
        self._make_folder()
        device = self._train_and_decode()
        results = self._results(device, load_before)
        table = compare_table.table(results)
        compare_table.write(self.folder, results, table)
        return table, sum(len(entry.failed) for entry in self.entries)

    def _must_be_ours(self) -> None:
        """Raises UsageError where the folder holds something other than an earlier call of this comparison."""
        mark = self.folder / "comparison.json"
        if self.folder.exists() and not mark.is_file() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} exists and holds no comparison", "name another folder with --out")
        if mark.is_file() and not self.force and (before := read_json(mark).get("recipe")) != self.base:
            raise UsageError(
                f"{self.folder} compares with recipe {before}, not {self.base}", "another --out, or --force"
            )

    def _must_have_split(self) -> None:
        """Raises DataError where the prepared data, if it is there, has nothing to decode."""
        folder = self.prepared or runs.prepared_dir(self.recipe)
        manifest = folder / "manifest.json"
        if manifest.is_file() and f"{SPLIT}.source.txt" not in read_json(manifest).get("files", {}):
            raise DataError(
                f"{folder} has no {SPLIT} split, which a comparison decodes", "add it, and `janus preprocess`"
            )

    def _must_continue(self) -> None:
        """Raises UsageError where trainings that are there cannot become what is asked for now."""
        for entry in (entry for entry in self.entries if entry.run.recipe.exists()):
            before = recipe_load.load(str(entry.run.recipe)).training
            if before.schedule != "inverse_sqrt" and before.updates != self.steps:
                raise UsageError(
                    f"{entry.name} was trained for {before.updates:,} updates, and its learning rate "
                    f"({before.schedule}) fell to suit these",
                    "the same --steps, another --out, or --force to restart",
                )
        begun = {entry.origin: entry.name for entry in self.entries if entry.run.manifest.is_file()}
        origins = set(begun)
        if self.start is not None:
            origins.add(str(checkpoint.locate(self.start)[1].resolve()))
        elif not all(entry.run.manifest.is_file() for entry in self.entries):
            origins.add(None)
        if len(origins) > 1:
            said = "; ".join(f"{name} with {origin or 'fresh ones'}" for origin, name in begun.items())
            raise UsageError(
                f"not all would begin with the same weights: {said}", "the same --from, another --out, or --force"
            )

    def _make_folder(self) -> None:
        """Makes the folder, or keeps what an earlier call left; with --force without what these entries wrote."""
        mark = self.folder / "comparison.json"
        try:
            (self.folder / "outputs").mkdir(parents=True, exist_ok=True)
            if not mark.is_file() or self.force:
                write_atomically(mark, json.dumps({"recipe": self.base}).encode())
            for entry in self.entries if self.force else ():
                for old in self.folder.glob(f"outputs/{entry.name}.*"):
                    old.unlink()
        except OSError as problem:
            raise DataError(
                f"{self.folder} cannot be written: {problem.strerror}", "name another folder with --out"
            ) from None

    def _train_and_decode(self) -> torch.device:
        """Every entry; with --jobs several in processes first, and the rest, or what failed there, here."""
        threads = torch.get_num_threads()
        for entry in self.entries:
            with suppress(JanusError):  # its training says it
                prepare_data(**self._options(entry))
                break
        self._must_have_split()
        device = choose_device(self.device)
        replaced: set[str] = set()
        if self.jobs > 1:
            at_once = min(self.jobs, len(self.entries))
            self.threads = self.threads or max(1, machine.usable_cores() // at_once)
            failed = run_jobs([self._job(entry) for entry in self.entries], at_once)
            replaced = {entry.name for entry in self.entries} - failed
        for number, entry in enumerate(self.entries, 1):
            console.say(f"\n[{number} of {len(self.entries)}] {entry.name}")
            entry.train(self._options(entry, force=self.force and entry.name not in replaced), self.average)
            torch.set_num_threads(threads)
            if entry.training is not None:
                entry.decode(self.modes, self.folder / "outputs", device)
        return device

    def _options(self, entry: Entry, force: bool | None = None) -> dict[str, Any]:
        """The keywords of `train` for an entry; a run that is there is resumed, with a budget that may grow."""
        force = self.force if force is None else force
        there = entry.run.recipe.exists() and not force
        changes = [*self.changes, *entry.system.changes, f"training.updates={self.steps or UNBOUNDED}"]
        changes.append(f"training.minutes={float(self.minutes or 0)}")
        return {
            "recipe": self.base, "objective": entry.system.objective, "run": entry.run.path, "prepared": self.prepared,
            "data_dir": self.data_dir, "resume": there, "start": None if there else self.start,
            "changes": tuple(changes), "device": self.device, "seed": entry.seed, "threads": self.threads,
            "force": force and not there,
            "allow_change": ("training.updates", "training.minutes") if there else (),
        }  # fmt: skip

    def _job(self, entry: Entry) -> Job:
        options = self._options(entry)
        return Job(entry.name, entry.run, partial(self._in_process, entry, options), self.steps, options["force"])

    def _in_process(self, entry: Entry, options: Mapping[str, Any]) -> None:
        """What one of several processes does; the caller, who reads its outputs, says what failed in decoding."""
        entry.train(options, self.average)
        if entry.training is None:
            raise JanusError(entry.failed["training"])
        with suppress(JanusError):
            entry.decode(self.modes, self.folder / "outputs", choose_device(self.device))

    def _results(self, device: torch.device, load_before: float | None) -> dict[str, Any]:
        """Everything that was found, as plain values."""
        decoded = [entry for entry in self.entries if entry.outputs]
        lines, references = sentences(decoded[0].run, decoded[0].recipe, SPLIT) if decoded else ([], None)
        speeds = _speeds(decoded, lines, device) if self.speed and decoded else {}
        results: dict[str, Any] = {
            "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": self.base, "name": self.recipe.name, "changes": list(self.changes),
            "settings": self.settings, "split": SPLIT, "sentences": len(lines),
            "machine": {**machine.describe(device), "load": load_before},
            "timed": {"sentences": min(SENTENCES, len(lines)), "singles": min(SINGLES, len(lines)),
                      "repeats": REPEATS} if speeds else None,
            "systems": [
                {"system": entry.system.name, "objective": entry.system.objective, "changes": entry.system.changes,
                 "from": entry.origin, "seed": entry.seed, "run": str(entry.run.path), "training": entry.training,
                 "failed": entry.failed}
                for entry in self.entries
            ],
        }  # fmt: skip
        results["rows"], results["against"] = compare_table.scored(decoded, references, self.against)
        for row in results["rows"]:
            row["speed"] = speeds.get(f"{row['system']} {row['label']}")
        return results


def _speeds(decoded: Sequence[Entry], lines: Sequence[str], device: torch.device) -> dict[str, dict[str, Any]]:
    """How fast each system's modes are, of its first seed; all rows take turns, so a machine that drifts is fair."""
    rows, firsts = [], {entry.system.name: entry for entry in reversed(decoded)}
    for entry in (entry for entry in decoded if entry is firsts[entry.system.name]):
        model, tokenizers = entry.load(device)
        for label in entry.outputs:
            row = own(label, entry.plan(label), model, tokenizers)
            rows.append(replace(row, label=f"{entry.system.name} {label}"))
    texts = [line for line in lines if line.strip()]
    batch = decoded[0].recipe.decoding.batch_sentences
    work = Work(texts[:SENTENCES], texts[:SINGLES], (batch,), REPEATS, WARMUP)
    with console.progress("timing", work.translations(len(rows))) as bar:
        measure(rows, work, bar.advance)
    speeds = {}
    for row in rows:
        timings = row.timings(len(work.lines))
        speeds[row.label] = {
            "p50": timings["latency"]["p50"],
            "sentences_per_second": timings["throughput"]["sentences_per_second"],
            "batch": row.batch,
        }
    return speeds
