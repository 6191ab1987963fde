"""`janus report`: one run, or several side by side, as an HTML page that needs no network.

Reads the runs; `report_page.py` makes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from janus_cli import console, documents, recipe_load, runs
from janus_cli.device import choose_device
from janus_cli.errors import CheckpointError, JanusError, require
from janus_cli.files import write_atomically
from janus_cli.lab import logbook, report_page
from janus_cli.lab.plots import Look
from janus_cli.lab.probe import open_store, probe
from janus_cli.lab.report_page import MARK, RunReport
from janus_cli.lab.tables import must_be_free
from janus_cli.runs import Run
from janus_cli.training.checkpoint import read_checkpoint, steps

NAME = "report.html"
Read = TypeVar("Read")


def write_report(
    paths: Sequence[Path], out: Path | None, sentences: int, *, device: str, threads: int | None, force: bool
) -> tuple[Path, list[str]]:
    """Writes the page; returns its path, and the problems of checkpoints that could not be read.

    The options are those of `janus report`.

    Raises:
        UsageError: no such run, an extra that is missing, or a file in the way.
    """
    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device)
    chosen = _runs(paths)
    out = out or (chosen[0].path / NAME if len(chosen) == 1 else Path(NAME))
    must_be_free(out, force=force, mark=MARK)
    require("matplotlib", "report")
    reports: list[RunReport] = []
    with console.progress("reading runs", len(chosen)) as bar:
        for label, run in zip(labels([run.path for run in chosen]), chosen, strict=True):
            reports.append(gather(label, run, Look.of(len(reports)), where, sentences))
            bar.advance(1, label)
    for each in reports:
        for reason in dict.fromkeys(each.missing.values()):
            if reason != each.damage:
                console.warn(f"{each.label}: {reason}")
    write_atomically(out, report_page.page(reports, datetime.now(UTC)))
    return out, [each.damage for each in reports if each.damage]


def _runs(paths: Sequence[Path]) -> list[Run]:
    """Each run once, in the order given; by default the newest."""
    if not paths:
        run = runs.find_run(None)
        console.say(f"no run named: taking {run.path}, the newest")
        return [run]
    named = [runs.find_run(path) for path in paths]
    return list({run.path.resolve(): run for run in named}.values())


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, or its path if two folders have the same name."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def decodings(run: Run) -> list[dict[str, Any]]:
    """The summaries of what `janus decode` wrote of the run's splits. Raises DataError: one is damaged."""
    return [documents.read(file, documents.DecodedSplit) for file in sorted(run.decoded.glob("*.json"))]


def gather(label: str, run: Run, look: Look, device: torch.device, sentences: int) -> RunReport:
    """Reads all that a run has; its best (or last) checkpoint predicts `sentences` of the validation split."""
    report = RunReport(label, run, look)

    def attempt(name: str, read: Callable[[], Read]) -> Read | None:
        """What `read` returns; None if it fails, and the reason goes into `missing`."""
        try:
            return read()
        except torch.OutOfMemoryError as problem:
            report.missing[name] = str(problem).split("\n")[0]
        except JanusError as problem:
            report.missing[name] = problem.message
            if isinstance(problem, CheckpointError) and any(steps(run.checkpoints)):
                report.damage = problem.message
        except OSError as problem:
            report.missing[name] = f"{problem.filename or run.path}: {problem.strerror}"
        return None

    recipe = report.recipe = attempt("recipe", lambda: recipe_load.load(str(run.recipe)))
    report.log = attempt("log", lambda: logbook.read(run.log)) or report.log
    report.train, report.valid = report.log.curves("train"), report.log.curves("valid")
    report.manifest = attempt("manifest", run.read_manifest)
    report.decoded = attempt("decoded", lambda: decodings(run)) or ()
    if recipe is None or report.manifest is None:
        reason = report.missing["manifest" if recipe else "recipe"]
        report.missing |= {"lengths": reason, "probe": reason}
        return report
    report.lengths = attempt("lengths", lambda: open_store(run, recipe, "train").lengths())
    report.probe = attempt("probe", lambda: read_checkpoint(run.path, None, partial(probe, sentences, device)))
    return report
