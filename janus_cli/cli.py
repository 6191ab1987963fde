"""The command `janus`: each verb is a function in `commands/`; failures become messages and exit codes here.

Nothing imported here may import torch, numpy or pydantic: `janus --help` answers at once. Commands import them inside.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from inspect import cleandoc
from typing import Annotated, NoReturn

import typer

from janus_cli import __version__
from janus_cli.commands.options import JsonFile
from janus_cli.errors import JanusError, Stopped, UsageError

VERBS = (
    "preprocess", "train", "decode", "score", "demo", "recipes", "inspect", "average", "distill", "export", "bench",
    "compare", "report",
)  # fmt: skip
# Click's usage error, from whichever click this typer uses (its own copy, or the click package).
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]
_SPACE, _PLACE = "free some space and run it again", "check the permissions, or choose another folder"
_ENVIRONMENT = {  # hints for failures that are no bugs of janus
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
}

app = typer.Typer(
    name="janus",
    help=(
        "One encoder-decoder Transformer that generates autoregressively and non-autoregressively.\n\n"
        "Every command works with no option at all: the recipe is then `demo`, the run the newest under runs/."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback
    rich_markup_mode=None,  # plain help needs no rich, and reads the same everywhere
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(function: Callable[..., object]) -> None:
    """Registers a function as a command: its docstring is the help text, the first line the entry in `janus --help`."""
    text = cleandoc(function.__doc__ or "")
    # Paragraphs with indented lines (examples) keep their line breaks: \b tells click so.
    paragraphs = [f"\b\n{each}" if "\n  " in each or each.startswith("  ") else each for each in text.split("\n\n")]
    kind = JsonFile if function.__name__ == "bench" else None
    app.command(cls=kind, help="\n\n".join(paragraphs), short_help=text.split("\n")[0])(function)


for _verb in VERBS:
    _add(getattr(import_module(f"janus_cli.commands.{_verb}"), _verb))


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

    Ctrl-C is 130 and no error. A reader that went away (`janus decode | head -1`) ends the command quietly with 141, as
    SIGPIPE would.
    """
    code = 0
    try:
        _replace_closed_streams()
        command = typer.main.get_command(app)
        if "_JANUS_COMPLETE" in os.environ:  # shell completion
            command.main(prog_name="janus")
        # Not app(): that turns a broken pipe into exit code 1 and prints usage errors in its own form.
        with command.make_context("janus", list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        code = stop.exit_code
    except JanusError as problem:
        code = _fail(problem)
    except _ClickUsageError as problem:
        code = _usage(problem)
    except (KeyboardInterrupt, typer.Abort):
        with suppress(OSError):  # nobody may be reading
            typer.echo("stopped", err=True)
        code = 128 + signal.SIGINT
    except OSError as problem:
        if problem.errno == errno.EPIPE:
            code = 128 + signal.SIGPIPE
        elif problem.errno in _ENVIRONMENT:
            code = _fail(JanusError(f"{problem.filename or 'output'}: {problem.strerror}", _ENVIRONMENT[problem.errno]))
        else:
            raise
        _drop_stdout()
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Opens the null device in place of each standard stream that the caller closed (`>&-`).

    Otherwise the next opened file would get descriptor 0-2, and with it what is printed.
    """
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
    message = message.replace("Value error, ", "").replace("Input should", "it should")
    return _fail(UsageError(message.rstrip("."), f"see `{context.command_path if context else 'janus'} --help`"))


def _fail(problem: JanusError) -> int:
    from janus_cli import console  # rich costs 50 ms

    if isinstance(problem, Stopped):
        console.say(problem.message)
        console.hint(problem.hint)
    else:
        console.error(problem.message, problem.hint)
    return problem.exit_code


def _drop_stdout() -> None:
    """Drops buffered output that cannot be written; Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
