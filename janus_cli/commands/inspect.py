"""`janus inspect`: what a run, a checkpoint or prepared data holds."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def inspect(
    what: Annotated[
        Path | None, typer.Argument(metavar="[RUN|CHECKPOINT|DATA]", help="A folder; by default the newest run.")
    ] = None,
    run: options.Run = None,
    as_json: options.Json = False,
) -> None:
    """Show what a folder of janus holds: sizes, vocabulary, objective, provenance, steps, fingerprints.

    A checkpoint is checked against its manifest, byte for byte.

    Examples:
      janus inspect
      janus inspect runs/multi30k-janus/checkpoints/best
      janus inspect data/multi30k.de-en --json
    """
    import json

    chosen = options.one_run(what, run)
    if chosen is None or not chosen.is_dir():
        options.named_run(chosen, None)
    from janus_cli.training.inspect import describe, lines

    found = describe(chosen)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))
