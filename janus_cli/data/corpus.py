r"""Text files: finding, checking, reading in chunks, cleaning. A line is what stands between b"\n" and nothing else.

U+2028, U+0085, \x0b, \x0c, \x1c, a lone \r and NUL are text. A \r before the \n and a BOM at the start are not.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np

from janus_cli import console
from janus_cli.errors import DataError
from janus_cli.files import sha256
from janus_cli.recipe import Data

BadUtf8 = Literal["stop", "skip", "replace"]
SPLITS = ("train", "valid", "test")
BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20  # bytes read at once
LONGEST_LINE = 1 << 22  # bytes; beyond that it is no text with lines, and encoding it would take 100 times as many
CHUNK_LINES, CHUNK_BYTES = 4000, 1 << 22  # of pairs handed to a process at once; fewer pairs where lines are long


@dataclass(frozen=True)
class Side:
    """One checked text file.

    lines: in it; bytes, sha256: of the file on disk; changed: `last_change` before it was read.
    """

    path: Path
    lines: int
    bytes: int
    sha256: str
    changed: int = 0


@dataclass(frozen=True)
class Split:
    """The aligned files of one split; a test split may have no target."""

    name: str
    source: Side
    target: Side | None

    @property
    def sides(self) -> dict[str, Side]:
        """The sides that are there, by name."""
        return {"source": self.source} | ({"target": self.target} if self.target else {})


def open_bytes(path: Path) -> BinaryIO:
    """A text file behind its BOM, plain or `.gz`, or a pipe, which nobody can read twice."""
    file = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")
    if file.peek(len(BOM)).startswith(BOM):
        file.read(len(BOM))
    return cast(BinaryIO, file)


def find(folder: Path, stem: str, suffix: str) -> Path | None:
    """`<folder>/<stem>.<suffix>`, plain or `.gz`; None where neither is there."""
    names = (f"{stem}.{suffix}", f"{stem}.{suffix}.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def stems(data: Data) -> dict[str, str]:
    """File names before the suffix, by split."""
    return dict(zip(SPLITS, (data.train, data.valid, data.test), strict=True))


def survey(data: Data, folder: Path, bad_utf8: BadUtf8) -> list[Split]:
    """Finds and checks the files of every split.

    Raises:
        DataError: a file is missing, empty, not UTF-8 (with `stop`), cut off, or not aligned with its partner.
    """
    splits, found = [], files(data, folder)
    if "test" not in found:
        console.say(f"no test split: {folder / f'{data.test}.{data.source}'} is not there")
    for name, (source, target) in found.items():
        split = Split(name, check(source, bad_utf8), check(target, bad_utf8) if target else None)
        _must_align(split)
        splits.append(split)
    return splits


def files(data: Data, folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The two files of each split; the test split, or its target, may be missing.

    Raises:
        DataError: another one is.
    """
    found: dict[str, tuple[Path, Path | None]] = {}
    for name, stem in stems(data).items():
        source, target = find(folder, stem, data.source), find(folder, stem, data.target)
        if name == "test" and source is None:
            continue
        if source is None or (target is None and name != "test"):
            suffix = data.source if source is None else data.target
            raise DataError(
                f"{folder / f'{stem}.{suffix}'} (or .gz) is not there",
                "name the folder with --data-dir, the suffixes with --set data.source=… --set data.target=…",
            )
        found[name] = source, target
    return found


def check(path: Path, bad_utf8: BadUtf8) -> Side:
    """Counts a file's lines and makes sure that it can be used.

    Raises:
        DataError: unreadable, empty, cut off, without line ends, or not UTF-8 (with `stop`), naming file:line:byte.
    """
    try:
        changed, digest = last_change(path), sha256(path)
        with open_bytes(path) as file:
            bom = file.tell() == len(BOM)
            lines = _count_lines(path, file)
        if bad_utf8 == "stop":
            _must_be_utf8(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(f"{path} is damaged: {problem}", "fetch or compress it again") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}", "name a text file, plain or .gz") from None
    if not lines:
        raise DataError(f"{path} is empty")
    if bom:
        console.say(f"{path}: byte order mark removed")
    return Side(path, lines, path.stat().st_size, digest, changed)


def must_be_settled(splits: Sequence[Split]) -> None:
    """After the text was read again and again: whether all that was read is what was checked.

    Raises:
        DataError: a file was changed or replaced since.
    """
    for side in (side for split in splits for side in split.sides.values()):
        same = side.path.is_file() and (last_change(side.path) == side.changed or sha256(side.path) == side.sha256)
        if not same:
            raise DataError(f"{side.path} was changed while it was read", "prepare it when it is complete")


def last_change(path: Path) -> int:
    """When contents or inode changed, whichever is later, in nanoseconds: replacement by an older file shows, too."""
    about = path.stat()
    return max(about.st_mtime_ns, about.st_ctime_ns)


def _count_lines(path: Path, file: BinaryIO) -> int:
    count, open_line = 0, 0  # open_line: bytes since the last line end
    while block := file.read(BLOCK):
        ends = block.count(b"\n")
        count += ends
        open_line = len(block) - block.rfind(b"\n") - 1 if ends else open_line + len(block)
        if open_line > LONGEST_LINE:
            raise DataError(
                f"{path}:{count + 1}: this line is longer than {LONGEST_LINE >> 20} MiB: is this a text file?"
            )
    return count + (open_line > 0)


def _must_be_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_bytes(path) as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        return
    except UnicodeDecodeError:
        pass
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as problem:
                bad = f"byte 0x{line[problem.start]:02x} is not UTF-8 ({problem.reason})"
                raise DataError(
                    f"{path}:{number}:{problem.start + 1}: {bad}",
                    "convert the file (`iconv -t UTF-8`); `janus preprocess` can also take --bad-utf8 skip or replace",
                ) from None


def _must_align(split: Split) -> None:
    source, target = split.source, split.target
    if target is None or source.lines == target.lines:
        return
    number = _first_suspicious(source.path, target.path)
    raise DataError(
        f"{source.path} has {source.lines:,} lines, {target.path} has {target.lines:,}; "
        f"they seem to go apart at line {number:,}",
        f"compare: sed -n {number}p {source.path}; sed -n {number}p {target.path}",
    )


def _first_suspicious(source: Path, target: Path) -> int:
    """The line, from 1, where one side most likely has lines too many: before it pairs have the most equal lengths as
    they stand, from it on when the longer side is moved up by the difference in line counts."""
    with open_bytes(source) as first, open_bytes(target) as second:
        sizes = [np.fromiter((len(line.strip()) + 1 for line in file), np.float64) for file in (first, second)]
    longer, shorter = sorted((np.log(size) for size in sizes), key=len, reverse=True)
    extra = len(longer) - len(shorter)
    as_it_stands = np.abs(longer[: len(shorter)] - shorter)
    moved = np.abs(longer[extra:] - shorter)
    # Cost of a break before line k+1: pairs 1..k as they stand, the others moved.
    cost = np.concatenate(([0.0], np.cumsum(as_it_stands))) + np.concatenate((np.cumsum(moved[::-1])[::-1], [0.0]))
    return int(np.argmin(cost)) + 1


@dataclass(frozen=True)
class Chunk:
    r"""Consecutive lines of a split, joined by b"\n", without the last line end.

    target is None where the split has none.
    """

    lines: int
    source: bytes
    target: bytes | None


def chunks(split: Split) -> Iterator[Chunk]:
    """The split from start to end in chunks that do not depend on who reads them."""
    with open_bytes(split.source.path) as sources:
        if split.target is None:
            yield from _cut(((line, b"") for line in sources), paired=False)
            return
        with open_bytes(split.target.path) as targets:
            yield from _cut(zip_longest(sources, targets, fillvalue=b""), paired=True)


def _cut(pairs: Iterator[tuple[bytes, bytes]], *, paired: bool) -> Iterator[Chunk]:
    while True:
        held: list[tuple[bytes, bytes]] = []
        size = 0
        for pair in islice(pairs, CHUNK_LINES):
            held.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= CHUNK_BYTES:
                break
        if not held:
            return
        sources, targets = (
            b"".join(line.removesuffix(b"\n") + b"\n" for line in side)[:-1] for side in zip(*held, strict=True)
        )
        yield Chunk(len(held), sources, targets if paired else None)


def sample(side: Side, most: int, clean: Callable[[str], str]) -> Iterator[str]:
    """At most `most` lines, evenly over the file, cleaned; without empty ones and those that are not UTF-8."""
    with open_bytes(side.path) as file:
        for number, line in enumerate(file):
            # Line i is taken where i * most / lines passes a whole number.
            if number * most % side.lines < most:
                with suppress(UnicodeDecodeError):
                    if text := clean(line.removesuffix(b"\n").removesuffix(b"\r").decode()):
                        yield text
