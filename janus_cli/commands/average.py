"""`janus average`: the mean of several checkpoints' weights."""

from typing import Annotated

import typer

from janus_cli.commands import options


def average(
    run: options.RunArgument = None,
    run_option: options.Run = None,
    last: Annotated[
        int | None, typer.Option(min=1, max=10**6, metavar="N", help="Average the N newest checkpoints.")
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**6,
            metavar="N",
            help="Average the N best, by the run's best_metric, of the checkpoints that it kept.",
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take the moving average that training.ema keeps in the newest checkpoint.")
    ] = False,
    force: options.Force = False,
) -> None:
    """The new checkpoint is named average-lastN, average-bestN or average-ema; give this name to `janus decode
    --checkpoint`. By default the last 5 are averaged. If the run has fewer than asked for, all of them are averaged,
    and N is their number.

    Examples:
      janus average
      janus average multi30k-janus --best 3
      janus decode --run multi30k-janus --checkpoint average-best3
    """
    from janus_cli import console, runs
    from janus_cli.errors import UsageError
    from janus_cli.terminal import command

    if bool(last) + bool(best) + ema > 1:
        raise UsageError("--last, --best and --ema exclude each other", "give one of them")
    named = options.one_run(run, run_option)
    chosen = runs.find_run(named)
    if chosen.is_export:
        raise UsageError(f"{chosen.path} is an export: it has one checkpoint, and nothing to average", "name a run")
    from janus_cli.training.average import average_checkpoints, running_mean

    if named is None:
        console.say(f"run {chosen.path}, the newest")
    if ema:
        folder, names = running_mean(chosen, force=force)
    else:
        folder, names = average_checkpoints(chosen, last=last, best=best, force=force)
    console.say(f"{folder}: mean of {', '.join(names)}")
    console.say(f"next: {command('janus', 'decode', '--run', chosen.path, '--checkpoint', folder.name)}")
