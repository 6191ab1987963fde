"""The text of a recipe: which files, whether their lines belong together, and its pairs in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from janus_cli import console
from janus_cli.data.lines import BadUtf8, TextFile, check, last_change, raw_lines
from janus_cli.errors import DataError
from janus_cli.files import sha256
from janus_cli.recipe import Data

SPLITS, SIDES = ("train", "valid", "test"), ("source", "target")
CHUNK_LINES, CHUNK_BYTES = 4000, 1 << 22  # of pairs handed to a process at once; fewer pairs where lines are long
Chunk = list[list[bytes]]  # lines of each side


@dataclass(frozen=True)
class Split:
    """The aligned files of one split; a test split may have no target."""

    name: str
    source: TextFile
    target: TextFile | None

    @property
    def sides(self) -> dict[str, TextFile]:
        """The sides that are there, by name."""
        return {"source": self.source} | ({"target": self.target} if self.target else {})


def file_name(data: Data, split: str, side: str) -> str:
    """As in train.src."""
    return f"{getattr(data, split)}.{getattr(data, side)}"


def find(data: Data, folder: Path, split: str, side: str) -> Path | None:
    """The file of one side of a split, plain or `.gz`; None where neither is there."""
    path = folder / file_name(data, split, side)
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.is_file()), None)


def files(data: Data, folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The two files of each split; the test split, or its target, may be missing.

    Raises:
        DataError: another one is.
    """
    by_split: dict[str, tuple[Path, Path | None]] = {}
    for split in SPLITS:
        source, target = (find(data, folder, split, side) for side in SIDES)
        if split == "test" and source is None:
            continue
        if source is None or (target is None and split != "test"):
            raise DataError(
                f"{folder / file_name(data, split, SIDES[source is not None])} (or .gz) is not there",
                "name the folder with --data-dir, the suffixes with --set data.source=… --set data.target=…",
            )
        by_split[split] = source, target
    return by_split


def survey(data: Data, folder: Path, bad_utf8: BadUtf8) -> list[Split]:
    """Finds and checks the files of every split.

    Raises:
        DataError: a file is missing or cannot be used (see `lines.check`), or is not aligned with its partner.
    """
    by_split, splits = files(data, folder), []
    if "test" not in by_split:
        console.say(f"no test split: {folder / file_name(data, 'test', 'source')} is not there")
    for name, (source_path, target_path) in by_split.items():
        source, target = check(source_path, bad_utf8), check(target_path, bad_utf8) if target_path else None
        if target is not None and source.lines != target.lines:
            number = _first_suspicious(source.path, target.path)
            raise DataError(
                f"{source.path} has {source.lines:,} lines, {target.path} has {target.lines:,}; "
                f"they seem to diverge at line {number:,}",
                f"compare: sed -n {number}p {source.path}; sed -n {number}p {target.path}",
            )
        splits.append(Split(name, source, target))
    return splits


def _first_suspicious(source: Path, target: Path) -> int:
    """The line, from 1, where one side most likely has lines too many: before it pairs have the most equal lengths as
    they stand, from it on when the longer side is moved up by the difference in line counts."""
    sizes = [np.fromiter((len(line.strip()) + 1 for line in raw_lines(path)), np.float64) for path in (source, target)]
    longer, shorter = sorted((np.log(size) for size in sizes), key=len, reverse=True)
    extra = len(longer) - len(shorter)
    as_it_stands = np.abs(longer[: len(shorter)] - shorter)
    moved = np.abs(longer[extra:] - shorter)
    # Cost of a break before line k+1: pairs 1..k as they stand, the others moved.
    cost = np.concatenate(([0.0], np.cumsum(as_it_stands))) + np.concatenate((np.cumsum(moved[::-1])[::-1], [0.0]))
    return int(np.argmin(cost)) + 1


def must_be_settled(splits: Sequence[Split]) -> None:
    """After the text was read several times: whether all that was read is what was checked.

    Raises:
        DataError: a file was changed or replaced since.
    """
    for file in (file for split in splits for file in split.sides.values()):
        path = file.path
        if not path.is_file() or (last_change(path) != file.changed and sha256(path) != file.sha256):
            raise DataError(f"{path} was changed while it was read", "prepare it when it is complete")


def chunks(split: Split) -> Iterator[Chunk]:
    """The split from start to end, in chunks that do not depend on who reads them."""
    rows = zip_longest(*(raw_lines(side.path) for side in split.sides.values()), fillvalue=b"")
    while True:
        chunk: list[tuple[bytes, ...]] = []
        size = 0
        for row in islice(rows, CHUNK_LINES):
            chunk.append(row)
            size += sum(map(len, row))
            if size >= CHUNK_BYTES:
                break
        if not chunk:
            return
        yield [list(side) for side in zip(*chunk, strict=True)]


def sample(side: TextFile, most: int, clean: Callable[[str], str]) -> Iterator[str]:
    """At most `most` lines, evenly over the file, cleaned; without empty ones and those that are not UTF-8."""
    for number, line in enumerate(raw_lines(side.path)):
        # Line i is taken where i * most / lines passes a whole number.
        if number * most % side.lines < most:
            with suppress(UnicodeDecodeError):
                if text := clean(line.removesuffix(b"\n").removesuffix(b"\r").decode()):
                    yield text
