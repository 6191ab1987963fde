"""A folder appears whole or not at all, whoever is killed, fails, or makes the same one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from janus_cli.errors import DataError, UsageError
from janus_cli.files import MANIFEST, tidy, whole_folder

# Two files that must agree, so that a mixture of two folders would show.
SETUP = """
import os, sys
from pathlib import Path
from janus_cli.files import MANIFEST, tidy, whole_folder
def is_ours(folder): return (folder / MANIFEST).is_file()
def make(out, text, before=lambda: None, force=True):
    with whole_folder(out, force=force, is_ours=is_ours, what="data") as folder:
        (folder / "more").write_text(text)
        (folder / MANIFEST).write_text(text)
        before()
def content(out):
    assert sorted(os.listdir(out)) == [MANIFEST, "more"]
    assert (out / MANIFEST).read_text() == (out / "more").read_text()
    return (out / MANIFEST).read_text()
out = Path(sys.argv[1])
"""


def is_ours(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def make(out: Path, text: str, *, force: bool = False) -> None:
    with whole_folder(out, force=force, is_ours=is_ours, what="data") as folder:
        (folder / MANIFEST).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def process(program: str, out: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SETUP + program, str(out)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.kill()


def test_the_folder_is_there_at_the_end_and_not_before_and_only_force_replaces_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with whole_folder(out, force=False, is_ours=is_ours, what="data") as folder:
        (folder / MANIFEST).write_text("old")
        (folder / "more").write_text("x")
        assert not out.exists()
        assert folder.parent == out.parent
    with pytest.raises(UsageError, match="out holds data already"):
        make(out, "new")
    assert names(out) == [MANIFEST, "more"]
    make(out, "new", force=True)
    assert (names(out), (out / MANIFEST).read_text()) == ([MANIFEST], "new")
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, DataError])
def test_nothing_is_left_of_a_failure(tmp_path: Path, problem: type[BaseException]) -> None:
    def fail(out: Path) -> None:
        with whole_folder(out, force=True, is_ours=is_ours, what="data") as folder:
            (folder / "half").write_text("x")
            raise problem("stop")

    make(tmp_path / "out", "old")
    for out in (tmp_path / "out", tmp_path / "new" / "out"):
        with pytest.raises(problem):
            fail(out)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / MANIFEST).read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling"])
@pytest.mark.parametrize("late", [True, False])
def test_what_a_user_made_is_never_replaced(tmp_path: Path, kind: str, late: bool) -> None:
    out = tmp_path / "out"

    def occupy() -> None:
        if kind == "file":
            out.write_text("mine")
            return
        place = tmp_path / "other" if kind in ("link", "dangling") else out
        if place != out:
            out.symlink_to(place)
        if kind != "dangling":
            place.mkdir()
            (place / "mine").write_text("x")

    def attempt() -> None:
        with whole_folder(out, force=True, is_ours=is_ours, what="data"):
            occupy()

    if not late:
        occupy()
    with pytest.raises(UsageError, match=r"out (is|holds) "):
        attempt()
    assert "out" in names(tmp_path)
    assert not is_ours(out)


def test_a_link_goes_on_pointing_to_what_was_replaced_and_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    make(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to("real")
    make(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / MANIFEST).read_text() == "new"
    assert names(tmp_path) == ["out", "real"]


@pytest.mark.parametrize("place", ["file/out", "x" * 300, "loop"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OSError, UsageError), match=r"file'|xxx|loop"):
        make(tmp_path / place, "x")


# Ends a child at its n-th call that touches the disk while it replaces `out`, for every n. Python announces all of
# them to audit hooks, so none can be forgotten.
EVERY_CALL = """
import itertools, signal
from janus_cli.errors import DataError
at, mode, calls = 0, sys.argv[2], 0
def hook(event, arguments):
    global calls
    if at and (event in ("open", "shutil.rmtree") or event.startswith(("os.", "fcntl."))) and event != "os.kill":
        calls += 1
        if calls == at:
            if mode == "fail":
                raise OSError(5, "the disk is gone")
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
seen = []
for number in itertools.count(1):
    make(out, "old")
    child = os.fork()
    if not child:
        at = number
        try:
            make(out, "new")
        except (OSError, DataError):
            pass
        os._exit(0 if calls < at else 9)
    code = os.waitpid(child, 0)[1]
    if mode == "kill" or number % 2:
        tidy(out)
        assert set(os.listdir(out.parent)) <= {"out", ".out.lock"}, os.listdir(out.parent)
        seen.append(content(out))
    make(out, "again")
    assert os.listdir(out.parent) == ["out"]
    if code == 0:
        break
assert {*seen} == {"old", "new"} and (mode == "fail" or seen == sorted(seen, reverse=True)), seen
print(number)
"""


@pytest.mark.parametrize("mode", ["kill", "fail"])
def test_whoever_ends_at_any_disk_call_leaves_the_old_folder_or_the_new_one(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-c", SETUP + EVERY_CALL, str(tmp_path / "out"), mode]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


HOLD = "make(out, 'first', lambda: print('at work', flush=True) or input())"
SECOND = "make(out, 'second', force={force})"


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_a_second_process_waits_for_the_first(tmp_path: Path, force: bool, killed: bool) -> None:
    out = tmp_path / "out"
    with process(HOLD, out) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "at work\n"
        with process(SECOND.format(force=force), out) as second:
            assert second.stderr is not None
            assert f"waiting for pid {first.pid} on " in second.stderr.readline()
            tidy(out)
            assert names(tmp_path) == [".out.lock", ".out.making"]
            if killed:
                first.kill()
            else:
                first.stdin.write("\n")
                first.stdin.flush()
            first.wait()
            said = second.communicate()[1]
    if force or killed:
        assert second.returncode == 0, said
    else:
        assert "out holds data already" in said
    assert (out / MANIFEST).read_text() == ("second" if force or killed else "first")
    assert names(tmp_path) == ["out"]


def test_many_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    commands = [[sys.executable, "-c", SETUP + "for _ in range(20): make(out, str(os.getpid()))", str(out)]] * 4
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
    assert [each.wait() for each in processes] == [0] * 4
    assert names(tmp_path) == ["out"]
    assert (out / MANIFEST).read_text() in {str(each.pid) for each in processes}
