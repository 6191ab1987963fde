"""Batches: token ids of sentence pairs, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK, padded

__all__ = ["BOS", "EOS", "IGNORE", "MASK", "PAD", "SPECIAL", "UNK", "Batch", "Joined", "batch_of", "collate", "pad"]

IGNORE = -100  # label of a slot that predicts nothing


class Joined(NamedTuple):
    """Rows of different lengths, concatenated: their ids (N,) int64, and their lengths (B,) int64."""

    ids: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Batch:
    """Sentence pairs, padded on the right with PAD.

    source: (B, S) int64, tokens then EOS.
    target: (B, T) int64, BOS, y_1 .. y_n, EOS; T is the largest n + 2.
    ids: (B,) int64, the sentences' numbers in their split (noise and error messages refer to them).
    lexicon: (V, K) int64, translations of each token of the source's vocabulary, likeliest first, PAD for none; the
        same for all batches, and None if the objective needs none. `to` does not move it.
    hidden: (B, T) bool, the target tokens that the text's own noise hides (`denoise.py`); None: the objective chooses.
    """

    source: Tensor
    target: Tensor
    ids: Tensor
    lexicon: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def source_real(self) -> Tensor:
        """(B, S) bool, True for tokens, False for padding."""
        return self.source != PAD

    @property
    def target_real(self) -> Tensor:
        """(B, T) bool, True for tokens, BOS and EOS included, False for padding."""
        return self.target != PAD

    @property
    def target_lengths(self) -> Tensor:
        """(B,) int64, n: target tokens without BOS and EOS."""
        return self.target_real.sum(1) - 2

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        source, target, ids = (t.to(device, non_blocking=True) for t in (self.source, self.target, self.ids))
        hidden = None if self.hidden is None else self.hidden.to(device, non_blocking=True)
        return Batch(source, target, ids, self.lexicon, hidden)

    def select(self, rows: slice) -> Batch:
        """The batch of these sentences only."""
        hidden = None if self.hidden is None else self.hidden[rows]
        return Batch(self.source[rows], self.target[rows], self.ids[rows], self.lexicon, hidden)


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one matrix: (B, longest) int64, PAD on the right."""
    return torch.tensor(padded(rows), dtype=torch.int64).view(len(rows), max(map(len, rows), default=0))


def collate(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    ids: Sequence[int],
    lexicon: Tensor | None = None,
) -> Batch:
    """A batch from token ids without BOS and EOS."""
    source, target = pad([[*row, EOS] for row in sources]), pad([[BOS, *row, EOS] for row in targets])
    return Batch(source, target, torch.as_tensor(ids, dtype=torch.int64), lexicon)


def batch_of(sources: Joined, targets: Joined, ids: Sequence[int], lexicon: Tensor | None = None) -> Batch:
    """As `collate`, from concatenated ids."""
    source, target = _framed(sources, ()), _framed(targets, (BOS,))
    return Batch(source, target, torch.as_tensor(ids, dtype=torch.int64), lexicon)


def _framed(rows: Joined, before: tuple[int, ...]) -> Tensor:
    """Each row between the ids `before` and EOS, as one matrix; vectorised, because there are many rows."""
    count, first = len(rows.lengths), len(before)
    ends = first + rows.lengths
    longest = int(ends.max()) if count else first
    out = torch.full((count, longest + 1), PAD)
    place = torch.arange(longest + 1)
    out[(place >= first) & (place < ends[:, None])] = rows.ids
    out[:, :first] = torch.tensor(before, dtype=torch.int64)
    out[torch.arange(count), ends] = EOS
    return out
