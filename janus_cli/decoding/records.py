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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

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
from janus_cli.files import sync

FORMAT = 2
DONE = b'{"done": '
SYNC_SECONDS = 10.0  # how much of the work a power cut may take; the end of the process takes nothing
START_OVER = "--force starts over"

Record = dict[str, Any]
Form = Callable[[Record], bytes]  # what a record becomes in a file


@dataclass(frozen=True)
class Progress:
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
        self._end = self._begun = 0  # of the last finished window, in bytes; begun: of an earlier process
        self._synced = time.monotonic()

    @property
    def resumed(self) -> bool:
        """Whether an earlier process made some of the records, or all."""
        return self._begun > 0

    def begun_with(self) -> Mapping[str, Any]:
        """The header of what is there already; empty where there is none, or none that can be read."""
        with suppress(OSError), self.path.open("rb") as file:
            return _parsed(file.readline()) or {}
        return {}

    def check(self, *, resume: bool, force: bool) -> None:
        """Whether to begin or to resume, and from where; before anything is made or loaded.

        Raises:
            UsageError: something is in the way, there is nothing to resume, or it was begun with other options.
            CheckpointError: it was begun with other weights.
            DataError: the partial file is damaged.
            RunInUseError: another process is writing it.
        """
        kept = None if force else self._kept()
        if resume:
            if kept is None:
                raise UsageError(f"--resume: no finished line is kept in {self.path}", "leave out --resume to begin")
            begun, self.progress, self._end = kept
            self._must_agree(begun)
            self.files = dict(zip(self.files, begun["replace"], strict=True))
        elif kept is not None:
            raise UsageError(
                f"{self.path} holds {kept[1].done:,} finished lines of a decoding that was stopped",
                f"{self.go_on}; {START_OVER}",
            )
        self._begun = self._end
        self._must_be_free("overwrite it with --force, or name another file")

    def _kept(self) -> tuple[dict[str, Any], Progress, int] | None:
        """Header, progress, and where its line ends; None where no window was finished."""
        try:
            with self.path.open("rb") as file:
                self._lock(file, self.name, fcntl.LOCK_SH)
                line = file.readline()
                header, progress, at, end = _parsed(line), Progress(), len(line), 0
                if line.endswith(b"\n") and (header is None or header.get("format") != FORMAT):
                    raise DataError(f"{self.path} is damaged, or of another version of janus", START_OVER)
                for line in file:
                    at += len(line)
                    # The end of a line is its last byte to be written.
                    if line.startswith(DONE) and line.endswith(b"\n") and (values := _parsed(line)):
                        progress, end = Progress(**values), at
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise self._not_writable(self.name, problem) from None
        return (header, progress, end) if header and end else None

    def _must_agree(self, begun: Mapping[str, Any]) -> None:
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
            self._lock(self._file, self.name)
            if os.fstat(self._file.fileno()).st_size < self._end or not self.path.exists():
                raise RunInUseError(f"another process has written {self.name}", "see whether it is complete")
            try:
                self._file.truncate(self._end)
                if not self._end:
                    self._append(as_json(self.header))
                yield
            except BaseException as problem:
                self._explain(problem)
                raise
            self.path.unlink()
        finally:
            with suppress(OSError):  # what did not fit on the disk still does not
                self._file.close()

    def read(self) -> Iterator[Record]:
        """The finished records.

        Raises:
            DataError: they are damaged.
        """
        count, at = 0, 0
        with self.path.open("rb") as file:
            for line in file:
                if 0 < at < self._end and not line.startswith(DONE):
                    record = _parsed(line)
                    if record is None or "source" not in record:
                        break
                    count += 1
                    yield record
                at += len(line)
        if count != self.progress.done:
            raise DataError(f"{self.path} is damaged behind record {count:,}", START_OVER)

    def kept(self, lines: Iterator[str]) -> Iterator[Record]:
        """The records that are there already; takes the lines that they answer from `lines`.

        Raises:
            DataError: they answer other lines, or are damaged.
        """
        for record in self.read():
            if next(lines, None) != record["source"]:
                raise DataError(
                    f"the input does not begin with the {self.progress.done:,} lines that are done",
                    "give the text that it was begun with, or start over with --force",
                )
            yield record

    def add(self, records: Sequence[Record], tokens: int, passes: int, seconds: float) -> None:
        """Adds a window of records. tokens, passes, seconds: see Progress."""
        progress = Progress(self.progress.done + len(records), tokens, passes, round(seconds, 3))
        self._append(b"".join(map(as_json, records)) + as_json(asdict(progress)))
        self.progress, self._end = progress, self._file.tell()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _append(self, data: bytes) -> None:
        with _named(self.path):
            self._file.write(data)
            self._file.flush()

    def _sync(self) -> None:
        with _named(self.path):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def publish(self, forms: Sequence[Form]) -> None:
        """Makes the files, each in its form; they get their names when all are complete.

        Raises:
            UsageError: one has come into being meanwhile; then none is made.
            RunInUseError: another process is making one of them.
        """
        self._must_be_free("move it away")
        self.progress = replace(self.progress, published=True)
        self._append(as_json(asdict(self.progress)))
        self._end = self._file.tell()
        self._sync()
        with ExitStack() as stack:
            files = []
            for path in self.files:
                files.append(stack.enter_context(path.with_name(f".{path.name}.new").open("ab")))
                self._lock(files[-1], path)  # decodings of two splits may have one output file
                files[-1].truncate(0)
            for record in self.read():
                for file, form in zip(files, forms, strict=True):
                    with _named(file.name):
                        file.write(form(record))
            for file in files:
                with _named(file.name):
                    file.flush()
                    os.fsync(file.fileno())
            for file, path in zip(files, self.files, strict=True):
                Path(file.name).replace(path)
        for folder in {path.parent for path in self.files}:
            sync(folder)

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
            where = problem.filename or "output"
            hint = f"when that is mended, {self.go_on}"
            raise JanusError(f"{where}: {problem.strerror}; {kept}", hint) from None
        elif not gone:
            console.warn(f"{kept}; {self.go_on}")

    def _lock(self, file: BinaryIO, name: Path, kind: int = fcntl.LOCK_EX) -> None:
        """Until the file is closed; the kernel frees it when the process ends, however it ends."""
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(f"another process is writing {name}", f"wait for it, or {self.elsewhere}") from None

    def _not_writable(self, path: Path, problem: OSError) -> DataError:
        return DataError(f"{path} cannot be written: {problem.strerror}", self.elsewhere)


def as_json(record: Record) -> bytes:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> Record | None:
    try:
        values = json.loads(line)
    except ValueError:  # half a line, from when the disk was full
        return None
    return values if isinstance(values, dict) else None


@contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Names the file in an error of writing it, which the system leaves out."""
    try:
        yield
    except OSError as problem:
        problem.filename = str(path)
        raise
