"""Which sentences make up which batch: a pure function of (lengths, seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from janus_cli.core.batch import Batch, collate
from janus_cli.errors import DataError
from janus_cli.text.store import Store

Lengths = NDArray[np.int64]
POOL_BATCHES = 64  # sentences are sorted by length within pools of about so many batches, and only there


class Padding(NamedTuple):
    """Cells of the padded matrices, both sides, and how many of them hold tokens."""

    real: int
    cells: int

    @property
    def share(self) -> float:
        return 1.0 - self.real / max(1, self.cells)


def epoch_batches(source: Lengths, target: Lengths, budget: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Sentence numbers of every batch of one epoch, in order; each sentence exactly once.

    source, target: token counts without BOS and EOS. budget: the most cells that the wider of the two padded
    matrices of a batch may have.

    Raises:
        DataError: a single pair is longer than the budget.
    """
    wide = np.maximum(source + 1, target + 2)  # EOS; BOS and EOS
    if len(wide) and wide.max() > budget:
        worst = int(wide.argmax())
        raise DataError(
            f"pair {worst + 1} has {wide[worst]} tokens, more than training.batch_tokens {budget}",
            "raise training.batch_tokens or lower data.max_tokens",
        )
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(wide))
    per_pool = max(1, int(POOL_BATCHES * budget / max(1.0, wide.mean()))) if len(wide) else 1
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), per_pool):
        pool = order[start : start + per_pool]
        pool = pool[np.lexsort((source[pool], target[pool], wide[pool]))]
        batches.extend(_cut(pool, wide[pool], budget))
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(pool: NDArray[np.int64], wide: Lengths, budget: int) -> Iterator[NDArray[np.int64]]:
    """Cuts sentences sorted by width so that count * width stays within the budget."""
    start = 0
    while start < len(pool):
        fits = np.arange(1, len(pool) - start + 1) * wide[start:] <= budget
        end = start + (int(fits.argmin()) if not fits.all() else len(fits))
        yield pool[start:end]
        start = end


def padding(source: Lengths, target: Lengths, batches: list[NDArray[np.int64]]) -> Padding:
    """How much of the batches is padding, EOS and BOS counted as tokens."""
    real = cells = 0
    for rows in batches:
        s, t = source[rows] + 1, target[rows] + 2
        real += int(s.sum() + t.sum())
        cells += len(rows) * int(s.max() + t.max())
    return Padding(real, cells)


def load_batch(store: Store, rows: NDArray[np.int64]) -> Batch:
    """The sentences of one batch from disk."""
    pairs = [store.pair(int(row)) for row in rows]
    return collate([s for s, _ in pairs], [t for _, t in pairs], rows.tolist(), store.lexicon)
