"""`janus train`: prepared ids -> checkpoints and a log."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def train(
    recipe: options.Recipe = None,
    objective: options.Objective = None,
    resumed: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="With --resume: the same as --run.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run; by default runs/RECIPE-OBJECTIVE.")
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Output of `janus preprocess`; by default looked up under data/."),
    ] = None,
    data_dir: options.DataDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its last checkpoint, if there is one.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN|CHECKPOINT",
            help="Start from these weights, with their model section and tokenizer; the objective may differ.",
        ),
    ] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="With --resume: let this knob differ, or these, separated by commas. Repeatable."
        ),
    ] = None,
    changes: options.Set = None,
    device: options.Device = "auto",
    seed: options.Seed = None,
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Everything is written to the run's folder: recipe.yaml, log.jsonl, checkpoints/. Ctrl-C saves and stops; --resume
    continues, bit for bit. For several GPUs use torchrun as below; the -- keeps it from reading janus's options.

    Examples:
      janus train
      janus train --recipe multi30k --data-dir ~/multi30k
      janus train --recipe multi30k --objective cmlm --set training.updates=5000
      janus train --resume runs/multi30k-janus
      janus train --recipe multi30k --from runs/multi30k-ar
      janus train --recipe squad_qg --data-dir SQUAD --from runs/bart-base
      torchrun --nproc-per-node 2 -m -- janus_cli train --recipe iwslt14
    """
    from janus_cli import recipe_load, runs
    from janus_cli.errors import Stopped, UsageError

    if resumed is not None and not resume:
        raise UsageError(f"{resumed}: RUN is accepted only with --resume", "name a new run's folder with --run")
    folder = options.one_run(resumed, run)
    own = resume and recipe is None and start is None
    named = str(runs.find_run(folder).recipe) if own else recipe or "demo"
    recipe_load.load(named, changes, objective, runs.basis_of(recipe, folder, start, resume=resume))
    options.check_place(folder or Path())
    from janus_cli.training.run import train as run_training

    allowed = options.names(*allow_change or ())
    try:
        run_training(
            recipe=recipe, objective=objective, run=folder, prepared=prepared, data_dir=data_dir, resume=resume,
            start=start, allow_change=allowed, changes=changes or (), device=device, seed=seed,
            threads=threads, force=force, dry_run=dry_run,
        )  # fmt: skip
    except KeyboardInterrupt as stop:  # once updates are made, `Trainer.fit` stops in a way of its own
        number = getattr(stop, "number", signal.SIGINT)
        raise Stopped(number, "stopped outside the updates; nothing to save") from None
