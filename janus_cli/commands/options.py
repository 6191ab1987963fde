"""Options that several commands share, each with one spelling and one help text.

    def train(recipe: RecipeOption = None, changes: SetOption = None, device: DeviceOption = "auto") -> None: ...

Cheap to import: `janus --help` reads it.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from janus_cli.core.knobs import OBJECTIVES


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N")
    return value


def names(*texts: str) -> list[str]:
    """What stands between commas, each once, in order."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME|FILE", help="A recipe by name (see `janus recipes`) or a YAML file."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one knob of the recipe, as in training.updates=500. Repeatable."
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        help=f"Exchange the recipe's objective for this one's defaults: {', '.join(OBJECTIVES)}.",
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="FOLDER|NAME", help="A training run; by default the newest one under runs/."),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FOLDER|NAME",
        help="best, last, step-000500, or a folder; by default best, else last.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Where your text is: FOLDER/train.de, FOLDER/train.en and so on."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", callback=_device, help="Where to compute."),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, metavar="N", help="Seed of everything random; by default the recipe's."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="CPU threads for computing; by default what torch chooses."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, check it, write nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]


def typed(context: typer.Context, *but: str) -> list[str]:
    """The options that stand on the command line, to repeat them, without those whose parameters are named in `but`."""
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in but:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        else:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [option.opts[0], str(each)]
    return words
