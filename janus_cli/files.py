"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from janus_cli.errors import DataError, UsageError

MANIFEST = "manifest.json"
LOCK = "lock"  # in the working folder, held by the process that works there
REPLACED = ".old"


def must_be_free(out: Path, *, force: bool) -> None:
    """Whether `out` may be made.

    Raises:
        UsageError: it is there and `force` is not given, or it is not a folder that `janus preprocess` made.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink() or (any(out.iterdir()) and not _is_data(out)):
        raise UsageError(f"{out} is there and was not made by `janus preprocess`", "name another folder with --out")
    if any(out.iterdir()) and not force:
        raise UsageError(f"{out} holds prepared data already", "use it, or make it anew with --force")


def _is_data(folder: Path) -> bool:
    """Runs and checkpoints have a manifest, too."""
    return (folder / MANIFEST).is_file() and not (folder / "recipe.yaml").exists()


@contextmanager
def whole_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A working folder beside `out` that becomes `out` on a clean exit, and is removed otherwise.

    Several processes may make the same `out`: each works in its own folder, the last to finish with `force` stays.
    What a killed process left is removed: nobody holds its lock. If it was killed while it replaced `out`, the old one
    comes back.

    Raises:
        UsageError: `out` is there (see `must_be_free`), at the start or at the end.
        DataError: nothing can be written beside it.
    """
    must_be_free(out, force=force)
    first = not out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(out)
        must_be_free(out, force=force)  # it may have come back
        unlocked = out.with_name(f".{out.name}.new.{secrets.token_hex(4)}")
        unlocked.mkdir()
    except OSError as problem:
        raise DataError(f"cannot write {out}: {problem.strerror}", "name another folder with --out") from None
    lock = os.open(unlocked / LOCK, os.O_CREAT | os.O_RDWR)
    work = out.with_name(unlocked.name.replace(".new.", ".making."))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(work)
        yield work
        for path in work.iterdir():
            sync(path)
        sync(work)
        _put_in_place(work, out, force=force)
        (out / LOCK).unlink(missing_ok=True)
    finally:
        os.close(lock)
        shutil.rmtree(work, ignore_errors=True)
        if first:  # nothing is left of a failure
            with suppress(OSError):
                out.parent.rmdir()


def bring_back(out: Path) -> None:
    """Tidies up after a process that was killed while it made `out`, or replaced it: then the old one comes back."""
    if out.parent.is_dir():
        with suppress(OSError):
            _remove_left_overs(out)


def _remove_left_overs(out: Path) -> None:
    begins = f".{out.name}.making."
    left = [path for path in out.parent.iterdir() if path.name.startswith(begins)]
    works = {path.name: path for path in left if "." not in path.name.removeprefix(begins)}
    for work in works.values():
        with suppress(OSError), (work / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _put_back(work, out)
            for path in work.iterdir():
                if path.name != LOCK:  # which goes last: without it nobody knows that this is left over
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(work)
    for old in left:
        if old.name not in works and old.name.rpartition(REPLACED)[0] not in works:
            with suppress(OSError):
                shutil.rmtree(old) if out.exists() else old.rename(out)


def _put_in_place(work: Path, out: Path, *, force: bool) -> None:
    """`work` becomes `out`, and what was `out` goes, or comes back where that cannot be done."""
    try:
        for number in count():
            try:
                work.rename(out)  # takes the place of nothing, or of an empty folder
                break
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            must_be_free(out, force=force)
            with suppress(FileNotFoundError):  # another process may have taken it away
                out.rename(work.with_name(f"{work.name}{REPLACED}{number}"))
        sync(out.parent)
    finally:
        _put_back(work, out)


def _put_back(work: Path, out: Path) -> None:
    """What `work` was about to replace: it is `out` again unless there is another one, else it goes."""
    olds = sorted(path for path in out.parent.iterdir() if path.name.startswith(work.name + REPLACED))
    if olds and not out.exists():
        with suppress(OSError):
            olds.pop().rename(out)
    for old in olds:
        shutil.rmtree(old, ignore_errors=True)


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
