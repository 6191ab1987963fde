"""What decoder calls leave for the next one: keys and values of every layer, and when each slot can be seen."""

from itertools import chain

import torch
from torch import Tensor

from janus_cli.core.knobs import Model
from janus_cli.core.stream import NEVER, Stream, visible


class LayerCache:
    """Keys and values of the key slots so far, in one self-attention of one decoder layer."""

    def __init__(self, like: Tensor, batch: int, heads: int, slots: int) -> None:
        shape = (batch, heads, slots, like.shape[-1] // heads)
        # Zeros, because a slot that nobody sees still takes part in the product: 0 * NaN is NaN.
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.spare: tuple[Tensor, Tensor] | None = None
        self.at: int | Tensor = 0  # where the next slots go, for all rows or (R,) for each
        self.end = 0  # slots that queries attend over

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values of new slots, (R, H, K, D/H); returns those of all slots so far, (R, H, end, D/H)."""
        count = keys.shape[2]
        if isinstance(self.at, int):
            self.keys.narrow(2, self.at, count).copy_(keys)
            self.values.narrow(2, self.at, count).copy_(values)
        else:
            places = (self.at[:, None] + torch.arange(count, device=keys.device))[:, None, :, None].expand_as(keys)
            self.keys.scatter_(2, places, keys)
            self.values.scatter_(2, places, values)
        return self.keys.narrow(2, 0, self.end), self.values.narrow(2, 0, self.end)

    def select(self, rows: Tensor, end: int) -> None:
        """Keeps these rows, in this order, up to slot `end`; later slots are written before they are seen."""
        if self.spare is None or len(rows) > len(self.spare[0]):
            shape = (len(rows), *self.keys.shape[1:])
            self.spare = self.keys.new_zeros(shape), self.keys.new_zeros(shape)
        fresh = self.spare[0][: len(rows)], self.spare[1][: len(rows)]
        for kept, moved in zip((self.keys, self.values), fresh, strict=True):
            moved[:, :, :end] = kept[:, :, :end].index_select(0, rows)
        self.spare = self.keys, self.values
        self.keys, self.values = fresh

    def reorder(self, rows: Tensor) -> None:
        """As `select`, for as many rows as there are; the buffers stay where they are."""
        self.keys.copy_(self.keys.index_select(0, rows))
        self.values.copy_(self.values.index_select(0, rows))


class Cache:
    """The key slots so far: a `LayerCache` for each self-attention of each layer; birth, death, and positions.

    at: where the next key slots go, in all rows or (R,) in each. Setting it back discards slots: they are overwritten,
    and until then the clock hides them, because they were born later than whatever is decoded in their place.
    fixed: attend over all slots, written or not, so that no shape changes.
    """

    def __init__(self, like: Tensor, knobs: Model, batch: int, slots: int, *, fixed: bool = False) -> None:
        """Room for `slots` key slots in each of `batch` rows, in the type and on the device of `like` (..., D)."""
        self.attentions = 1 + knobs.causal_attention
        self.layers = [
            [LayerCache(like, batch, knobs.heads, slots) for _ in range(self.attentions)]
            for _ in range(knobs.decoder_layers)
        ]
        self.birth = torch.full((batch, slots), NEVER, device=like.device)
        self.death = torch.full((batch, slots), NEVER, device=like.device)
        self.positions = torch.zeros((batch, slots), dtype=torch.int64, device=like.device)
        self.fixed = fixed
        self.at: int | Tensor = 0
        self.end = 0  # slots from here on are unwritten in every row

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order (a row may be taken several times)."""
        for layer in chain(*self.layers):
            layer.select(rows, self.end)
        self.birth, self.death = self.birth[rows], self.death[rows]
        if self.attentions > 1:
            self.positions = self.positions[rows]
        if not isinstance(self.at, int):
            self.at = self.at[rows]

    def reorder(self, rows: Tensor) -> None:
        """As `select`, for as many rows as there are, whose times are equal; the buffers stay where they are."""
        for layer in chain(*self.layers):
            layer.reorder(rows)

    def admit(self, stream: Stream) -> list[Tensor]:
        """Records the times of new key slots, before the layers append them.

        Returns who may attend in each self-attention, (R, L, end) bool: the rule of `core/stream.py` over all slots so
        far, as if one call had decoded them all.
        """
        at, count = self.at, stream.keys
        records = [(self.birth, stream.birth), (self.death, stream.death)]
        if self.attentions > 1:
            records.append((self.positions, stream.positions))
        if isinstance(at, int):
            end = at + count
            for known, fresh in records:
                known[:, at:end] = fresh[:, :count]
        else:
            end = self.birth.shape[1] if self.fixed else int(at.max()) + count
            places = at[:, None] + torch.arange(count, device=at.device)
            for known, fresh in records:
                known.scatter_(1, places, fresh[:, :count])
        for layer in chain(*self.layers):
            layer.at, layer.end = at, end
        self.at, self.end = at + count, max(self.end, end)
        attend = visible(stream.time[:, :, None], self.birth[:, None, :end], self.death[:, None, :end])
        if self.attentions == 1:
            return [attend]
        return [attend, attend & (self.positions[:, None, :end] <= stream.positions[:, :, None])]
