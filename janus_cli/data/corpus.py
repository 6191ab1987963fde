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

SPLITS = ("train", "valid", "test")
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


def stems(data: Data) -> dict[str, str]:
    """File names before the suffix, by split."""
    return dict(zip(SPLITS, (data.train, data.valid, data.test), strict=True))


def find(folder: Path, stem: str, suffix: str) -> Path | None:
    """`<folder>/<stem>.<suffix>`, plain or `.gz`; None where neither is there."""
    names = (f"{stem}.{suffix}", f"{stem}.{suffix}.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def files(data: Data, folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The two files of each split; the test split, or its target, may be missing.

    Raises:
        DataError: another one is.
    """
    by_split: dict[str, tuple[Path, Path | None]] = {}
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
        by_split[name] = source, target
    return by_split


def survey(data: Data, folder: Path, bad_utf8: BadUtf8) -> list[Split]:
    """Finds and checks the files of every split.

    Raises:
        DataError: a file is missing or cannot be used (see `lines.check`), or is not aligned with its partner.
    """
    by_split, splits = files(data, folder), []
    if "test" not in by_split:
        console.say(f"no test split: {folder / f'{data.test}.{data.source}'} is not there")
    for name, (source_path, target_path) in by_split.items():
        source, target = check(source_path, bad_utf8), check(target_path, bad_utf8) if target_path else None
        if target is not None and source.lines != target.lines:
            number = _first_suspicious(source.path, target.path)
            raise DataError(
                f"{source.path} has {source.lines:,} lines, {target.path} has {target.lines:,}; "
                f"they seem to go apart at line {number:,}",
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
    for side in (side for split in splits for side in split.sides.values()):
        same = side.path.is_file() and (last_change(side.path) == side.changed or sha256(side.path) == side.sha256)
        if not same:
            raise DataError(f"{side.path} was changed while it was read", "prepare it when it is complete")


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
