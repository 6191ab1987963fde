"""Options that several commands share: one spelling, one help text.

    def train(recipe: options.Recipe = None, changes: options.Set = None, force: options.Force = False) -> None: ...

Cheap to import: `janus --help` reads it.

Commands that compute first load the recipe or call `named_run`: a mistyped name is refused in a third of a second, not
after the two seconds that importing torch takes.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer

from janus_cli.core.knob import SOURCES, knobs
from janus_cli.core.knobs import OBJECTIVES, Decoding
from janus_cli.errors import UsageError, from_system
from janus_cli.measures import MEASURES
from janus_cli.measures import Tokenize as Tokenizer
from janus_cli.terminal import fitting

LARGEST = 2**63 - 1  # the largest whole number that recipes, JSON and generators of random numbers all take


def _device(value: str) -> str:
    from janus_cli.system import is_device

    if not is_device(value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N")
    return value


def _metric(value: str | None) -> str | None:
    if value is not None and value not in MEASURES:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(MEASURES)}")
    return value


def names(*texts: str) -> list[str]:
    """The names in comma-separated lists, without repeats, in order."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def numbers(text: str, flag: str, example: str, least: int = 0, most: int = LARGEST) -> list[int]:
    """Whole numbers from `least` to `most` in a comma-separated list, without repeats, in order."""
    listed = names(text)
    if not listed or not all(n.isdecimal() and len(n) < 20 and least <= int(n) <= most for n in listed):
        wanted = f"a list of numbers from {least} to {most:,}, as in {example}"
        raise typer.BadParameter(f"{text!r:.60} is not {wanted}", param_hint=flag)
    return list(map(int, listed))


Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME|FILE", help="A recipe by name (see `janus recipes`) or a YAML file."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one knob of the recipe, as in training.updates=500. Repeatable."
    ),
]
SetDecoding = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one decoding knob, as in decoding.max_ratio=2; only knobs of decoding can be changed here. "
        "Repeatable.",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        help=f"Replace the recipe's objective by this one, with its defaults: {', '.join(OBJECTIVES)}.",
    ),
]
RunArgument = Annotated[Path | None, typer.Argument(metavar="RUN", help="The same as --run.", show_default=False)]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="FOLDER|NAME",
        help="A training run, an exported folder, or pretrained:NAME; by default the newest under runs/.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="FOLDER|NAME", help="best, last, step-000500, or a folder; by default best, else last."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Your text: FOLDER/train.SOURCE, FOLDER/train.TARGET and so on, named after data.source and data.target.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME|NUMBER",
        help="If the text is in a table (TSV, CSV, JSON lines, Parquet, …): its column, by name, or by number "
        "from 1 if there is no header.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", callback=_device, help="Device to compute on.")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=LARGEST, metavar="N", help="Seed of everything random; by default the recipe's."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=4096,
        metavar="N",
        help="CPU threads; by default one a core, or as many as before, or those that are best for what is timed.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace what an earlier call made, also what it left unfinished; of a run, its checkpoints and log.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="NAME", callback=_metric, help="Score by this metric (see `janus score`), not the recipe's."
    ),
]
Tokenize = Annotated[
    Tokenizer | None,
    typer.Option("--tokenize", help="How BLEU splits words (sacreBLEU); by default as the recipe says, else 13a."),
]


def one_run(argument: Path | None, option: Path | None) -> Path | None:
    """The run given as RUN or by --run; None if neither is given. Raises UsageError if both are, and they differ."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"{argument} and --run {option} both name a run", "give one of them")
    return option if argument is None else argument


def named_run(
    argument: Path | None, option: Path | None, checkpoint: Path | None = None, changes: Sequence[str] | None = None
) -> Path | None:
    """`one_run`, which must exist, as must the checkpoint (a folder names its run, too) and the knobs to change.

    Raises UsageError for the run and its recipe with these changes, or a checkpoint `pretrained:NAME`; CheckpointError
    for any other checkpoint.
    """
    from janus_cli import recipe_load, runs
    from janus_cli.system import followed

    if checkpoint is not None and runs.pretrained(checkpoint):
        raise UsageError(f"--checkpoint {checkpoint}: it is a run, with one checkpoint", f"use --run {checkpoint}")
    run, checkpoint = one_run(argument, option), checkpoint and followed(checkpoint)
    if checkpoint is not None and run is None and checkpoint.is_dir():
        recipe = checkpoint / "recipe.yaml"
    else:
        found = runs.find_run(run)
        recipe = found.recipe
        if checkpoint is not None:
            found.must_have(checkpoint)
    if changes and recipe.is_file():
        recipe_load.load(str(recipe), changes)
    return run


def check_place(folder: Path) -> None:
    """Raises UsageError if no run can begin there.

    That is the name of a model that comes with janus, or a path that is not UTF-8: safetensors could not read the
    weights in it again.
    """
    from janus_cli.runs import pretrained

    if pretrained(folder):
        hint = f"start from its weights: --from {folder}, and name a new folder with --run"
        raise UsageError(f"{folder} comes with janus: it is not trained any further", hint)
    try:
        os.fsencode(folder.resolve()).decode()  # its bytes: how Python shows them depends on the locale
    except UnicodeDecodeError:
        reason = "its path is not UTF-8, and weights in it could not be read again"
        raise UsageError(f"{folder.resolve()}: {reason}", "choose a folder of another name with --run") from None


class Verb(typer.core.TyperCommand):
    """A command whose help fits any terminal, and which refuses empty values: a path would be the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, *_ = self.make_parser(ctx).parse_args(list(args))
        for option in self.params:
            if "" in _listed(given.get(option.name)):
                hint = "give it a value, or leave it out: is a variable not set?"
                raise UsageError(f"{option.opts[0]} is empty", hint)
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Any) -> str:
        return fitting(super().get_help(ctx))


class FileLists(Verb):
    """A command without arguments, whose options that name a split's files take all words up to the next option.

    `--train a.de b.en --valid c.de d.en` is read as `--train a.de --train b.en --valid c.de --valid d.en`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = ("--train", "--valid", "--test")
        words: list[str] = []
        flag = ""
        for word in args:
            if word.startswith("-"):
                if flag and words[-1] == flag:
                    raise UsageError(f"{flag} names no file", f"as in {flag} a.de b.en")
                flag = next((each for each in lists if word.split("=")[0] == each), "")
            elif flag and words[-1] != flag:
                words.append(flag)
            words.append(word)
        return super().parse_args(ctx, words)


def _listed(value: Any) -> Sequence[Any]:
    """The values of an option: several if it is repeatable."""
    return value if isinstance(value, list | tuple) else [value]


Command = TypeVar("Command", bound=Callable[..., None])


def checked(command: Command) -> Command:
    """The command, which first refuses what no system can use: paths too long or in a circle of links, and NaN."""

    for parameter in inspect.signature(command).parameters.values():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            option.readable = False  # what may not be read is told where it is read, with its owner

    @wraps(command)
    def call(**given: Any) -> None:
        for name, values in given.items():
            for value in _listed(values):
                if isinstance(value, Path):
                    _must_be_usable(value)
                elif isinstance(value, float) and not isfinite(value):
                    raise UsageError(f"--{name.replace('_', '-')} {value}: not a finite number", "give a number")
        command(**given)

    return cast(Command, call)


def _must_be_usable(path: Path) -> None:
    """Raises UsageError if the system does not even look for such a path. One that is not there is the command's."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError as problem:
        raise UsageError(f"{path}: {problem}", "name a file or a folder") from None
    except OSError as problem:
        raise from_system(problem) or problem from None


def with_decoding_options(*names: str, before: str) -> Callable[[Command], Command]:
    """Gives a command with `**options` an option for each decoding knob that has a flag, or only for those named.

    before: the parameter that they precede in the help. Their value is None if they are left out.
    """

    def add(command: Command) -> Command:
        own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        place = [each.name for each in own].index(before)
        own[place:place] = map(
            _decoding_option, names or [name for name, knob in _DECODING.items() if knob.flag is not None]
        )
        command.__dict__["__signature__"] = inspect.Signature(own)
        return command

    return add


_DECODING, _TYPES = knobs(Decoding), get_type_hints(Decoding)


def _decoding_option(name: str) -> inspect.Parameter:
    knob, kind = _DECODING[name], _TYPES[name]
    modes = dict.fromkeys(mode.split(" ")[0] for mode in knob.modes)
    about = f"{', '.join(modes)}: {knob.about}." if modes else f"{knob.about[0].upper()}{knob.about[1:]}."
    about += "" if knob.gt is None else f" Above {knob.gt:g}."  # typer has no open bounds
    about += f" Source: {SOURCES[knob.source]}." if knob.source in SOURCES else ""
    flag = knob.flag or f"--{name.replace('_', '-')}"
    metavar = {int: "N", int | None: "N", float: "X"}.get(kind)
    option = typer.Option(flag, min=knob.ge, max=knob.le, metavar=metavar, help=about, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[kind | None, option]
    )


def typed(context: typer.Context, *but: str) -> list[str]:
    """The options given on the command line, as words, without those of the parameters `but`."""
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in but:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        else:
            for each in _listed(value):
                words += [option.opts[0], str(each)]
    return words
