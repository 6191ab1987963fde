"""`janus bench`: every decoding mode of a run, measured, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options
from janus_cli.lab.labels import BATCHES, REPEATS, WARMUP, matching

_BATCHES = ",".join(map(str, BATCHES))


def bench(
    run: options.RunArgument = None,
    run_option: options.Run = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,…",
            help="A row: ar.beam5, nar4.lb5.rerank (any numbers), spec; or the usual ones of ar, nar, nar4, semi. "
            "Repeatable. Default: all usual ones.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ctranslate2|transformers", help="Add rows for this peer, measured in the same call. Repeatable."
        ),
    ] = None,
    sentences: Annotated[
        int | None, typer.Option(min=1, max=10**9, metavar="N", help="Sentences of the test split. Default: all.")
    ] = None,
    batches: Annotated[str, typer.Option(metavar="N,…", help="Batch sizes tried for throughput.")] = _BATCHES,
    repeats: Annotated[int, typer.Option(min=1, max=10**6, metavar="R", help="Timings of each row.")] = REPEATS,
    warmup: Annotated[
        int, typer.Option(min=0, max=10**6, metavar="W", help="Sentences decoded before a row is timed.")
    ] = WARMUP,
    checkpoint: options.Checkpoint = None,
    metric: options.Metric = None,
    tokenize: options.Tokenize = None,
    as_json: options.Json = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all measurements to this file, as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw scores against latency at batch 1.")
    ] = None,
    changes: options.SetDecoding = None,
    device: options.Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            metavar="N",
            help="CPU threads of every row. Default: the number that is best for each, tried on a few sentences.",
        ),
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Rows are timed in turns, so that a slowdown of the machine affects all of them; the table shows medians over the
    repeats and their range. Times are from text to text. Latency is for one sentence at a time, throughput for the
    best batch size. On a CPU each row has the number of threads that is best for it. All measurements are kept in the
    run, as bench/DATE.json.

    --against adds rows for the tools that users would pick instead, with the run's weights. A tool that has no such
    model is left out, with the reason.

    Examples:
      janus bench
      janus bench runs/multi30k-janus --threads 2 --plot multi30k.svg
      janus bench multi30k-janus --mode ar,nar4 --mode spec --sentences 200
      janus bench --against ctranslate2 --against transformers --repeats 5
      janus bench --dry-run
    """
    from janus_cli import console

    rows = options.names(*mode or ())
    matching(rows)
    chosen = options.named_run(run, run_option, checkpoint, changes)
    from janus_cli.device import interruptible
    from janus_cli.lab.bench import Bench, table
    from janus_cli.lab.peers import parse_peers
    from janus_cli.lab.tables import json_file

    sizes = options.numbers(batches, "--batches", "16,64", 1, 65_536)
    measured = Bench(
        run=chosen, checkpoint=checkpoint, modes=rows, sentences=sentences,
        against=parse_peers(options.names(*against or ())), changes=changes or (), out=out, plot=plot, device=device,
        threads=threads, force=force, metric=metric, tokenize=tokenize, batches=sizes, repeats=repeats, warmup=warmup,
    )  # fmt: skip
    if dry_run:
        measured.dry_run()
        return
    with interruptible(
        "nothing is kept: rows are measured side by side, in one go; --sentences and --repeats make it shorter"
    ):
        results = measured.measure()
    if as_json:
        console.data(json_file(results).decode())
    else:
        console.out(*table(results).split("\n"))
