"""What other systems and file systems lack or do otherwise: tried here by taking it away from this one."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NoReturn

import pytest

from janus_cli import files, system
from janus_cli.files import MANIFEST, locked, sweep, whole_folder, write_atomically
from tests.helpers import Capture, Janus, Patch, ends

DEAD = 2**30  # no process has this number
HOST = socket.gethostname()


def refuse(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def old_nfs(patch: Patch) -> None:
    """A file system without locks and links; the machine's own folder is on another one."""

    def flock(file: IO[str], how: int) -> None:
        if Path(file.name).parent != system.common_folder():
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        fcntl.flock(file, how)

    locks = SimpleNamespace(LOCK_EX=fcntl.LOCK_EX, LOCK_SH=fcntl.LOCK_SH, LOCK_NB=fcntl.LOCK_NB, flock=flock)
    patch.setattr(system, "fcntl", locks)
    patch.setattr(Path, "symlink_to", refuse(errno.EPERM))


SYSTEMS: dict[str, Callable[[Patch], None]] = {"usual": lambda _: None, "old NFS": old_nfs}


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


def test_without_locks_of_its_own_a_file_is_held_on_this_machine(tmp_path: Path, monkeypatch: Patch) -> None:
    """A dead process holds nothing; of one on another machine nothing is known."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(system, "common_folder", lambda: own)
    old_nfs(monkeypatch)
    path = tmp_path / "lock"
    path.write_text(f"pid {DEAD} on {HOST}\n")
    umask = os.umask(0o077)
    try:
        with locked(path, wait) as killed:
            assert killed == f"pid {DEAD} on {HOST}"
            (stand_in,) = own.iterdir()
            assert stand_in.stat().st_mode & 0o777 == 0o444, "other users can lock it, too"
    finally:
        os.umask(umask)
    assert not list(own.iterdir())
    path.write_text(f"pid {DEAD} on another{HOST}\n")
    with pytest.raises(Waits, match=rf"pid {DEAD} on another{HOST} \(if it has ended, remove .*lock\)"):
        locked(path, wait).__enter__()
    monkeypatch.undo()
    with locked(path, wait) as killed:  # with locks, it would hold its own if it ran
        assert killed == f"pid {DEAD} on another{HOST}"


def test_a_stand_in_that_was_removed_while_it_was_opened_holds_nothing(tmp_path: Path, monkeypatch: Patch) -> None:
    old_nfs(monkeypatch)
    plain, removed = system.lock, []

    def lock(file: IO[bytes], *, shared: bool = False) -> bool:
        found = plain(file, shared=shared)
        if found and not removed:
            removed.append(Path(file.name))
            removed[0].unlink()  # by the last holder
        return found

    monkeypatch.setattr(system, "lock", lock)
    with locked(tmp_path / "lock", wait), pytest.raises(Waits), locked(tmp_path / "lock", wait):
        pass
    assert len(removed) == 1


def test_the_machine_has_one_place_for_locks_and_says_if_there_are_none(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    old_nfs(monkeypatch)
    path = tmp_path / "lock"
    with locked(path, wait):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # TMPDIR of another process
        with pytest.raises(Waits), locked(path, wait):
            pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(system.fcntl, "flock", refuse(errno.ENOLCK))
    for _ in range(2):
        with locked(path, wait):
            pass
    assert capsys.readouterr().err.count("have no locks") == 1


def make(out: Path, text: str) -> None:
    with whole_folder(out, force=True, is_ours=lambda _: True, what="data") as folder:
        (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_killed_processes_left_goes_with_the_next_folder_that_is_made(
    tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    old_link = files.temporary(tmp_path / "last")
    old_link.symlink_to("gone")
    SYSTEMS[name](monkeypatch)
    make(tmp_path / "old", "old")
    (tmp_path / "old").rename(tmp_path / ".old.replaced")
    for left in ("old", "dead"):
        (tmp_path / f".{left}.making").mkdir()
        (tmp_path / f".{left}.lock").write_text(f"pid {DEAD} on {HOST}\n")
    old, young = (files.temporary(tmp_path / "file") for _ in range(2))
    theirs = [tmp_path / f".mine.{end}" for end in ("tmp", "lock", "making", f"{0:016x}.tmp", "lock.pid")]
    for file in (old, young, *theirs):
        file.write_text("x")
    for file in (old, old_link, *theirs):
        os.utime(file, (0, 0), follow_symlinks=False)
    make(tmp_path / "new", "new")
    assert {*tmp_path.iterdir()} == {young, *theirs, tmp_path / "new", tmp_path / "old"}
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


def test_a_link_is_a_text_file_where_there_are_no_links(tmp_path: Path, monkeypatch: Patch) -> None:
    link, target = tmp_path / "last", tmp_path / "step-000002"
    target.mkdir()
    system.make_link(link, target.name)
    assert (link.is_symlink(), system.followed(link).resolve()) == (True, target.resolve())
    link.unlink()
    old_nfs(monkeypatch)
    system.make_link(link, target.name)
    assert (link.is_symlink(), system.followed(link)) == (False, target)
    for text in ("..", "", "step-1/../..", "a text\nof lines", "step-" + "0" * 100):
        link.write_text(text)
        assert system.followed(link) == link


def test_under_nohup_a_hangup_stops_nothing(monkeypatch: Patch) -> None:
    handlers = {signal.SIGHUP: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    assert system.stop_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    handlers[signal.SIGHUP] = signal.SIG_IGN
    assert system.stop_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def test_cores_memory_and_load_where_the_system_says_less(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)  # Python 3.13
    assert system.usable_cores() == 3
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert system.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1
    monkeypatch.setattr(os, "getloadavg", refuse(errno.ENOSYS))
    assert system.load_average() is None
    assert system.peak_bytes() > 1 << 20
    monkeypatch.setattr(system, "_in_file", lambda *_: None)
    assert system.cpu_name()
    assert system.peak_bytes() > 1 << 20
    monkeypatch.setattr(Path, "write_text", refuse(errno.ENOENT))
    assert not system.forget_peak()
    assert system.c_function("no_such_function") is None


def test_a_run_from_text_to_hypotheses(tiny_recipe: Path, janus: Janus, monkeypatch: Patch) -> None:
    old_nfs(monkeypatch)
    steps = ("--set", "training.updates=2", "--set", "training.save_every=1")
    ends(janus("train", "--recipe", "tiny.yaml", "--run", "run", "--device", "cpu", *steps), 0)
    assert Path("run/checkpoints/last").read_text() == "step-000002\n"
    more = ("--set", "training.updates=3", "--allow-change", "training.updates")
    for words in (
        ("train", "--resume", "run", "--device", "cpu", *more),
        ("average", "run", "--last", "2"),
        ("decode", "run", "--split", "test", "--resume"),
        ("decode", "run", "--split", "test", "--checkpoint", "run/checkpoints/last", "--out", "mine"),
        ("export", "run", "--out", "exported"),
    ):
        ends(janus(*words), 0)
    assert "checkpoint step-000003" in janus("decode", "run", "--input", "-", "--checkpoint", "last", stdin=b"ba\n")[2]
    assert "last: step-000003" in janus("inspect", "run")[1]
    assert [path for path in Path().rglob(".*") if path.name not in (".lock", ".checked.json")] == []
