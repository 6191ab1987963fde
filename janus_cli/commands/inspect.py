"""`janus inspect`: describes a run, a checkpoint or prepared data."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def inspect(
    what: Annotated[
        Path | None, typer.Argument(metavar="RUN|CHECKPOINT|DATA", help="A folder; by default the newest run.")
    ] = None,
    run: options.Run = None,
    as_json: options.Json = False,
) -> None:
    """The files of a checkpoint are verified against its manifest; for a run, those of best and last are. --json shows
    the whole manifest of prepared data.

    Examples:
      janus inspect
      janus inspect runs/multi30k-janus/checkpoints/best
      janus inspect data/multi30k.de-en --json
    """
    import json

    from janus_cli import console, runs
    from janus_cli.errors import UsageError

    chosen = options.one_run(what, run)
    if chosen is None:
        runs.find_run(None)
    elif not ((runs.pretrained(chosen) or chosen).is_dir() or (runs.RUNS / chosen).is_dir()):
        raise UsageError(
            f"there is no folder {chosen}", "name a run, a checkpoint or prepared data; see `ls runs data`"
        )
    from janus_cli.training.inspect import describe, lines

    found = describe(chosen)
    if as_json:
        console.data(json.dumps(found, indent=1) + "\n")
    else:
        found.pop("manifest", None)  # of data, pages long
        console.out(*lines(found))
