"""The records of a long decoding, kept so that it can be resumed after a stop or a kill.

    .NAME.partial   the header: weights, options and output files, which must be the same to resume
                    the records, each with its input line
                    after each window of records {"done": …}: everything before it is complete

The process that writes the file holds a lock on it. A resuming process cuts off what follows the last `done` line and
appends. When all lines are decoded, the output files are made from the records and the partial file is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from gzip import GzipFile
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple, cast

from janus_cli import console, documents
from janus_cli.console import counted
from janus_cli.documents import MEBI, parsed_line
from janus_cli.errors import (
    CheckpointError,
    DataError,
    Interrupt,
    JanusError,
    OutOfMemoryError,
    RunInUseError,
    Stopped,
    UsageError,
    check_machine,
)
from janus_cli.files import Busy, held
from janus_cli.system import sync as sync_folder
from janus_cli.system import whose

FORMAT = 3
DONE = b'{"done": '
LONGEST = 64 * MEBI  # bytes of a line
READING = {"read": "source_tokens", "unknown": "unknown_source_tokens", "cut": "sources_cut"}  # counts, in summaries
SYNC_SECONDS = 10.0  # work that a power cut may lose; a killed process loses one window
START_OVER = "--force starts over"
OVERWRITE = "overwrite it with --force, or name another with --out"

Record = dict[str, Any]
Form = Callable[[Record], bytes]  # how an output file renders a record


class Progress(NamedTuple):
    """How many records are complete, and their cost, summed over all processes.

    counts: see `Timing.counts`. published: the output files are complete too, and are being renamed into place.
    """

    done: int = 0
    tokens: int = 0
    passes: int = 0
    seconds: float = 0.0
    counts: Mapping[str, int] = {}
    published: bool = False

    @property
    def reading(self) -> dict[str, int]:
        """What was read, for the summary of a result."""
        return {name: self.counts.get(what, 0) for what, name in READING.items()}


class Records:
    """The records of one decoding, in input order; iterating reads them from the partial file.

    Args:
        output: the file or folder beside which the partial file lies. make_folder: make the folder around it.
        files: the output files, and whether an existing one may be replaced.
        checkpoint: name and sha256 of the weights.
        options: everything else that must be the same to resume.
        command: the one that resumes; elsewhere: how to name another output; both for hints.
    """

    def __init__(
        self, output: Path, files: Mapping[Path, bool], checkpoint: tuple[str, str], options: Mapping[str, Any], *,
        command: str, elsewhere: str, make_folder: bool = False,
    ) -> None:  # fmt: skip
        self.output, self.files = output, dict(files)
        self.path = output.with_name(f".{output.name}.partial")
        self.resume_hint, self.elsewhere, self.make_folder = f"resume with: {command}", elsewhere, make_folder
        self.header = {
            "format": FORMAT, "files": [path.name for path in files], "replace": list(files.values()),
            "checkpoint": checkpoint[0], "sha256": checkpoint[1], "options": json.loads(json.dumps(options)),
            "places": [str(path.absolute()) for path in files],
        }  # fmt: skip
        self.progress = Progress()
        self.unkept = 0  # lines that were decoded since the last window was added
        self.resumed = False  # whether an earlier process made some of the records
        self._end = 0  # end of the last complete window, in bytes
        self._synced = time.monotonic()

    def earlier_header(self) -> Record:
        """The header of the partial file; empty if it is missing or cannot be read."""
        return _header_of(self.path)

    def check(self, *, resume: bool, force: bool) -> None:
        """Determines where to start, before anything is written or loaded.

        Raises:
            UsageError: an output file exists, finished lines are kept though none are asked for, the options differ, or
                the partial file is another user's.
            CheckpointError: the weights differ.
            DataError: the partial file is damaged.
            RunInUseError: another process is writing it.
        """
        if self.path.exists() and not os.access(self.path, os.W_OK):
            reason = ": ".join(filter(None, ["may not be continued or replaced", whose(self.path)]))
            raise UsageError(f"{self.path}, left by an earlier decoding, {reason}", self.elsewhere)
        earlier = Progress() if force else self._find_progress()
        header = self.earlier_header() if resume else {}
        if header.get("files") == self.header["files"]:  # what the first call may replace, a later one may, too
            self.files = dict(zip(self.files, header["replace"], strict=True))
        if resume and earlier.done:
            self.progress, self.resumed = earlier, True
            self._must_agree(header)
        elif earlier.done:
            raise UsageError(
                f"{self.path} holds {counted(earlier.done, 'finished line')} of a decoding that was stopped",
                f"{self.resume_hint}; {START_OVER}",
            )
        self._must_be_free(OVERWRITE)
        if resume and not earlier.done:  # so that a job may always say --resume
            self._must_not_pass_over()
            console.say("nothing is finished yet: beginning with the first line")

    def finished(self) -> Path | None:
        """An output file that must not be replaced, and is complete: no process has left finished lines."""
        if self.path.exists():
            return None
        return next((path for path, replaceable in self.files.items() if not replaceable and not _is_free(path)), None)

    def _find_progress(self) -> Progress:
        """The progress at the last `done` line; sets `_end` to the end of that line."""
        progress, end = Progress(), 0
        try:
            with self.path.open("rb") as file, ExitStack() as stack:
                stack.enter_context(self._held(file, shared=True))
                for line in _lines(file):
                    whole = line.endswith(b"\n")
                    if not end and whole and parsed_line(line, documents.RecordsHeader).get("format") != FORMAT:
                        raise DataError(f"{self.path} is damaged, or from another version of janus", START_OVER)
                    end += len(line)
                    done = whole and line.startswith(DONE)
                    if done and (values := parsed_line(line, documents.RecordsProgress)):
                        self._end = end
                        progress = Progress(**{name: values[name] for name in Progress._fields if name in values})
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as problem:
            check_machine(problem)
            raise self._not_writable(self.output, problem) from None
        return progress

    def _must_agree(self, earlier: Record) -> None:
        if earlier["sha256"] != self.header["sha256"]:
            raise CheckpointError(
                f"{self.path} was started with the weights of {earlier['checkpoint']}, "
                f"those of {self.header['checkpoint']} are others",
                f"name it with --checkpoint if it is still there; {START_OVER}",
            )
        before, now = ({"files": header["files"], **header["options"]} for header in (earlier, self.header))
        if different := differences(before, now):
            raise UsageError(
                f"{self.path} was started with other options: {different}", f"give the same ones; {START_OVER}"
            )

    def _must_not_pass_over(self) -> None:
        """Raises UsageError if lines are kept of a decoding with other options that would write one of the files."""
        for path in sorted(self.path.parent.glob(".*.partial")):
            earlier = _header_of(path)
            shared = set(earlier.get("places", ())) & set(self.header["places"])
            if path != self.path and shared and _holds_lines(path):
                before, now = ({"checkpoint": each["checkpoint"], **each["options"]} for each in (earlier, self.header))
                raise UsageError(
                    f"{path} holds finished lines for {min(shared)} with other options: {differences(before, now)}",
                    "give the same ones, or name another file with --out; without --resume, decoding begins anew",
                )

    def _must_be_free(self, hint: str) -> None:
        if self.progress.published:
            return  # existing files of these names are from the stopped process
        for path, replaceable in self.files.items():
            if not replaceable and not _is_free(path):
                raise UsageError(f"{path} exists already", hint)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the partial file open and locked, and deletes it after a block that ends well.

        Raises:
            DataError: a file cannot be written.
            RunInUseError: another process is writing the partial file.
            Stopped: for an Interrupt. This and other errors from the block say what is kept and how to resume.
        """
        path = self.output
        try:  # fail now, not after hours of work
            if self.make_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            for path in self.files:
                TemporaryFile(dir=path.parent).close()
        except OSError as problem:
            check_machine(problem)
            raise self._not_writable(path, problem) from None
        with ExitStack() as stack:
            self._file = self.path.open("a+b")
            stack.callback(self._close)
            stack.enter_context(self._held(self._file))
            if os.fstat(self._file.fileno()).st_size < self._end or not self.path.exists():
                raise RunInUseError(f"another process has written {self.output}", "see whether it is complete")
            try:
                self._file.truncate(self._end)
                if not self._end:
                    _write(self._file, as_json(self.header))
                yield
            except BaseException as problem:
                self._explain(problem)
                raise
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        with suppress(OSError):  # on a full disk, closing fails as writing did
            self._file.close()

    def __iter__(self) -> Iterator[Record]:
        """Raises DataError if the partial file is damaged."""
        count = 0
        with self.path.open("rb") as file:
            for line in islice(_lines(file), 1, None):
                if not line.startswith(DONE):
                    record = parsed_line(line, documents.Record)
                    if not record:
                        break
                    count += 1
                    yield record
        if count != self.progress.done:
            raise DataError(f"{self.path} is damaged after record {count:,}", START_OVER)

    def replay(self, texts: Iterator[str]) -> Iterator[Record]:
        """The records of earlier processes; takes their input lines from `texts`.

        Raises:
            DataError: the lines differ, or the file is damaged.
        """
        for number, record in enumerate(self, 1):
            if next(texts, None) != record["source"]:
                raise DataError(
                    f"line {number:,} of the input is not the one that was decoded before",
                    "give the same text as before, or start over with --force",
                )
            yield record

    def add(self, window: Sequence[Record], progress: Progress) -> None:
        """Appends a window of records. progress: including these."""
        self._append(b"".join(map(as_json, window)), progress)
        self.unkept = 0
        if time.monotonic() - self._synced > SYNC_SECONDS:
            _write(self._file, b"", sync=True)
            self._synced = time.monotonic()

    def _append(self, records: bytes, progress: Progress) -> None:
        _write(self._file, records + as_json(progress._asdict()))
        self.progress, self._end = progress, self._file.tell()

    def note_published(self) -> None:
        """From now on, existing files of the outputs' names are taken for those of this decoding."""
        self._append(b"", self.progress._replace(published=True))
        _write(self._file, b"", sync=True)

    def publish(self, forms: Collection[Form]) -> None:
        """Writes the output files, each in its form, and renames them into place when all are complete.

        Raises:
            UsageError: one exists by now; then none is made.
        """
        self._must_be_free("move it away")
        self.note_published()
        new = [path.with_name(f".{_digest(path)}.new") for path in self.files]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in new]
            texts = [stack.enter_context(_packing(file, path)) for file, path in zip(files, self.files, strict=True)]
            for record in self:
                for text, form in zip(texts, forms, strict=True):
                    _write(text, form(record), flush=False)
            for text, file in zip(texts, files, strict=True):
                if text is not file:
                    text.close()  # writes the end of the gzipped data
                _write(file, b"", sync=True)
        for temporary, path in zip(new, self.files, strict=True):
            temporary.replace(path)
            sync_folder(path.parent)

    def _explain(self, problem: BaseException) -> None:
        """Adds to an error message what is kept and how to resume. Deletes a partial file without records."""
        pipe_closed = isinstance(problem, BrokenPipeError)
        lost = f"; lost, because lines are kept in blocks of batches: {self.unkept:,} more" if self.unkept else ""
        # Nobody wants to resume `janus decode | head`, unless an earlier process did much of it.
        if not self.progress.done or (pipe_closed and not self.resumed):
            self.path.unlink(missing_ok=True)
            if isinstance(problem, Interrupt):
                raise Stopped(problem.number, f"{problem} before a line was kept{lost}") from None
            return
        verb = "is" if self.progress.done == 1 else "are"
        kept = f"{counted(self.progress.done, 'finished line')} {verb} kept in {self.path}"
        if isinstance(problem, Interrupt):
            raise Stopped(problem.number, f"{problem}; {kept}{lost}", self.resume_hint) from None
        if isinstance(problem, JanusError):
            problem.message = f"{problem.message}; {kept}"
            if isinstance(problem, OutOfMemoryError):  # its hint is an option; if given twice, the last one counts
                problem.hint = self.resume_hint.replace(" --resume", f" {problem.hint} --resume", 1)
            elif START_OVER not in problem.hint:
                problem.hint = "; ".join(filter(None, [problem.hint, self.resume_hint]))
        elif isinstance(problem, OSError) and not pipe_closed:
            message = f"{problem.filename or 'output'}: {problem.strerror}; {kept}"
            raise JanusError(message, f"then {self.resume_hint}") from None
        elif not pipe_closed:
            console.warn(f"{kept}; {self.resume_hint}")

    @contextmanager
    def _held(self, file: BinaryIO, *, shared: bool = False) -> Iterator[None]:
        """Holds the lock of the partial file, and frees it at the latest when the process ends."""
        with ExitStack() as stack:
            try:
                stack.enter_context(held(file, self.path, shared=shared))
            except Busy as problem:
                holder, hint = problem.holder or "another process", f"wait for it, or {self.elsewhere}"
                raise RunInUseError(f"{holder} is writing {self.output}", hint) from None
            yield

    def _not_writable(self, path: Path, problem: OSError) -> DataError:
        return DataError(f"{path} cannot be written: {problem.strerror}", self.elsewhere)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The options that differ, with both values; empty if none does."""
    return "; ".join(
        f"{name} {json.dumps(before.get(name))}, now {json.dumps(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _digest(path: Path) -> str:
    """A short name for a path, the same in every process."""
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]


def _packing(file: BinaryIO, path: Path) -> BinaryIO:
    """What writes into a file that will be called `path`: gzipped, the same bytes at any time, if that ends in .gz."""
    return cast(BinaryIO, GzipFile("", "wb", fileobj=file, mtime=0)) if path.suffix.lower() == ".gz" else file


def as_json(record: Record) -> bytes:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"  # names may be no text


def _header_of(path: Path) -> Record:
    with suppress(OSError), path.open("rb") as file:
        return parsed_line(file.readline(LONGEST), documents.RecordsHeader)
    return {}


def _holds_lines(path: Path) -> bool:
    """Whether a window of a partial file is complete."""
    with path.open("rb") as file:
        return any(line.startswith(DONE) for line in _lines(file))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded length: a longer one comes in parts, and none of them is a record."""
    return iter(lambda: file.readline(LONGEST), b"")


def _write(file: BinaryIO, data: bytes, *, flush: bool = True, sync: bool = False) -> None:
    try:
        file.write(data)
        if flush:
            file.flush()
        if sync:
            os.fsync(file.fileno())
    except OSError as problem:
        problem.filename = file.name  # the system does not name it
        raise
