"""The text of a recipe: finds its files, checks that their lines are aligned, and reads them in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from janus_cli import console
from janus_cli.data.lines import BadUtf8, TextFile, check, last_change, raw_lines
from janus_cli.errors import DataError
from janus_cli.files import sha256
from janus_cli.recipe import Data

SPLITS, SIDES = ("train", "valid", "test"), ("source", "target")
CHUNK_LINES, CHUNK_BYTES = 4000, 1 << 22  # limits of a chunk of pairs, which a worker encodes at a time
Chunk = list[list[bytes]]  # lines of each side


@dataclass(frozen=True)
class Split:
    """The aligned files of one split, by side; a test split may have no target."""

    name: str
    sides: dict[str, TextFile]

    @property
    def lines(self) -> int:
        return self.sides["source"].lines


def file_name(data: Data, split: str, side: str) -> str:
    """The file name of a side of a split, as in train.src."""
    return f"{getattr(data, split)}.{getattr(data, side)}"


def find(data: Data, folder: Path, split: str, side: str) -> Path | None:
    """The file of one side of a split, plain or `.gz`; None if there is neither."""
    path = folder / file_name(data, split, side)
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.is_file()), None)


def files(data: Data, folder: Path) -> dict[str, dict[str, Path]]:
    """The file of each side of each split; raises DataError if one of train or valid is missing."""
    by_split: dict[str, dict[str, Path]] = {}
    for split in SPLITS:
        paths = {side: path for side in SIDES if (path := find(data, folder, split, side))}
        missing = [side for side in SIDES if side not in paths]
        if missing and split != "test":
            raise DataError(
                f"{folder / file_name(data, split, missing[0])} (or .gz) is not there",
                "name the folder with --data-dir, the suffixes with --set data.source=… --set data.target=…",
            )
        if "source" in paths:
            by_split[split] = paths
    return by_split


def survey(data: Data, folder: Path, bad_utf8: BadUtf8) -> list[Split]:
    """Finds the files of every split and checks each (`lines.check`); raises DataError if sides are not aligned."""
    by_split = files(data, folder)
    if "test" not in by_split:
        console.say(f"no test split: {folder / file_name(data, 'test', 'source')} is not there")
    splits = []
    for name, paths in by_split.items():
        sides = {side: check(path, bad_utf8) for side, path in paths.items()}
        if len({file.lines for file in sides.values()}) > 1:
            number = _first_suspicious(*paths.values())
            counts = ", ".join(f"{file.path} has {console.counted(file.lines, 'line')}" for file in sides.values())
            raise DataError(
                f"{counts}; they seem to diverge at line {number:,}",
                "compare: " + "; ".join(f"sed -n {number}p {path}" for path in paths.values()),
            )
        splits.append(Split(name, sides))
    return splits


def _first_suspicious(source: Path, target: Path) -> int:
    """The line, from 1, where the longer side most likely gets its extra lines: lengths of pairs agree best if lines
    before it are paired as they stand, and later ones with the longer side moved up by the number of extra lines."""
    sizes = [np.fromiter((len(line.strip()) + 1 for line in raw_lines(path)), np.float64) for path in (source, target)]
    longer, shorter = sorted((np.log(size) for size in sizes), key=len, reverse=True)
    extra = len(longer) - len(shorter)
    as_it_stands = np.abs(longer[: len(shorter)] - shorter)
    moved = np.abs(longer[extra:] - shorter)
    # Cost of a break before line k+1: pairs 1..k unmoved, the others moved.
    cost = np.concatenate(([0.0], np.cumsum(as_it_stands))) + np.concatenate((np.cumsum(moved[::-1])[::-1], [0.0]))
    return int(np.argmin(cost)) + 1


def must_be_unchanged(splits: Sequence[Split]) -> None:
    """Raises DataError if a file was changed or replaced since it was checked."""
    for file in (file for split in splits for file in split.sides.values()):
        path = file.path
        if not path.is_file() or (last_change(path) != file.changed and sha256(path) != file.sha256):
            raise DataError(f"{path} was changed while it was read", "prepare it when it is complete")


def chunks(split: Split) -> Iterator[Chunk]:
    """All lines of the split, in order. Chunk boundaries depend on the text alone."""
    chunk: Chunk = [[] for _ in split.sides]
    size = 0
    for row in zip_longest(*(raw_lines(file.path) for file in split.sides.values()), fillvalue=b""):
        for side, line in zip(chunk, row, strict=True):
            side.append(line)
            size += len(line)
        if len(chunk[0]) == CHUNK_LINES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [[] for _ in split.sides], 0
    if size:
        yield chunk


def sample(file: TextFile, most: int, clean: Callable[[str], str]) -> Iterator[str]:
    """At most `most` lines, evenly over the file, cleaned; empty lines and lines that are not UTF-8 are skipped."""
    for number, line in enumerate(raw_lines(file.path)):
        # Line i is taken where i * most / lines passes a whole number.
        if number * most % file.lines < most:
            with suppress(UnicodeDecodeError):
                if text := clean(line.removesuffix(b"\n").removesuffix(b"\r").decode()):
                    yield text
