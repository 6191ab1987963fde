"""The largest numbers of each row, for rows as long as a vocabulary.

On a CPU torch's `argmax` and `topk` go through a row number by number. The maximum of a stretch of a row is vectorised,
and tells which few stretches have to be gone through.
"""

from __future__ import annotations

import torch
from torch import Tensor

ENOUGH = 1 << 16  # numbers in all rows, from which on this is faster
STRETCH = 64


def argmax(values: Tensor) -> Tensor:
    """The place of the largest of each row, the first among equals. (N, V) -> (N,) int64."""
    if not _is_worth_it(values, 1):
        return values.argmax(1)
    places = _places(values, _maxima(values).argmax(1, keepdim=True))
    return places.gather(1, values.gather(1, places).argmax(1, keepdim=True))[:, 0]


def topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, falling, and their places; as with `Tensor.topk`, of equals any may be taken.

    (N, V) -> (N, count), (N, count) int64.
    """
    if not _is_worth_it(values, count):
        return values.topk(count, dim=1)
    # Whatever stands in another stretch has `count` numbers before it that are no smaller: the maxima of these.
    places = _places(values, _maxima(values).topk(count, dim=1).indices)
    top, found = values.gather(1, places).topk(count, dim=1)
    return top, places.gather(1, found)


def _is_worth_it(values: Tensor, count: int) -> bool:
    few = values.shape[1] >= 4 * count * STRETCH  # `count` stretches hold a quarter of the numbers at most
    return few and values.device.type == "cpu" and values.numel() >= ENOUGH


def _maxima(values: Tensor) -> Tensor:
    """Of each whole stretch. (N, V) -> (N, V // STRETCH)."""
    return values[:, : values.shape[1] // STRETCH * STRETCH].unflatten(1, (-1, STRETCH)).amax(2)


def _places(values: Tensor, stretches: Tensor) -> Tensor:
    """Of all numbers in these stretches (N, S), and of those behind the last whole one. -> (N, S * STRETCH + rest)."""
    size = values.shape[1]
    inside = (stretches[:, :, None] * STRETCH + torch.arange(STRETCH)).flatten(1)
    behind = torch.arange(size // STRETCH * STRETCH, size).expand(len(values), -1)
    return torch.cat([inside, behind], dim=1)
