"""`janus compare`: objectives side by side, under equal conditions."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def compare(
    recipe: options.Recipe = None,
    objectives: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Objectives to compare; by default all, or only the variants.")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="'NAME: OBJECTIVE KEY=VALUE …'",
            help="Add an objective with some knobs changed. Repeatable.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN|CHECKPOINT",
            help="Start each training from these weights, with their model section and tokenizer.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10**12, metavar="N", help="Updates of each training. Default: 2,000.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, max=1e7, metavar="M", help="Instead of --steps: minutes of updates for each training."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,…", help="Train each with these seeds; default the recipe's.")
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Decoding modes, as in `janus bench --mode`; a system uses those it has."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="'SYSTEM MODE'", help="Row that the others are tested against. Default: 'ar ar.beam5'."),
    ] = None,
    metric: options.Metric = None,
    tokenize: options.Tokenize = None,
    average: Annotated[
        int, typer.Option(min=0, max=10**6, metavar="K", help="Decode the mean of the last K checkpoints.")
    ] = 0,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Time the rows, in turns.")] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for everything; by default runs/compare-RECIPE.")
    ] = None,
    prepared: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Output of `janus preprocess`.")] = None,
    data_dir: options.DataDir = None,
    changes: options.Set = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Train N at once, each in a process of its own.")
    ] = 1,
    as_json: options.Json = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Writes comparison.md, .json and .svg (scores against decoder passes), and prints the table. Scores are by
    scoring.metric of the recipe, and by chrF, with their signatures; every row is tested against one of them by paired
    bootstrap, and timed with the number of threads that is best for it, unless --threads sets it. After a stop, the
    same command continues; with more --steps or --minutes, the trainings are extended. A system that fails leaves a row
    that says why.

    Examples:
      janus compare
      janus compare --recipe multi30k --data-dir ~/multi30k --objectives ar,cmlm,janus --steps 5000 --average 5
      janus compare --recipe iwslt14 --data-dir ~/iwslt14 --minutes 600 --seeds 1,2 --against 'janus ar.beam5'
      janus compare --objectives janus --variant 'glance: janus objective.glance=0.3' --steps 900 --seeds 1,2
      janus compare --recipe multi30k --objectives ar,janus --seeds 1,2,3 --device cuda --jobs 6
      janus compare --objectives ar,bang --steps 900 --modes ar.beam1,nar.eos,semi2,semi4 --no-speed
    """
    from janus_cli import console, runs
    from janus_cli.core.knobs import OBJECTIVES
    from janus_cli.errors import JanusError
    from janus_cli.lab.labels import matching
    from janus_cli.lab.systems import asked

    systems = asked(options.names(objectives or "") or (() if variants else tuple(OBJECTIVES)), variants or ())
    basis = None if start is None else runs.basis(start)
    for system in systems:
        system.recipe(recipe or "demo", changes or (), basis)
    rows = options.names(modes or "")
    matching(rows, "--modes")
    from janus_cli.device import interruptible
    from janus_cli.lab.compare import MODES, Comparison
    from janus_cli.lab.processes import continues

    numbers = () if seeds is None else options.numbers(seeds, "--seeds", "1,2")
    comparison = Comparison(
        systems, rows or MODES, base=recipe or "demo", start=start, steps=steps,
        minutes=minutes, seeds=numbers, against=against, average=average, speed=speed, out=out, prepared=prepared,
        data_dir=data_dir, changes=changes or (), device=device, threads=threads, jobs=jobs, force=force,
        metric=metric, tokenize=tokenize,
    )  # fmt: skip
    with interruptible(continues(force=force)):
        finished = comparison.run(dry_run=dry_run)
    if finished is not None:
        table, failed = finished
        results = comparison.folder / "comparison.json"
        if as_json:
            console.data(results.read_text(encoding="utf-8"))
        else:
            console.out(*table.split("\n"))
        if failed:
            raise JanusError(
                f"{failed} of the rows failed; the notes below the table say why", "the same command tries these again"
            )
