"""Atomic files and folders: whole or not there, even if the process is killed or another one writes them too."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from janus_cli import console
from janus_cli.errors import DataError, JanusError, UsageError

MANIFEST = "manifest.json"


def must_be_free(out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str) -> None:
    """Raises UsageError unless `out` is missing, an empty folder, or may be replaced.

    force: a folder of ours may be replaced. is_ours: whether janus wrote a folder's contents; no other folder is ever
    replaced. what: the contents, for messages ("prepared data").
    """
    if (out.is_dir() and not any(out.iterdir())) or not (out.exists() or out.is_symlink()):
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", "name a folder with --out")
    if not is_ours(out):
        raise UsageError(f"{out} holds something other than {what} of janus", "name another folder with --out")
    if not force:
        raise UsageError(f"{out} holds {what} already", "replace it with --force, or name another with --out")


@contextmanager
def whole_folder(
    out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, error: type[JanusError] = DataError
) -> Iterator[Path]:
    """A working folder that becomes `out` on a clean exit, and is removed otherwise.

    Beside `out` lie `.NAME.making`, the working folder; `.NAME.replaced`, an earlier `out` until the new one has its
    name; and `.NAME.lock`, held all the while: other processes wait, and the next one cleans up after a killed one.

    force, is_ours, what: see `must_be_free`. error: raised if `out` cannot be written.

    Raises:
        UsageError: see `must_be_free`.
    """
    check = partial(must_be_free, out, force=force, is_ours=is_ours, what=what)
    final = Path(os.path.realpath(out))  # has a name and a parent, even if given as a link or as `..`
    working, replaced, lock = _places(final)
    new_parent = not final.parent.exists()
    with ExitStack() as stack:
        try:
            check()
            final.parent.mkdir(parents=True, exist_ok=True)
            if new_parent:
                stack.callback(_remove_if_empty, final.parent)
            stack.enter_context(locked(lock, lambda holder: console.say(f"waiting for {holder}, which makes {out}")))
            stack.callback(lock.unlink, missing_ok=True)
            _tidy(final)
            check()  # an earlier one may have come back
            working.mkdir()
        except OSError as problem:
            raise error(f"cannot write {out}: {problem.strerror}", "name another folder with --out") from None
        try:
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


def tidy(out: Path) -> None:
    """Removes what a killed `whole_folder` left; the folder that it was replacing comes back.

    Does nothing while another process is making `out`, or if nothing can be written.
    """

    def leave(holder: str) -> None:
        raise BlockingIOError(holder)

    final = Path(os.path.realpath(out))
    *_, lock = places = _places(final)
    if any(path.exists() for path in places):
        with suppress(OSError), locked(lock, leave):
            _tidy(final)
            lock.unlink()


def remove_whole(folder: Path) -> None:
    """Removes a folder, renamed first so that no reader finds half of it."""
    working, _, _ = _places(folder)
    folder.rename(working)
    shutil.rmtree(working, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[str]:
    """Holds an exclusive lock on the file `path`, which is created if missing and may be removed by the holder.

    The kernel frees the lock when the process ends, however it ends.
    busy: called with the holder's name before waiting for another process; may raise instead.

    Yields:
        The name of a process that was killed while it held the lock, or "".
    """
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                busy(file.read().strip() or "another process")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # the last holder may have removed the file: then open it anew
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        file.seek(0)
        killed = file.read().strip()
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        stack.callback(file.truncate, 0)
        yield killed


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that readers, even after a power cut, see the old bytes or the new ones and no mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync: makes a file's contents, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically, indented for people."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, error: type[JanusError] = DataError) -> dict[str, Any]:
    """Reads a JSON object from a file that janus wrote.

    Raises:
        error: the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except ValueError as problem:
        raise error(f"{path} is damaged: {problem}") from None
    return value


def copy_files(names: list[str], source: Path, target: Path) -> None:
    """Copies plain files by name; links and folders are refused."""
    for name in names:
        file = source / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise DataError(f"{file} is not a plain file", "run `janus preprocess` again")
        shutil.copyfile(file, target / name)
