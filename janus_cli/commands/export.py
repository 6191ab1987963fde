"""`janus export`: a checkpoint -> a folder that other programs can use."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from janus_cli.commands import options


def export(
    run: options.RunArgument = None,
    run_option: options.Run = None,
    checkpoint: options.Checkpoint = None,
    target: Annotated[
        Literal["safetensors", "onnx", "ctranslate2", "transformers"],
        typer.Option(
            "--format",
            help="safetensors: all weights. onnx: searches that need ONNX Runtime alone. ctranslate2, transformers: "
            "the left-to-right side; ctranslate2 needs the extra `export`.",
        ),
    ] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option("--out", "--output", metavar="FOLDER", help="By default RUN/export/CHECKPOINT.FORMAT."),
    ] = None,
    quantization: Annotated[
        Literal["float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"]
        | None,
        typer.Option(help="How weights are stored; safetensors: float32 or bfloat16. Default: float32, as trained."),
    ] = None,
    with_test: Annotated[
        bool, typer.Option("--with-test", help="safetensors: add the text of the test split, to decode and to score.")
    ] = False,
    changes: options.SetDecoding = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """The folder has the weights, the tokenizer, their origin, and a README.txt on how to use them. As safetensors it
    is itself a run: every command that takes a run accepts it with --run.
    --format onnx writes the searches of `janus decode` with the recipe's options, left to right and all at once, and a
    program that runs them without torch and janus.
    --format ctranslate2 and transformers need a model that generates left to right in the usual way: objective ar or
    janus with ar_stream content. --force replaces an earlier export, but never any other folder, nor an export in
    which `decode` has written results.

    Examples:
      janus export
      janus export demo-janus --format onnx --set decoding.iters=4 --set decoding.rerank=ar
      janus export multi30k-janus --format ctranslate2 --out multi30k.ct2
      janus export --run multi30k-janus --checkpoint average-best5 --format ctranslate2 --quantization int8
      janus export bart-base --format transformers --out bart-base.hf
      janus export multi30k-janus --format safetensors --out multi30k.safetensors --dry-run
      janus export multi30k-janus --quantization bfloat16 --with-test --out small
      janus decode --run small
    """
    chosen = options.named_run(run, run_option, checkpoint)
    from janus_cli.export import export as exporting

    exporting.export(
        run=chosen, checkpoint=checkpoint, kind=target, out=out, quantization=quantization, with_test=with_test,
        changes=changes or (), force=force, dry_run=dry_run,
    )  # fmt: skip
