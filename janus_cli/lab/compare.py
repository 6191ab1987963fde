"""`janus compare`: several objectives trained, decoded and scored under equal conditions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from janus_cli import __version__, console, documents, recipe_load, runs
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.prepared import data_of, place_for
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import CheckpointError, DataError, JanusError, RunInUseError, UsageError, check_machine
from janus_cli.files import MANIFEST, locked, write_atomically
from janus_cli.lab import machine
from janus_cli.lab.entries import SPLIT, Entry, must_share_data, scored, timings, with_one_text
from janus_cli.lab.plots import quality_against_passes
from janus_cli.lab.processes import Job, run_jobs
from janus_cli.lab.rows import references_of, select, sentences
from janus_cli.lab.systems import System
from janus_cli.lab.tables import json_file, markdown, render, without_empty
from janus_cli.lab.threads import in_words
from janus_cli.measures import MEASURES
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring import bootstrap
from janus_cli.scoring.glge import tell_of_validations
from janus_cli.scoring.judge import Judge, choose, judge_of, must_be_read, named_metric
from janus_cli.system import load_average, usable_cores
from janus_cli.training import checkpoint
from janus_cli.training.resume import continued
from janus_cli.training.run import train
from janus_cli.world import declared_ranks

MODES = (  # each system is decoded with those that it has
    "ar.beam1", "ar.beam5", "nar1.lb5", "nar4.lb5", "nar10.lb5", "nar4.lb5.rerank", "nar10.lb5.rerank", "nar.eos",
    "semi4", "spec",
)  # fmt: skip
UPDATES = 2000  # of each training, by default
LOCK = ".lock"
UNBOUNDED = 10_000_000  # updates, if minutes are the budget
BUDGET = ("training.updates", "training.minutes")  # may grow
TRAININGS = {
    "system": "", "seed": "", "updates": ",", "epochs": "", "TFLOP": ",.1f", "minutes in updates": ".1f",
    "ms an update": ".0f", "parameters": ",",
}  # fmt: skip
ROWS = {  # after system, decoding and scores
    "difference": "+.2f", "95 %": "", "p": ".3f", "words twice": ".1%", "trigrams again": ".1%", "length": ".2f",
    "passes": ".1f", "one by one, ms": ".1f", "sentences/s": ",.0f", "threads": "",
}  # fmt: skip


class Comparison:
    """What is compared, and how: the options of `janus compare`; UsageError if they contradict each other.

    entries: each system with each seed, in the order of the table.
    """

    def __init__(
        self, systems: Sequence[System], modes: Sequence[str], *, base: str, start: Path | None, steps: int | None,
        minutes: float | None, seeds: Sequence[int], against: str | None, average: int, speed: bool, out: Path | None,
        prepared: Path | None, data_dir: Path | None, changes: Sequence[str], device: str, threads: int | None,
        jobs: int, force: bool, metric: str | None, tokenize: str | None,
    ) -> None:  # fmt: skip
        if declared_ranks()[1] > 1:
            raise UsageError("janus compare runs in one process", "train with torchrun, then use janus bench and score")
        if steps is not None and minutes is not None:
            raise UsageError(
                "--steps and --minutes exclude each other", "give each system the same updates or the same time"
            )
        self.steps = (steps or UPDATES) if minutes is None else None
        self.minutes, self.average, self.jobs, self.speed, self.force = minutes, average, jobs, speed, force
        self.base, self.changes, self.modes, self.against, self.start = base, changes, modes, against, start
        self.prepared, self.data_dir, self.device, self.threads = prepared, data_dir, device, threads
        self.timed_with = threads  # --jobs sets those of trainings
        self.metric, self.tokenize = metric, tokenize
        self.basis = None if start is None else runs.basis(start)
        # A system's own changes come after these.
        self.budgeted = (
            *changes, f"training.updates={self.steps or UNBOUNDED}", f"training.minutes={float(minutes or 0)}",
        )  # fmt: skip
        self.settings = {"steps": self.steps, "minutes": minutes, "average": average, "jobs": jobs}
        self.recipe = recipe_load.load(base, changes, basis=self.basis)
        if self.recipe.data.is_plain:  # its valid text is decoded without noise: copies would say nothing
            hint = "`janus train --objective NAME` for each; then `janus compare --recipe TASK --from RUN`"
            raise UsageError(f"{base} is plain text (data.task denoising), with no {SPLIT} split to decode", hint)
        self.folder = out or runs.RUNS / f"compare-{self.recipe.name}"
        self.entries = [
            Entry(system, seed, Run(self.folder / f"{system.name}.seed{seed}"))
            for seed in seeds or [self.recipe.seed]
            for system in systems
        ]
        named = metric or named_metric(self.recipe)
        choose(named, tokenize or self.recipe.scoring.tokenize, None).must_be_at_hand()
        if named:
            must_be_read(tokenize, [named])
        begun = [entry.run for entry in self.entries if entry.run.manifest.is_file() and not force]
        usual = data_of(begun[0], self.recipe) if begun else place_for(self.recipe, self.basis)
        self.data = prepared or usual
        # New systems get the data of those that are there.
        self.shared = prepared or (usual if begun and (usual / MANIFEST).is_file() else None)
        if start is not None:
            checkpoint.find_start(start)
        self.updates: dict[str, int | None] = {}  # that each system is to have; None if minutes are the budget
        rows: list[str] = []
        for system in systems:
            if minutes is not None and system.has_budget:
                raise UsageError(f"--minutes: {system.name} has updates of its own", "use --steps")
            recipe = system.recipe(base, self.budgeted, self.basis)
            self._check(system.name, recipe)
            self.updates[system.name] = None if self.steps is None else recipe.training.updates
            try:
                rows += [f"{system.name} {label}" for label in select(recipe, modes).plans]
            except UsageError as problem:  # it becomes a row that says so
                console.warn(f"{system.name} will be trained, but not decoded: {problem.message}")
        if against is not None and against not in rows:
            raise UsageError(f"--against {against}: there will be no such row", f"rows: {'; '.join(rows)}")

    def _check(self, name: str, recipe: Recipe) -> None:
        """Raises UsageError if a system does not allow the budget or the average; warns of short KL warm-up."""
        if self.average > (kept := recipe.training.keep_last):
            raise UsageError(
                f"--average {self.average}: {name} keeps its last {console.counted(kept, 'checkpoint')}",
                f"--set training.keep_last={self.average}",
            )
        if self.minutes and recipe.training.schedule != "inverse_sqrt":
            raise UsageError(
                f"--minutes: schedule {recipe.training.schedule} must know the number of updates",
                "use --steps, or --set training.schedule=inverse_sqrt",
            )
        updates = recipe.training.updates
        if self.steps and (share := OBJECTIVES[recipe.objective.name].kl_share(recipe.objective, updates - 1)) < 1:
            console.warn(
                f"{name}: in {console.counted(updates, 'update')} its KLs come to {share:.0%} of their weights; "
                "see objective.kl_start and objective.kl_warmup"
            )

    def run(self, *, dry_run: bool = False) -> tuple[str, int] | None:
        """Runs the comparison; returns the table and how many rows failed. A dry run returns None.

        Raises:
            UsageError: the folder holds something else, or trainings that cannot be continued as asked.
            DataError: the folder cannot be written, or there is no data to train with or nothing to decode.
            Stopped: a signal came; the same command continues.
        """
        load_before = load_average()
        count = console.counted(len(self.entries), "training")
        console.say(f"comparing {count} in {self.folder}: {budget(self.settings)}")
        before = self._must_be_ours()
        self._must_have_split()
        if not self.force:
            self._must_continue()
        if dry_run:
            self._dry_run()
            return None
        torch.set_num_threads(self.threads or torch.get_num_threads())
        keep_freed_memory()
        self._prepare()
        judge = judge_of(self.recipe, self._manifest(), self.metric, self.tokenize)
        must_be_read(self.tokenize, [judge.metric])  # the text may have chosen it
        judge.introduce()
        tell_of_validations(self.recipe, self.base)
        self._make_folder()
        with locked(self.folder / LOCK, self._refuse):
            self._clear()
            return self._compare(judge, load_before, before)

    def _refuse(self, holder: str) -> None:
        raise RunInUseError(f"{self.folder} is in use by {holder}", "wait for it, or name another folder with --out")

    def _compare(self, judge: Judge, load_before: float | None, before: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """Trains, decodes, scores and times, with the folder locked; see `run`."""
        device = self._train_and_decode()
        results = self._results(judge, device, load_before)
        text = table(results)
        self._tell_of_lost(before, results["rows"])
        write(self.folder, results, text)
        if self.speed and results["rows"]:
            console.say("speed is measured last, and goes into the same files; --no-speed leaves it out")
            decoded = [entry for entry in self.entries if entry.outputs]
            speeds, results["timed"] = timings(decoded, device, self.timed_with)
            for row in results["rows"]:
                row["speed"] = speeds.get(f"{row['system']} {row['label']}")
            text = table(results)
            write(self.folder, results, text)
        return text, sum(len(entry.failed) for entry in self.entries)

    def _dry_run(self) -> None:
        """Checks all trainings, if there is prepared data, and says what would be done. Raises what `train` does."""
        for entry in self.entries:
            verb = "continues" if entry.run.recipe.exists() and not self.force else "begins"
            console.say(f"{entry.name}: {verb} in {entry.run.path}")
            if self.prepared or self._manifest():
                train(**self._options(entry, self.force), dry_run=True)
        if not self._manifest():
            console.say(f"{self.data} is not there yet: it would be prepared first, and then checked")
        console.say(f"each is then decoded with those of these modes that it has: {', '.join(self.modes)}")

    def _must_be_ours(self) -> list[dict[str, Any]]:
        """The rows of an earlier call; UsageError if the folder holds anything else, DataError if they are damaged."""
        mark = self.folder / "comparison.json"
        if self.folder.exists() and not mark.is_file() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} exists and holds no comparison", "name another folder with --out")
        try:
            before = documents.read(mark, documents.Comparison) if mark.is_file() else {}
        except DataError:
            if not self.force:
                raise
            before = {}  # damaged, and to be replaced
        if not self.force and Path(before.get("recipe", self.base)).resolve() != Path(self.base).resolve():
            raise UsageError(
                f"{self.folder} is a comparison with recipe {before['recipe']}, not {self.base}",
                "use another --out, or --force",
            )
        rows: list[dict[str, Any]] = before.get("rows", [])
        return rows

    def _must_have_split(self) -> None:
        """Raises DataError if the prepared data has no split to decode."""
        if (manifest := self._manifest()) and f"{SPLIT}.source.txt" not in manifest.get("files", {}):
            raise DataError(
                f"{self.data} has no {SPLIT} split, which a comparison decodes", "add it, and `janus preprocess`"
            )

    def _manifest(self) -> dict[str, Any]:
        """Of the prepared data; empty if there is none yet."""
        manifest = self.data / MANIFEST
        return documents.read(manifest, documents.Manifest) if manifest.is_file() else {}

    def _must_continue(self) -> None:
        """Says how existing trainings may go on; raises UsageError or CheckpointError if not as asked."""
        existing = [entry for entry in self.entries if entry.run.recipe.exists()]
        must_share_data(existing, self._manifest())
        if existing:
            more = "--steps" if self.minutes is None else "--minutes"
            console.say(f"earlier trainings are kept: more {more} trains on, --force starts over, --out keeps both")
        for entry in existing:
            before = recipe_load.load(str(entry.run.recipe)).training
            if before.schedule != "inverse_sqrt" and before.updates != self.updates[entry.system.name]:
                raise UsageError(
                    f"{entry.name} was trained for {console.counted(before.updates, 'update')}, and its learning rate "
                    f"({before.schedule}) was scheduled for these",
                    "use the same --steps, another --out, or --force to restart",
                )
            now = entry.system.recipe(self.base, self.budgeted, runs.basis_of_resumed(entry.run.path))
            try:
                continued(replace(now, seed=entry.seed), entry.run, BUDGET)
            except CheckpointError as problem:
                hint = "leave this change out, use another --out, or --force to restart"
                raise CheckpointError(f"{entry.name}: {problem.message}", hint) from None
        begun = {entry.origin: entry.name for entry in self.entries if entry.run.manifest.is_file()}
        origins = set(begun)
        if self.start is not None:
            origins.add(str(checkpoint.find_start(self.start)[1].resolve()))
        elif not all(entry.run.manifest.is_file() for entry in self.entries):
            origins.add(None)
        if len(origins) > 1:
            said = "; ".join(f"{name} with {origin or 'fresh ones'}" for origin, name in begun.items())
            raise UsageError(
                f"not all would begin with the same weights: {said}", "use the same --from, another --out, or --force"
            )

    def _prepare(self) -> None:
        """Prepares the data if it is missing; raises the error of the data, or the first one if all systems fail."""
        problems = []
        for entry in self.entries:
            try:
                train(**self._options(entry, self.force), data_only=True)
                break
            except JanusError as problem:
                if isinstance(problem, DataError) and not self._manifest():
                    raise  # the text itself is at fault; no other system could prepare it
                problems.append(problem)  # of this system only: its training reports it
        else:
            raise problems[0]
        self._must_have_split()

    def _make_folder(self) -> None:
        """Makes the folder, or keeps an earlier one."""
        mark = self.folder / "comparison.json"
        try:
            (self.folder / "outputs").mkdir(parents=True, exist_ok=True)
            if not mark.is_file():
                write_atomically(mark, json.dumps({"recipe": self.base}).encode())
        except OSError as problem:
            check_machine(problem)
            raise DataError(
                f"{self.folder} cannot be written: {problem.strerror}", "name another folder with --out"
            ) from None

    def _clear(self) -> None:
        """With --force, deletes the outputs of these entries, and the table."""
        for entry in self.entries if self.force else ():
            for old in self.folder.glob(f"outputs/{entry.name}.*"):
                old.unlink()
        if self.force:
            write_atomically(self.folder / "comparison.json", json.dumps({"recipe": self.base}).encode())

    def _train_and_decode(self) -> torch.device:
        """Trains and decodes every entry; with --jobs, first in parallel processes, then here what failed there."""
        threads, device = torch.get_num_threads(), choose_device(self.device)
        replaced, started = set[str](), time.time()
        if self.jobs > 1:
            at_once = min(self.jobs, len(self.entries))
            self.threads = self.threads or max(1, usable_cores() // at_once)
            jobs = [
                Job(entry.name, entry.run, self.updates[entry.system.name], partial(self._in_process, entry))
                for entry in self.entries
            ]
            failed = run_jobs(jobs, at_once, force=self.force)
            replaced = {entry.name for entry in self.entries if entry.name not in failed or entry.begun_since(started)}
        for number, entry in enumerate(self.entries, 1):
            console.say("")
            console.say(f"[{number} of {len(self.entries)}] {entry.name}")
            entry.train(self._options(entry, self.force and entry.name not in replaced), self.average)
            torch.set_num_threads(threads)
            if entry.training is not None:
                entry.decode(self.modes, self.folder / "outputs", device)
        return device

    def _options(self, entry: Entry, force: bool) -> dict[str, Any]:
        """The keywords of `train` for an entry; the budget of an existing run may grow."""
        return entry.options(
            recipe=self.base, changes=self.budgeted,
            prepared=self.prepared if entry.run.manifest.is_file() else self.shared, data_dir=self.data_dir,
            start=self.start, allow_change=BUDGET, device=self.device, threads=self.threads, force=force,
        )  # fmt: skip

    def _in_process(self, entry: Entry) -> None:
        """Trains and decodes an entry in a process of its own; the caller reports failures of decoding."""
        entry.train(self._options(entry, self.force), self.average)
        if entry.training is None:
            raise JanusError(entry.failed["training"])
        entry.decode(self.modes, self.folder / "outputs", choose_device(self.device))

    def _results(self, judge: Judge, device: torch.device, load_before: float | None) -> dict[str, Any]:
        """All results as plain values."""
        decoded = with_one_text([entry for entry in self.entries if entry.outputs])
        text = (decoded[0].run, decoded[0].recipe, SPLIT) if decoded else None
        lines, references = (sentences(*text), references_of(*text)) if text else ([], None)
        rows, base = scored(decoded, references, judge, self.against)
        return {
            "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": self.base, "name": self.recipe.name, "changes": list(self.changes),
            "settings": self.settings, "scoring": judge.plain, "split": SPLIT, "sentences": len(lines),
            "machine": {**machine.describe(device), "load": load_before},
            "timed": None,
            "systems": [
                {"system": entry.system.name, "objective": entry.system.objective, "changes": entry.system.changes,
                 "from": entry.origin, "seed": entry.seed, "run": str(entry.run.path), "training": entry.training,
                 "updates": self.updates[entry.system.name], "failed": entry.failed}
                for entry in self.entries
            ],
            "rows": [{**row, "speed": None} for row in rows], "against": base,
        }  # fmt: skip

    def _tell_of_lost(self, before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Warns of what the rows `before`, of an earlier call, have and these will not have."""
        now = {f"{row['system']} {row['label']}": {*row["seeds"]} for row in rows}
        then = {f"{row['system']} {row['label']}": {*row.get("seeds", ())} for row in before}
        kept = "trainings and outputs are kept"
        if lost := [name for name in then if name not in now]:
            console.warn(f"the table no longer has {', '.join(lost)}; {kept}: name them again to have all rows")
        if gone := {name: sorted(then[name] - now[name]) for name in then if then[name] - now.get(name, then[name])}:
            told = "; ".join(f"{name} (seed {', '.join(map(str, seeds))})" for name, seeds in gone.items())
            console.warn(f"rows no longer have all seeds: {told}; {kept}: the earlier --seeds has them again")
        if not self.speed and any(row.get("speed") for row in before):
            console.warn("the table no longer has speeds: without --no-speed they are measured again")


def budget(settings: Mapping[str, Any]) -> str:
    """The budget of each system, in words."""
    if settings["minutes"]:
        return f"{settings['minutes']:g} minute{'s' * (settings['minutes'] != 1)} of updates each"
    return f"{console.counted(settings['steps'], 'update')} each"


def table(results: Mapping[str, Any]) -> str:
    """Conditions, trainings, rows and notes, as Markdown."""
    settings, judged = results["settings"], results["scoring"]["metric"]
    metrics = list(dict.fromkeys(name for row in results["rows"] for name in row["scores"])) or [judged]
    columns = {"system": "", "decoding": "", **{MEASURES[name].head: "" for name in metrics}, **ROWS}
    values = [
        value
        for row in results["rows"]
        if judged in row["scores"]
        for value in row["scores"][judged]["values"].values()
    ]
    words = {
        "doubt": bootstrap.says_little({judged: values}, results["sentences"]),
        "measure": MEASURES[judged], "budget": budget(settings), "samples": bootstrap.SAMPLES,
        "seeds": len({each["seed"] for each in results["systems"]}),
        "signatures": {each["signature"]: name for row in results["rows"] for name, each in row["scores"].items()},
        "tables": [
            markdown(TRAININGS, map(_training_values, results["systems"])),
            markdown(*without_empty(columns, [_row_values(row, metrics) for row in results["rows"]])),
        ],
    }  # fmt: skip

    def had_budget(system: Mapping[str, Any]) -> bool:
        """Not if an earlier call trained it longer, or patience ended it."""
        training = system["training"]
        if settings["minutes"]:  # the last update may exceed the budget
            return bool(0.9 < training["seconds"] / (60 * settings["minutes"]) < 1.5)
        return bool(training["updates"] == system["updates"])

    words["own_budgets"] = len({each["updates"] for each in results["systems"]}) > 1 or not all(
        had_budget(each) for each in results["systems"] if each["training"]
    )
    return render("compare.md", {**results, **words}, had_budget=had_budget)


def _training_values(entry: Mapping[str, Any]) -> list[Any]:
    training, name = entry["training"], [entry["system"], entry["seed"]]
    if training is None:
        return [*name, *["failed"] * (len(TRAININGS) - len(name))]
    updates, seconds = training["updates"], training["seconds"]
    each = 1000 * seconds / max(1, updates)
    cost = training["flops"] and training["flops"] / 1e12
    return [*name, updates, training["epochs"], cost, seconds / 60, each, training["parameters"]]


def _row_values(row: Mapping[str, Any], metrics: Sequence[str]) -> list[Any]:
    speed, compared = row["speed"], row["comparison"]
    return [
        row["system"], row["label"], *(_mean(name, row["scores"].get(name)) for name in metrics),
        compared and compared["difference"], compared and "{low:+.2f} to {high:+.2f}".format_map(compared["interval"]),
        compared and compared["p"], *row["repeats"].values(), row["passes"],
        speed and 1000 * speed["p50"]["median"], speed and speed["sentences_per_second"]["median"],
        speed and in_words(*speed["threads"]),
    ]  # fmt: skip


def _mean(name: str, found: Mapping[str, Any] | None) -> str | None:
    """The mean of a metric over seeds, with the range if there are several."""
    if found is None:
        return None
    values, digits = list(found["values"].values()), 1 if MEASURES[name].highest else 2
    mean, low, high = (f"{value:.{digits}f}" for value in (fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low}–{high})"


def write(folder: Path, results: Mapping[str, Any], text: str) -> None:
    """comparison.json, comparison.md and, with matplotlib, comparison.svg."""
    write_atomically(folder / "comparison.md", f"{text}\n".encode(errors="backslashreplace"))
    written = ["comparison.md", "comparison.json"]
    try:
        plot = quality_against_passes(results, f"{results['recipe']}: {budget(results['settings'])}")
        write_atomically(folder / "comparison.svg", plot)
        written.append("comparison.svg")
    except UsageError as problem:
        (folder / "comparison.svg").unlink(missing_ok=True)  # of an earlier table
        console.say(f"no plot: {problem.message}; {problem.hint}")
    write_atomically(folder / "comparison.json", json_file(results))
    console.say(f"kept as {', '.join(str(folder / name) for name in written)}")
