"""Records that grow for hours in one JSONL file and survive whatever stops the work.

    .NAME.partial   line 1: how the records are made (weights, options, files to make)
                    then the records, each with the input that it answers
                    behind each window of them a line {"done": …}: up to here everything is there

One process at a time writes it, and holds a lock. A later one cuts it behind the last `done` line and goes on from
there. When all is done, the files that were asked for are made from the records, and the partial file goes.
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
SYNC_SECONDS = 10.0  # how much of the work a power cut may take; the end of the process takes nothing
START_OVER = "--force starts over"

Record = dict[str, Any]
Form = Callable[[Record], bytes]  # what a record becomes in a file


class Progress(NamedTuple):
    """done: finished records. tokens, passes, seconds: what they took, in all processes together.

    published: all records are there, and the files were about to get their names.
    """

    done: int = 0
    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0
    published: bool = False


class Records:
    """Records in the order of the input, from which files are made.

    name: what the partial file is named after. files: those to make, and whether one that is there may be replaced.
    checkpoint: name and sha256 of the weights. options: what else must be equal to resume. For people: the command that
    resumes, and `elsewhere`, how to name other files.
    """

    def __init__(
        self, name: Path, files: Mapping[Path, bool], checkpoint: tuple[str, str], options: Mapping[str, Any],
        command: str, elsewhere: str,
    ) -> None:  # fmt: skip
        self.name, self.files, self.elsewhere = name, dict(files), elsewhere
        self.path = name.with_name(f".{name.name}.partial")
        self.go_on = f"go on with: {command}"
        self.header = {
            "format": FORMAT, "files": [path.name for path in files], "replace": list(files.values()),
            "checkpoint": checkpoint[0], "sha256": checkpoint[1], "options": json.loads(json.dumps(options)),
        }  # fmt: skip
        self.progress = Progress()
        self.resumed = False  # whether an earlier process made some of the records, or all
        self._end = 0  # of the last finished window, in bytes
        self._synced = time.monotonic()

    def begun_with(self) -> Record:
        """The header of what is there already; empty where there is none, or none that can be read."""
        with suppress(OSError), self.path.open("rb") as file:
            return _parsed(file.readline())
        return {}

    def check(self, *, resume: bool, force: bool) -> None:
        """Whether to begin or to resume, and from where; before anything is made or loaded.

        Raises:
            UsageError: something is in the way, there is nothing to resume, or it was begun with other options.
            CheckpointError: it was begun with other weights.
            DataError: the partial file is damaged.
            RunInUseError: another process is writing it.
        """
        kept = Progress() if force else self._find_progress()
        if resume and not kept.done:
            raise UsageError(f"--resume: no finished line is kept in {self.path}", "leave out --resume to begin")
        if kept.done and not resume:
            raise UsageError(
                f"{self.path} holds {kept.done:,} finished lines of a decoding that was stopped",
                f"{self.go_on}; {START_OVER}",
            )
        if resume:
            self.progress, self.resumed, begun = kept, True, self.begun_with()
            self._must_agree(begun)
            self.files = dict(zip(self.files, begun["replace"], strict=True))
        self._must_be_free("overwrite it with --force, or name another file")

    def _find_progress(self) -> Progress:
        """What the last `done` line says; `_end` is where it ends."""
        progress, end = Progress(), 0
        try:
            with self.path.open("rb") as file:
                self._lock(file, fcntl.LOCK_SH)
                for line in file:
                    if not end and line.endswith(b"\n") and _parsed(line).get("format") != FORMAT:
                        raise DataError(f"{self.path} is damaged, or of another version of janus", START_OVER)
                    end += len(line)
                    if line.startswith(DONE) and line.endswith(b"\n") and (values := _parsed(line)):
                        progress, self._end = Progress(**values), end
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as problem:
            raise self._not_writable(self.name, problem) from None
        return progress

    def _must_agree(self, begun: Record) -> None:
        if begun["sha256"] != self.header["sha256"]:
            raise CheckpointError(
                f"{self.path} was begun with the weights of {begun['checkpoint']}, "
                f"those of {self.header['checkpoint']} are others",
                f"name it with --checkpoint if it is still there; {START_OVER}",
            )
        before, now = ({"files": header["files"], **header["options"]} for header in (begun, self.header))
        different = [
            f"{name} {json.dumps(before.get(name))}, now {json.dumps(now.get(name))}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.path} was begun with other options: {'; '.join(different)}",
                f"give the same ones; {START_OVER}",
            )

    def _must_be_free(self, hint: str) -> None:
        if self.progress.published:
            return  # what has one of the names by now was made by the process that was stopped
        for path, replaceable in self.files.items():
            is_empty_folder = path.is_dir() and not any(path.iterdir())
            if path.exists() and not replaceable and not is_empty_folder:
                raise UsageError(f"{path} is there already", hint)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the partial file open, and deletes it at the end, when everything was made from it.

        Raises:
            DataError: it cannot be made.
            RunInUseError: another process is writing it.
            Stopped: an Interrupt came. This and other errors from inside say what is kept and how to resume.
        """
        for path in self.files:  # which may be needed in hours only
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
            with suppress(OSError):  # what did not fit on the disk still does not
                self._file.close()

    def windows(self) -> Iterator[list[Record]]:
        """The finished records, as many at a time as were added together.

        Raises:
            DataError: they are damaged.
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
            raise DataError(f"{self.path} is damaged behind record {count:,}", START_OVER)

    def kept(self, lines: Iterator[str]) -> Iterator[list[Record]]:
        """The windows that are there already; takes the lines that they answer from `lines`.

        Raises:
            DataError: they answer other lines, or are damaged.
        """
        for window in self.windows():
            if any(next(lines, None) != record["source"] for record in window):
                raise DataError(
                    f"the input does not begin with the {self.progress.done:,} lines that are done",
                    "give the text that it was begun with, or start over with --force",
                )
            yield window

    def add(self, window: Sequence[Record], tokens: int, passes: int, seconds: float) -> None:
        """Adds some records. tokens, passes, seconds: see Progress."""
        progress = Progress(self.progress.done + len(window), tokens, passes, round(seconds, 3))
        self._append(b"".join(map(as_json, window)), progress)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            _write(self._file, b"", sync=True)
            self._synced = time.monotonic()

    def _append(self, records: bytes, progress: Progress) -> None:
        _write(self._file, records + as_json(progress._asdict()))
        self.progress, self._end = progress, self._file.tell()

    def publish(self, forms: Sequence[Form]) -> None:
        """Makes the files, each in its form; they get their names when all are complete.

        Raises:
            UsageError: one has come into being meanwhile; then none is made.
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
        for whole, path in zip(new, self.files, strict=True):
            whole.replace(path)
            sync_folder(path.parent)

    def _explain(self, problem: BaseException) -> None:
        """Says what is kept, in words that fit the problem; without a finished line nothing is."""
        gone = isinstance(problem, BrokenPipeError)
        # Who read a split's hypotheses from a pipe and went away asked for no file.
        if not self.progress.done or (gone and not self.resumed):
            self.path.unlink(missing_ok=True)
            if isinstance(problem, Interrupt):
                raise Stopped(problem.number, f"{problem} before a line was finished") from None
            return
        kept = f"{self.progress.done:,} finished lines are kept in {self.path}"
        if isinstance(problem, Interrupt):
            raise Stopped(problem.number, f"{problem}; {kept}", self.go_on) from None
        if isinstance(problem, JanusError):
            problem.message = f"{problem.message}; {kept}"
            if isinstance(problem, OutOfMemoryError):  # its hint is an option, and the last one of a name counts
                problem.hint = self.go_on.replace(" --resume", f" {problem.hint} --resume", 1)
            elif START_OVER not in problem.hint:
                problem.hint = "; ".join(filter(None, [problem.hint, self.go_on]))
        elif isinstance(problem, OSError) and not gone:
            message = f"{problem.filename or 'output'}: {problem.strerror}; {kept}"
            raise JanusError(message, f"when that is mended, {self.go_on}") from None
        elif not gone:
            console.warn(f"{kept}; {self.go_on}")

    def _lock(self, file: BinaryIO, kind: int = fcntl.LOCK_EX) -> None:
        """Until the file is closed; the kernel frees it when the process ends, however it ends."""
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
    """Empty where it is no such line: half of one, from when the disk was full, or damaged."""
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
        problem.filename = file.name  # which the system leaves out
        raise
