"""`janus decode`: a checkpoint and text -> hypotheses."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from janus_cli.commands import options


@options.with_decoding_options(before="jsonl")
def decode(
    context: typer.Context,
    run: options.RunArgument = None,
    run_option: options.Run = None,
    checkpoint: options.Checkpoint = None,
    text: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help="Text to decode, plain or .gz; - for stdin. By default a split."),
    ] = None,
    split: Annotated[
        Literal["test", "valid"] | None,
        typer.Option(
            "--split", help="Decode this split of the run's data and keep the result in the run. Default: test."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--output", metavar="FILE", help="Write hypotheses here, not to stdout.")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Write a JSON object a line: text, tokens, scores, length, passes.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show how the first hypothesis came about, pass by pass.")
    ] = False,
    trace_lines: Annotated[
        int | None, typer.Option("--trace-lines", min=1, metavar="N", help="As --trace, for the first N lines.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue after the last finished line of a decoding that was stopped.")
    ] = False,
    changes: options.Set = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    **given: Any,
) -> None:
    """Decode text, autoregressively or not, with a trained model.

    One line in, one line out, in order; an empty line gives an empty line. With --nbest, N lines for each (one for an
    empty line): number of the line from 0, tab, score, tab, text. Options left out are those of the recipe's decoding
    section. A decoded split is also kept in the run, as decode/SPLIT.MODE.txt, .jsonl and .json, where `janus score`
    finds it; what has the same name is replaced. On a terminal it is then not printed.

    Files appear when they are complete. Until then .NAME.partial grows beside the first of them, and whatever stops the
    work leaves all finished lines there: --resume, with the same text, weights and options, continues, and the result
    is that of an unbroken decoding, to the byte on the same machine. --batch-sentences, --threads and --device may
    differ; hypotheses then agree up to rounding. Stdout is not kept; a split's hypotheses are sent there from the first
    line again.

    Examples:
      janus decode
      janus decode --mode nar --iters 4
      janus decode --mode nar --iters 10 --length-beam 5 --rerank ar --run runs/multi30k-janus
      janus decode --mode nar --iters 4 --trace > hypotheses.txt
      janus decode --mode spec --batch-sentences 1
      echo "ein mann fährt fahrrad ." | janus decode --input - --beam 5 --nbest 3
      janus decode multi30k-janus --input book.de --out book.en --jsonl
      janus decode multi30k-janus --input book.de --out book.en --jsonl --resume
    """
    chosen = options.named_run(run, run_option, checkpoint, changes)
    from janus_cli.decoding import decode as decoding

    decoding.decode(
        run=chosen, checkpoint=checkpoint, text=text, split=split, out=out, jsonl=jsonl,
        options=given, changes=changes or (), trace=trace_lines or int(trace), device=device, threads=threads,
        resume=resume, force=force, dry_run=dry_run,
        words=options.typed(context, "run", "run_option", "checkpoint", "resume", "force"),
    )  # fmt: skip
