"""How far files that are written together are whole: a line of JSON that says what is written, then one for each Point.

A point is written after what it vouches for. Only one process has the journal open; the kernel knows when it ended.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from janus_cli.errors import DataError, RunInUseError

FORMAT = 1
DONE = b'"done"'
START_OVER = "--force starts over"
ELSEWHERE = "name another file with --output"


@dataclass(frozen=True)
class Point:
    """So far all files are whole. digest: of the input's lines. sizes: bytes of each file.

    tokens, passes, seconds: what it took to get here, in all processes together.
    """

    lines: int = 0
    digest: str = ""
    sizes: Sequence[int] = ()
    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0


class Kept(NamedTuple):
    """What an earlier process noted. points: each with where its line ends. done: all that was left was to rename."""

    header: dict[str, Any]
    points: list[tuple[Point, int]]
    done: bool


@dataclass
class Journal:
    """what: the file, or the first of the files, that it is about. elsewhere: how to name others, for people."""

    path: Path
    what: Path
    elsewhere: str = ELSEWHERE
    _file: BinaryIO = field(init=False, repr=False)

    def kept(self) -> Kept | None:
        """What it holds; None where no line was finished.

        Raises:
            DataError: it is damaged.
            RunInUseError: another process is writing it.
        """
        try:
            with self.path.open("rb") as file:
                self.lock(file, self.what, fcntl.LOCK_SH)
                rows = file.read().split(b"\n")[:-1]  # the end of a line is its last byte to be written
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise DataError(f"{self.what} cannot be written: {problem.strerror}", self.elsewhere) from None
        if not rows:
            return None
        header, points, end = _parsed(rows[0]), [], 0
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise DataError(f"{self.path} is damaged, or of another version of janus", START_OVER)
        for row in rows:
            end += len(row) + 1
            values = _parsed(row)
            if isinstance(values, list) and len(values) == len(fields(Point)):
                points.append((Point(*values), end))
        return Kept(header, points, rows[-1] == DONE) if points else None

    def about(self) -> dict[str, Any]:
        """What it was begun with, alone; nothing where that cannot be read, of which `kept` says why."""
        with suppress(OSError), self.path.open("rb") as file:
            header = _parsed(file.readline())
            if isinstance(header, dict):
                return header
        return {}

    def lock(self, file: BinaryIO, what: Path, kind: int = fcntl.LOCK_EX) -> None:
        """Until the file is closed. what: its name for people.

        Raises:
            RunInUseError: another process is writing it.
        """
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(f"another process is writing {what}", f"wait for it, or {self.elsewhere}") from None

    @contextmanager
    def opened(self, end: int) -> Iterator[None]:
        """Holds it open, cut off at `end`.

        Raises:
            DataError: it cannot be made.
            RunInUseError: another process is writing it.
        """
        with writable(self.what, self.elsewhere):
            self._file = self.path.open("ab")
        try:
            self.lock(self._file, self.what)
            self._file.truncate(end)
            yield
        finally:
            with suppress(OSError):  # what did not fit on the disk still does not
                self._file.close()

    def begin(self, header: Mapping[str, Any]) -> None:
        """Says what it is about."""
        self._note(json.dumps({"format": FORMAT, **header}).encode())

    def add(self, point: Point) -> None:
        """Vouches for what lies before this point."""
        self._note(json.dumps(astuple(point), separators=(",", ":")).encode())

    def done(self) -> None:
        """Says that nothing is missing."""
        self._note(DONE)

    def sync(self) -> None:
        """Waits until it would survive a power cut."""
        os.fsync(self._file.fileno())

    def _note(self, row: bytes) -> None:
        with blaming(self.path):
            self._file.write(row + b"\n")
            self._file.flush()


def _parsed(row: bytes) -> Any:
    try:
        return json.loads(row)
    except ValueError:  # half a line, from when the disk was full
        return None


@contextmanager
def writable(path: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Opens files inside. elsewhere: how to name others, for people.

    Raises:
        DataError: `path` cannot be made.
    """
    try:
        yield
    except OSError as problem:
        raise DataError(f"{path} cannot be written: {problem.strerror}", elsewhere) from None


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Names the file in an error of writing it, which the system leaves out."""
    try:
        yield
    except OSError as problem:
        problem.filename = str(path)
        raise
