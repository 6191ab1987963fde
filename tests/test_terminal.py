"""What reaches a terminal: no control characters, nothing that its encoding lacks, commands that can be copied."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import janus_cli
from janus_cli import console
from janus_cli.cli import VERBS, main
from janus_cli.terminal import command, visible
from tests.helpers import Janus, ends

HOSTILE = "a\x1b[2J\r\x07\x9b\u202e\nerror: forged\n  \x1b[1m:cat: [bold]b[/]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Grüße, 日本, a\u200db, \\x1b", "plain, Grüße, 日本, a\u200db, \\x1b"),
        ("\x1b[31m\n\r\t\x07\x00", r"\x1b[31m\n\r\t\x07\x00"),
        ("\x7f\x85\x9b\u2028\u202e\u2066", r"\x7f\x85\x9b\u2028\u202e\u2066"),
        ("name\udcff", r"name\udcff"),
    ],
)
def test_control_characters_are_shown_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


REFUSED = """
decode | decode --run | decode --checkpoint | average | export | distill | bench | report | inspect | score --run
train --recipe | train --objective | train --from | train --set | preprocess --recipe | preprocess --data-dir
recipes show | recipes explain | compare --objectives | compare --variant | score | decode --input
"""


@pytest.mark.parametrize("words", re.split(r" \| |\n", REFUSED.strip()))
def test_a_hostile_name_neither_moves_the_cursor_nor_forges_an_error(
    janus: Janus, empty_folder: Path, words: str
) -> None:
    code, out, err = janus(*words.split(), HOSTILE)
    assert code in (2, 3)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
    lines = err.split("\n")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert not any(line.startswith(("error: forged", "\x1b")) for line in lines)


def test_names_in_tables_lists_and_descriptions_are_shown_escaped(
    janus: Janus, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(HOSTILE.replace("/", "")).write_text("a b c\n")
    name = HOSTILE.replace("/", "")
    for found in (janus("score", name, "--reference", name), janus("score", name, "--reference", "nowhere")):
        assert "\x1b" not in "".join(map(str, found))
        assert not re.search(r"^error: forged", found[1] + found[2], re.MULTILINE)
    console.table(HOSTILE, ["metric", HOSTILE], [[HOSTILE, "1"]])
    out = capsys.readouterr().out
    assert out.count(visible(":cat: [bold]b[/]")) == 3
    assert out.count(r"\x1b[2J") == 3
    assert not set(out) & set("\x1b\r\x07\x9b\u202e")


def test_markup_and_names_of_emoji_stay_text(janus: Janus, empty_folder: Path) -> None:
    assert r"[bold]x[/bold] :cat: \[b]" in janus("average", r"[bold]x[/bold] :cat: \[b]")[2]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals to make")
@pytest.mark.parametrize("kind", ["xterm-256color", "dumb"])
def test_progress_on_a_terminal_shows_names_escaped_and_none_on_a_dumb_one(kind: str) -> None:
    code = f"""
import time
from janus_cli import console
with console.progress({HOSTILE!r}, 3) as bar:
    for _ in range(3):
        bar.advance(1, {HOSTILE!r})
    time.sleep(0.3)
"""
    shown = _on_a_terminal(code, TERM=kind, COLUMNS="300")
    assert (visible(HOSTILE).encode() in shown) == (kind != "dumb")
    assert b"\x1b[2J" not in shown
    assert "🐈".encode() not in shown
    assert b"\x1b" not in shown or kind != "dumb"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals to make")
@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_progress_in_a_narrow_terminal_drops_the_losses_first(width: int) -> None:
    code = """
import time
from janus_cli import console
with console.progress("training", 20_000, start=100) as bar:
    bar.advance(900, "ce_ar 4.653, ce_nar 5.201")
    time.sleep(0.3)
"""
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", _on_a_terminal(code, COLUMNS=str(width)).decode())
    lines = [line.strip() for line in shown.replace("\r", "\n").split("\n") if "1,000" in line]
    assert lines
    for line in lines:
        assert len(line) <= width
        assert "1,000 / 20,000" in line
        assert (" left" in line) == (width >= 40)
        assert ("ce_nar 5.201" in line) == (width == 160)


def test_the_time_left_is_that_of_what_ends_first() -> None:
    code = """
import time
from janus_cli import console
for left in (120, 3_000):
    with console.progress("training", 10**9, every_seconds=0, left=lambda: left) as bar:
        time.sleep(0.01)
        bar.advance(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"\S+ min left", done.stderr) == ["2 min left", "50 min left"]


def _on_a_terminal(code: str, **environment: str) -> bytes:
    """What a program in Python writes on stderr, which is a terminal."""
    terminal, other = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", **environment}
    done = subprocess.run([sys.executable, "-c", code], check=False, stderr=other, env=environment)
    os.close(other)
    shown = b""
    while part := _read(terminal):
        shown += part
    os.close(terminal)
    assert done.returncode == 0
    return shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux, at the end
        return b""


def test_commands_can_be_copied() -> None:
    words = ["janus", "decode", "--run", Path("-a b/[c]'s $x"), Path("-"), "", Path("plain/x")]
    assert shlex.split(command(*words)) == ["janus", "decode", "--run", "./-a b/[c]'s $x", "-", "", "plain/x"]


def test_the_next_step_of_a_run_with_an_odd_name_can_be_typed(janus: Janus, trained: Path) -> None:
    Path("run").rename("-a b [1]'s")
    err = ends(janus("average", "--run=-a b [1]'s", "--last", "2"), 0)
    verb, *words = shlex.split(re.findall("^next: janus (.*)$", err, re.MULTILINE)[0])
    err = ends(janus(verb, *words), 0, "checkpoint average-last2")
    scoring = shlex.split(re.findall("`janus (.*)`$", err, re.MULTILINE)[0])
    assert janus(*scoring)[0] == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize("word", ["a\nb", "\x1b[2J'\\n", "\x9bü\u202e\n", os.fsdecode(b"\xff\xfe\x01"), "$`a`\t!"])
def test_commands_with_control_characters_can_be_copied_into_bash(word: str) -> None:
    line = command("printf", "%s", word)
    assert line == visible(line)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    assert subprocess.run(["bash", "-c", line], check=True, capture_output=True, env=environment).stdout == os.fsencode(
        word
    )


def test_every_command_that_is_shown_is_quoted() -> None:
    """A command with a value in it comes from `terminal.command`, which is the one place that quotes."""
    for file in Path(janus_cli.__file__).parent.rglob("*.py"):
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            assert not re.search(r"""f["'].*\bjanus [a-z]+ [^"]*--?[a-z-]+ \{""", line), f"{file}:{number}"
            assert "shlex.join" not in line, f"{file}:{number}"


Terminal = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Runs `janus` with streams of an encoding: (exit code, stdout, stderr)."""

    def run(encoding: str, *arguments: str) -> tuple[int, bytes, bytes]:
        written = io.BytesIO(), io.BytesIO()
        streams = [io.TextIOWrapper(raw, encoding=encoding) for raw in written]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
        for stream in streams:
            stream.flush()
        out, err = (raw.getvalue() for raw in written)
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, out, err

    return run


ENCODINGS = ["ascii", "latin-1", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_and_lists_on_terminals_without_unicode(terminal: Terminal, encoding: str) -> None:
    for words in (["--help"], *([verb, "--help"] for verb in VERBS), ["recipes"], ["recipes", "explain"]):
        code, out, err = terminal(encoding, *words)
        assert code == 0, err
        text = out.decode(encoding)
        assert encoding != "ascii" or out.isascii()
        assert "\ufffd" not in text
    out = terminal(encoding, "compare", "--help")[1].decode(encoding)
    assert ("NAME,…" if encoding == "cp1252" else "NAME,...") in out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_and_tables_on_terminals_without_unicode(terminal: Terminal, empty_folder: Path, encoding: str) -> None:
    code, _, err = terminal(encoding, "average", "日本…")
    assert (code, rb"\u65e5\u672c" in err) == (2, True)
    Path("ö").write_text("ein mann ging\nein hund\n" * 4, encoding="utf-8")
    code, out, err = terminal(encoding, "score", "ö", "--reference", "ö", "--bootstrap", "9")
    assert code == 0, err
    assert ("100.00 … 100.00" if encoding == "cp1252" else "100.00 ... 100.00") in out.decode(encoding)
    assert "─" not in out.decode(encoding)
    drawn = [line for line in out.decode(encoding).split("\n") if line.startswith(("|", "+"))]
    assert len(drawn) > 4
    assert len(set(map(len, drawn))) == 1  # stand-ins are as wide as the table thinks


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_programs_read_is_utf_8_on_every_terminal(terminal: Terminal, empty_folder: Path, encoding: str) -> None:
    Path("ö").write_text("ein mann\n", encoding="utf-8")
    out = terminal(encoding, "score", "ö", "--reference", "ö", "--json")[1]
    assert json.loads(out.decode())["hypotheses"] == "ö"
    assert "about: 日本" in terminal(encoding, "recipes", "show", "demo", "--set", "about=日本")[1].decode()


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "0"}, {"COLUMNS": "1"}, {"COLUMNS": "20"}, {"COLUMNS": "x"}, {"TERM": "dumb"}, {"NO_COLOR": "1"},
     {"TERM": "", "LINES": "0"}],
)  # fmt: skip
def test_odd_terminals_show_everything(
    janus: Janus, empty_folder: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    err = ends(janus("recipes", "show", "iwslt"), 2, out="")
    assert err.startswith("error: no recipe named 'iwslt', did you mean iwslt14?\nhint: ")
    assert janus("--help")[0] == janus("train", "--help")[0] == 0
    Path("a").write_text("ein mann ging\n")
    code, out, err = janus("score", "a", "--reference", "a")
    assert (code, "100.00" in out) == (0, True)
