"""One `janus report`: which runs, read one after the other, into which file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from janus_cli import console, runs
from janus_cli.device import choose_device
from janus_cli.errors import DataError, UsageError
from janus_cli.files import write_atomically
from janus_cli.lab.reporting import plots
from janus_cli.lab.reporting.findings import gather, labels
from janus_cli.lab.reporting.html import MARK
from janus_cli.lab.reporting.page import page
from janus_cli.recipe import REPORT_SENTENCES
from janus_cli.runs import Run

NAME = "report.html"
HEAD = 1024  # bytes of a report in which its mark stands


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus report`."""

    runs: Sequence[Path] = ()
    out: Path | None = None
    sentences: int = REPORT_SENTENCES
    device: str = "auto"
    threads: int | None = None
    force: bool = False


def run_report(request: Request) -> Path:
    """Writes the page and returns where it is.

    Raises:
        UsageError: no such run, an extra that is missing, or a file in the way.
        DataError: the page cannot be written.
    """
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    chosen = _runs(request.runs)
    out = request.out or (chosen[0].path / NAME if len(chosen) == 1 else Path(NAME))
    _must_be_ours(out, force=request.force)
    plots.must_be_there()
    found = []
    with console.progress("reading runs", len(chosen)) as bar:
        for label, run in zip(labels([run.path for run in chosen]), chosen, strict=True):
            found.append(gather(label, run, device, request.sentences))
            bar.advance(1, label)
    for each in found:
        for why in dict.fromkeys(each.missing.values()):
            console.warn(f"{each.label}: {why}")
    written = page(found, datetime.now(UTC))
    try:
        write_atomically(out, written)
    except OSError as problem:
        raise DataError(f"{out} cannot be written: {problem.strerror}", "name another file with --out") from None
    return out


def _runs(paths: Sequence[Path]) -> list[Run]:
    """Each run once, in the order given; the newest where none is."""
    if not paths:
        run = runs.find_run(None)
        console.say(f"no run named: taking {run.path}, the newest")
        return [run]
    found = [runs.find_run(path) for path in paths]
    return list({run.path.resolve(): run for run in found}.values())


def _must_be_ours(out: Path, *, force: bool) -> None:
    """Whether `out` may be written: it is not there, or it is an earlier report, or `force` is given."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}", "make it, or name another file with --out")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file with --out")
    if force or not (out.exists() or out.is_symlink()):
        return
    try:
        with out.open("rb") as file:
            ours = MARK in file.read(HEAD)
    except OSError:
        ours = False
    if not ours:
        raise UsageError(
            f"{out} is there and is no report of janus", "overwrite it with --force, or name another file with --out"
        )
