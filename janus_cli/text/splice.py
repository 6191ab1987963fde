"""More source text out of what there is: two sentences that share two neighbouring tokens, crossed where they do.

    Ein Mann steht auf einer | Bühne und singt.
    Zwei Hunde laufen auf einer | Wiese.          ->  Ein Mann steht auf einer Wiese.

Most are no worse than slips of the pen, and all are of the same kind as the text: enough for a teacher to translate,
where a student sees too few sources (compare Andreas, ACL 2020, who exchanges parts that occur in equal places).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice

import numpy as np

from janus_cli.errors import DataError
from janus_cli.text.encode import Ragged

BLOCK_ROWS = 100_000  # sentences that are crossed with each other: bounds memory
DRAWS = 1 << 10, 1 << 16  # at once: the least, the most
WORTHWHILE = 0.01  # new ones among so many draws; where there are fewer, the text is taken to have no more


def spliced(
    rows: Callable[[int, int], Ragged], size: int, count: int, seed: int, longest: int, never: Collection[bytes] = ()
) -> Iterator[list[int]]:
    """`count` new sentences, the same for the same arguments.

    Each has a token at least of its own from both its parents; none equals another or a sentence of its block.

    Args:
        rows: `rows(start, stop)` -> these of the sentences, of `size` in all.
        longest: the most tokens of a new sentence.
        never: sentences that must not come out, as the bytes of their ids, int32.

    Raises:
        DataError: the text has not so many.
    """
    blocks = -(-size // BLOCK_ROWS)
    for block in range(blocks):
        start, stop, done, due = (total * at // blocks for total in (size, count) for at in (block, block + 1))
        if done == due:
            continue
        generator = np.random.Generator(np.random.PCG64([seed, block]))
        made = 0
        for new in islice(_block(rows(start, stop), generator, longest, never), due - done):
            yield new
            made += 1
        if made < due - done:
            raise DataError(
                "too few sentences share two neighbouring tokens: they give about "
                f"{count * made // (due - done):,} new ones, fewer than {count:,}",
                "ask for fewer with --splice",
            )


def _block(rows: Ragged, generator: np.random.Generator, longest: int, never: Collection[bytes]) -> Iterator[list[int]]:
    """New sentences until hardly any more are found."""
    ends = np.cumsum(rows.lengths)
    starts, row = ends - rows.lengths, np.repeat(np.arange(len(ends)), rows.lengths)
    seen = {*never, *(rows.values[start:end].tobytes() for start, end in zip(starts, ends, strict=True))}
    pairs = _Pairs(rows, row, starts)
    count = found = DRAWS[0] if len(pairs.several) else 0
    while found > WORTHWHILE * count:
        count, found = min(DRAWS[1], 2 * count), 0
        for cut, other in pairs.draw(generator, count):
            new = np.concatenate([rows.values[starts[row[cut]] : cut], rows.values[other : ends[row[other]]]])
            if len(new) <= longest and new.tobytes() not in seen:
                seen.add(new.tobytes())
                found += 1
                yield new.tolist()


class _Pairs:
    """Where sentences can be cut: before two tokens that have others on both sides."""

    def __init__(self, rows: Ragged, row: np.ndarray, starts: np.ndarray) -> None:
        """row: (tokens,) int64, the sentence of each token. starts: (sentences,) int64, their first tokens."""
        place = np.arange(len(row)) - starts[row]
        self.cuts = np.flatnonzero((place >= 1) & (place + 2 < rows.lengths[row]))
        self.row = row[self.cuts]
        values = rows.values.astype(np.int64)
        shared = values[self.cuts] << 32 | values[self.cuts + 1]
        self.order = shared.argsort(kind="stable")
        self.first = np.searchsorted(shared[self.order], shared)
        self.among = np.searchsorted(shared[self.order], shared, "right") - self.first
        self.several = np.flatnonzero(self.among > 1)

    def draw(self, generator: np.random.Generator, count: int) -> Iterator[tuple[int, int]]:
        """Pairs of places in two sentences with the same two tokens: any place, and any that has what it has."""
        left = self.several[generator.integers(len(self.several), size=count)]
        right = self.order[self.first[left] + (generator.random(count) * self.among[left]).astype(np.int64)]
        two = self.row[left] != self.row[right]
        yield from zip(self.cuts[left[two]].tolist(), self.cuts[right[two]].tolist(), strict=True)
