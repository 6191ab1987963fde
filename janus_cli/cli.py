"""The command `janus`: a function per verb in `commands/`, one place where a failure becomes words and an exit code.

Nothing imported here may import torch, numpy or pydantic: `janus --help` answers at once. Commands import them inside.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Annotated, NoReturn

import typer

from janus_cli import __version__
from janus_cli.commands import (
    average,
    bench,
    compare,
    decode,
    demo,
    distill,
    export,
    inspect,
    preprocess,
    recipes,
    report,
    score,
    train,
)
from janus_cli.commands.options import JsonFile
from janus_cli.errors import JanusError

# A click usage error, whichever click this typer carries (its own copy, or the click package).
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]
_SURROUNDINGS = {  # not our bugs: what to do about them
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check the permissions, or choose another folder",
    errno.EPERM: "check the permissions, or choose another folder",
}

app = typer.Typer(
    name="janus",
    help=(
        "One encoder-decoder Transformer that generates autoregressively and non-autoregressively.\n\n"
        "Every command works with no option at all: the recipe is then `demo`, the run the newest under runs/."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback
    rich_markup_mode=None,  # plain help needs no rich, and reads the same everywhere
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(function: Callable[..., object]) -> None:
    """Makes a command of a function: its docstring is the help, the first line of it the entry in `janus --help`."""
    text = cleandoc(function.__doc__ or "")
    # Paragraphs with indented lines (examples) keep their line breaks: click takes \b as the sign for that.
    kept = "\n\n".join(
        f"\b\n{part}" if "\n  " in part or part.startswith("  ") else part for part in text.split("\n\n")
    )
    app.command(cls=JsonFile if function is bench.bench else None, help=kept, short_help=text.split("\n")[0])(function)


for _command in (
    preprocess.preprocess,
    train.train,
    decode.decode,
    score.score,
    demo.demo,
    recipes.recipes,
    inspect.inspect,
    average.average,
    distill.distill,
    export.export,
    bench.bench,
    compare.compare,
    report.report,
):
    _add(_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"janus {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs `janus` and exits: 0 done, `JanusError.exit_code` for what a user can act on, 1 with a traceback for a bug.

    A reader that went away (`janus decode | head -1`) ends the command quietly with 141, as SIGPIPE would.
    """
    _stand_in_for_closed_streams()
    command = typer.main.get_command(app)
    code = 0
    try:
        # Not app(): that would turn a broken pipe into exit 1 and print a usage mistake its own way.
        with command.make_context("janus", list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        code = stop.exit_code
    except JanusError as problem:
        code = _report(problem.message, problem.hint, problem.exit_code)
    except _ClickUsageError as problem:
        code = _usage(problem)
    except (KeyboardInterrupt, typer.Abort):
        code = 128 + signal.SIGINT
    except OSError as problem:
        if problem.errno == errno.EPIPE:
            code = 128 + signal.SIGPIPE
        elif problem.errno in _SURROUNDINGS:
            code = _report(f"{problem.filename or 'output'}: {problem.strerror}", _SURROUNDINGS[problem.errno], 1)
        else:
            raise
        _drop_stdout()
    sys.exit(code)


def _stand_in_for_closed_streams() -> None:
    """Opens the null device for what a caller closed (`>&-`): else the next file takes its number, and its words."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # as the real ones are
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


def _usage(problem: Exception) -> int:
    """An option or argument that does not fit, in the words of click."""
    context = getattr(problem, "ctx", None)
    message = problem.format_message() if hasattr(problem, "format_message") else str(problem)
    if type(problem).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
        return 2
    return _report(message.rstrip("."), f"see `{context.command_path if context else 'janus'} --help`", 2)


def _report(message: str, hint: str, code: int) -> int:
    from janus_cli import console  # rich costs 50 ms

    console.error(message, hint)
    return code


def _drop_stdout() -> None:
    """What is still buffered cannot be written; without this, Python tries once more at exit and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
