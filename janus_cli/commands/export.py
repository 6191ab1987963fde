"""`janus export`: a checkpoint -> a folder that other programs can use."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from janus_cli.commands.options import CheckpointOption, DryRunOption, ForceOption, RunOption


def export(
    named: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The same as --run.", show_default=False)
    ] = None,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    target: Annotated[
        Literal["safetensors", "ctranslate2"],
        typer.Option(
            "--format", help="safetensors: all weights. ctranslate2: the left-to-right side; needs the extra `export`."
        ),
    ] = "safetensors",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Make this folder; by default RUN/export/CHECKPOINT.FORMAT."),
    ] = None,
    quantization: Annotated[
        Literal["float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"]
        | None,
        typer.Option("--quantization", help="ctranslate2: how weights are stored. Default: float32, as trained."),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Write a model as a folder that works without its run, for other programs.

    The folder has the weights, the tokenizer, where they came from, and a README.txt on how to use them.
    With --format ctranslate2 the model must generate left to right as usual: objective ar or janus, and
    ar_stream content. With --force an earlier export is replaced, never any other folder.

    Examples:
      janus export
      janus export multi30k-janus --format ctranslate2 --output multi30k.ct2
      janus export --run multi30k-janus --checkpoint average-best5 --format ctranslate2 --quantization int8
      janus export multi30k-janus --format safetensors --output multi30k.safetensors --dry-run
    """
    from janus_cli.errors import UsageError
    from janus_cli.export.session import Request, run_export

    if named is not None and run is not None:
        raise UsageError(f"{named} and --run {run} both name a run", "give one of them")
    run_export(
        Request(
            run=run if named is None else named, checkpoint=checkpoint, format=target, output=output,
            quantization=quantization, force=force, dry_run=dry_run,
        )
    )  # fmt: skip
