"""Files and folders that are whole or not there, whoever is killed, fails or works on the same at the same time."""

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
    """Raises UsageError unless `out` is not there, is empty, or may be replaced.

    force: the user wants an earlier one replaced. is_ours: whether janus wrote what a folder holds; nothing else is
    ever replaced. what: the contents, for messages ("prepared data").
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", "name a folder with --out")
    if not any(out.iterdir()):
        return
    if not is_ours(out):
        raise UsageError(f"{out} holds something other than {what} of janus", "name another folder with --out")
    if not force:
        raise UsageError(f"{out} holds {what} already", "replace it with --force, or name another with --out")


@contextmanager
def whole_folder(
    out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, error: type[JanusError] = DataError
) -> Iterator[Path]:
    """A working folder beside `out` that becomes `out` on a clean exit, and is removed otherwise.

    Beside `out`, `.NAME.making` is the working folder, `.NAME.replaced` a whole earlier `out` that is about to go, and
    `.NAME.lock` is held all the while: others wait. Whoever gets the lock first tidies up after a killed process.

    force, is_ours, what: see `must_be_free`. error: raised where nothing can be written beside `out`.

    Raises:
        UsageError: `out` may not be made, see `must_be_free`.
    """
    check = partial(must_be_free, out, force=force, is_ours=is_ours, what=what)
    final = Path(os.path.realpath(out))  # has a name and a parent, also where it was given as a link or as `..`
    working, replaced, lock = _beside(final)
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


def _beside(final: Path) -> tuple[Path, Path, Path]:
    """The names that `whole_folder` uses: the working folder, the replaced one, and the lock."""
    working, replaced, lock = (final.with_name(f".{final.name}.{end}") for end in ("making", "replaced", "lock"))
    return working, replaced, lock


def _tidy(final: Path) -> None:
    """Called with the lock held, so that nobody is at work in what lies there."""
    working, replaced, _ = _beside(final)
    shutil.rmtree(working, ignore_errors=True)
    if replaced.exists():
        with suppress(OSError):
            replaced.rename(working if final.exists() else final)  # what is being deleted is never called `replaced`
        shutil.rmtree(working, ignore_errors=True)


def tidy(out: Path) -> None:
    """Removes what a killed `whole_folder` left; the folder that it was replacing comes back.

    Does nothing while another process makes `out`, or where nothing can be written.
    """

    def leave(holder: str) -> None:
        raise BlockingIOError(holder)

    final = Path(os.path.realpath(out))
    *_, lock = places = _beside(final)
    if any(path.exists() for path in places):
        with suppress(OSError), locked(lock, leave):
            _tidy(final)
            lock.unlink()


def remove_whole(folder: Path) -> None:
    """Removes a folder of which no reader must find a part: it loses its name before it loses its files."""
    working, _, _ = _beside(folder)
    folder.rename(working)
    shutil.rmtree(working, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[str]:
    """Holds the lock file `path`, made where it is missing; the kernel frees it when its process is killed.

    busy: called with the holder's name where another process has it, before waiting for that one; may raise instead.

    Yields:
        The name of the process that was killed while it held the lock, or "". Whoever holds it may remove the file.
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
            with suppress(FileNotFoundError):  # the last holder may have removed it
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
    """Writes a file so that readers see the old bytes or the new ones, never a part, also after a power cut."""
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
    """Makes what was written to this file durable, or the renames in this folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object, atomically, for people to read as well."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that janus wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except ValueError as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    return value


def copy_files(names: list[str], source: Path, target: Path) -> None:
    """Copies plain files by name; links and folders are refused."""
    for name in names:
        file = source / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise DataError(f"{file} is not a plain file", "run `janus preprocess` again")
        shutil.copyfile(file, target / name)
