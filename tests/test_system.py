"""What other systems and file systems lack or do otherwise: tried here by taking it away from this one."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from janus_cli import files, system
from janus_cli.files import MANIFEST, locked, sweep, whole_folder, write_atomically
from tests.conftest import Janus

Patch = pytest.MonkeyPatch
DEAD = 2**30  # no process has this number
HOST = socket.gethostname()


class WindowsLocks:
    """Locks a byte, which nobody else can then read, and says EACCES where POSIX says EAGAIN."""

    LK_NBLCK = 2

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert (os.lseek(handle, 0, os.SEEK_CUR), mode, count) == (system.LOCKED_BYTE, self.LK_NBLCK, 1)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "locked") from None


def windows(patch: Patch) -> None:
    patch.setattr(system, "WINDOWS", True)
    patch.setattr(system, "fcntl", None)
    patch.setattr(system, "msvcrt", WindowsLocks())
    patch.setattr(system, "is_running", lambda number: number == os.getpid())


def refuse(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def old_nfs(patch: Patch) -> None:
    """A file system without locks and links."""
    flock = SimpleNamespace(LOCK_EX=2, LOCK_SH=1, LOCK_NB=4, flock=refuse(errno.ENOLCK))
    patch.setattr(system, "fcntl", flock)
    patch.setattr(Path, "symlink_to", refuse(errno.EPERM))


SYSTEMS: dict[str, Callable[[Patch], None]] = {"posix": lambda _: None, "windows": windows, "old NFS": old_nfs}


class Waits(Exception):
    """Raised in place of waiting."""


def wait(holder: str) -> None:
    raise Waits(holder)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_lock_has_one_holder_at_a_time(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    SYSTEMS[name](monkeypatch)
    path = tmp_path / "lock"
    for _ in range(2):
        with locked(path, wait) as killed:
            assert killed == ""
            with pytest.raises(Waits, match=f"pid {os.getpid()} on {HOST}"), locked(path, wait):
                pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock"]


def test_without_locks_a_dead_process_holds_none(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    old_nfs(monkeypatch)
    path, stand_in = tmp_path / "lock", tmp_path / "lock.pid"
    stand_in.write_text(f"pid {DEAD} on {HOST}\n")
    with locked(path, wait):
        assert stand_in.read_text().startswith(f"pid {os.getpid()} on {HOST}\n")
    stand_in.write_text(f"pid {DEAD} on another{HOST}\n")  # of which nothing is known
    with pytest.raises(Waits, match=r"if it has ended, remove .*lock\.pid"), locked(path, wait):
        pass
    said = capsys.readouterr().err
    assert said.count(f"{tmp_path} is on a file system without locks") == 1


def test_a_number_that_another_process_has_by_now_holds_no_lock(tmp_path: Path, monkeypatch: Patch) -> None:
    """As in a container that was started again: its process has the number of the one that was killed."""
    old_nfs(monkeypatch)
    path, stand_in = tmp_path / "lock", tmp_path / "lock.pid"
    with monkeypatch.context() as earlier:
        earlier.setattr(system, "birth", lambda _: "boot/1")
        with locked(path, wait):
            left = stand_in.read_text()
            stand_in.unlink()
    for born, ended in (("boot/1", False), ("", False), ("boot/2", True)):
        monkeypatch.setattr(system, "birth", lambda _, born=born: born)
        stand_in.write_text(left)
        if not ended:
            with pytest.raises(Waits, match=f"pid {os.getpid()} on {HOST} "), locked(path, wait):
                pass
            continue
        with locked(path, wait):
            pass
        assert not stand_in.exists()


def test_processes_of_one_number_differ(monkeypatch: Patch) -> None:
    child = os.fork()
    if not child:
        signal.pause()
    try:
        births = {system.birth(number) for number in (os.getpid(), os.getpid(), child)}
        assert len(births) == 2
        assert "" not in births
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert system.birth(DEAD) == ""
    monkeypatch.setattr(Path, "read_text", refuse(errno.ENOENT))  # macOS, Windows
    assert system.birth(os.getpid()) == ""


def test_only_one_process_takes_the_place_of_a_dead_one(tmp_path: Path, monkeypatch: Patch) -> None:
    """Another one does so between our look at the stand-in and its removal."""
    old_nfs(monkeypatch)
    path, stand_in = tmp_path / "lock", tmp_path / "lock.pid"
    stand_in.write_text(f"pid {DEAD} on {HOST}\n")
    theirs, is_running = f"pid {os.getppid()} on {HOST}\n", system.is_running

    def faster(number: int) -> bool:
        if number == DEAD:
            stand_in.write_text(theirs)
        return is_running(number)

    monkeypatch.setattr(system, "is_running", faster)
    with pytest.raises(Waits, match=f"pid {os.getppid()} on"), locked(path, wait):
        pass
    assert stand_in.read_text() == theirs
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "lock.pid"]


def make(out: Path, text: str) -> None:
    with whole_folder(out, force=True, is_ours=lambda _: True, what="data") as folder:
        (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_killed_processes_left_goes_with_the_next_folder_that_is_made(
    tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    SYSTEMS[name](monkeypatch)
    make(tmp_path / "old", "old")
    (tmp_path / "old").rename(tmp_path / ".old.replaced")
    for left in ("old", "dead"):
        (tmp_path / f".{left}.making").mkdir()
        (tmp_path / f".{left}.lock").write_text(f"pid {DEAD} on {HOST}\n")
        (tmp_path / f".{left}.lock.pid").write_text(f"pid {DEAD} on {HOST}\n")
    left = files.temporary(tmp_path / "file")
    dead = left.with_name(left.name.replace(f"-{os.getpid()}.", f"-{DEAD}."))
    alien = dead.with_name(dead.name.replace(f".{files._host()}-", ".00000000-"))
    young = dead.with_name(f".young{dead.name}")  # of a process in another container that has this machine's name
    theirs = [tmp_path / each for each in (".mine.tmp", ".mine.lock", ".mine.making")]
    for file in (left, dead, alien, young, *theirs):
        file.write_text("x")
    for file in (left, dead, alien):
        os.utime(file, (0, 0))
    make(tmp_path / "new", "new")
    kept = {left, alien, young, *theirs, tmp_path / "new", tmp_path / "old"}
    if name != "old NFS":
        kept |= {tmp_path / ".old.lock.pid", tmp_path / ".dead.lock.pid"}  # not a file of this system
    assert {*tmp_path.iterdir()} == kept
    assert (tmp_path / "old" / MANIFEST).read_text() == "old"


def test_what_a_live_process_is_making_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", force=False, is_ours=lambda _: True, what="data") as folder:
        (folder / MANIFEST).write_text("x")
        mine = files.temporary(tmp_path / "file")
        mine.write_text("x")
        sweep(tmp_path)
        write_atomically(tmp_path / "other", b"")
        make(tmp_path / "third", "x")
        assert (folder / MANIFEST).is_file()
        assert mine.is_file()
    assert (tmp_path / "out" / MANIFEST).is_file()


def test_what_may_be_made_on_another_machine_stays(tmp_path: Path) -> None:
    """On some network file systems a lock holds only on the machine of its holder: here it looks free."""
    working, lock = tmp_path / ".out.making", tmp_path / ".out.lock"
    working.mkdir()
    lock.write_text(f"pid {DEAD} on another{HOST}\n")
    sweep(tmp_path)
    files.tidy(tmp_path / "out")
    make(tmp_path / "other", "x")
    assert {*tmp_path.iterdir()} == {working, lock, tmp_path / "other"}
    lock.write_text(f"pid {DEAD} on {HOST}\n")
    sweep(tmp_path)
    assert {*tmp_path.iterdir()} == {tmp_path / "other"}


def test_waiting_for_another_process_can_have_an_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out, force=True, is_ours=lambda _: True, what="data"):
        again = whole_folder(out, force=True, is_ours=lambda _: True, what="data", patience=0.05)
        with pytest.raises(files.Busy, match=f"pid {os.getpid()} on {HOST}"), again:
            pass


def test_folders_are_synced_where_that_is_possible(tmp_path: Path, monkeypatch: Patch) -> None:
    system.sync(tmp_path)
    for code in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
        monkeypatch.setattr(os, "fsync", refuse(code))
        system.sync(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        system.sync(tmp_path)
    monkeypatch.setattr(system, "WINDOWS", True)
    system.sync(tmp_path)  # it cannot even be opened


def test_a_link_is_a_text_file_where_there_are_no_links(tmp_path: Path, monkeypatch: Patch) -> None:
    link, target = tmp_path / "last", tmp_path / "step-000002"
    target.mkdir()
    system.make_link(link, target.name)
    assert (link.is_symlink(), system.followed(link).resolve()) == (True, target.resolve())
    for no_links in (windows, old_nfs):
        link.unlink()
        with monkeypatch.context() as patch:
            no_links(patch)
            system.make_link(link, target.name)
        assert (link.is_symlink(), system.followed(link)) == (False, target)
    for text in ("..", "", "step-1/../..", "a text\nof lines", "step-" + "0" * 100):
        link.write_text(text)
        assert system.followed(link) == link


def test_an_open_file_is_deleted(tmp_path: Path, monkeypatch: Patch) -> None:
    for number, name in enumerate(("posix", "windows")):
        SYSTEMS[name](monkeypatch)
        path = tmp_path / name
        with path.open("w") as file:
            system.delete_open(path, file)
            assert (path.exists(), file.closed) == (False, bool(number))


def test_processes_are_looked_for(monkeypatch: Patch) -> None:
    assert system.is_running(os.getpid())
    assert not system.is_running(DEAD)
    assert not system.is_running(2**70)
    monkeypatch.setattr(os, "kill", refuse(errno.EPERM))
    assert system.is_running(1)
    closed: list[int] = []
    kernel = SimpleNamespace(OpenProcess=lambda *words: words[2] // 10, CloseHandle=closed.append)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(system, "WINDOWS", True)
    assert [system.is_running(number) for number in (3, 40)] == [False, True]
    assert closed == [4]


def test_names_that_differ_only_by_case(tmp_path: Path) -> None:
    small, capital = tmp_path / "train.de", tmp_path / "TRAIN.de"
    small.write_text("x")
    assert not system.is_one_file(small, capital)
    capital.write_text("x")
    if not small.samefile(capital):  # else this file system is the case in question
        assert not system.is_one_file(small, capital)
        capital.unlink()
        capital.hardlink_to(small)
    assert system.is_one_file(small, capital)
    assert not system.is_one_file(small, small)


def test_signals_that_a_system_lacks(monkeypatch: Patch) -> None:
    assert system.stop_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    monkeypatch.delattr(signal, "SIGUSR1")
    assert system.stop_signals() == (signal.SIGINT, signal.SIGTERM)
    monkeypatch.delattr(signal, "pthread_sigmask")
    with system.ctrl_c_blocked():
        pass
    done: list[object] = []
    monkeypatch.setattr(signal, "raise_signal", done.append)
    monkeypatch.setattr(signal, "signal", lambda *words: done.append(words))
    monkeypatch.setattr(os, "kill", refuse(errno.EPERM))
    monkeypatch.delattr(os, "setsid")
    monkeypatch.setattr(system, "WINDOWS", True)
    system.ask_to_stop()
    system.leave_terminal()
    assert done == [signal.SIGTERM, (signal.SIGINT, signal.SIG_IGN)]


def test_cores_memory_and_load_where_the_system_says_less(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)  # Python 3.13
    assert system.usable_cores() == 3
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert system.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert system.load_average() is None
    assert system.peak_bytes() > 1 << 20
    monkeypatch.setattr(system, "_in_file", lambda *_: None)
    assert system.cpu_name()
    assert system.peak_bytes() > 1 << 20
    monkeypatch.setattr(system, "resource", None)
    assert system.peak_bytes() == 0
    monkeypatch.setattr(Path, "write_text", refuse(errno.ENOENT))
    assert not system.forget_peak()
    assert system.c_function("no_such_function") is None
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.c_function("printf") is None


@pytest.mark.parametrize("name", ["windows", "old NFS"])
def test_a_run_from_text_to_hypotheses(tiny_recipe: Path, janus: Janus, monkeypatch: Patch, name: str) -> None:
    SYSTEMS[name](monkeypatch)
    steps = ("--set", "training.updates=2", "--set", "training.save_every=1")
    code, _, err = janus("train", "--recipe", "tiny.yaml", "--run", "run", "--device", "cpu", *steps)
    assert code == 0, err
    assert Path("run/checkpoints/last").read_text() == "step-000002\n"
    more = ("--set", "training.updates=3", "--allow-change", "training.updates")
    for words in (
        ("train", "--resume", "run", "--device", "cpu", *more),
        ("average", "run", "--last", "2"),
        ("decode", "run", "--split", "test", "--resume"),
        ("decode", "run", "--split", "test", "--checkpoint", "run/checkpoints/last", "--out", "mine"),
        ("export", "run", "--out", "exported"),
    ):
        code, _, err = janus(*words)
        assert code == 0, err
    assert "checkpoint step-000003" in janus("decode", "run", "--input", "-", "--checkpoint", "last", stdin=b"ba\n")[2]
    assert "last: step-000003" in janus("inspect", "run")[1]
    assert [path for path in Path().rglob(".*") if path.name not in (".lock", ".checked.json")] == []


def test_two_splits_that_are_one_file(tiny_recipe: Path, janus: Janus) -> None:
    Path("text").mkdir()
    for name in ("a.src", "a.tgt", "A.src", "A.tgt"):
        path = Path("text", name)
        if name[0] == "A" and not path.exists():
            path.hardlink_to(Path("text", name.lower()))  # as if this file system did not tell them apart
        else:
            path.write_text("ba du\n" * 9)
    names = ("--set", "data.train=a", "--set", "data.valid=A")
    code, _, err = janus("preprocess", "--data-dir", "text", "--out", "out", *names)
    assert (code, "are one file" in err) == (3, True)
