"""Attention, feed-forward, and the two kinds of layer. None of them knows why a slot may attend to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_cli.core.knobs import Model

KeysValues = tuple[Tensor, Tensor]  # each (B, H, K, D/H)
Keep = Callable[[KeysValues], KeysValues]  # takes the keys and values of new slots, returns those of all slots


PACKED_PAYS = 1 << 20  # multiplications: with fewer, calling oneDNN costs more than it saves in float32


class Direct(nn.Module):
    """A module that is called directly: hooks, unused here, take as long as a small product."""

    def __call__(self, *inputs: Any) -> Any:
        return self.forward(*inputs)


class Packed(NamedTuple):
    """A weight (E, D) in oneDNN's own layout, and how many numbers an input must have for it to pay."""

    weight: Tensor
    least: int


def packed(weight: Tensor) -> Packed | None:
    """For generating on a CPU: products with few rows, and decoding consists of them, take half the time or less.

    None where this torch or processor has no such thing.
    """
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    try:  # what torch.compile calls for frozen weights; no public name leads there
        found = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        torch.ops.mkldnn._linear_pointwise(weight.detach()[:1], found, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return Packed(found, PACKED_PAYS // len(weight) if weight.dtype == torch.float32 else 0)


def product(x: Tensor, weight: Tensor, pack: Packed | None, bias: Tensor | None = None) -> Tensor:
    """x (..., D), weight (E, D), perhaps also packed, bias (E,) -> (..., E)."""
    if pack is None or x.numel() < pack.least:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, pack.weight, bias, "none", [], "")


class Linear(Direct, nn.Linear):
    """A linear map whose weight can be packed; while it is, changes of `weight` are not seen."""

    packed: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return product(x, self.weight, self.packed, self.bias)


class LayerNorm(Direct, nn.LayerNorm):
    """Layer norm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zeros about `share` of x (to 1 / 65,536 of it) and scales the rest up; only while training.

    On a CPU one 64-bit number decides about four places: drawing for each its own took a twelfth of a training step.
    """
    if not training or not share:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = min(65_535, round(share * 65_536))
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 32_768
    return x * kept.to(x.dtype).mul_(65_536 / (65_536 - dropped))


def attention(q: Tensor, keys: Tensor, values: Tensor, attend: Tensor | None, share: float) -> Tensor:
    """Scaled dot products, (B, H, L, D/H) each, with dropout of `share` of the weights."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # The backward pass of torch's CPU kernel takes six times as long in bf16 as in float32.
        with torch.autocast("cpu", enabled=False):
            q, keys, values = q.float(), keys.float(), values.float()
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=attend, dropout_p=share)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=attend, dropout_p=share)


class Attention(Direct):
    """Multi-head attention in which keys and values are made apart from the queries, so that they can be kept."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.heads, self.dropout, self.kernel = knobs.heads, knobs.attention_dropout, knobs.attention
        self.query = Linear(knobs.width, knobs.width)
        self.key_value = Linear(knobs.width, 2 * knobs.width)
        self.out = Linear(knobs.width, knobs.width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """x (B, K, D) -> keys and values, each (B, H, K, D/H)."""
        rows, count, width = x.shape
        both = self.key_value(x).view(rows, count, 2, self.heads, width // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4)  # (B, K, 2, H, D/H) -> 2 x (B, H, K, D/H)
        return keys, values

    def forward(self, x: Tensor, kept: KeysValues, attend: Any) -> Tensor:
        """x (F*B, L, D), keys and values of B rows -> (F*B, L, D).

        F neighbouring rows of x share one row of keys and values: a sentence's candidates or beams share its source.
        attend: what `sight` made of a mask that is broadcastable to (B, H, F*L, K); or a BlockMask of FlexAttention.
        """
        rows, count, width = x.shape
        keys, values = kept
        q = self.query(x).view(keys.shape[0], -1, self.heads, width // self.heads).transpose(1, 2)
        # (F*B, L, D) -> (B, H, F*L, D/H)
        if attend is None or isinstance(attend, Tensor):
            y = attention(q, keys, values, attend, self.dropout if self.training else 0.0)
        else:
            y = flexible(q.device.type)(q, keys, values, block_mask=attend)
        return self.out(y.transpose(1, 2).reshape(rows, count, width))  # (B, H, F*L, D/H) -> (F*B, L, D)


@cache
def flexible(device: str) -> Callable[..., Any]:
    """FlexAttention: on a GPU its kernel, which is compiled at the first call; elsewhere what it means, spelt out."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Callable[..., Any] = flex_attention
    return torch.compile(plain, dynamic=True) if device == "cuda" else plain


def sight(attend: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A mask (bool, True = may attend) as attention scores take it: 0 and -inf to be added, once for all layers.

    None where all is seen; on a CPU only, because a GPU would have to be waited for.
    """
    if attend.device.type == "cpu" and bool(attend.all()):
        return None
    return torch.zeros(attend.shape, dtype=dtype, device=attend.device).masked_fill_(~attend, -inf)


class FeedForward(Direct):
    """Two linear maps around an activation; (..., D) -> (..., D)."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.up = Linear(knobs.width, knobs.feedforward)
        self.down = Linear(knobs.feedforward, knobs.width)
        self.activation = torch.relu_ if knobs.activation == "relu" else F.gelu
        self.dropout = knobs.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.up(x))
        return self.down(dropout(y, self.dropout, self.training))


class Layer(Direct):
    """What both kinds of layer have."""

    def __init__(self, knobs: Model) -> None:
        super().__init__()
        self.pre, self.dropout = knobs.norm == "pre", knobs.dropout
        self.attention, self.attention_norm = Attention(knobs), LayerNorm(knobs.width)

    def drop(self, x: Tensor) -> Tensor:
        """Dropout while training."""
        return dropout(x, self.dropout, self.training)


class EncoderLayer(Layer):
    """Self-attention and feed-forward over the source."""

    def __init__(self, knobs: Model) -> None:
        super().__init__(knobs)
        self.feedforward, self.feedforward_norm = FeedForward(knobs), LayerNorm(knobs.width)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """x (B, S, D), attend from (B, 1, 1, S) -> (B, S, D)."""
        if self.pre:
            y = self.attention_norm(x)
            x = x + self.drop(self.attention(y, self.attention.keys_values(y), attend))
            return x + self.drop(self.feedforward(self.feedforward_norm(x)))
        x = self.attention_norm(x + self.drop(self.attention(x, self.attention.keys_values(x), attend)))
        return self.feedforward_norm(x + self.drop(self.feedforward(x)))


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
            self.keys.narrow(2, at, count).copy_(fresh[0])
            self.values.narrow(2, at, count).copy_(fresh[1])
        else:
            places = (at[:, None] + torch.arange(count, device=at.device))[:, None, :, None].expand_as(fresh[0])
            self.keys.scatter_(2, places, fresh[0])
            self.values.scatter_(2, places, fresh[1])
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)

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


class Look(NamedTuple):
    """How slots look at each other in one self-attention: who attends, as `sight` or FlexAttention has it, and what
    keeps keys and values for the next call."""

    attend: Any
    keep: Keep | None


class DecoderLayer(Layer):
    """Self-attention by the clock, perhaps also a causal one (Huang 2022), attention to the source, feed-forward."""

    def __init__(self, knobs: Model) -> None:
        super().__init__(knobs)
        if knobs.causal_attention:
            self.causal, self.causal_norm = Attention(knobs), LayerNorm(knobs.width)
        self.cross, self.cross_norm = Attention(knobs), LayerNorm(knobs.width)
        self.feedforward, self.feedforward_norm = FeedForward(knobs), LayerNorm(knobs.width)

    def forward(
        self, x: Tensor, keys: int, looks: Sequence[Look], source: KeysValues, source_attend: Tensor | None
    ) -> Tensor:
        """x (B, L, D), of which the first `keys` slots can be seen, a look for each self-attention -> (B, L, D)."""
        x = self._look(x, keys, looks[0], self.attention, self.attention_norm)
        for look in looks[1:]:
            x = self._look(x, keys, look, self.causal, self.causal_norm)
        if self.pre:
            x = x + self.drop(self.cross(self.cross_norm(x), source, source_attend))
            return x + self.drop(self.feedforward(self.feedforward_norm(x)))
        x = self.cross_norm(x + self.drop(self.cross(x, source, source_attend)))
        return self.feedforward_norm(x + self.drop(self.feedforward(x)))

    def _look(self, x: Tensor, keys: int, look: Look, attention: Attention, norm: LayerNorm) -> Tensor:
        y = norm(x) if self.pre else x
        kept = attention.keys_values(y[:, :keys])
        if look.keep is not None:
            kept = look.keep(kept)
        x = x + self.drop(attention(y, kept, look.attend))
        return x if self.pre else norm(x)


def sinusoids(count: int, width: int) -> Tensor:
    """(count, D) fixed position vectors: sines in the first half, cosines in the second (Vaswani 2017, section 3.5)."""
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10_000.0)) / max(1, half - 1)))
    angle = torch.arange(count)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
