"""More source text out of what there is: two sentences that share two neighbouring tokens, crossed where they do.

    Ein Mann steht auf einer | Bühne und singt.
    Zwei Hunde laufen auf einer | Wiese.          ->  Ein Mann steht auf einer Wiese.

Most are no worse than slips of the pen, and all are of the same kind as the text: enough for a teacher to translate,
where a student sees too few sources (compare Andreas, ACL 2020, who exchanges parts that occur in equal places).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from janus_cli.errors import DataError
from janus_cli.text.encode import Ragged

BLOCK_ROWS = 100_000  # sentences that are crossed with each other: bounds memory
MOST_DRAWS = 1 << 16  # at once
TRIES = 64  # for each sentence that is wanted; then the text has no more of them


def spliced(
    rows: Callable[[int, int], Ragged], size: int, count: int, seed: int, longest: int, never: Collection[bytes] = ()
) -> Iterator[list[int]]:
    """`count` new sentences, the same for the same arguments.

    None equals one of its parents or another of its block; each has a token at least of its own from both.

    Args:
        rows: `rows(start, stop)` -> these of the sentences, of `size` in all.
        longest: the most tokens of a new sentence.
        never: sentences that must not come out, as the bytes of their ids, int32.

    Raises:
        DataError: the text has not so many.
    """
    for start in range(0, size, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, size)
        wanted = count * stop // size - count * start // size
        generator = np.random.Generator(np.random.PCG64([seed, start]))
        yield from _block(rows(start, stop), wanted, generator, longest, set(never))


def _block(
    rows: Ragged, wanted: int, generator: np.random.Generator, longest: int, seen: set[bytes]
) -> Iterator[list[int]]:
    ends = np.cumsum(rows.lengths)
    starts, row = ends - rows.lengths, np.repeat(np.arange(len(ends)), rows.lengths)
    found = tries = 0
    pairs = _Pairs(rows, np.arange(len(row)) - starts[row], rows.lengths[row])
    while found < wanted:
        if tries > TRIES * wanted or not len(pairs.cuts):
            raise DataError(
                f"the text has too few sentences that share two neighbouring tokens: {found:,} of {wanted:,} were made",
                "ask for fewer with --splice",
            )
        some = min(MOST_DRAWS, 2 * (wanted - found) + 64)
        tries += some
        for cut, other in pairs.draw(generator, some):
            a, b = row[cut], row[other]
            if a == b:
                continue
            new = np.concatenate([rows.values[starts[a] : cut], rows.values[other : ends[b]]])
            parents = (rows.values[starts[parent] : ends[parent]] for parent in (a, b))
            if len(new) > longest or new.tobytes() in seen or any(np.array_equal(new, parent) for parent in parents):
                continue
            seen.add(new.tobytes())
            found += 1
            yield new.tolist()
            if found == wanted:
                return


class _Pairs:
    """Where sentences can be cut: before two tokens that have others on both sides."""

    def __init__(self, rows: Ragged, place: np.ndarray, length: np.ndarray) -> None:
        """place, length: (tokens,) int64, of each token in its sentence, and of that sentence."""
        self.cuts = np.flatnonzero((place >= 1) & (place + 2 < length))
        values = rows.values.astype(np.int64)
        shared = values[self.cuts] << 32 | values[self.cuts + 1]
        self.order = shared.argsort(kind="stable")
        self.first, self.behind = (np.searchsorted(shared[self.order], shared, side) for side in ("left", "right"))

    def draw(self, generator: np.random.Generator, count: int) -> Iterator[tuple[int, int]]:
        """Pairs of places with the same two tokens: any place, and any that has what it has."""
        left = generator.integers(len(self.cuts), size=count)
        among = self.behind[left] - self.first[left]
        right = self.order[self.first[left] + (generator.random(count) * among).astype(np.int64)]
        yield from zip(self.cuts[left].tolist(), self.cuts[right].tolist(), strict=True)
