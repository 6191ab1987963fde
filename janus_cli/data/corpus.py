"""The text of a recipe: finds its files, checks that their lines are aligned, and reads them in chunks.

A split is two aligned files, or a table with source and target (`tables.py`); besides, it may have references of its
own, several a line. Of plain text, a split is any number of files, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from janus_cli import console
from janus_cli.data import extract, tables
from janus_cli.data.extract import REFERENCES
from janus_cli.data.lines import BadUtf8, Lines, TextFile, check, raw_lines, suffix_of
from janus_cli.data.stored import SPLITS_OF, digest, is_data_set, last_change
from janus_cli.data.tables import SUFFIXES
from janus_cli.errors import DataError
from janus_cli.recipe import Data
from janus_cli.terminal import command

SPLITS, SIDES = ("train", "valid", "test"), ("source", "target")
TABLE = "table"  # what a split's files may be, besides its sides and references
TEXT = "text"  # the first file of plain text; the others are text 2, text 3, …
CHUNK_LINES, CHUNK_BYTES = 4000, 1 << 22  # limits of a chunk of pairs, which a worker encodes at a time
AT_ONCE = 16  # lines that are read before the limits are looked at: a chunk may be so many longer
DEVIATIONS = 3  # of a sum of unrelated differences of lengths; more is no chance
PLACES = (
    "name the folder with --data-dir, the suffixes with --set data.source=… --set data.target=…, "
    "or the files to `janus preprocess` with --train, --valid and --test"
)
Chunk = list[bytes]  # some whole lines of each side; where there are references, a JSON list a line
Paths = dict[str, Path]  # a split's table, or its sides, and its references; or its plain text


@dataclass(frozen=True)
class Split:
    """The aligned texts of one split, by side; a test split may have no target.

    A valid or test split may have `references`, whose lines are JSON lists. Plain text has files instead of sides.
    """

    name: str
    sides: dict[str, TextFile]

    @property
    def is_plain(self) -> bool:
        return TEXT in self.sides

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.sides.values()) if self.is_plain else self.sides["source"].lines


def file_name(data: Data, split: str, side: str) -> str:
    """The file name of a side of a split, as in train.src."""
    return f"{getattr(data, split)}.{getattr(data, side)}"


def table_names(data: Data) -> list[str]:
    """The file names, gzipped or not, of tables with a split or its references."""
    stems = [getattr(data, split) + part for split in SPLITS for part in ("", ".refs")]
    return [f"{stem}{suffix}{gz}" for stem in stems for suffix in SUFFIXES for gz in ("", ".gz")]


def find(data: Data, folder: Path | None, split: str) -> Paths:
    """The files of a split: those that the recipe names, else those in the folder; empty if there are none.

    Raises:
        DataError: a named file is missing or is not what it is named for; the folder has several texts for the split.
    """
    named = [Path(path) for path in getattr(data.files, split)]
    if data.is_plain:
        return _plain(data, folder, split, named)
    if named:
        return _named(data, split, named)
    return _in_folder(data, folder, split) if folder is not None and folder.is_dir() else {}


def _plain(data: Data, folder: Path | None, split: str, named: Sequence[Path]) -> Paths:
    """The files of plain text, in their order."""
    paths = named or _texts(data, folder, split, "target")[:1]
    _must_exist(split, paths, "text files, plain or .gz")
    for path in paths:
        if (kind := tables.kind_of(path)) != "text":
            raise DataError(
                f"{path} is a table ({kind}), not plain text", "write its column to a text file, a line a row"
            )
    return {f"{TEXT} {number}" if number > 1 else TEXT: path for number, path in enumerate(paths, 1)}


def _texts(data: Data, folder: Path | None, split: str, side: str) -> list[Path]:
    """The text of a side in the folder: plain, then gzipped, as far as there are such files."""
    name = file_name(data, split, side)
    return [path for each in (name, f"{name}.gz") if folder and (path := folder / each).is_file()]


def _must_exist(split: str, paths: Sequence[Path], what: str) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist", f"--{split} names {what}")


def _named(data: Data, split: str, paths: Sequence[Path]) -> Paths:
    """One table; or source and target, which may be a table of references; and references. For test also a source."""
    _must_exist(split, paths, "two aligned files, or one table")
    if len(paths) == 1:
        is_text = paths[0].is_file() and tables.kind_of(paths[0]) == "text"
        if split == "test" and is_text and not extract.has_source(data, paths[0]):
            return {"source": paths[0]}
        inside = paths[0] / ("validation" if split == "valid" and not (paths[0] / split).is_dir() else split)
        return {TABLE: inside if (paths[0] / SPLITS_OF).is_file() else paths[0]}
    kinds = [tables.kind_of(path) for path in paths]
    sides = (*SIDES, REFERENCES) if len(paths) == 3 or kinds[1] == "text" else ("source", REFERENCES)
    for side, path, kind in zip(sides, paths, kinds, strict=False):
        if side != REFERENCES and kind != "text":
            raise DataError(f"{path} is a table ({kind}), not one side of aligned text", "name a table alone")
    return dict(zip(sides, paths, strict=False))


def _in_folder(data: Data, folder: Path, split: str) -> Paths:
    stem = getattr(data, split)
    found = {side: path for side in SIDES for path in _texts(data, folder, split, side)[:1]}
    several = [path for path in _tables(folder, stem, split) if path not in found.values()]
    fitting = [path for path in several if suffix_of(path) != ".json" or extract.has_source(data, path)]
    if fitting or split == "test":  # results and settings are .json, too
        several = fitting
    references = _tables(folder, f"{stem}.refs")
    is_whole = "source" in found and ("target" in found or bool(references))
    complete = [path for path in several if split == "test" and not is_whole and extract.has_pairs(data, path)]
    if complete and "target" not in found:
        found, several = {}, complete
    is_whole = is_whole or ("source" in found and split == "test")
    if not is_whole and len(found) + len(several) > 1 and several:
        both = " and ".join(map(str, [*found.values(), *several]))
        raise DataError(f"{both} could both be the {split} split", f"name one with --{split}, or move the other away")
    if len(references) > 1:
        raise DataError(f"{' and '.join(map(str, references))} could both be the references", "move one away")
    if several and not found:
        found[TABLE] = several[0]
    if references and found and not (split == "train" and {TABLE, "target"} & set(found)):  # it takes one target
        found[REFERENCES] = references[0]
    return found


def _tables(folder: Path, stem: str, split: str = "") -> list[Path]:
    """The tables of this name, in whatever form; also a data set that lies there as a folder."""
    names = [stem, "validation"] if split == "valid" and (folder / SPLITS_OF).is_file() else [stem]
    sets = [folder / name for name in names if split and is_data_set(folder / name)]
    files = (path for path in folder.iterdir() if path.name.startswith(f"{stem}.") and path.is_file())
    ends = [(path.name.removeprefix(stem).lower().removesuffix(".gz"), path) for path in files]
    return sorted(path for end, path in ends if end in SUFFIXES) + sets[:1]


def files(data: Data, folder: Path | None) -> dict[str, Paths]:
    """The files of each split; raises DataError if those of train or valid are missing."""
    by_split: dict[str, Paths] = {}
    whole = ({TEXT}, {TABLE}, {"source", "target"}, {"source", REFERENCES})
    for split in SPLITS[:2] if data.is_plain else SPLITS:
        paths = find(data, folder, split)
        if not any(each <= set(paths) for each in whole) and split != "test":
            side = "target" if "source" in paths or data.is_plain else "source"
            missing = (folder or Path()) / file_name(data, split, side)
            raise DataError(f"{missing} (or .gz) is not there" if folder else f"no files for {split}", PLACES)
        if paths.keys() & {TEXT, TABLE, "source"}:
            by_split[split] = paths
    return by_split


def survey(data: Data, folder: Path | None, bad_utf8: BadUtf8, plain: Path | None = None) -> list[Split]:
    """Finds the files of every split and checks each (`lines.check`).

    plain: the folder in which the texts of tables are written as lines; without one they are only checked.

    Raises:
        DataError: a text cannot be used, or sides are not aligned.
    """
    by_split = files(data, folder)
    if "test" not in by_split and not data.is_plain:
        place = f": {folder / file_name(data, 'test', 'source')} is not there" if folder else ""
        console.say(f"no test split{place}")
    splits = []
    for name, paths in by_split.items():
        keep = bad_utf8 != "stop"  # the encoder deals with bad bytes
        texts = [side for side in paths if side not in (TABLE, REFERENCES)]
        sides = {side: check(Lines(paths[side], strict=True, keep_bytes=keep)) for side in texts}
        if TABLE in paths:
            sides |= extract.pairs(data, name, paths[TABLE], plain, keep_bytes=keep)
        if REFERENCES in paths:
            alone = "target" not in sides
            sides |= extract.references(name, paths[REFERENCES], plain, with_target=alone, keep_bytes=keep)
        if not data.is_plain:
            _must_align(sides)
        splits.append(Split(name, sides))
    for name in () if data.is_plain else SPLITS:
        _tell_unread(data, folder, name, by_split.get(name, {}))
    return splits


def _must_align(sides: dict[str, TextFile]) -> None:
    """Raises DataError if the texts differ in their numbers of lines."""
    if len({file.lines for file in sides.values()}) == 1:
        return
    counts = ", ".join(f"{file.path} has {console.counted(file.lines, 'line')}" for file in sides.values())
    pair = [sides[side].path for side in SIDES]
    if sides["source"].lines == sides["target"].lines or any(file.column for file in sides.values()):
        raise DataError(counts, "every line of one belongs to the same line of the other")
    number, last = _first_suspicious(*pair), min(sides[side].lines for side in SIDES)
    where = f"they seem to diverge at line {number:,}" if number <= last else "perhaps only the last lines are missing"
    raise DataError(
        f"{counts}; {where}",
        "compare: " + "; ".join(command("sed", "-n", f"{min(number, last)}p", path) for path in pair),
    )


def _tell_unread(data: Data, folder: Path | None, split: str, paths: Paths) -> None:
    """Says which tables, or sources beside a table, of the split's name are left in the folder."""
    if folder is None or not folder.is_dir() or getattr(data.files, split):
        return
    stem = getattr(data, split)
    sources = _texts(data, folder, split, "source") if TABLE in paths else []
    for table in sources + _tables(folder, stem, split) + _tables(folder, f"{stem}.refs"):
        if table not in paths.values():
            read = f"the {split} split is {' and '.join(map(str, paths.values()))}" if paths else "it has no source"
            console.say(f"{table} is not read: {read}")


def _first_suspicious(source: Path, target: Path) -> int:
    """The line, from 1, where the longer side most likely gets its extra lines: lengths of pairs agree best if lines
    before it are paired as they stand, and later ones with the longer side moved up by the number of extra lines.

    The line behind the shorter side's last one, unless another agrees better than lengths without any relation would.
    """
    sizes = [np.fromiter((len(line.strip()) + 1 for line in raw_lines(path)), np.float64) for path in (source, target)]
    logs = [np.log(size) for size in sizes]
    longer, shorter = sorted((each - each.mean() for each in logs), key=len, reverse=True)
    extra = len(longer) - len(shorter)
    gains = np.abs(longer[: len(shorter)] - shorter) - np.abs(longer[extra:] - shorter)  # of moving, by pair
    gained = np.cumsum(gains[::-1])[::-1]  # by moving all pairs from this one on
    line = int(np.argmax(gained))
    is_chance = gained[line] <= DEVIATIONS * np.sqrt(np.square(gains[line:]).sum())
    return len(shorter) + 1 if is_chance else line + 1


def must_be_unchanged(splits: Sequence[Split]) -> None:
    """Raises DataError if a file was changed or replaced since it was checked."""
    for file in (file for split in splits for file in split.sides.values()):
        path = file.path
        if not path.exists() or (last_change(path) != file.changed and digest(path) != file.sha256):
            raise DataError(f"{path} was changed while it was read", "prepare it when it is complete")


def chunks(split: Split) -> Iterator[Chunk]:
    """All lines of the split, in order. Chunk boundaries depend on the text alone."""
    texts = [raw_lines(file.text) for file in split.sides.values()]
    for files in [[text] for text in texts] if split.is_plain else [texts]:
        yield from _chunks(files)


def _chunks(files: Sequence[Iterator[bytes]]) -> Iterator[Chunk]:
    chunk: list[list[bytes]] = [[] for _ in files]
    lines = size = 0
    while any(some := [b"".join(islice(file, AT_ONCE)) for file in files]):
        for side, part in zip(chunk, some, strict=True):
            side.append(part)
        lines, size = lines + AT_ONCE, size + sum(map(len, some))
        if lines >= CHUNK_LINES or size >= CHUNK_BYTES:
            yield [b"".join(side) for side in chunk]
            chunk, lines, size = [[] for _ in files], 0, 0
    if size:
        yield [b"".join(side) for side in chunk]


def samples(split: Split, most: int, clean: Callable[[str], str]) -> tuple[Iterator[str], Iterator[str]]:
    """A sample of the sources and one of the targets, see `sample`; plain text has targets only."""
    if split.is_plain:
        shares = ((file, -(-most * file.lines // split.lines)) for file in split.sides.values())
        return iter(()), chain.from_iterable(sample(file, share, clean) for file, share in shares)
    source, target = (sample(split.sides[side], most, clean) for side in SIDES)
    return source, target


def sample(file: TextFile, most: int, clean: Callable[[str], str]) -> Iterator[str]:
    """At most `most` lines, evenly over the file, cleaned; empty lines and lines that are not UTF-8 are skipped."""
    for number, line in enumerate(raw_lines(file.text)):
        # Line i is taken where i * most / lines passes a whole number.
        if number * most % file.lines < most:
            with suppress(UnicodeDecodeError):
                if text := clean(line.removesuffix(b"\n").removesuffix(b"\r").decode()):
                    yield text
