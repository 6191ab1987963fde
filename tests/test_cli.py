"""The shell around the commands: help, options, exit codes, broken pipes, full disks, and spoiled recipes."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from janus_cli import __version__, recipe_load
from janus_cli.cli import app, main
from janus_cli.errors import (
    CheckpointError,
    DataError,
    JanusError,
    NonFiniteError,
    OutOfMemoryError,
    RunInUseError,
    Stopped,
    UsageError,
    require,
)

Janus = Callable[..., tuple[int, str, str]]
_COMMANDS = typer.main.get_command(app).commands
_HEAVY = {"torch", "numpy", "sentencepiece", "safetensors", "sacrebleu"}


@pytest.fixture
def janus(capsys: pytest.CaptureFixture[str]) -> Janus:
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert isinstance(stopped.value.code, int)
        return (stopped.value.code, *capsys.readouterr())

    return run


def test_the_commands() -> None:
    assert set(_COMMANDS) == {
        "preprocess",
        "train",
        "decode",
        "score",
        "demo",
        "recipes",
        "inspect",
        "average",
        "distill",
        "export",
        "bench",
        "compare",
        "report",
    }


def test_version(janus: Janus) -> None:
    assert janus("--version") == (0, f"janus {__version__}\n", "")


def test_help_names_every_command(janus: Janus) -> None:
    code, out, err = janus("--help")
    assert (code, err) == (0, "")
    for name in _COMMANDS:
        assert re.search(rf"^  {name}  +[A-Z]\w+", out, re.MULTILINE), name
    assert "..." not in out.split("Commands:")[1]


def test_no_arguments_show_the_help(janus: Janus) -> None:
    code, out, err = janus()
    assert code == 2
    assert "Usage: janus" in out + err


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_shows_examples_that_its_options_take(janus: Janus, name: str) -> None:
    code, out, err = janus(name, "--help")
    assert (code, err) == (0, "")
    examples = out.split("\n  Examples:\n")[1].split("\nOptions:")[0].split("\nArguments:")[0]
    lines = [line.strip() for line in examples.split("\n") if line.strip()]
    assert len(lines) >= 2
    assert any(re.match(rf"janus {name}\b", line) for line in lines)
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
            _COMMANDS[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "No such command 'trian'"),
        (["recipes", "--nope"], "No such option"),
        (["recipes", "frobnicate"], "frobnicate"),
        (["recipes", "list", "demo"], "takes no name"),
        (["recipes", "show", "iwslt"], "no recipe named 'iwslt', did you mean iwslt14?"),
        (["recipes", "show", "demo", "--objective", "jnus"], "did you mean janus?"),
        (["recipes", "show", "demo", "--set", "seed"], "expected KEY=VALUE"),
        (["recipes", "show", "--markdown"], "--markdown goes with"),
        (["recipes", "explain", "seed", "--set", "seed=1"], "takes no changes"),
        (["recipes", "explain", "learning_rate"], "did you mean training.learning_rate?"),
    ],
)
def test_usage_mistakes(janus: Janus, arguments: list[str], words: str) -> None:
    code, out, err = janus(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert words in err


def test_recipes_are_listed(janus: Janus) -> None:
    code, out, err = janus("recipes")
    assert code == 0
    assert janus("recipes", "list")[1] == out
    assert janus("recipes", "show")[2] == "no recipe named: this is demo\n"
    assert [line.split()[0] for line in out.strip().split("\n")] == list(recipe_load.available())
    assert "recipes show" in err


def test_a_recipe_is_shown_as_the_command_line_changes_it(janus: Janus, tmp_path: Path) -> None:
    code, out, err = janus("recipes", "show", "iwslt14", "--objective", "ar", "--set", "training.learning_rate=1e-4")
    assert (code, err) == (0, "")
    file = tmp_path / "shown.yaml"
    file.write_text(out, encoding="utf-8")
    assert recipe_load.load(str(file)) == recipe_load.load("iwslt14", ["training.learning_rate=1e-4"], "ar")


_BOMB = "a: &a [x, x]\n" + "".join(
    f"{after}: &{after} [*{of}, *{of}]\n" for of, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "lines", "words"),
    [
        ("name: a\nmodul: {}\n", [2], "unknown key, did you mean model?"),
        ("name: a\nmodel:\n  hedas: 4\n", [3], "unknown key, did you mean heads?"),
        ("name: a\nseed: 1\nseed: 2\n", [3], "stands here again, first in line 2"),
        ("name: a\nmodel: {dropout: .nan}\n", [2], "finite"),
        ("name: a\ntraining:\n  updates: true\n", [3], "valid integer (got true)"),
        (f"name: z\n{_BOMB}", [*range(2, 11)], "anchors are not allowed"),
        ("name: !!python/object/apply:os.system ['touch pwned']\n", [1], "tags are not allowed"),
        ("name: a\ndata: {train: ../x}\n", [2], "plain name"),
        ("name: a\ndata: {source: /etc/de}\n", [2], "plain name"),
        ("name: a/b\n", [1], "plain name"),
        ("name: a\ndata:\n  downloads:\n  - url: http://x\n    save_as: ../x\n", [5], "plain name"),
        ("name: a\nx: 1\nseed: -1\nmodel: {heads: 3}\ndata: {min_tokens: 0}\n", [2, 3, 4, 5], "unknown key"),
    ],
)  # fmt: skip
def test_spoiled_recipes(
    janus: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lines: list[int], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text, encoding="utf-8")
    code, out, err = janus("recipes", "show", "bad.yaml")
    assert (code, out) == (2, "")
    named = [int(number) for number in re.findall(r"bad\.yaml:(\d+): ", err)]
    assert sorted(set(named)) == lines
    assert words in err
    assert "\nhint: " in err
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_recipe_of_ten_megabytes(janus: Janus, tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_bytes(b"name: a\n" + b"# filling\n" * 1_000_000)
    code, _, err = janus("recipes", "show", str(file))
    assert code == 2
    assert "larger than 1,000,000 bytes" in err


def test_traps_that_are_no_mistakes(janus: Janus, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("name: no\ntraining: {learning_rate: 1e-4}\n", encoding="utf-8")
    code, out, _ = janus("recipes", "show", str(file))
    assert code == 0
    assert "name: 'no'\n" in out
    assert "  learning_rate: 0.0001\n" in out


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (JanusError("thing", "do it"), 1),
        (UsageError("thing", "do it"), 2),
        (DataError("thing", "do it"), 3),
        (CheckpointError("thing", "do it"), 4),
        (NonFiniteError("thing", "do it"), 5),
        (OutOfMemoryError("thing", "do it"), 6),
        (RunInUseError("thing", "do it"), 7),
        (Stopped(signal.SIGTERM, "stopped", "do it"), 143),
        (Stopped(signal.SIGINT, "stopped", "do it"), 130),
    ],
)
def test_exit_codes(janus: Janus, monkeypatch: pytest.MonkeyPatch, problem: JanusError, code: int) -> None:
    _fail_with(problem, monkeypatch)
    said = "stopped" if isinstance(problem, Stopped) else "error: thing"
    assert janus("recipes", "show", "demo") == (code, "", f"{said}\nhint: do it\n")


def test_ctrl_c_is_no_error(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(KeyboardInterrupt(), monkeypatch)
    assert janus("recipes", "show", "demo") == (130, "", "stopped\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(RuntimeError("bug"), monkeypatch)
    with pytest.raises(RuntimeError, match="bug"):
        main(["recipes", "show", "demo"])
    _fail_with(OSError(errno.EIO, "strange"), monkeypatch)
    with pytest.raises(OSError, match="strange"):
        main(["recipes", "show", "demo"])


def _fail_with(problem: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise problem

    monkeypatch.setattr(recipe_load, "load", load)


_WRITER_BESIDE_A_FILE = """
import os
from pathlib import Path
from janus_cli.cli import app, main
@app.command()
def write() -> None:
    with Path("file").open("w") as file:
        print("for people", flush=True)
        for number in (1, 2):
            os.write(number, b"from a library")
        file.write("data")
main(["write"])
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_nobody_who_listens(tmp_path: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    def ended(*arguments: str) -> int:
        code = [sys.executable, *arguments]
        return subprocess.run(code, preexec_fn=close, cwd=tmp_path, capture_output=True, check=False).returncode

    assert ended("-c", _WRITER_BESIDE_A_FILE) == 0
    assert (tmp_path / "file").read_text() == "data"
    assert ended("-m", "janus_cli", "recipes") == 0
    assert ended("-m", "janus_cli", "nonsense") == 2


_QUIET_WRITER = """
import sys
from janus_cli.cli import app, main
@app.command()
def write() -> None:
    sys.stdout.write("kept in the buffer")
main(["write"])
"""


def _write_to(stdout: int, arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a janus whose stdout is this file; buffered, as it is outside of tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *arguments], stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["-m", "janus_cli", "recipes", "show", "demo"], ["-c", _QUIET_WRITER]])
def test_a_full_disk_is_one_clear_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        found = _write_to(full.fileno(), arguments)
    assert found == (1, "error: output: No space left on device\nhint: free some space and run it again\n")


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
    done = subprocess.run(
        [sys.executable, "-c", _SPEAKER], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
    )
    os.close(stderr)
    assert done.stdout == "done\n"


@pytest.mark.parametrize(
    "arguments",
    [["-c", _QUIET_WRITER], *(["-m", "janus_cli", *line] for line in (["recipes"], ["--help"], ["--version"]))],
)
def test_a_reader_that_went_away_ends_it_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = _write_to(writer, arguments)
    os.close(writer)
    assert found == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"pydantic", "rich", "yaml", *_HEAVY}),
        (["--version"], {"yaml", "rich", *_HEAVY}),
        (["train", "--help"], {"yaml", "rich", *_HEAVY}),  # typer reads options with pydantic
        (["recipes"], _HEAVY),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(arguments: list[str], absent: set[str]) -> None:
    code = (
        "import sys\nfrom janus_cli.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "print()\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.strip().split("\n")[-1].split())
    assert "typer" in loaded
    assert loaded & absent == set()


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
def test_a_missing_extra_is_installed_from_where_janus_came(
    monkeypatch: pytest.MonkeyPatch, origin: object, command: str
) -> None:
    def distribution(name: str) -> SimpleNamespace:
        if isinstance(origin, str):
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(read_text=lambda file: origin and json.dumps(origin))

    monkeypatch.setattr(metadata, "distribution", distribution)
    with pytest.raises(UsageError, match="no_such_module is not installed") as caught:
        require("no_such_module.writer", "report")
    assert caught.value.hint == command
    assert require("json", "x").__name__ == "json"


@pytest.mark.parametrize(
    ("line", "words"), [("janus tr", ["train"]), ("janus decode --mode ", ["auto", "ar", "nar", "semi", "spec"])]
)
def test_a_shell_completes(line: str, words: list[str]) -> None:
    asked = {"_JANUS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "janus_cli"], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == words


NAMELESS = """
recipes show nope | recipes show demo --set trainin.x=1 | preprocess --recipe nope | preprocess --set trainin.x=1
train --recipe nope | train --set trainin.x=1 | train --objective nope | train --resume nope | train --from nope
train --resume a --set trainin.x=1 | decode nope | decode --run nope | decode --set trainin.x=1
score nope.txt | score --run nope | inspect nope | inspect --run nope | average nope | average --run nope | export nope
distill nope | distill --set trainin.x=1 | bench nope | bench --set trainin.x=1
compare --recipe nope | compare --objectives nope | compare --set trainin.x=1 | compare --from nope
demo --set trainin.x=1 | report nope | report a --run nope
"""


def test_a_name_that_is_unknown_is_refused_before_torch_is_imported(janus: Janus, empty_folder: Path) -> None:
    """It costs seconds."""
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/recipe.yaml").write_text(recipe_load.dump(recipe_load.load("demo")))
    lines = [line.split() for line in re.split(r" \| |\n", NAMELESS.strip())]
    code = (
        "import sys\nfrom janus_cli.cli import main\n"
        f"for line in {lines}:\n"
        "    try: main(line)\n"
        "    except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line, ended in zip(lines, done.stdout.split("\n"), strict=False):
        assert ended == f"{3 if line[0:2] == ['score', 'nope.txt'] else 2} False", line
    assert done.stderr.count("error: ") == len(lines)
    assert len(re.findall("error: .*(?:nope|trainin)", done.stderr)) == len(lines)


@pytest.mark.parametrize("seconds", [0.02, 0.3])
def test_ctrl_c_is_no_error_whenever_it_comes(seconds: float, empty_folder: Path) -> None:
    """Before anything is imported, while torch is, and so on."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import janus_cli.__main__ as m; print(flush=True); m.main()", "train"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip().split("\n")[-1]) == (130, "stopped")
    assert "Traceback" not in err


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_devices_are_checked_at_once(janus: Janus, device: str) -> None:
    code, _, err = janus("train", "--device", device)
    assert code == 2
    assert "auto, cpu, cuda, cuda:N" in err
