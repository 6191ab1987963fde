"""Mistakes in the choice of files that no count of lines shows: a split that is in the training text already, targets
that are their own sources, headers taken for text, and references of one source that stand line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import methodcaller

from janus_cli import console
from janus_cli.data.corpus import SIDES, Split
from janus_cli.data.lines import raw_lines
from janus_cli.errors import DataError
from janus_cli.recipe import Data

MUCH = 0.05  # a larger share is worth a warning; short sentences do recur by chance
COPIES = 0.5
FIRST = 1_000_000  # training pairs among which those that recur are counted, for their hashes take memory
HEADERS = ("source", "target"), ("src", "tgt"), ("src", "trg"), ("input", "output")  # besides names from the recipe
POOL = "if those are alternative references, see --pool-references of janus score"


def tell(splits: Sequence[Split], data: Data) -> None:
    """Says how many valid and test pairs are also training pairs, how many of their lines repeat a source, how many
    training pairs recur, how many targets equal their sources, and which pairs are the names of columns.

    Keeps a hash of each valid and test pair in memory, and of the first training pairs; reads the training text twice.

    Raises:
        DataError: a side of the training text is blank.
    """
    if not (paired := [split for split in splits if "target" in split.sides]):
        return  # plain text
    train, *others = paired
    headers = _headers(data)
    first = next(_pairs(train), None)
    alike = [split.name for split in others if first and next(_pairs(split), None) == first]
    if alike and first not in headers:
        console.warn(
            f"the first pair of train is also that of {' and '.join(alike)}: if it is a header, name its columns: "
            "--set data.columns=[SOURCE,TARGET]"
        )
    _tell_of_itself(train, data)
    for split in others:
        full = [hash(source) for source, _ in _pairs(split) if source.strip()]
        repeated = len(full) - len({*full})
        if repeated > MUCH * split.lines:
            what = f"{split.name}: {repeated:,} of {split.lines:,} lines repeat the source of another"
            console.say(f"{what}; {POOL}")
    names: dict[str, list[int]] = {split.name: [] for split in paired}

    def pairs(split: Split) -> Iterator[tuple[bytes, bytes]]:
        """Notes headers on the way."""
        for number, pair in enumerate(_pairs(split), 1):
            if pair in headers:
                names[split.name].append(number)
            yield pair

    hashes = {split.name: list(map(hash, pairs(split))) for split in others}
    known = set().union(*hashes.values())
    met = {found for pair in pairs(train) if (found := hash(pair)) in known}
    for name, own in hashes.items():
        if count := sum(each in met for each in own):
            say = console.warn if count > MUCH * len(own) else console.say
            say(f"{name}: {count:,} of {len(own):,} pairs are also in train, and may have been memorised")
    for name, numbers in names.items():
        if numbers:
            more = f" and {len(numbers) - 1:,} more" if numbers[1:] else ""
            console.warn(
                f"{name}: pair {numbers[0]:,}{more} looks like a header, and is read as text: remove such lines, or, "
                "at the start of a table, name its columns: --set data.columns=[SOURCE,TARGET]"
            )


def _tell_of_itself(train: Split, data: Data) -> None:
    """How many training pairs recur, and how many targets equal their sources; raises DataError for an empty side."""
    firsts, looked, copies, written = set[int](), 0, 0, [False, False]
    for pair in _pairs(train):
        copies += pair[0] == pair[1]
        there = [bool(text.strip()) for text in pair]
        if all(there) and looked < FIRST and not data.deduplicate:
            looked += 1
            firsts.add(hash(pair))
        written = [has or now for has, now in zip(written, there, strict=True)]
    if train.lines and not all(written):
        raise DataError(
            f"train: the {SIDES[written.index(False)]} of every pair is empty", "are these the right files?"
        )
    if (again := looked - len(firsts)) > MUCH * looked:
        of_first = f"the first {looked:,}" if looked == FIRST else f"{looked:,}"
        console.say(f"train: {again:,} of {of_first} pairs repeat another: see --set data.deduplicate=true")
    if copies > COPIES * train.lines:
        console.warn(f"train: {copies:,} of {train.lines:,} targets equal their sources: are these the right files?")


def _headers(data: Data) -> set[tuple[bytes, bytes]]:
    """Pairs that are names of columns rather than text, in lower and upper case."""
    pairs = [(data.source, data.target), *HEADERS]
    if data.columns and not any(str(name).isdecimal() for name in data.columns[:2]):
        pairs.append((str(data.columns[0]), str(data.columns[1])))
    cases = str, str.lower, str.upper, str.capitalize
    return {(case(source).encode(), case(target).encode()) for source, target in pairs for case in cases}


def _pairs(split: Split) -> Iterator[tuple[bytes, bytes]]:
    strip = methodcaller("rstrip", b"\r\n")
    source, target = (map(strip, raw_lines(split.sides[side].text)) for side in SIDES)
    return zip(source, target, strict=False)
