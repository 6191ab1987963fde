"""The decoder's cache: keys and values of every layer, and the times that say who may attend to each slot."""

import torch
from torch import Tensor

from janus_cli.core.knobs import Model
from janus_cli.core.stream import NEVER, Stream, visible


class Cache:
    """The key slots so far: their keys and values in each self-attention of each layer; birth, death, and positions.

    at: the place of the next key slots, one for all rows or (R,) one for each. Setting it back discards later slots:
    they are overwritten, and until then the clock hides them, because they were born later than anything decoded in
    their place. fixed: attend over all slots, written or not, so that no shape changes.
    """

    def __init__(self, like: Tensor, knobs: Model, batch: int, slots: int, *, fixed: bool = False) -> None:
        """Room for `slots` key slots in each of `batch` rows, in the type and on the device of `like` (..., D)."""
        self.attentions = 1 + knobs.causal_attention
        shape = (batch, knobs.heads, slots, like.shape[-1] // knobs.heads)
        # Keys, values, keys, values ... of each self-attention of each layer.
        # Zeros, because a masked slot still takes part in the product: 0 * NaN is NaN.
        self.buffers = [like.new_zeros(shape) for _ in range(2 * self.attentions * knobs.decoder_layers)]
        self.spare: list[Tensor] = []
        self.birth = torch.full((batch, slots), NEVER, device=like.device)
        self.death = torch.full((batch, slots), NEVER, device=like.device)
        self.positions = torch.zeros((batch, slots), dtype=torch.int64, device=like.device)
        self.fixed = fixed
        self.at: int | Tensor = 0
        # Of the latest call: where its slots went (the first in all rows, or (R, K)), and how many it attends over.
        self.places: int | Tensor = 0
        self.end = 0

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order (a row may be taken several times)."""
        if not self.spare or len(rows) > len(self.spare[0]):
            self.spare = [buffer.new_zeros((len(rows), *buffer.shape[1:])) for buffer in self.buffers]
        moved = [spare[: len(rows)] for spare in self.spare]
        for old, new in zip(self.buffers, moved, strict=True):  # later slots are rewritten before any use
            new[:, :, : self.end] = old[:, :, : self.end].index_select(0, rows)
        self.buffers, self.spare = moved, self.buffers
        self.birth, self.death = self.birth[rows], self.death[rows]
        if self.attentions > 1:
            self.positions = self.positions[rows]
        if not isinstance(self.at, int):
            self.at = self.at[rows]

    def reorder(self, rows: Tensor) -> None:
        """As `select`, in place: the number of rows must stay the same, and all rows must have equal times."""
        for buffer in self.buffers:
            buffer.copy_(buffer.index_select(0, rows))

    def admit(self, stream: Stream) -> list[Tensor]:
        """Records the times of new key slots, before the layers append them.

        Returns the mask of each self-attention, (R, L, end) bool: the rule of `core/stream.py` over all slots so
        far, as if one call had decoded them all.
        """
        at, count = self.at, stream.keys
        if isinstance(at, int):
            self.places, end = at, at + count
        else:
            self.places = at[:, None] + torch.arange(count, device=at.device)
            end = self.birth.shape[1] if self.fixed else int(at.max()) + count
        self.at, self.end = at + count, end
        self._write(self.birth, stream.birth[:, :count], 1)
        self._write(self.death, stream.death[:, :count], 1)
        attend = visible(stream.time[:, :, None], self.birth[:, None, :end], self.death[:, None, :end])
        if self.attentions == 1:
            return [attend]
        self._write(self.positions, stream.positions[:, :count], 1)
        return [attend, attend & (self.positions[:, None, :end] <= stream.positions[:, :, None])]

    def append(self, layer: int, attention: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values of new slots, (R, H, K, D/H); returns those of all slots so far, (R, H, end, D/H)."""
        first = 2 * (layer * self.attentions + attention)
        all_keys, all_values = self.buffers[first : first + 2]
        self._write(all_keys, keys, 2)
        self._write(all_values, values, 2)
        return all_keys.narrow(2, 0, self.end), all_values.narrow(2, 0, self.end)

    def _write(self, buffer: Tensor, fresh: Tensor, dim: int) -> None:
        """Writes new slots to their places, along dimension 1 of (R, K) or dimension 2 of (R, H, K, D/H)."""
        if isinstance(self.places, int):
            buffer.narrow(dim, self.places, fresh.shape[dim]).copy_(fresh)
        else:
            places = self.places if dim == 1 else self.places[:, None, :, None]
            buffer.scatter_(dim, places.expand_as(fresh), fresh)
