"""Output of long decodings that survives interruption: one JSONL file of records, from which files are made at the end.

    .NAME.partial   line 1: how the records are made (weights, options, files to make)
                    then the records, each with its input
                    after each window of records a line {"done": …}: everything before it is complete

One process at a time writes the file, and holds a lock on it. To resume, a process truncates it after the last `done`
line. When everything is decoded, the files are made from the records, and the partial file is deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

from janus_cli import console
from janus_cli.device import Interrupt
from janus_cli.errors import (
    CheckpointError,
    DataError,
    JanusError,
    OutOfMemoryError,
    RunInUseError,
    Stopped,
    UsageError,
)
from janus_cli.files import sync as sync_folder

FORMAT = 2
DONE = b'{"done": '
SYNC_SECONDS = 10.0  # work that a power cut may lose; a killed process loses one window
START_OVER = "--force starts over"

Record = dict[str, Any]
Form = Callable[[Record], bytes]  # what a record becomes in a file


class Progress(NamedTuple):
    """done: complete records. tokens, passes, seconds: spent on them, by all processes together.

    published: all records are complete, and the files are being renamed into place.
    """

    done: int = 0
    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0
    published: bool = False


class Records:
    """Records in input order.

    Args:
        name: the file or folder after which the partial file is named.
        files: the files to make, and whether an existing one may be replaced.
        checkpoint: name and sha256 of the weights.
        options: everything else that must be equal to resume.
        command: resumes; elsewhere: how to name other files. For hints.
    """

    def __init__(
        self, name: Path, files: Mapping[Path, bool], checkpoint: tuple[str, str], options: Mapping[str, Any],
        command: str, elsewhere: str,
    ) -> None:  # fmt: skip
        self.name, self.files, self.elsewhere = name, dict(files), elsewhere
        self.path = name.with_name(f".{name.name}.partial")
        self.resume_hint = f"resume with: {command}"
        self.header = {
            "format": FORMAT, "files": [path.name for path in files], "replace": list(files.values()),
            "checkpoint": checkpoint[0], "sha256": checkpoint[1], "options": json.loads(json.dumps(options)),
        }  # fmt: skip
        self.progress = Progress()
        self.resumed = False  # whether an earlier process made some of the records
        self._end = 0  # of the last complete window, in bytes
        self._synced = time.monotonic()

    def earlier_header(self) -> Record:
        """The header of an existing partial file; empty if there is none, or none that can be read."""
        with suppress(OSError), self.path.open("rb") as file:
            return _parsed(file.readline())
        return {}

    def check(self, *, resume: bool, force: bool) -> None:
        """Finds the point to start from, before anything is written or loaded.

        Raises:
            UsageError: something is in the way, there is nothing to resume, or the options differ.
            CheckpointError: the weights differ.
            DataError: the partial file is damaged.
            RunInUseError: another process is writing it.
        """
        earlier = Progress() if force else self._find_progress()
        if resume and not earlier.done:
            raise UsageError(f"--resume: no finished line is kept in {self.path}", "leave out --resume to begin")
        if earlier.done and not resume:
            raise UsageError(
                f"{self.path} holds {earlier.done:,} finished lines of a decoding that was stopped",
                f"{self.resume_hint}; {START_OVER}",
            )
        if resume:
            self.progress, self.resumed, header = earlier, True, self.earlier_header()
            self._must_agree(header)
            self.files = dict(zip(self.files, header["replace"], strict=True))
        self._must_be_free("overwrite it with --force, or name another file")

    def _find_progress(self) -> Progress:
        """Reads the last `done` line, and sets `_end` to where it ends."""
        progress, end = Progress(), 0
        try:
            with self.path.open("rb") as file:
                self._lock(file, fcntl.LOCK_SH)
                for line in file:
                    if not end and line.endswith(b"\n") and _parsed(line).get("format") != FORMAT:
                        raise DataError(f"{self.path} is damaged, or from another version of janus", START_OVER)
                    end += len(line)
                    if line.startswith(DONE) and line.endswith(b"\n") and (values := _parsed(line)):
                        progress, self._end = Progress(**values), end
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as problem:
            raise self._not_writable(self.name, problem) from None
        return progress

    def _must_agree(self, earlier: Record) -> None:
        if earlier["sha256"] != self.header["sha256"]:
            raise CheckpointError(
                f"{self.path} was started with the weights of {earlier['checkpoint']}, "
                f"those of {self.header['checkpoint']} are others",
                f"name it with --checkpoint if it is still there; {START_OVER}",
            )
        before, now = ({"files": header["files"], **header["options"]} for header in (earlier, self.header))
        different = [
            f"{name} {json.dumps(before.get(name))}, now {json.dumps(now.get(name))}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.path} was started with other options: {'; '.join(different)}",
                f"give the same ones; {START_OVER}",
            )

    def _must_be_free(self, hint: str) -> None:
        if self.progress.published:
            return  # what exists under these names was made by the process that was stopped
        for path, replaceable in self.files.items():
            is_empty_folder = path.is_dir() and not any(path.iterdir())
            if path.exists() and not replaceable and not is_empty_folder:
                raise UsageError(f"{path} exists already", hint)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the partial file open and locked; deletes it after a block that ends well.

        Raises:
            DataError: a file cannot be written.
            RunInUseError: another process is writing the partial file.
            Stopped: for an Interrupt. This and other errors from the block say what is kept and how to resume.
        """
        for path in self.files:  # found out now, not when hours of work are done
            try:
                TemporaryFile(dir=path.parent).close()
            except OSError as problem:
                raise self._not_writable(path, problem) from None
        self._file = self.path.open("a+b")
        try:
            self._lock(self._file)
            if os.fstat(self._file.fileno()).st_size < self._end or not self.path.exists():
                raise RunInUseError(f"another process has written {self.name}", "see whether it is complete")
            try:
                self._file.truncate(self._end)
                if not self._end:
                    _write(self._file, as_json(self.header))
                yield
            except BaseException as problem:
                self._explain(problem)
                raise
            self.path.unlink()
        finally:
            with suppress(OSError):  # on a full disk, closing fails as writing did
                self._file.close()

    def windows(self) -> Iterator[list[Record]]:
        """The complete records, in the windows in which they were added.

        Raises:
            DataError: the file is damaged.
        """
        count, window = 0, list[Record]()
        with self.path.open("rb") as file:
            for line in islice(file, 1, None):
                if line.startswith(DONE):
                    yield window
                    count, window = count + len(window), []
                else:
                    window.append(_parsed(line))
                    if "source" not in window[-1]:
                        break
        if count != self.progress.done:
            raise DataError(f"{self.path} is damaged after record {count:,}", START_OVER)

    def replay(self, lines: Iterator[str]) -> Iterator[list[Record]]:
        """The windows of an earlier process; consumes their input from `lines`.

        Raises:
            DataError: the input differs, or the file is damaged.
        """
        for window in self.windows():
            if any(next(lines, None) != record["source"] for record in window):
                raise DataError(
                    f"the input does not begin with the {self.progress.done:,} lines that are done",
                    "give the same text as before, or start over with --force",
                )
            yield window

    def add(self, window: Sequence[Record], tokens: int, passes: int, seconds: float) -> None:
        """Appends a window of records. tokens, passes, seconds: see Progress."""
        progress = Progress(self.progress.done + len(window), tokens, passes, round(seconds, 3))
        self._append(b"".join(map(as_json, window)), progress)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            _write(self._file, b"", sync=True)
            self._synced = time.monotonic()

    def _append(self, records: bytes, progress: Progress) -> None:
        _write(self._file, records + as_json(progress._asdict()))
        self.progress, self._end = progress, self._file.tell()

    def publish(self, forms: Sequence[Form]) -> None:
        """Makes the files, each in its form. They are renamed into place when all are complete.

        Raises:
            UsageError: one has appeared meanwhile; then none is made.
        """
        self._must_be_free("move it away")
        self._append(b"", self.progress._replace(published=True))
        _write(self._file, b"", sync=True)
        new = [path.with_name(f".{path.name}.{self.name.name}.new") for path in self.files]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in new]
            for window in self.windows():
                for file, form in zip(files, forms, strict=True):
                    _write(file, b"".join(map(form, window)))
            for file in files:
                _write(file, b"", sync=True)
        for temporary, path in zip(new, self.files, strict=True):
            temporary.replace(path)
            sync_folder(path.parent)

    def _explain(self, problem: BaseException) -> None:
        """Adds to an error what is kept and how to resume. Deletes a partial file without records."""
        pipe_closed = isinstance(problem, BrokenPipeError)
        # `janus decode | head` is no decoding to resume, unless an earlier process began it.
        if not self.progress.done or (pipe_closed and not self.resumed):
            self.path.unlink(missing_ok=True)
            if isinstance(problem, Interrupt):
                raise Stopped(problem.number, f"{problem} before a line was finished") from None
            return
        kept = f"{self.progress.done:,} finished lines are kept in {self.path}"
        if isinstance(problem, Interrupt):
            raise Stopped(problem.number, f"{problem}; {kept}", self.resume_hint) from None
        if isinstance(problem, JanusError):
            problem.message = f"{problem.message}; {kept}"
            if isinstance(problem, OutOfMemoryError):  # its hint is an option; of two equal ones the last counts
                problem.hint = self.resume_hint.replace(" --resume", f" {problem.hint} --resume", 1)
            elif START_OVER not in problem.hint:
                problem.hint = "; ".join(filter(None, [problem.hint, self.resume_hint]))
        elif isinstance(problem, OSError) and not pipe_closed:
            message = f"{problem.filename or 'output'}: {problem.strerror}; {kept}"
            raise JanusError(message, f"then {self.resume_hint}") from None
        elif not pipe_closed:
            console.warn(f"{kept}; {self.resume_hint}")

    def _lock(self, file: BinaryIO, kind: int = fcntl.LOCK_EX) -> None:
        """Locks until the file is closed; the kernel unlocks it when the process ends, however it ends."""
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = f"wait for it, or {self.elsewhere}"
            raise RunInUseError(f"another process is writing {self.name}", hint) from None

    def _not_writable(self, path: Path, problem: OSError) -> DataError:
        return DataError(f"{path} cannot be written: {problem.strerror}", self.elsewhere)


def as_json(record: Record) -> bytes:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> Record:
    """A line of JSON; empty if it is cut off or damaged."""
    with suppress(ValueError):
        values = json.loads(line)
        return values if isinstance(values, dict) else {}
    return {}


def _write(file: BinaryIO, data: bytes, *, sync: bool = False) -> None:
    try:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    except OSError as problem:
        problem.filename = file.name  # the system does not name it
        raise
