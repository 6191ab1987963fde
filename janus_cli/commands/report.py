"""`janus report`: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def report(
    run: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Training runs; by default the newest one under runs/.")
    ] = None,
    run_option: Annotated[
        list[Path] | None, typer.Option("--run", metavar="FOLDER|NAME", help="The same as RUN. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default RUN/report.html; of several runs, report.html here.")
    ] = None,
    sentences: Annotated[
        int, typer.Option(min=1, max=10**9, metavar="N", help="Validation sentences for calibration and lengths.")
    ] = 500,  # as many as a validation decodes
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
) -> None:
    """The page has losses, validation scores, speed, data statistics, predicted lengths, calibration, and a few decoded
    sentences with their traces. A run may still be in training; the page says what is missing yet. If a run's
    checkpoint is damaged, the page shows the rest, and the exit code is 4. An earlier report is replaced, any other
    file only with --force. Needs the extra `report`.

    Examples:
      janus report
      janus report runs/multi30k-janus
      janus report multi30k-ar multi30k-cmlm multi30k-janus --out compared.html
    """
    chosen = [*(run or ()), *(run_option or ())]
    for each in chosen or [None]:
        options.named_run(each, None)
    from janus_cli import console
    from janus_cli.errors import CheckpointError
    from janus_cli.lab.report import write_report

    written, damaged = write_report(chosen, out, sentences, device=device, threads=threads, force=force)
    console.out(str(written))
    if damaged:
        raise CheckpointError("; ".join(damaged), f"{written} shows everything else")
