"""Files that grow for hours: what is whole of them outlives whatever stops the work, and a later process goes on.

    .NAME.partial   beside each target NAME, renamed to it when all is done
    .NAME.journal   beside the first target, see `journal`

Going on cuts all files back to the last point that they all reach.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from janus_cli import console
from janus_cli.decoding.journal import ELSEWHERE, START_OVER, Journal, Kept, Point, blaming, writable
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

SYNC_SECONDS = 10.0  # how much of the work a power cut may take; the end of the process takes nothing


class Unfinished:
    """Files that are written together, some lines of input at a time.

    targets: the files, and whether one that is there already may be replaced. checkpoint: name and sha256 of the
    weights. options: what else must be equal for going on. For people to read, again: the command that goes on;
    elsewhere: how to name other targets.
    """

    def __init__(
        self,
        targets: Mapping[Path, bool],
        checkpoint: tuple[str, str],
        options: Mapping[str, Any],
        again: str,
        elsewhere: str = ELSEWHERE,
    ) -> None:
        self.targets, self.again = dict(targets), again
        self.partials = [path.with_name(f".{path.name}.partial") for path in targets]
        first = next(iter(targets))
        self.journal = Journal(first.with_name(f".{first.name}.journal"), first, elsewhere)
        self.header = {
            "files": [path.name for path in targets], "replace": list(targets.values()),
            "checkpoint": checkpoint[0], "sha256": checkpoint[1], "options": json.loads(json.dumps(options)),
        }  # fmt: skip
        self.point = Point(sizes=[0] * len(targets))
        self._end = 0  # of this point's line in the journal
        self._files: list[BinaryIO] = []
        self._digest = hashlib.blake2b(digest_size=8)
        self._synced = time.monotonic()

    def check(self, *, resume: bool, force: bool) -> None:
        """Whether to begin, or to go on and from which point; before anything is made or loaded.

        Raises:
            UsageError: something is in the way, there is nothing to go on from, or it was begun with other options.
            CheckpointError: it was begun with other weights.
            DataError: what was kept is damaged.
            RunInUseError: another process is writing it.
        """
        partial = self.partials[0]
        kept = None if force else self.journal.kept()
        if resume:
            if kept is None:
                raise UsageError(f"--resume: no finished line is kept in {partial}", "leave out --resume to begin")
            self._must_agree(kept.header)
            self.point, self._end = self._last_point(kept)
            self.targets = dict(zip(self.targets, kept.header["replace"], strict=True))
            if kept.done:  # stopped between the renames, or after them: what is there under its name is ours
                parts = zip(self.targets.items(), self.partials, strict=True)
                self.targets = {target: replace or not part.exists() for (target, replace), part in parts}
        elif kept is not None:
            raise UsageError(
                f"{partial} holds {kept.points[-1][0].lines:,} finished lines of a decoding that was stopped",
                f"go on with: {self.again}; {START_OVER}",
            )
        elif not force and not self.journal.path.exists():
            for partial in self.partials:
                if partial.is_file() and partial.stat().st_size:
                    raise UsageError(f"{partial} is left of another decoding that was stopped", START_OVER)
        self._must_be_free("overwrite it with --force, or name another file")

    def _must_be_free(self, hint: str) -> None:
        for target, replaceable in self.targets.items():
            if target.exists() and not replaceable and not _is_empty_folder(target):
                raise UsageError(f"{target} is there already", hint)

    def _must_agree(self, begun: Mapping[str, Any]) -> None:
        if begun["sha256"] != self.header["sha256"]:
            raise CheckpointError(
                f"{self.partials[0]} was begun with the weights of {begun['checkpoint']}, "
                f"those of {self.header['checkpoint']} are others",
                f"name it with --checkpoint if it is still there; {START_OVER}",
            )
        before, now = ({"files": header["files"], **header["options"]} for header in (begun, self.header))
        different = [
            f"{name} {_shown(before.get(name))}, now {_shown(now.get(name))}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.partials[0]} was begun with other options: {'; '.join(different)}",
                f"give the same ones; {START_OVER}",
            )

    def _last_point(self, kept: Kept) -> tuple[Point, int]:
        for point, end in reversed(kept.points):
            files = zip(self.targets, self.partials, point.sizes, strict=True)
            if all(
                _reaches(part, size) or (kept.done and not part.exists() and _is(target, size))
                for target, part, size in files
            ):
                return point, end
        raise DataError(f"{self.partials[0]} is gone or damaged: {self.journal.path} knows of more", START_OVER)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the files open. Ended early, it leaves what is whole; after `finish` or `discard` no trace of the work.

        Raises:
            DataError: the files cannot be made.
            RunInUseError: another process is writing them.
            Stopped: an Interrupt came. This and other errors from inside say what is kept and how to go on.
        """
        with self.journal.opened(self._end):
            try:
                self._begin()
                yield
            except BaseException as problem:
                self._leave(problem)
                raise
            self.journal.path.unlink()

    def _begin(self) -> None:
        if not self.resumed:
            self.journal.begin(self.header)
        for target, partial, size in zip(self.targets, self.partials, self.point.sizes, strict=True):
            if self.resumed and not partial.exists():
                target.replace(partial)  # the work was stopped between the renames
            with writable(target, self.journal.elsewhere):
                file = partial.open("r+b" if partial.exists() else "xb")
            try:
                self.journal.lock(file, partial)  # that of two splits may have one further target
            except RunInUseError:
                file.close()
                raise
            self._files.append(file)
            file.truncate(size)
            file.seek(size)

    @property
    def resumed(self) -> bool:
        """Whether some lines are not ours, but an earlier process's."""
        return self._end > 0

    def skipped(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines that are still to do.

        Raises:
            DataError: those that are done were others.
        """
        rest = iter(lines)
        for line in islice(rest, self.point.lines):
            self._digest.update(f"{line}\n".encode())
        if self.resumed and self._digest.hexdigest() != self.point.digest:
            raise DataError(
                f"the input does not begin with the {self.point.lines:,} lines that are done",
                "give the text that it was begun with, or start over with --force",
            )
        return rest

    def write(self, parts: Sequence[bytes], sources: Sequence[str], tokens: int, passes: int, seconds: float) -> None:
        """Adds to each file what became of the next lines. tokens, passes, seconds: see Point."""
        for file, partial, part in zip(self._files, self.partials, parts, strict=True):
            with blaming(partial):
                file.write(part)
                file.flush()
        for source in sources:
            self._digest.update(f"{source}\n".encode())
        sizes = [size + len(part) for size, part in zip(self.point.sizes, parts, strict=True)]
        lines = self.point.lines + len(sources)
        point = Point(lines, self._digest.hexdigest(), sizes, tokens, passes, round(seconds, 3))
        self.journal.add(point)
        self.point = point
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        for file, partial in zip(self._files, self.partials, strict=True):
            with blaming(partial):
                os.fsync(file.fileno())
        self.journal.sync()  # last: what it vouches for must be there
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Gives the files their names.

        Raises:
            UsageError: one has come into being meanwhile; then none is renamed.
        """
        self._must_be_free("move it away")
        self._sync()
        self.journal.done()
        self.journal.sync()
        for file, partial, target in zip(self._files, self.partials, self.targets, strict=True):
            file.close()
            partial.replace(target)
        for folder in {target.parent for target in self.targets}:
            sync(folder)

    def discard(self) -> None:
        """Removes the files, from which something else was made."""
        for file, partial in zip(self._files, self.partials, strict=True):
            file.close()
            partial.unlink()

    def _leave(self, problem: BaseException) -> None:
        """Keeps what is whole, and says so in words that fit the problem."""
        for file in self._files:
            with suppress(OSError):  # what did not fit on the disk still does not
                file.close()
        mine = self.partials[: len(self._files)]  # others may be another process's
        gone = isinstance(problem, BrokenPipeError)
        # Who read a split's hypotheses from a pipe and went away asked for no file.
        if not self.point.lines or (gone and not self.resumed):
            for path in (*mine, self.journal.path):
                path.unlink(missing_ok=True)
            if isinstance(problem, Interrupt):
                raise Stopped(problem.number, f"{problem} before a line was finished") from None
            return
        for partial, size in zip(mine, self.point.sizes, strict=False):
            with suppress(OSError):
                os.truncate(partial, size)
        place = self.partials[0] if self.partials[0].exists() else next(iter(self.targets))
        kept = f"{self.point.lines:,} finished lines are kept in {place}"
        go_on = f"go on with: {self.again}"
        if isinstance(problem, Interrupt):
            raise Stopped(problem.number, f"{problem}; {kept}", go_on) from None
        if isinstance(problem, JanusError):
            problem.message = f"{problem.message}; {kept}"
            if isinstance(problem, OutOfMemoryError):  # its hint is an option, and the last one of a name counts
                problem.hint = go_on.replace(" --resume", f" {problem.hint} --resume", 1)
            elif START_OVER not in problem.hint:
                problem.hint = "; ".join(filter(None, [problem.hint, go_on]))
        elif isinstance(problem, OSError) and not gone:
            where = problem.filename or "output"
            raise JanusError(f"{where}: {problem.strerror}; {kept}", f"when that is mended, {go_on}") from None
        elif not gone:
            console.warn(f"{kept}; {go_on}")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _reaches(path: Path, size: int) -> bool:
    """Whether there are so many bytes, and the last of them ends a line."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, size - 1))
        return size == 0 or file.read(1) == b"\n"


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
