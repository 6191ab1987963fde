"""Paths that no system takes, and what is no file or folder: refused with the path and the reason, by every option."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from processes import NO_PRIVILEGES, ended, janus

from janus_cli.cli import VERBS, function_of
from janus_cli.data import lines
from janus_cli.scoring import inputs
from tests.helpers import Janus, Patch, ends

LONG = "x" * 300
ODD = {  # a path, and why it is refused
    LONG: "File name too long",
    "loop/x": "Too many levels of symbolic links",
    "a\0b": "embedded null byte",
}


def options_of(verb: str, kind: str) -> list[list[str]]:
    """The words before the value of each option and argument of a verb whose type mentions this name."""
    parameters = inspect.signature(function_of(verb)).parameters.values()
    annotated = [(each.name, get_args(each.annotation)) for each in parameters]
    needed = ["." for each in parameters if each.default is each.empty and get_args(each.annotation)]
    markers = [(name, given[1]) for name, given in annotated if given and kind in str(given[0])]
    flags = []
    for name, marker in markers:
        said = [marker.default, *(marker.param_decls or ())]
        if isinstance(marker, typer.models.OptionInfo):
            said.append(f"--{name.replace('_', '-')}")  # typer's own, if the option says none
        flags.append([each for each in said if str(each).startswith("--")][:1])
    return [[verb, *needed, *flag] if flag else [verb] for flag in flags]


PATHS = [words for verb in VERBS for words in options_of(verb, "pathlib")]


def test_every_verb_that_takes_a_path_is_tried() -> None:
    assert {verb for verb, *_ in PATHS} == VERBS.keys() - {"demo", "recipes"}
    assert len(PATHS) > 35


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_a_path_that_no_system_takes(shell: Janus, empty_folder: Path, words: list[str]) -> None:
    Path("loop").symlink_to("loop")
    Path("file").write_text("a\n")
    for path, why in ODD.items():
        err = ends(shell(*words, path), 2, f"{why}\nhint: ", out="")
        assert err.startswith("error: ")
        assert path in err or "\0" in path
    assert sorted(file.name for file in empty_folder.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("key", ["data.dir", "tokenizer.reuse"])
@pytest.mark.parametrize("verb", ["preprocess", "train"])
def test_a_path_in_a_recipe_that_no_system_takes(shell: Janus, tiny_recipe: Path, verb: str, key: str) -> None:
    Path("loop").symlink_to("loop")
    Path("file").write_text("a\n")
    for path in (LONG, "loop/x", "file/x", "nowhere"):
        code, out, err = shell(verb, "--recipe", str(tiny_recipe), "--set", f"{key}={path}")
        assert (code in (2, 3), out) == (True, "")
        assert path in err
        assert "\nhint: " in err


@pytest.mark.parametrize("path", [LONG, "loop", "file/x", "folder", "fifo", "/dev/zero"])
@pytest.mark.parametrize("verb", ["recipes show", "preprocess --recipe", "train --recipe", "compare --recipe"])
def test_a_recipe_that_is_no_file(shell: Janus, empty_folder: Path, verb: str, path: str) -> None:
    """Nobody waits for a pipe that nobody writes to."""
    Path("loop").symlink_to("loop")
    Path("file").write_text("a\n")
    Path("folder").mkdir()
    os.mkfifo("fifo")
    ends(shell(*verb.split(), path if "/" in path or path == LONG else f"./{path}"), 2, path, "\nhint: ", out="")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("decode --run run --input data", 3), ("decode --run run --input tiny.yaml --out data", 3),
        ("decode --run run --input tiny.yaml --out tiny.yaml/x", 3), ("decode --run run --input tiny.yaml/x", 3),
        ("bench run --out tiny.yaml/x", 2), ("report run --out tiny.yaml/x", 2), ("export run --out tiny.yaml/x", 2),
        ("distill run --out tiny.yaml/x", 3), ("train --recipe tiny.yaml --run tiny.yaml/x", 2),
        ("inspect tiny.yaml/x", 2),
        ("preprocess --recipe tiny.yaml --out tiny.yaml/x", 2), ("score tiny.yaml/x", 3), ("average tiny.yaml/x", 2),
        ("train --recipe tiny.yaml --from tiny.yaml/x --run new", 2),
        ("compare --recipe tiny.yaml --out tiny.yaml/x", 3),
        ("distill run --out new --source tiny.yaml/x", 3), ("decode --run run --checkpoint tiny.yaml/x", 4),
        ("compare --recipe tiny.yaml --prepared tiny.yaml/x", 3), ("score tiny.yaml --reference tiny.yaml/x", 3),
        ("score data", 2), ("score data/nothing", 3),
        ("score tiny.yaml --reference data", 3), ("score tiny.yaml --reference tiny.yaml --against data", 3),
        ("inspect tiny.yaml", 2), ("report run --out data", 2), ("bench run --out data", 2),
        ("export run --out tiny.yaml", 2),
        ("preprocess --recipe tiny.yaml --out tiny.yaml", 2), ("train --recipe tiny.yaml --run tiny.yaml", 2),
        ("train --recipe tiny.yaml --prepared tiny.yaml --run new", 3), ("decode tiny.yaml", 2),
        ("decode --run run --checkpoint tiny.yaml", 4), ("distill run --source data --out new", 3),
        ("compare --recipe tiny.yaml --out tiny.yaml", 2),
    ],
)  # fmt: skip
def test_a_folder_where_a_file_belongs_and_a_file_where_a_folder(
    shell: Janus, trained: Path, words: str, code: int
) -> None:
    err = ends(shell(*words.split()), code, out="")
    assert "\nerror: " in f"\n{err}"


def test_a_name_whose_lock_is_too_long(shell: Janus, trained: Path) -> None:
    """The name fits, but not with the suffix of the file that is written beside it first."""
    name = "x" * 252
    for words in (
        ("preprocess", "--recipe", "tiny.yaml", "--out"), ("export", "run", "--out"),
        ("decode", "--run", "run", "--input", "tiny.yaml", "--out"), ("distill", "run", "--out"),
    ):  # fmt: skip
        code, out, err = shell(*words, name)
        assert (code in (2, 3), out) == (True, ""), err
        assert "File name too long" in err
        assert not Path(name).exists()


# Each command in a process of its own, which has no privileges and has imported everything already.
EACH = """
import os, sys
from janus_cli import cli
import janus_cli.commands.train, janus_cli.lab.compare, janus_cli.lab.report, janus_cli.decoding.decode
for words in {commands}:
    print("$", words, flush=True)
    sys.stderr.flush()
    process = os.fork()
    if not process:
        cli.main(words.split())
    print("code", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
DENIED = """
decode --run locked/run
decode --run run --input locked/text
decode --run run --input tiny.yaml --out locked/out
recipes show locked/tiny.yaml
inspect locked/run
score locked/tiny.yaml
score tiny.yaml --reference locked/tiny.yaml
train --recipe locked/tiny.yaml
train --recipe tiny.yaml --run locked/run
train --recipe tiny.yaml --run readonly
train --recipe tiny.yaml --prepared locked/data --run new
export locked/run
export run --out locked/out
preprocess --recipe tiny.yaml --out locked/out
preprocess --recipe tiny.yaml --data-dir locked/text --out new
distill run --out locked/out
compare --recipe tiny.yaml --objectives ar --out locked/out
average run
train --resume run --set training.updates=7 --allow-change training.updates
""".strip().split("\n")


def test_what_may_not_be_read_or_written_ends_with_2_everywhere(trained: Path) -> None:
    places = {Path("locked"): 0, Path("readonly"): 0o555, trained: 0o555}
    for place, mode in places.items():
        place.mkdir(exist_ok=True)
        place.chmod(mode)
    _, said = ended(janus("--version", before=NO_PRIVILEGES + EACH.format(commands=DENIED)), 300)
    for place in places:
        place.chmod(0o755)
    for words, each in zip(DENIED, said.split("$ ")[1:], strict=True):
        assert each.startswith(words)
        assert "\ncode 2\n" in each, each
        errors = [line for line in each.split("\n") if line.startswith("error: ")]
        assert [line.count("Permission denied") for line in errors] == [1], each
        assert re.search(r"^hint: ", each, re.MULTILINE), each
        assert re.search("locked|readonly|run/checkpoints", errors[0]), each
        assert "parameters" not in each or "--resume" in words, "it did not begin"
        assert "Traceback" not in each


@pytest.mark.parametrize(
    "words",
    ["score {} --reference tiny.yaml", "score tiny.yaml --reference {}", "decode --run run --input {}",
     "distill run --out new --source {}"],
)  # fmt: skip
def test_a_text_without_end_is_refused(shell: Janus, trained: Path, monkeypatch: Patch, words: str) -> None:
    monkeypatch.setattr(lines, "ENDLESS_LINE", 1 << 24)
    err = ends(shell(*words.format("/dev/zero").split()), 3, "/dev/zero", out="")
    assert "longer than" in err or "is a pipe or a device" in err


def test_a_huge_line_is_cut_by_decode_and_refused_by_score(shell: Janus, trained: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 17)
    Path("text").write_text(f"a b\n{'x ' * (1 << 17)}\nc d\n")
    Path("short").write_text("a\nb\nc\n")
    ends(shell("score", "text", "--reference", "short"), 3, "text:2: this line is longer", out="")
    code, _, err = shell("decode", "--run", "run", "--input", "text", "--out", "out")
    assert (code, len(Path("out").read_text().split("\n"))) == (0, 4), err
    assert "cut to the" in err


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="their file systems refuse such names")
def test_names_that_are_not_utf_8(shell: Janus, trained: Path) -> None:
    text, out = (Path(os.fsdecode(b"\xff" + name)) for name in (b".text", b".out"))
    text.write_bytes(b"ein mann\n")
    code, _, err = shell("decode", "--run", "run", "--input", str(text), "--out", str(out))
    assert (code, out.read_text().count("\n")) == (0, 1), err
    code, _, err = shell("decode", "--run", "run", "--input", str(text), "--out", str(out))
    assert (code, r"error: \udcff.out exists already" in err) == (2, True)
    assert json.loads(shell("score", str(out), "--reference", str(text), "--json")[1])["hypotheses"] == str(out)
    code, _, err = shell("train", "--recipe", "tiny.yaml", "--run", str(text.with_suffix("")))
    assert (code, "is not UTF-8, and weights in it could not be read again" in err) == (2, True)


def test_a_pipe_without_end_is_refused_by_score(shell: Janus, empty_folder: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(inputs, "MOST_LINES", 100)
    Path("text").write_text("a b\n" * 100)
    assert shell("score", "-", "--reference", "text", stdin=b"a b\n" * 100)[0] == 0
    code, out, err = shell("score", "-", "--reference", "text", stdin=b"y\n" * 5000)
    assert (code, out, "error: stdin has more than 100 lines" in err) == (3, "", True)


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for words in (["recipes"], ["decode"], ["preprocess", "--out", "x"]):
        code, said = ended(janus(*words, folder=gone, before="import os, shutil; shutil.rmtree(os.getcwd())"))
        gone.mkdir()
        assert code == 0 if words == ["recipes"] else code in (2, 3), said
        assert "Traceback" not in said
