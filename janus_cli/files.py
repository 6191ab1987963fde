"""Atomic files and folders: whole or not there, even if the process is killed or another one writes them too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import IO, Any

from janus_cli import console, system
from janus_cli.errors import FULL, DataError, UsageError
from janus_cli.system import sync

MANIFEST = "manifest.json"
POLL_SECONDS = 0.1  # between two looks at a lock that another process holds
OLD = 3600.0  # seconds without a write, after which a file of `temporary` is taken for abandoned
_OWNER = re.compile(r"pid (\d+) on (\S+)\n")  # what a process writes into a lock that it holds
_TEMPORARY = re.compile(r"\..+\.janus-[0-9a-f]{10}\.tmp")  # see `temporary`


def must_not_dangle(out: Path) -> None:
    """Raises UsageError for a symbolic link to nothing."""
    if out.is_symlink() and not out.exists():
        raise UsageError(
            f"{out} is a symbolic link to {out.readlink()}, which does not exist",
            "remove the link, or name another place",
        )


def must_be_free(out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, option: str = "--out") -> None:
    """Raises UsageError unless `out` is missing, an empty folder, or may be replaced.

    force: a folder of ours may be replaced. is_ours: whether janus wrote a folder's contents; no other folder is ever
    replaced. what: the contents, for messages ("prepared data").
    """
    must_not_dangle(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", f"name a folder with {option}")
    if not is_ours(out):
        raise UsageError(f"{out} holds something other than {what} of janus", f"name another folder with {option}")
    if not force:
        raise UsageError(f"{out} holds {what} already", f"replace it with --force, or name another with {option}")


@contextmanager
def whole_folder(
    out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, patience: float = inf
) -> Iterator[Path]:
    """A working folder that becomes `out` on a clean exit, and is removed otherwise.

    Beside `out` lie `.NAME.making`, the working folder; `.NAME.replaced`, an earlier `out` until the new one has its
    name; and `.NAME.lock`, held all the while: other processes wait, and the next one cleans up after a killed one.

    force, is_ours, what: see `must_be_free`. patience: seconds to wait.

    Raises:
        UsageError: see `must_be_free`.
        Busy: another process was still making it when `patience` ran out.
    """
    check = partial(must_be_free, out, force=force, is_ours=is_ours, what=what)
    final = Path(os.path.realpath(out))  # has a name and a parent, even if given as a link or as `..`
    working, replaced, lock = _places(final)
    new_parent = not final.parent.exists()
    with ExitStack() as stack:
        check()
        final.parent.mkdir(parents=True, exist_ok=True)
        if new_parent:
            stack.callback(_remove_if_empty, final.parent)
        sweep(final.parent)
        stack.enter_context(
            locked(lock, lambda holder: console.say(f"waiting for {holder}, which makes {out}"), patience)
        )
        stack.callback(_remove_lock, lock)
        _tidy(final)
        if left := _left(working):
            raise UsageError(left, "remove it, or ask its owner to")
        check()  # an earlier one may have come back
        working.mkdir()
        try:
            with naming(out):
                yield working
            for file in working.iterdir():
                sync(file)
            sync(working)
            check()
            if final.exists():
                final.rename(replaced)
            working.rename(final)
            sync(final.parent)
        finally:
            _tidy(final)
            _warn_of_left(working)


def _places(final: Path) -> tuple[Path, Path, Path]:
    """The working folder of `whole_folder`, the replaced folder, and the lock."""
    working, replaced, lock = (final.with_name(f".{final.name}.{end}") for end in ("making", "replaced", "lock"))
    return working, replaced, lock


def _tidy(final: Path) -> None:
    """Remove the working folder, and bring back the replaced one if `final` is missing; call it with the lock held."""
    working, replaced, _ = _places(final)
    shutil.rmtree(working, ignore_errors=True)
    if replaced.exists():
        with suppress(OSError):
            # A half-deleted folder must not come back: it is renamed before it is deleted.
            replaced.rename(working if final.exists() else final)
        shutil.rmtree(working, ignore_errors=True)


def _left(folder: Path) -> str:
    """Names a folder that could not be deleted, and its owner; empty if it is gone."""
    words = [f"{folder} cannot be removed", system.whose(folder)]
    return ": ".join(filter(None, words)) if folder.exists() else ""


def _warn_of_left(folder: Path) -> None:
    if left := _left(folder):
        console.warn(left)


def tidy(out: Path) -> None:
    """Removes what a killed `whole_folder` left; the folder that it was replacing comes back.

    Does nothing while another process is making `out`, or may be doing so on another machine (the locks of some network
    file systems hold on one machine only), or if nothing can be written.
    """

    def leave(holder: str) -> None:
        raise BlockingIOError(holder)

    final = Path(os.path.realpath(out))
    *_, lock = places = _places(final)
    if any(path.exists() for path in places) and not _is_elsewhere(_owner(lock)):
        with suppress(OSError), locked(lock, leave):
            _tidy(final)
            _remove_lock(lock)


def sweep(folder: Path, ours: str = "") -> None:
    """Removes what killed processes left in a folder: files of `write_atomically`, working folders of `whole_folder`.

    What another process is making stays, and so does what cannot be told from a user's own file. ours: names that begin
    so are no user's, even if no lock says who made them.
    """
    with suppress(OSError):
        for path in list(folder.glob(".*.*")):
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if time.time() - path.lstat().st_mtime > OLD:
                        path.unlink()
            elif path.suffix in (".making", ".replaced", ".lock") and (
                _owner(path) or (ours and path.name.startswith(f".{ours}"))
            ):
                tidy(folder / path.stem[1:])


def remove_whole(folder: Path) -> None:
    """Removes a folder, renamed first so that no reader finds half of it."""
    working, _, _ = _places(folder)
    folder.rename(working)
    shutil.rmtree(working, ignore_errors=True)
    _warn_of_left(working)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_lock(lock: Path) -> None:
    with suppress(PermissionError):  # another user's, in a folder where only owners may remove
        lock.unlink(missing_ok=True)


class Busy(Exception):
    """Another process holds a lock. holder: its name, if it is known."""

    def __init__(self, holder: str = "") -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(path: Path, busy: Callable[[str], None], patience: float = inf) -> Iterator[str]:
    """Holds an exclusive lock on the file `path`, which is created if missing and may be removed by the holder.

    The lock is free when the process has ended, however it ends.
    busy: called with the holder's name before waiting for another process; may raise instead. patience: seconds.

    Yields:
        The name of a process that was killed while it held the lock, or "".

    Raises:
        Busy: another process still held it when `patience` ran out.
    """
    told, began = False, time.monotonic()
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            try:
                everywhere = stack.enter_context(held(file, path))
                if not everywhere and (owner := _owner(path)) and _is_elsewhere(owner):
                    raise Busy(f"{owner[0].strip()} (if it has ended, remove {path})")
            except Busy as problem:
                holder = problem.holder or _holder(path)
                if time.monotonic() - began > patience:
                    raise Busy(holder) from None
                if not told:
                    busy(holder)
                told = True
            else:
                if not _is_at(file, path):
                    continue
                file.seek(0)
                killed = file.readline().strip()
                file.truncate(0)
                with naming(path):  # unbuffered: on a full disk, closing the file must not fail again
                    os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
                stack.callback(file.truncate, 0)
                yield killed
                return
        time.sleep(POLL_SECONDS)


def holder_of(path: Path) -> str:
    """The process that holds the lock on the file `path`, in words; empty if none does."""
    with suppress(OSError):  # no such file, or one that may not be read
        try:
            with path.open("rb") as file, held(file, path, shared=True):
                pass
        except Busy:
            return _holder(path)
    return ""


@contextmanager
def held(file: IO[Any], path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the lock of the open file `path`.

    On a file system without locks, a file in this machine's `/tmp` is locked for it: other machines do not see that.

    Yields:
        Whether the lock is that of the file itself.

    Raises:
        Busy: another process holds it.
    """
    with ExitStack() as stack:
        try:
            own = system.lock(file, shared=shared)
            if not own:
                stack.enter_context(_stand_in(path, shared=shared))
        except BlockingIOError:
            raise Busy from None
        yield own


def _stand_in(path: Path, *, shared: bool) -> ExitStack:
    """Locks a file that stands for `path`; what unlocks it, and removes it unless others may share the lock."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    file_name = system.common_folder() / f"janus-{name[:32]}.lock"
    while True:
        with suppress(FileExistsError), file_name.open("x") as made:
            os.fchmod(made.fileno(), 0o444)  # every user may read, and so lock it, whatever the umask
        with suppress(FileNotFoundError), ExitStack() as stack:
            file = stack.enter_context(file_name.open("rb"))
            if not system.lock(file, shared=shared):
                _warn_of_no_locks(path.parent, file_name.parent)
            if _is_at(file, file_name):
                if not shared:
                    stack.callback(_remove_lock, file_name)
                return stack.pop_all()


@cache
def _warn_of_no_locks(*folders: Path) -> None:
    console.warn(f"{' and '.join(map(str, folders))} have no locks: run nothing else that writes to the first")


def _is_at(file: IO[Any], path: Path) -> bool:
    """Whether a locked file still has this name: the last holder may have removed it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(lock: Path) -> str:
    """The process that holds a lock, in words."""
    owner = _owner(lock)
    if owner is None:
        return "another process"
    suspended = not _is_elsewhere(owner) and system.is_suspended(owner[1])
    return owner[0].strip() + (f", which is suspended (`kill -CONT {owner[1]}`)" if suspended else "")


def _is_elsewhere(owner: re.Match[str] | None) -> bool:
    return owner is not None and owner[2] != socket.gethostname()


def _owner(lock: Path) -> re.Match[str] | None:
    """Number and machine of the process that a lock names; None if it names none, or cannot be read."""
    with suppress(OSError, ValueError), lock.open(encoding="utf-8") as file:
        return _OWNER.match(file.read(512))
    return None


def temporary(path: Path) -> Path:
    """A hidden name beside `path` for what will replace it at once; see `sweep`."""
    return path.with_name(f".{path.name}.janus-{secrets.token_hex(5)}.tmp")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes `path` the file that an error about a full disk names: else that is none, or the file that was copied."""
    try:
        yield
    except OSError as problem:
        if problem.errno in FULL:
            problem.filename, problem.filename2 = str(path), None
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that readers, even after a power cut, see the old bytes or the new ones and no mixture."""
    sweep(path.parent)
    new = temporary(path)
    try:
        with naming(path), new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically, indented for people."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def copy_files(names: list[str], source: Path, target: Path) -> None:
    """Copies plain files by name; links and folders are refused."""
    for name in names:
        file = source / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise DataError(f"{file} is not a plain file", "run `janus preprocess` again")
        with naming(target / name):
            shutil.copyfile(file, target / name)


def like(other: Path, file: Path) -> None:
    """Gives a file the mode of another one: safetensors makes it readable for its owner only, whatever the umask."""
    with suppress(OSError):  # some file systems have no modes
        file.chmod(other.stat().st_mode)
