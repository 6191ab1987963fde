"""The command `janus`: each verb is a function in `commands/`; failures become messages and exit codes here.

`janus --help` answers at once: a verb is imported when it is called, and torch, numpy or pydantic inside it.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from inspect import cleandoc
from keyword import iskeyword
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from janus_cli import __version__
from janus_cli.errors import JanusError, Stopped, UsageError, check_machine, from_system
from janus_cli.system import BROKEN_PIPE
from janus_cli.terminal import fit_streams, fitting

VERBS = {  # what `janus --help` says of each, and what its own help begins with
    "preprocess": "Turn text into token ids: check, clean, filter, make a tokenizer, encode.",
    "train": "Train a model on prepared data; text that is not prepared yet is prepared first.",
    "decode": "Decode text, autoregressively or not, with a trained model.",
    "score": "Score hypotheses against references: BLEU, chrF, TER, ROUGE, exact match, edit distance; each "
    "with its signature.",
    "demo": "Train AR, CMLM and JANUS on made-up text, decode each in every way, score, compare; about 5 minutes on 2 "
    "cores.",
    "recipes": "List the recipes, show one with every default filled in, or explain the knobs.",
    "inspect": "Show what a run, a checkpoint or prepared data holds: sizes, vocabulary, objective, origin, steps, "
    "fingerprints.",
    "average": "Average the weights of a run's last or best checkpoints into a new checkpoint of the run.",
    "draft-head": "Fit a draft head, which makes speculative decoding faster than greedy search.",
    "distill": "Make training data from a model's outputs: sequence-level knowledge distillation (Kim & Rush 2016).",
    "import": "Turn a pre-trained model in Hugging Face's format into a run: BART, mBART, Marian, Pegasus.",
    "export": "Export a model to a folder that other programs can use without its run.",
    "bench": "Measure every decoding mode of a run: quality, decoder passes, latency, throughput, memory.",
    "compare": "Train several objectives with an equal budget, decode each in every mode it has, score and time them.",
    "report": "Show one run, or several side by side, on one HTML page that needs no network.",
}
# Click's usage error, from whichever click this typer uses (its own copy, or the click package).
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]
SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,  # a bug keeps its plain traceback
    "rich_markup_mode": None,  # plain help needs no rich, and reads the same everywhere
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class Verbs(typer.core.TyperGroup):
    """Imports a verb and makes its command when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        names: Any = dict.fromkeys(VERBS)  # the command comes later; a mistyped name is compared with them
        self.commands = {**names, **self.commands}

    def get_help(self, ctx: Any) -> str:
        return fitting(super().get_help(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in VERBS and not self.commands[cmd_name]:
            self.commands[cmd_name] = _command(cmd_name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def function_of(verb: str) -> Any:
    """What a verb calls; its parameters are the verb's options."""
    name = verb.replace("-", "_")
    return getattr(import_module(f"janus_cli.commands.{name}"), f"{name}_" if iskeyword(name) else name)


def _command(verb: str) -> Any:
    """A verb's function as a command: its docstring is the rest of the help."""
    from janus_cli.commands.options import FileLists, Verb, checked

    function = function_of(verb)
    # Paragraphs with indented lines (examples) keep their line breaks: \b tells click so.
    paragraphs = [VERBS[verb], *cleandoc(function.__doc__ or "").split("\n\n")]
    paragraphs = [f"\b\n{each}" if "\n  " in each or each.startswith("  ") else each for each in paragraphs]
    own = typer.Typer(add_completion=False, **SETTINGS)
    form = FileLists if verb == "preprocess" else Verb
    own.command(verb, cls=form, help="\n\n".join(paragraphs))(checked(function))
    return typer.main.get_command(own)


app = typer.Typer(
    name="janus",
    cls=Verbs,
    help=(
        "One encoder-decoder Transformer that generates autoregressively and non-autoregressively.\n\n"
        "Every command but import works without options: those that train take the recipe `demo`, the others the "
        "newest run under runs/. Start with `janus demo`."
    ),
    no_args_is_help=True,
    **SETTINGS,
)


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

    A stop signal is 128 + its number and no error. A reader that went away (`janus decode | head -1`) ends the command
    quietly with 141, as SIGPIPE would.
    """
    code = 0
    try:
        _replace_closed_streams()
        fit_streams()
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
    except (KeyboardInterrupt, typer.Abort) as stop:
        with suppress(OSError):  # nobody may be reading
            typer.echo(str(stop) or "stopped", err=True)
        code = 128 + getattr(stop, "number", signal.SIGINT)
    except (OSError, MemoryError, RuntimeError, ImportError) as problem:
        found = _environment(problem)
        if found is None:
            raise
        code = found
        if not getattr(problem, "filename", None):
            _drop_stdout()
    sys.exit(code)


def _environment(problem: Exception) -> int | None:
    """The exit code for what is the fault of the machine or of whoever reads the output; None for a bug."""
    if isinstance(problem, OSError) and problem.errno == errno.EPIPE:
        return BROKEN_PIPE
    if isinstance(problem, OSError) and problem.errno == errno.EBADF and sys.__stdout__ is None:
        return _fail(JanusError("stdout is closed, as by `>&-`", "send it to a file, or to /dev/null"))
    try:
        check_machine(problem)
    except JanusError as told:
        return _fail(told)
    about_path = from_system(problem) if isinstance(problem, OSError) else None
    return None if about_path is None else _fail(about_path)


def _replace_closed_streams() -> None:
    """Opens the null device in place of each standard stream that the caller closed (`>&-`).

    Otherwise the next opened file would get descriptor 0-2, and with it what is printed. What is for stdout cannot be
    written there, and fails.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_RDWR)
            os.set_inheritable(number, True)  # as the real ones are
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


def _usage(problem: Exception) -> int:
    """An option or argument that does not fit, in the words of click."""
    context = getattr(problem, "ctx", None)
    message = problem.format_message() if hasattr(problem, "format_message") else str(problem)
    if type(problem).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{message}\n")
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
