"""What a model reads: ids of sentence pairs, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from janus_cli.core.symbols import BOS as BOS
from janus_cli.core.symbols import EOS as EOS
from janus_cli.core.symbols import MASK as MASK
from janus_cli.core.symbols import PAD as PAD
from janus_cli.core.symbols import SPECIAL as SPECIAL
from janus_cli.core.symbols import UNK as UNK

Ids = Sequence[int] | np.ndarray
IGNORE = -100  # a label that asks for nothing


@dataclass(frozen=True)
class Batch:
    """Sentence pairs, padded on the right with PAD.

    source: (B, S) int64, tokens then EOS.
    target: (B, T) int64, BOS, y_1 .. y_n, EOS; T is the largest n + 2.
    ids: (B,) int64, the sentences' numbers in their split (noise and error messages refer to them).
    lexicon: (V, K) int64, translations of each token of the source's vocabulary, likeliest first, PAD for none; the
        same for all batches, and None where the objective wants none. It stays where it is when the batch moves.
    """

    source: Tensor
    target: Tensor
    ids: Tensor
    lexicon: Tensor | None = None

    @property
    def source_real(self) -> Tensor:
        """(B, S) bool, True where there is a token and no padding."""
        return self.source != PAD

    @property
    def target_real(self) -> Tensor:
        """(B, T) bool, True where there is a token and no padding; BOS and EOS count."""
        return self.target != PAD

    @property
    def target_lengths(self) -> Tensor:
        """(B,) int64, n: target tokens without BOS and EOS."""
        return self.target_real.sum(1) - 2

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        source, target, ids = (t.to(device, non_blocking=True) for t in (self.source, self.target, self.ids))
        return Batch(source, target, ids, self.lexicon)

    def select(self, rows: slice) -> Batch:
        """These sentences."""
        return Batch(self.source[rows], self.target[rows], self.ids[rows], self.lexicon)


def pad(rows: Sequence[Ids]) -> Tensor:
    """Ragged ids as one matrix: (B, longest) int64, PAD on the right."""
    return _framed(rows, (), ())


def collate(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    ids: Sequence[int],
    lexicon: Tensor | None = None,
) -> Batch:
    """A batch from token ids without BOS and EOS, lists or arrays."""
    return Batch(
        _framed(sources, (), (EOS,)),
        _framed(targets, (BOS,), (EOS,)),
        torch.as_tensor(ids, dtype=torch.int64),
        lexicon,
    )


def _framed(rows: Sequence[Ids], before: Sequence[int], behind: Sequence[int]) -> Tensor:
    """The rows, each between the same ids, as one matrix. Without a loop over rows: a GPU would wait for it."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    first, last = len(before), len(before) + lengths
    out = np.full((len(rows), int(last.max(initial=first)) + len(behind)), PAD, np.int64)
    place = np.arange(out.shape[1])
    out[(place >= first) & (place < last[:, None])] = np.concatenate([np.zeros(0, np.int64), *rows])
    out[:, :first] = before
    for index, token in enumerate(behind):
        out[np.arange(len(rows)), last + index] = token
    return torch.from_numpy(out)
