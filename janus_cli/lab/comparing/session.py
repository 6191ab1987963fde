"""One `janus compare`, from options to a table: train each, decode each, time all together, write it down."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console, recipe_load, runs
from janus_cli.core.knobs import OBJECTIVES
from janus_cli.decoding.lines import Reader
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import DataError, JanusError, UsageError
from janus_cli.files import read_json, write_atomically
from janus_cli.lab import machine
from janus_cli.lab.comparing import agreement, jobs, report, systems
from janus_cli.lab.comparing.entry import SPLIT, Entry, Outcome, decoded, trained
from janus_cli.lab.rows import matching, select
from janus_cli.lab.timing import Spread, Work, measure, own, percentile
from janus_cli.recipe import (
    BENCH_REPEATS,
    BENCH_WARMUP,
    COMPARE_MODES,
    COMPARE_SENTENCES,
    COMPARE_SINGLES,
    COMPARE_UPDATES,
    Recipe,
)
from janus_cli.runs import Run, find_split
from janus_cli.training import checkpoint
from janus_cli.training.run import prepare_data

UNBOUNDED = 10_000_000  # updates, where minutes decide


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus compare`."""

    recipe: str | None = None
    objectives: Sequence[str] = tuple(OBJECTIVES)
    variants: Sequence[str] = ()
    start: Path | None = None
    steps: int | None = None
    minutes: float | None = None
    seeds: Sequence[int] = ()
    modes: Sequence[str] = COMPARE_MODES
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
    dry_run: bool = False


def run_compare(request: Request) -> tuple[str, int] | None:
    """Compares as asked and returns the table and how many rows failed; a dry run returns None.

    Raises:
        UsageError: options that do not fit each other, or a folder that holds something else.
        Stopped: a signal came; the same command goes on.
    """
    load = machine.load_average()
    recipe, entries, folder = _planned(request)
    console.say(
        f"comparing {len(entries)} system{'s' * (len(entries) != 1)} in {folder}: {report.budget(_settings(request))}"
    )
    _must_be_ours(folder, request)
    agreement.must_have_split(request.prepared or runs.prepared_dir(recipe))
    if not request.force:
        agreement.must_go_on(entries, _settings(request)["steps"], request.start)
    if request.dry_run:
        for entry in entries:
            there = "goes on" if entry.run.recipe.exists() else "begins"
            console.say(f"{entry.name}: {there} in {entry.run.path}")
        console.say(f"each is then decoded, as far as it can, with {', '.join(request.modes)}")
        return None
    threads = request.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _begin(folder, request, entries)
    with suppress(JanusError):  # each training says it
        prepare_data(**_training_keywords(request, entries[0]))
    agreement.must_have_split(request.prepared or runs.prepared_dir(recipe))
    device = choose_device(request.device)
    again = {entry.name for entry in entries}
    if request.jobs > 1:
        at_once = min(request.jobs, len(entries))
        request = replace(request, threads=request.threads or max(1, machine.usable_cores() // at_once))
        again = jobs.run([_job(request, entry, folder) for entry in entries], at_once)
    outcomes = []
    for number, entry in enumerate(entries, 1):
        console.say(f"\n[{number} of {len(entries)}] {entry.name}")
        mine = replace(request, force=request.force and entry.name in again)  # else a process has replaced it
        outcome = trained(entry, _training_keywords(mine, entry), request.average)
        torch.set_num_threads(threads)
        if outcome.checkpoint is not None:
            decoded(outcome, request.modes, folder / "outputs", device)
        outcomes.append(outcome)
    about = _about(request, recipe, outcomes, device, load)
    table = report.table(about)
    report.write(folder, about, table)
    return table, sum(len(outcome.failed) for outcome in outcomes)


def _planned(request: Request) -> tuple[Recipe, list[Entry], Path]:
    """The recipe, what is compared, and where.

    Raises:
        UsageError: options that do not fit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("janus compare runs in one process", "train with torchrun, then use janus bench and score")
    if request.steps is not None and request.minutes is not None:
        raise UsageError(
            "--steps and --minutes exclude each other", "give each system the same updates or the same time"
        )
    compared = systems.asked(request.objectives, request.variants)
    recipe = recipe_load.load(request.recipe or "demo", request.changes)
    matching(request.modes)
    if request.start is not None:
        checkpoint.locate(request.start)
    rows: list[str] = []
    recipes = {system.name: system.recipe(request.recipe or "demo", request.changes) for system in compared}
    agreement.must_have_averages(recipes, request.average)
    for system in compared:  # mistakes are found before hours of training
        theirs = recipes[system.name]
        if request.minutes and theirs.training.schedule != "inverse_sqrt":
            raise UsageError(
                f"--minutes: schedule {theirs.training.schedule} must know the number of updates", "use --steps"
            )
        steps = _settings(request)["steps"]
        if steps and (risen := theirs.objective.risen(steps - 1)) < 1:
            console.warn(
                f"{system.name}: in {steps:,} updates its KLs come to {risen:.0%} of their weights; "
                "see objective.kl_start and objective.kl_warmup"
            )
        with suppress(UsageError):  # an objective that can do none of the modes becomes a row that says so
            rows += [f"{system.name} {label}" for label in select(theirs, request.modes).plans]
    if request.against is not None and request.against not in rows:
        raise UsageError(f"--against {request.against}: there will be no such row", f"rows: {'; '.join(rows)}")
    folder = request.out or runs.RUNS / f"compare-{recipe.name}"
    seeds = request.seeds or [recipe.seed]
    entries = [Entry(system, seed, Run(folder / f"{system.name}.seed{seed}")) for seed in seeds for system in compared]
    return recipe, entries, folder


def _settings(request: Request) -> dict[str, Any]:
    steps = None if request.minutes else request.steps or COMPARE_UPDATES
    return {"steps": steps, "minutes": request.minutes, "average": request.average, "jobs": request.jobs}


def _must_be_ours(folder: Path, request: Request) -> None:
    """Raises UsageError where the folder holds something else than an earlier call of this comparison."""
    mark = folder / "comparison.json"
    if folder.exists() and not mark.is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} is there and holds no comparison", "name another folder with --out")
    if mark.is_file() and not request.force:
        before, recipe = read_json(mark).get("recipe"), request.recipe or "demo"
        if before != recipe:
            raise UsageError(f"{folder} compares with recipe {before}, not {recipe}", "another --out, or --force")


def _begin(folder: Path, request: Request, entries: Sequence[Entry]) -> None:
    """Makes the folder, or finds it as an earlier call left it; with --force without what these entries wrote."""
    mark = folder / "comparison.json"
    try:
        (folder / "outputs").mkdir(parents=True, exist_ok=True)
        if not mark.is_file() or request.force:
            write_atomically(mark, json.dumps({"recipe": request.recipe or "demo"}).encode())
        for entry in entries if request.force else ():
            for old in folder.glob(f"outputs/{entry.name}.*"):
                old.unlink()
    except OSError as problem:
        raise DataError(f"{folder} cannot be written: {problem.strerror}", "name another folder with --out") from None


def _training_keywords(request: Request, entry: Entry) -> dict[str, Any]:
    settings = _settings(request)
    changes = [*request.changes, *entry.system.changes, f"training.updates={settings['steps'] or UNBOUNDED}"]
    changes += [f"training.minutes={float(settings['minutes'])}"] if settings["minutes"] else ["training.minutes=0.0"]
    there = entry.run.recipe.exists() and not request.force
    return {
        "recipe": request.recipe or "demo", "objective": entry.system.objective, "run": entry.run.path,
        "prepared": request.prepared, "data_dir": request.data_dir, "resume": there,
        "start": None if there else request.start, "changes": tuple(changes), "device": request.device,
        "seed": entry.seed, "threads": request.threads, "force": request.force and not there,
        "allow_change": ("training.updates", "training.minutes") if there else (),  # a budget may grow
    }  # fmt: skip


@dataclass(frozen=True)
class _Job(jobs.Job):
    """Trains an entry and decodes it, in one of several processes. average, modes, outputs: as in `entry`."""

    entry: Entry
    average: int
    modes: Sequence[str]
    outputs: Path

    def work(self) -> None:
        outcome = trained(self.entry, self.training, self.average)
        if outcome.checkpoint is None:
            raise JanusError(outcome.failed["training"])
        with suppress(JanusError):
            decoded(outcome, self.modes, self.outputs, choose_device(self.training["device"]))


def _job(request: Request, entry: Entry, folder: Path) -> _Job:
    """What one of several processes does."""
    training, steps = _training_keywords(request, entry), _settings(request)["steps"]
    return _Job(entry.name, training, steps, entry, request.average, request.modes, folder / "outputs")


def _about(
    request: Request, recipe: Recipe, outcomes: Sequence[Outcome], device: torch.device, load: float | None
) -> dict[str, Any]:
    """Everything that was found, as plain values. load: of the machine, before there was anything to do."""
    done = [outcome for outcome in outcomes if outcome.rows]
    lines, references = _texts(done)
    speeds = _speeds(done, lines, device) if request.speed and done else {}
    about: dict[str, Any] = {
        "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": request.recipe or "demo", "name": recipe.name, "changes": list(request.changes),
        "settings": _settings(request), "split": SPLIT, "sentences": len(lines),
        "machine": {**machine.describe(device), "load": load},
        "timed": {"sentences": min(COMPARE_SENTENCES, len(lines)), "singles": min(COMPARE_SINGLES, len(lines)),
                  "repeats": BENCH_REPEATS} if speeds else None,
        "systems": [
            {"system": each.entry.system.name, "objective": each.entry.system.objective,
             "changes": each.entry.system.changes, "from": each.entry.origin,
             "seed": each.entry.seed, "run": str(each.entry.run.path), "training": each.training, "failed": each.failed}
            for each in outcomes
        ],
    }  # fmt: skip
    about["rows"], about["against"] = report.scored(done, references, request.against)
    for row in about["rows"]:
        row["speed"] = speeds.get(f"{row['system']} {row['label']}")
    return about


def _texts(done: Sequence[Outcome]) -> tuple[list[str], list[str] | None]:
    """The split's lines and references; these are None where the data has none."""
    if not done:
        return [], None
    source, reference = find_split(done[0].entry.run, done[0].recipe, SPLIT)
    return list(Reader(source)), None if reference is None else reference.read_bytes().decode().split("\n")[:-1]


def _speeds(done: Sequence[Outcome], lines: Sequence[str], device: torch.device) -> dict[str, Mapping[str, Any]]:
    """How fast each system's modes are, the first seed's; all rows take turns, so a machine that drifts is fair."""
    rows, seen = [], set()
    for outcome in done:
        if outcome.entry.system.name in seen:
            continue
        seen.add(outcome.entry.system.name)
        model, tokenizers = outcome.load(device)
        for label in outcome.rows:
            row = own(label, outcome.plan(label), model, tokenizers)
            rows.append(replace(row, label=f"{outcome.entry.system.name} {label}"))
    texts = [line for line in lines if line.strip()]
    batch = done[0].recipe.decoding.batch_sentences
    work = Work(texts[:COMPARE_SENTENCES], texts[:COMPARE_SINGLES], (batch,), BENCH_REPEATS, BENCH_WARMUP)
    with console.progress("timing", work.translations(len(rows))) as bar:
        found = measure(rows, work, bar.advance)
    return {
        label: {
            "p50": asdict(Spread.of([percentile(taken, 50) for taken in timed.singles])),
            "sentences_per_second": asdict(Spread.of([len(work.lines) / seconds for seconds in timed.batched])),
            "batch": timed.batch,
        }
        for label, timed in found.items()
    }
