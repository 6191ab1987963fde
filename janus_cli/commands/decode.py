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
        typer.Option(
            "--input",
            metavar="FILE",
            help="Text to decode, or a table with it, plain or .gz; - for stdin. By default the test split.",
        ),
    ] = None,
    column: options.Column = None,
    split: Annotated[
        Literal["test", "valid"] | None,
        typer.Option(help="Decode this split of the run's data and keep the result in the run. Default: test."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "--output", metavar="FILE", help="Write hypotheses here, not to stdout; gzipped if it ends in .gz."
        ),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Write a JSON object a line: text, tokens, scores, length, passes.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show the first hypothesis; with nar, pass by pass.")] = False,
    trace_lines: Annotated[
        int | None, typer.Option(min=1, max=10**9, metavar="N", help="As --trace, for the first N lines.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a stopped decoding after its last finished line, if there is one."),
    ] = False,
    changes: options.SetDecoding = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    **given: Any,
) -> None:
    """One line in, one line out, in order; an empty line gives an empty line. With --nbest N, at most N lines for
    each, fewer if no more hypotheses were found; each has the line number (from 0), a tab, the score, a tab, the text.
    Options left out come from the decoding section of the checkpoint's recipe.
    The result of a split is also kept in the run, as decode/SPLIT.MODE.txt, .jsonl and .json, where `janus score` finds
    it, and replaces an earlier one of that name. On a terminal it is then not printed.

    Files appear when they are complete. Until then their finished lines are in .NAME.partial beside the first of them,
    and survive a stop, a crash or a full disk. --resume, with the same text, weights and options, continues there; on
    the same machine the result is byte for byte that without the stop. --batch-sentences, --threads and --device
    may differ; hypotheses then agree up to rounding. What went to stdout is not kept: a split's hypotheses are printed
    from the first line again.

    Examples:
      janus decode
      janus decode --mode nar --iters 4
      janus decode --mode nar --iters 10 --length-beam 5 --rerank ar --run runs/multi30k-janus
      janus decode --mode nar --iters 4 --trace > hypotheses.txt
      janus decode --mode spec --batch-sentences 1
      janus decode --mode ar --no-repeat-ngram 3 --min-length 20 --unk ban
      janus decode --mode ar --temperature 0.8 --top-p 0.9 --nbest 4 --seed 7
      janus decode --mode ar --beam 6 --diversity 0.5 --nbest 6
      echo "ein mann fährt fahrrad ." | janus decode --input - --beam 5 --nbest 3
      janus decode multi30k-janus --input book.de --out book.en --jsonl
      janus decode multi30k-janus --input book.de --out book.en --jsonl --resume
      janus decode multi30k-janus --input captions.csv --column german --out captions.en.gz
    """
    chosen = options.named_run(run, run_option, checkpoint, changes)
    from janus_cli.decoding.decode import Decode

    Decode(
        run=chosen, checkpoint=checkpoint, text=text, column=column, split=split, out=out, jsonl=jsonl,
        options=given, changes=changes or (), trace=trace_lines or int(trace), device=device, threads=threads,
        resume=resume, force=force, dry_run=dry_run,
        words=options.typed(context, "run", "run_option", "checkpoint", "resume", "force"),
    ).do()  # fmt: skip
