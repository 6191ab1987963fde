"""The shell around the commands: help, options, exit codes, interrupts, broken pipes, full disks, early refusals."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from janus_cli import __version__, errors, recipe_load
from janus_cli.cli import VERBS, main
from tests.helpers import Janus, Patch, ends, parsed

_HEAVY = {"torch", "numpy", "sentencepiece", "safetensors", "sacrebleu", "yaml"}


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Its stdout is buffered, as it is outside of tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.run([sys.executable, *arguments], check=False, text=True, **given)


def test_help_and_version(janus: Janus) -> None:
    code, out, err = janus("--help")
    assert (code, err) == (0, "")
    for verb, first in VERBS.items():
        assert re.search(rf"^  {verb}  +{first.split()[0]}", out, re.MULTILINE), verb
    assert janus("--version") == (0, f"janus {__version__}\n", "")
    code, out, err = janus()
    assert (code, "Usage: janus" in out + err) == (2, True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_shows_examples_that_its_options_take(janus: Janus, verb: str) -> None:
    code, out, err = janus(verb, "--help")
    assert (code, err) == (0, "")
    examples = out.split("\n  Examples:\n")[1].split("\nOptions:")[0].split("\nArguments:")[0]
    lines = [line.strip() for line in examples.split("\n") if line.strip()]
    assert len(lines) >= 2
    assert any(re.match(rf"janus {verb}\b", line) for line in lines)
    for line in lines:
        _parse(line)


@pytest.mark.parametrize("name", recipe_load.available())
def test_the_commands_in_a_recipe_can_be_typed(name: str) -> None:
    text = recipe_load.available()[name].read_text(encoding="utf-8").replace("\\\n#", " ")
    lines = re.findall(r"^#   ((?:janus|torchrun) .*)", text, re.MULTILINE)
    verbs = {re.findall(r"janus(?:_cli)? (\w+)", line.replace("  ", " "))[0] for line in lines}
    assert verbs == {"preprocess", "train", "decode", "score"}
    for line in lines:
        _parse(line)


def _parse(line: str) -> None:
    """Lets every janus command of a line of shell read its options, and runs none."""
    for part in re.split(r" [|>&] ?", line.split(" #")[0]):
        words = shlex.split(part)
        if words and words[0] == "torchrun":
            words = ["janus", *words[words.index("janus_cli") + 1 :]]
        if words and words[0] == "janus":
            parsed(*words[1:])


MISTAKES = [
    ("trian", "No such command 'trian'"),
    ("recipes --nope", "No such option"),
    ("recipes frobnicate", "frobnicate"),
    ("recipes list demo", "takes no name"),
    ("average a --run b", "a and --run b both name a run"),
    ("train a", "RUN is accepted only with --resume"),
    *((f"train --device {device}", "auto, cpu, cuda, cuda:N") for device in ("gpu", "cuda:", "cuda:x", "CPU")),
    *(
        (f"{words} ''", words.split()[-1])
        for words in ("train --dry-run --recipe", "decode --run", "decode --input", "train --dry-run --set")
    ),
    ("train --dry-run --recipe= --run a", "--recipe"),
    ("preprocess --train a ''", "--train"),
    ("score ''", "hypotheses"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_usage_mistakes(janus: Janus, words: str, said: str) -> None:
    err = ends(janus(*shlex.split(words)), 2, "\nhint: ", said, out="")
    assert err.startswith("error: ")


def test_all_mistakes_of_a_recipe_are_named_with_their_lines_and_none_does_anything(
    janus: Janus, empty_folder: Path
) -> None:
    text = "name: ../a\nmodul: {}\nseed: 1\nseed: 2\nabout: !!python/object/apply:os.system ['touch pwned']\n"
    Path("bad.yaml").write_text(f"{text}data: {{train: ../x}}\nmodel: {{dropout: .nan}}\n")
    err = ends(janus("recipes", "show", "bad.yaml"), 2, "\nhint: ", out="")
    assert [int(line) for line in re.findall(r"bad\.yaml:(\d+): ", err)] == [1, 2, 4, 5, 6, 7]
    assert [file.name for file in empty_folder.iterdir()] == ["bad.yaml"]


def test_recipes_are_listed(janus: Janus) -> None:
    code, out, err = janus("recipes")
    assert code == 0
    assert janus("recipes", "list")[1] == out
    assert janus("recipes", "show")[2] == "no recipe named: showing demo\n"
    assert [line.split()[0] for line in out.strip().split("\n")] == list(recipe_load.available())
    assert "recipes show" in err


def test_a_recipe_is_shown_as_the_command_line_changes_it(janus: Janus, tmp_path: Path) -> None:
    code, out, err = janus("recipes", "show", "iwslt14", "--objective", "ar", "--set", "training.learning_rate=1e-4")
    assert (code, err) == (0, "")
    file = tmp_path / "shown.yaml"
    file.write_text(out, encoding="utf-8")
    assert recipe_load.load(str(file)) == recipe_load.load("iwslt14", ["training.learning_rate=1e-4"], "ar")


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (errors.JanusError("thing", "do it"), 1, "error: thing\nhint: do it\n"),
        (errors.UsageError("thing"), 2, "error: thing\n"),
        (errors.DataError("thing"), 3, "error: thing\n"),
        (errors.CheckpointError("thing"), 4, "error: thing\n"),
        (errors.NonFiniteError("thing"), 5, "error: thing\n"),
        (errors.OutOfMemoryError("thing"), 6, "error: thing\n"),
        (errors.RunInUseError("thing"), 7, "error: thing\n"),
        (errors.Stopped(signal.SIGTERM, "stopped", "do it"), 143, "stopped\nhint: do it\n"),
        (errors.Stopped(signal.SIGINT, "stopped"), 130, "stopped\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (RuntimeError("bug"), None, ""),  # keeps its traceback
        (OSError("bug"), None, ""),
        (OSError(errno.EIO, "strange"), 1, "error: the system: strange\n"),
        (OSError(errno.EBADF, "strange"), 1, "error: the system: strange\n"),
    ],
)
def test_exit_codes(janus: Janus, monkeypatch: Patch, problem: BaseException, code: int | None, said: str) -> None:
    def load(*arguments: object) -> None:
        raise problem

    monkeypatch.setattr(recipe_load, "load", load)
    if code is None:
        with pytest.raises(type(problem)):
            main(["recipes", "show", "demo"])
    else:
        assert janus("recipes", "show", "demo") == (code, "", said)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("SIGINT", 0.02), ("SIGTERM", 0.02), ("SIGHUP", 0.02), ("SIGINT", 0.3), ("SIGTERM", 0.3), ("SIGUSR1", 0.3)],
)
def test_a_stop_signal_is_no_error_whenever_it_comes(name: str, seconds: float, empty_folder: Path) -> None:
    """Before anything is imported, while torch is, and so on."""
    number, ignored = signal.Signals[name], {signal.SIGHUP} - {signal.Signals[name]}  # as nohup does
    process = subprocess.Popen(
        [sys.executable, "-c", "import janus_cli.__main__ as m; print(flush=True); m.main()", "train"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: handlers(ignored),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    for each in ignored:
        process.send_signal(each)
    time.sleep(seconds)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip().split("\n")[-1]) == (128 + number, f"stopped by {name}"), err
    assert "Traceback" not in err


def handlers(ignored: set[signal.Signals]) -> None:
    """However the tests were started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)


_WRITER_BESIDE_A_FILE = """
import os
from contextlib import suppress
from pathlib import Path
from janus_cli.cli import app, main
@app.command()
def write() -> None:
    with Path("file").open("w") as file:
        for number in (1, 2):
            with suppress(OSError):
                os.write(number, b"from a library")
        file.write("data")
main(["write"])
"""


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_are_nobody_who_listens(tmp_path: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    for code, *arguments in (0, "-c", _WRITER_BESIDE_A_FILE), (2, "-m", "janus_cli", "nonsense"):
        assert python(*arguments, preexec_fn=close, cwd=tmp_path).returncode == code
    assert (tmp_path / "file").read_text() == "data"
    done = python("-m", "janus_cli", "recipes", preexec_fn=close)
    assert done.returncode == int(1 in closed), "what cannot be printed is no success"
    assert ("stdout is closed" in done.stderr) == (closed == (1,))


_QUIET_WRITER = """
import sys
from janus_cli.cli import app, main
@app.command()
def write() -> None:
    sys.stdout.write("kept in the buffer")
main(["write"])
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["-m", "janus_cli", "recipes", "show", "demo"], ["-c", _QUIET_WRITER]])
def test_a_full_disk_is_one_clear_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = python(*arguments, stdout=full)
    said = "error: output: No space left on device\nhint: free some space and run it again\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    "arguments",
    [["-c", _QUIET_WRITER], *(["-m", "janus_cli", *line] for line in (["recipes"], ["--help"], ["--version"]))],
)
def test_a_reader_that_went_away_ends_it_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python(*arguments, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


_SPEAKER = """
import os, sys
from janus_cli import console
before = os.fstat(1)
for _ in range(3):
    console.say("something long enough to be flushed")
    console.warn("and this")
with console.progress("work", 2, every_seconds=0) as bar:
    bar.advance()
assert os.fstat(1) == before
print("done")
"""


@pytest.mark.parametrize("where", ["/dev/full", "pipe"])
def test_nobody_who_hears_what_is_said_is_no_reason_to_stop(where: str) -> None:
    """A log on a full disk, a terminal or a `tee` that is gone."""
    if where == "pipe":
        reader, stderr = os.pipe()
        os.close(reader)
    elif Path(where).exists():
        stderr = os.open(where, os.O_WRONLY)
    else:
        return
    assert python("-c", _SPEAKER, stderr=stderr).stdout == "done\n"
    os.close(stderr)


_MODULES_OF = """
import sys
from janus_cli.cli import main
try:
    main({})
finally:
    print()
    print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"pydantic", "rich", *_HEAVY}),
        (["--version"], {"rich", *_HEAVY}),
        (["train", "--help"], {"rich", *_HEAVY}),  # typer reads options with pydantic
        (["recipes"], _HEAVY - {"yaml"}),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(arguments: list[str], absent: set[str]) -> None:
    loaded = set(python("-c", _MODULES_OF.format(arguments)).stdout.strip().split("\n")[-1].split())
    assert "typer" in loaded
    assert loaded & absent == set()


# With runs/a there. Refused with 2, but for a text or a checkpoint that is not there.
UNKNOWN = """
recipes show nope | recipes show demo --set trainin.x=1 | recipes explain nope
preprocess --recipe nope | preprocess --set trainin.x=1
train --recipe nope | train --set trainin.x=1 | train --objective nope | train --resume nope | train --from nope
train --resume a --set trainin.x=1 | decode nope | decode --run nope | decode --set trainin.x=1
score nope | score --run nope | inspect nope | inspect --run nope | average nope | average --run nope | export nope
decode a --checkpoint step-nope | bench a --checkpoint nope | export a --checkpoint nope
distill nope | distill --set trainin.x=1 | bench nope | bench --set trainin.x=1
bench --mode nope | compare --modes nope
compare --recipe nope | compare --objectives nope | compare --set trainin.x=1 | compare --from nope
demo --set trainin.x=1 | report nope | report a --run nope
train --nope 1 | decode --nope | score --nope | bench --nope=1 | report a --nope
"""
_REFUSALS = """
import sys
from janus_cli.cli import main
for line in {}:
    try:
        main(line)
    except SystemExit as stopped:
        print(stopped.code, "torch" in sys.modules)
"""


def test_an_unknown_name_is_refused_before_torch_is_imported(empty_folder: Path) -> None:
    """That alone takes seconds."""
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/recipe.yaml").write_text(recipe_load.dump(recipe_load.load("demo")))
    lines = [line.split() for line in re.split(r" \| |\n", UNKNOWN.strip())]
    done = python("-c", _REFUSALS.format(lines))
    for line, ended in zip(lines, done.stdout.split("\n"), strict=False):
        code = 4 if "--checkpoint" in line else 3 if line == ["score", "nope"] else 2
        assert ended == f"{code} False", line
    assert len(re.findall("error: .*(?:nope|trainin)", done.stderr)) == done.stderr.count("error: ") == len(lines)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'janus-cli[report]'"),  # an index
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "pip install -e '/a b[report]'"),
        ({"url": "file:///a", "dir_info": {}}, "pip install '/a[report]'"),
        ({"url": "file:///a/janus_cli-1.whl", "archive_info": {}}, "pip install '/a/janus_cli-1.whl[report]'"),
        ({"url": "https://x/y.git", "vcs_info": {"vcs": "git"}}, "pip install 'janus-cli[report] @ git+https://x/y.git'"),
        ("not installed", f"pip install -e '{Path(__file__).parents[1]}[report]'"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_installed_from_where_janus_came(monkeypatch: Patch, origin: object, command: str) -> None:
    def distribution(name: str) -> SimpleNamespace:
        if isinstance(origin, str):
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(read_text=lambda file: origin and json.dumps(origin))

    monkeypatch.setattr(metadata, "distribution", distribution)
    with pytest.raises(errors.UsageError, match="no_such_module is not installed") as caught:
        errors.require("no_such_module.writer", "report")
    assert caught.value.hint == f"{shlex.quote(sys.executable)} -m {command}"
    assert errors.require("json", "x").__name__ == "json"


@pytest.mark.parametrize(
    ("line", "words"), [("janus tr", ["train"]), ("janus decode --mode ", ["auto", "ar", "nar", "semi", "spec"])]
)
def test_a_shell_completes(line: str, words: list[str]) -> None:
    asked = {"_JANUS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert python("-m", "janus_cli", env={**os.environ, **asked}).stdout.split() == words
