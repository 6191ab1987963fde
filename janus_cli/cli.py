"""The command `janus`: one function per verb in `commands/`, one place where a failure becomes a message and an exit code.

Nothing imported here may import torch, numpy or pydantic: `janus --help` answers at once. Commands import those inside.
"""

import errno
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from janus_cli import __version__
from janus_cli.errors import JanusError

# A click usage error, whichever click this typer carries (its own copy, or the click package).
_ClickUsageError = typer.BadParameter.__bases__[0]
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

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


def _help(function: Callable[..., object]) -> str:
    """The docstring; paragraphs with indented lines (examples) keep their line breaks: click reads \\b so."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(f"\b\n{text}" if "\n  " in text or text.startswith("  ") else text for text in paragraphs)


for _name in ("preprocess", "train", "decode", "score", "demo", "recipes", "inspect", "average"):
    try:
        _module = importlib.import_module(f"janus_cli.commands.{_name}")
    except ModuleNotFoundError:
        continue
    app.command(_name, help=_help(getattr(_module, _name)))(getattr(_module, _name))


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
    try:
        code = app(None if arguments is None else list(arguments), prog_name="janus", standalone_mode=False)
        sys.stdout.flush()
    except JanusError as problem:
        _report(problem.message, problem.hint)
        code = problem.exit_code
    except _ClickUsageError as problem:
        code = _usage(problem)
    except (KeyboardInterrupt, typer.Abort):
        code = 128 + signal.SIGINT
    except OSError as problem:
        if problem.errno == errno.EPIPE:
            code = 128 + signal.SIGPIPE
        elif problem.errno in _NO_ROOM:
            _report(
                f"cannot write {problem.filename or 'the output'}: {problem.strerror}",
                "free some space and run it again",
            )
            code = 1
        else:
            raise
        _drop_stdout()
    sys.exit(code if isinstance(code, int) else 0)


def _usage(problem: Exception) -> int:
    """An option or argument that does not fit, in the words of click."""
    context = getattr(problem, "ctx", None)
    message = problem.format_message() if hasattr(problem, "format_message") else str(problem)
    if type(problem).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
        return 2
    _report(message.rstrip("."), f"see `{context.command_path if context else 'janus'} --help`")
    return 2


def _report(message: str, hint: str) -> None:
    from janus_cli import console  # rich costs 50 ms

    console.error(message, hint)


def _drop_stdout() -> None:
    """What is still buffered cannot be written; without this, Python tries once more at exit and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
