"""Which sentences make up which batch: a pure function of (lengths, seed, epoch).

Up to BLOCK sentences are shuffled as a whole. A larger corpus is cut into runs of neighbours; these are shuffled and
grouped into blocks, whose sentences are shuffled: memory and lengths read at a time are those of one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from janus_cli.core.batch import Batch, Joined, batch_of
from janus_cli.core.denoise import denoised
from janus_cli.core.noise import Draws
from janus_cli.data.plain import frame, sentence_ends
from janus_cli.data.store import Store
from janus_cli.errors import DataError
from janus_cli.recipe import Recipe

Lengths = NDArray[np.int64]
Rows = NDArray[np.int64]  # sentence numbers
POOL_BATCHES = 64  # sentences are sorted by length only within pools of about so many batches
BLOCK = 1 << 20  # sentences whose batches are made at once, which takes about 100 MB
UNTRAINED = -1  # the epoch of validations, whose noise no training sees
NUMBERS = 1 << 40  # more than any data has examples: noise of the text has other random numbers than the objective's
RUN = 1 << 10  # neighbours that stay in one block; so a block is a sample from 1,024 places of the corpus


class Epoch(NamedTuple):
    """Number of batches in an epoch and share of padding; approximate: estimated from the first of several blocks."""

    batches: int
    padding: float
    approximate: bool


def epoch_batches(store: Store, budget: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Sentence numbers of every batch of one epoch, in order, made a block at a time; each sentence exactly once.

    budget: the most tokens, padding included, of the wider side of a batch; a longer pair raises DataError.
    """
    for rows, _, _, batches in _blocks(store, budget, seed, epoch):
        for batch in batches:
            yield rows[batch]


def rest_of_epoch(
    store: Store, budget: int, seed: int, epoch: int, read: Sequence[tuple[int, int, int]]
) -> Iterator[Rows]:
    """The batches of an epoch without the sentences of batches that were made with other budgets or seeds.

    read: these budgets and seeds, in order, and how many batches were made with each.
    """
    if not read:
        yield from epoch_batches(store, budget, seed, epoch)
        return
    fresh = np.ones(len(store), bool)

    def unread(budget: int, seed: int) -> Iterator[Rows]:
        left = (rows[fresh[rows]] for rows in epoch_batches(store, budget, seed, epoch))
        return (rows for rows in left if len(rows))

    for *earlier, count in read:
        for rows in islice(unread(*earlier), count):
            fresh[rows] = False
    yield from unread(budget, seed)


def estimate_epoch(store: Store, budget: int, seed: int) -> Epoch:
    """Counts an epoch's batches and their padding, from its first block."""
    for rows, source, target, batches in _blocks(store, budget, seed, 0):
        count = round(len(batches) * len(store) / len(rows))
        return Epoch(count, padding(source, target, batches), approximate=len(rows) < len(store))
    return Epoch(0, 0.0, approximate=False)


def _blocks(
    store: Store, budget: int, seed: int, epoch: int
) -> Iterator[tuple[Rows, Lengths, Lengths, Sequence[Rows]]]:
    """Of each block: its sentence numbers, the lengths of both sides, and its batches, as indices into the block."""
    count = len(store)
    starts, run = np.arange(min(count, 1)), BLOCK
    if count > BLOCK:
        # Another seed than those of blocks, which end with the block's number.
        starts, run = RUN * np.random.default_rng([seed, epoch, count]).permutation(-(-count // RUN)), RUN
    for number, first in enumerate(range(0, len(starts), BLOCK // run)):
        runs = [(start, min(start + run, count)) for start in starts[first : first + BLOCK // run].tolist()]
        parts = [store.lengths(start, stop) for start, stop in runs]
        rows = np.concatenate([np.arange(start, stop) for start, stop in runs])
        source, target = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        yield rows, source, target, _batches(rows, source, target, budget, (seed, epoch, number))


def _batches(rows: Rows, source: Lengths, target: Lengths, budget: int, seed: Sequence[int]) -> list[Rows]:
    """Batches of one block, as indices into it; rows: the sentences' numbers, for messages."""
    wide = np.maximum(source + 1, target + 2)  # EOS; BOS and EOS
    worst = int(wide.argmax())
    must_fit(f"pair {rows[worst] + 1} (of those kept)", int(wide[worst]), budget)
    random = np.random.default_rng(seed)
    order = random.permutation(len(wide))
    per_pool = int(POOL_BATCHES * budget / wide.mean())
    batches: list[Rows] = []
    for start in range(0, len(order), per_pool):
        pool = order[start : start + per_pool]
        pool = pool[np.lexsort((source[pool], target[pool], wide[pool]))]
        batches.extend(_cut(pool, wide[pool], budget))
    return [batches[i] for i in random.permutation(len(batches))]


def must_fit(pair: str, tokens: int, budget: int) -> None:
    """Raises DataError if a pair does not fit into a batch; tokens: of its longer side, with BOS and EOS."""
    if tokens > budget:
        raise DataError(
            f"{pair} has {tokens} tokens, more than training.batch_tokens {budget}",
            "raise training.batch_tokens or lower data.max_tokens (or max_source_tokens, max_target_tokens)",
        )


def _cut(pool: Rows, wide: Lengths, budget: int) -> Iterator[Rows]:
    """Cuts sentences sorted by width so that count * width stays within the budget."""
    start = 0
    while start < len(pool):
        some = wide[start : start + budget // wide[start]]  # the narrowest comes first: no more can fit
        fits = np.arange(1, len(some) + 1) * some <= budget
        end = start + (int(fits.argmin()) if not fits.all() else len(fits))
        yield pool[start:end]
        start = end


def padding(source: Lengths, target: Lengths, batches: Sequence[Rows]) -> float:
    """The share of padding in the matrices of both sides, which hold BOS and EOS too."""
    real = cells = 0
    for rows in batches:
        s, t = source[rows] + 1, target[rows] + 2
        real += int(s.sum() + t.sum())
        cells += len(rows) * int(s.max() + t.max())
    return 1.0 - real / max(1, cells)


def load_batch(store: Store, rows: Rows) -> Batch:
    """The sentences of one batch from disk."""
    sources, targets = (
        Joined(torch.from_numpy(np.concatenate(side).astype(np.int64)), torch.tensor([len(row) for row in side]))
        for side in zip(*(store.pair(row) for row in rows.tolist()), strict=True)
    )
    return batch_of(sources, targets, rows.tolist(), store.lexicon)


def noised(batch: Batch, store: Store, recipe: Recipe, epoch: int) -> Batch:
    """A batch of the store as it is read in an epoch: plain text with its noise, pairs as they are."""
    if recipe.data.task != "denoising":
        return batch
    ends = sentence_ends(store.folder, store.fingerprint) if recipe.denoising.permute else None
    draws = Draws(recipe.seed, epoch, batch.ids + NUMBERS)
    return denoised(batch, draws, recipe.denoising, ends, frame(store.folder, store.fingerprint))
