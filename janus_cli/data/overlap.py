"""Mistakes in the choice of files that no count of lines shows: a split that is in the training text already, targets
that are their own sources, and references of one source that stand line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import methodcaller

from janus_cli import console
from janus_cli.data.corpus import SIDES, Split
from janus_cli.data.lines import raw_lines

MUCH = 0.05  # a larger share is worth a warning; short sentences do recur by chance
COPIES = 0.5
POOL = "if those are several right outputs, see --pool-references of janus score"


def tell(splits: Sequence[Split]) -> None:
    """Says how many valid and test pairs are also training pairs, how many of their lines repeat a source, and how many
    targets equal their sources.

    Keeps a hash of each valid and test pair in memory, and reads the training text once.
    """
    if not (paired := [split for split in splits if "target" in split.sides]):
        return  # plain text
    train, *others = paired
    first = next(_pairs(train), None)
    if alike := [split.name for split in others if first and next(_pairs(split), None) == first]:
        console.warn(
            f"the first pair of train is also that of {' and '.join(alike)}: if it is a header, name its columns: "
            "--set data.columns=[SOURCE,TARGET]"
        )
    for split in others:
        full = [hash(source) for source, _ in _pairs(split) if source.strip()]
        repeated = len(full) - len({*full})
        if repeated > MUCH * split.lines:
            what = f"{split.name}: {repeated:,} of {split.lines:,} lines repeat the source of another"
            console.say(f"{what}; {POOL}")
    hashes = {split.name: list(map(hash, _pairs(split))) for split in others}
    known, met, copies = set().union(*hashes.values()), set[int](), 0
    for pair in _pairs(train):
        copies += pair[0] == pair[1]
        if (found := hash(pair)) in known:
            met.add(found)
    if copies > COPIES * train.lines:
        console.warn(f"train: {copies:,} of {train.lines:,} targets equal their sources: are these the right files?")
    for name, own in hashes.items():
        if count := sum(each in met for each in own):
            say = console.warn if count > MUCH * len(own) else console.say
            say(f"{name}: {count:,} of {len(own):,} pairs are also in train, and can be known by heart")


def _pairs(split: Split) -> Iterator[tuple[bytes, bytes]]:
    strip = methodcaller("rstrip", b"\r\n")
    source, target = (map(strip, raw_lines(split.sides[side].text)) for side in SIDES)
    return zip(source, target, strict=False)
