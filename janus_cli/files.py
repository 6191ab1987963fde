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
from typing import IO, Any

from janus_cli import console
from janus_cli.errors import DataError, JanusError, UsageError

MANIFEST = "manifest.json"


def must_be_free(out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, option: str = "--out") -> None:
    """Makes sure that `out` is not there, is empty, or may be replaced.

    Args:
        out: the folder to make.
        force: whether the user wants an earlier one to be replaced.
        is_ours: whether a folder holds what janus wrote there; nothing else is ever replaced.
        what: the contents, for messages ("prepared data"). option: names the folder on the command line.

    Raises:
        UsageError: it is a file, holds something else, or is there and `force` is not given.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", f"name a folder with {option}")
    if not any(out.iterdir()):
        return
    if not is_ours(out):
        raise UsageError(f"{out} holds something else than {what} of janus", f"name another folder with {option}")
    if not force:
        raise UsageError(f"{out} holds {what} already", f"replace it with --force, or name another with {option}")


@contextmanager
def whole_folder(
    out: Path, *, force: bool, is_ours: Callable[[Path], bool], what: str, option: str = "--out",
    error: type[JanusError] = DataError,
) -> Iterator[Path]:  # fmt: skip
    """A working folder beside `out` that becomes `out` on a clean exit, and is removed otherwise.

    Beside `out`, `.NAME.making` is the working folder, `.NAME.replaced` a whole earlier `out` that is about to go, and
    `.NAME.lock` is held all the while: others wait. Whoever gets the lock first tidies up after a killed process.

    Args: as of `must_be_free`; error: raised where nothing can be written beside `out`.

    Raises:
        UsageError: `out` may not be made, see `must_be_free`.
    """
    check = partial(must_be_free, out, force=force, is_ours=is_ours, what=what, option=option)
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
            _tidy(final)
            check()  # an earlier one may have come back
            working.mkdir()
        except OSError as problem:
            raise error(f"cannot write {out}: {problem.strerror}", f"name another folder with {option}") from None
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


def tidy(out: Path) -> None:
    """Removes what a killed `whole_folder` left; the folder that it was replacing comes back.

    Does nothing while another process makes `out`, or where nothing can be written.
    """

    def leave(holder: str) -> None:
        raise BlockingIOError(holder)

    final = Path(os.path.realpath(out))
    if any(path.exists() for path in _beside(final)):
        with suppress(OSError), locked(_beside(final)[2], leave):
            _tidy(final)


def remove_whole(folder: Path) -> None:
    """Removes a folder of which no reader must find a part: it loses its name before it loses its files."""
    working, _, _ = _beside(folder)
    folder.rename(working)
    shutil.rmtree(working, ignore_errors=True)


def _tidy(final: Path) -> None:
    """Called with the lock held, so that nobody is at work in what lies there."""
    working, replaced, _ = _beside(final)
    shutil.rmtree(working, ignore_errors=True)
    if replaced.exists():
        with suppress(OSError):
            replaced.rename(working if final.exists() else final)  # what is being deleted is never called `replaced`
        shutil.rmtree(working, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def locked(path: Path, busy: Callable[[str], None], *, keep: bool = False) -> Iterator[str]:
    """Holds the lock file `path`, made here and removed at the end; the kernel frees it when its process is killed.

    busy: called with the holder's name where another process has it, before waiting for that one; may raise instead.
    keep: leave the file there, empty.

    Yields:
        The name of the process that was killed while it held the lock, or "".
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
            if _is_at(file, path):  # else the last holder has removed it
                break
        if keep:
            stack.callback(file.truncate, 0)
        else:
            stack.callback(path.unlink, missing_ok=True)
        file.seek(0)
        killed = file.read().strip()
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield killed


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except ValueError as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: it holds no JSON object")
    return value


def copy_files(names: list[str], source: Path, target: Path) -> None:
    """Copies plain files by name; links and folders are refused."""
    for name in names:
        file = source / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise DataError(f"{file} is no plain file", "run `janus preprocess` again")
        shutil.copyfile(file, target / name)
