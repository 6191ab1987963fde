"""A folder appears whole or not at all, whoever else is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from janus_cli.errors import DataError, UsageError
from janus_cli.files import MANIFEST, must_be_free, whole_folder


def make(out: Path, text: str, *, force: bool = False) -> None:
    with whole_folder(out, force=force) as folder:
        (folder / MANIFEST).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_there_at_the_end_and_not_before(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with whole_folder(out, force=False) as folder:
        (folder / MANIFEST).write_text("x")
        assert not out.exists()
        assert folder.parent == out.parent
    assert names(out) == [MANIFEST]
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, DataError])
def test_nothing_is_left_of_a_failure(tmp_path: Path, problem: type[BaseException]) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "out", force=True) as folder:
            (folder / "half").write_text("x")
            raise problem("stop")

    make(tmp_path / "out", "old")
    with pytest.raises(problem):
        fail()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / MANIFEST).read_text() == "old"


def test_only_force_replaces_and_the_old_files_go(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "out" / "more").write_text("x")
    with pytest.raises(UsageError, match="holds prepared data already"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / MANIFEST).read_text() == "old"
    make(tmp_path / "out", "new", force=True)
    assert names(tmp_path / "out") == [MANIFEST]
    assert (tmp_path / "out" / MANIFEST).read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_a_user_made_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "mine").write_text("x")
    else:
        make(tmp_path / "elsewhere", "x")
        out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="was not made by"):
        make(out, "new", force=True)
    assert "out" in names(tmp_path)


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    must_be_free(tmp_path / "out", force=False)
    make(tmp_path / "out", "x")
    assert names(tmp_path / "out") == [MANIFEST]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        make(tmp_path / "file" / "out", "x")


@pytest.mark.parametrize("force", [False, True])
def test_two_at_once_leave_one_whole_folder(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"

    def second_is_faster() -> None:
        with whole_folder(out, force=force) as folder:
            (folder / MANIFEST).write_text("first")
            make(out, "second", force=force)

    if force:
        second_is_faster()
    else:
        with pytest.raises(UsageError, match="holds prepared data already"):
            second_is_faster()
    assert (out / MANIFEST).read_text() == ("first" if force else "second")
    assert names(tmp_path) == ["out"]


def test_left_overs_of_a_killed_process_are_removed_and_of_a_living_one_are_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys, time; from pathlib import Path; from janus_cli.files import whole_folder\n"
        "with whole_folder(Path(sys.argv[1]), force=False) as folder: print(folder, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        make(out, "mine")
        assert folder.is_dir()
        os.kill(process.pid, signal.SIGKILL)
    assert folder.is_dir()
    make(out, "again", force=True)
    assert names(tmp_path) == ["out"]


KILLED = """
import os, shutil, sys
from pathlib import Path
from janus_cli import files as folder
rename, remove, at = Path.rename, shutil.rmtree, int(sys.argv[2])
steps = []
def step(function):
    def counted(*arguments, **named):
        steps.append(1)
        if len(steps) == at:
            os._exit(9)
        return function(*arguments, **named)
    return counted
with folder.whole_folder(Path(sys.argv[1]), force=True) as work:
    (work / "manifest.json").write_text("new")
    Path.rename, Path.unlink = step(Path.rename), step(Path.unlink)
    shutil.rmtree = step(shutil.rmtree)
"""


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_who_is_killed_while_replacing_loses_neither_the_old_nor_leaves_anything(tmp_path: Path, at: int) -> None:
    out = tmp_path / "out"
    make(out, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), str(at)], check=False)
    assert done.returncode == 9
    with pytest.raises(UsageError, match="holds prepared data already"):  # also where the old one had to come back
        make(out, "never")
    assert (out / MANIFEST).read_text() == ("old" if at < 4 else "new")
    make(out, "again", force=True)
    assert names(tmp_path) == ["out"]
    assert names(out) == [MANIFEST]


@pytest.mark.parametrize("step", ["rename", "rmtree"])
def test_a_failure_while_replacing_loses_nothing(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    make(out, "old")

    def renamed(path: Path, to: Path) -> Path:
        new = path.name.startswith(".out.making.") and ".old" not in path.name
        if step == "rename" and new and to == out and not out.exists():
            raise KeyboardInterrupt
        return rename(path, to)

    def kept(path: Path, ignore_errors: bool = False) -> None:
        if step == "rmtree" and ".old" in path.name:
            raise KeyboardInterrupt
        if not ignore_errors:
            raise AssertionError

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr("janus_cli.files.shutil.rmtree", kept)
    with pytest.raises(KeyboardInterrupt):
        make(out, "new", force=True)
    assert (out / MANIFEST).read_text() == ("old" if step == "rename" else "new")
    monkeypatch.undo()
    make(out, "again", force=True)
    assert names(tmp_path) == ["out"]


def test_an_old_folder_that_could_not_come_back_comes_back_later(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.making.00000000.old0")
    with pytest.raises(UsageError, match="holds prepared data already"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / MANIFEST).read_text() == "old"


def test_a_run_is_no_prepared_data(tmp_path: Path) -> None:
    make(tmp_path / "run", "x")
    (tmp_path / "run" / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(UsageError, match="was not made by `janus preprocess`"):
        make(tmp_path / "run", "new", force=True)
    assert (tmp_path / "run" / MANIFEST).read_text() == "x"
