"""Attention, feed-forward, and the two kinds of layer. None of them knows why a slot may attend to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from janus_cli.recipe import Model

KeysValues = tuple[Tensor, Tensor]  # each (B, H, K, D/H)
Keep = Callable[[KeysValues], KeysValues]  # takes the keys and values of new slots, returns those of all slots


class Attention(nn.Module):
    """Multi-head attention in which keys and values are made apart from the queries, so that they can be kept."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.heads, self.dropout, self.kernel = knobs.heads, knobs.attention_dropout, knobs.attention
        self.query = nn.Linear(knobs.width, knobs.width)
        self.key_value = nn.Linear(knobs.width, 2 * knobs.width)
        self.out = nn.Linear(knobs.width, knobs.width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """x (B, K, D) -> keys and values, each (B, H, K, D/H)."""
        rows, count, width = x.shape
        both = self.key_value(x).view(rows, count, 2, self.heads, width // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4)  # (B, K, 2, H, D/H) -> 2 x (B, H, K, D/H)
        return keys, values

    def forward(self, x: Tensor, kept: KeysValues, attend: Any) -> Tensor:
        """x (F*B, L, D), keys and values of B rows -> (F*B, L, D).

        F neighbouring rows of x share one row of keys and values: a sentence's candidates or beams share its source.
        attend: bool, broadcastable to (B, H, F*L, K), True = may attend; or a BlockMask of FlexAttention.
        """
        rows, count, width = x.shape
        keys, values = kept
        q = self.query(x).view(keys.shape[0], -1, self.heads, width // self.heads).transpose(1, 2)
        # (F*B, L, D) -> (B, H, F*L, D/H)
        if isinstance(attend, Tensor):
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=attend, dropout_p=dropout)
        else:
            from torch.nn.attention.flex_attention import flex_attention

            y = flex_attention(q, keys, values, block_mask=attend)
        return self.out(y.transpose(1, 2).reshape(rows, count, width))  # (B, H, F*L, D/H) -> (F*B, L, D)


class FeedForward(nn.Module):
    """Two linear maps around an activation; (..., D) -> (..., D)."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.up = nn.Linear(knobs.width, knobs.feedforward)
        self.down = nn.Linear(knobs.feedforward, knobs.width)
        self.activation = F.relu if knobs.activation == "relu" else F.gelu
        self.dropout = nn.Dropout(knobs.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward over the source."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.pre = knobs.norm == "pre"
        self.attention, self.attention_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        self.feedforward, self.feedforward_norm = FeedForward(knobs), nn.LayerNorm(knobs.width)
        self.dropout = nn.Dropout(knobs.dropout)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """x (B, S, D), attend (B, 1, 1, S) -> (B, S, D)."""
        if self.pre:
            y = self.attention_norm(x)
            x = x + self.dropout(self.attention(y, self.attention.keys_values(y), attend))
            return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, self.attention.keys_values(x), attend)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class Past:
    """Keys and values of slots already decoded, in one decoder layer; room is taken once."""

    def __init__(self, like: Tensor, rows: int, heads: int, slots: int) -> None:
        shape = (rows, heads, slots, like.shape[-1] // heads)
        # Zeros, because a slot that nobody sees still takes part in the product: 0 * NaN is NaN.
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.spare: KeysValues | None = None

    def put(self, at: int | Tensor, end: int, fresh: KeysValues) -> KeysValues:
        """Writes (B, H, K, D/H) to the slots from `at` on, for all rows or (B,) for each; returns slots 0 .. end."""
        count = fresh[0].shape[2]
        if isinstance(at, int):
            self.keys[:, :, at : at + count], self.values[:, :, at : at + count] = fresh
        else:
            places = (at[:, None] + torch.arange(count, device=at.device))[:, None, :, None].expand_as(fresh[0])
            self.keys.scatter_(2, places, fresh[0])
            self.values.scatter_(2, places, fresh[1])
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor, end: int) -> None:
        """Keeps these rows, in this order, of the slots 0 .. end; what lies behind is written before it is seen."""
        if self.spare is None or len(rows) > len(self.spare[0]):
            shape = (len(rows), *self.keys.shape[1:])
            self.spare = self.keys.new_zeros(shape), self.keys.new_zeros(shape)
        fresh = self.spare[0][: len(rows)], self.spare[1][: len(rows)]
        for kept, moved in zip((self.keys, self.values), fresh, strict=True):
            moved[:, :, :end] = kept[:, :, :end].index_select(0, rows)
        self.spare = self.keys, self.values
        self.keys, self.values = fresh


class DecoderLayer(nn.Module):
    """Self-attention by the clock, attention to the source, feed-forward."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.pre = knobs.norm == "pre"
        self.attention, self.attention_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        self.cross, self.cross_norm = Attention(knobs), nn.LayerNorm(knobs.width)
        self.feedforward, self.feedforward_norm = FeedForward(knobs), nn.LayerNorm(knobs.width)
        self.dropout = nn.Dropout(knobs.dropout)

    def forward(
        self, x: Tensor, keys: int, attend: Any, source: KeysValues, source_attend: Tensor, keep: Keep | None
    ) -> Tensor:
        """x (B, L, D), of which the first `keys` slots can be seen -> (B, L, D)."""
        y = self.attention_norm(x) if self.pre else x
        kept = self.attention.keys_values(y[:, :keys])
        if keep is not None:
            kept = keep(kept)
        x = x + self.dropout(self.attention(y, kept, attend))
        if self.pre:
            x = x + self.dropout(self.cross(self.cross_norm(x), source, source_attend))
            return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        x = self.attention_norm(x)
        x = self.cross_norm(x + self.dropout(self.cross(x, source, source_attend)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


def sinusoids(count: int, width: int) -> Tensor:
    """(count, D) fixed position vectors: sines in the first half, cosines in the second (Vaswani 2017, section 3.5)."""
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10_000.0)) / max(1, half - 1)))
    angle = torch.arange(count)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
