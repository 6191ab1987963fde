"""CPU speed-ups: packed weights, dropout, bf16 attention in training.

Each function computes what a plain call of torch would; on a GPU it makes that call.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_PAYS = 1 << 20  # multiplications from which packing pays in float32; below, calling oneDNN costs more


class Packed(NamedTuple):
    """A weight (E, D) in oneDNN's layout, and the number of input elements from which it pays."""

    weight: Tensor
    least: int


def packed(weight: Tensor) -> Packed | None:
    """Packs a weight for products with few rows, as in decoding, which then take half the time or less.

    None on a GPU, in bf16, where it gains a twentieth, and if this torch or processor cannot do it.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    try:  # what torch.compile calls for frozen weights; it has no public name
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        torch.ops.mkldnn._linear_pointwise(weight.detach()[:1], reordered, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return Packed(reordered, PACKED_PAYS // len(weight))


def product(x: Tensor, weight: Tensor, pack: Packed | None, bias: Tensor | None = None) -> Tensor:
    """x (..., D), weight (E, D), its packed copy or None, bias (E,) -> (..., E)."""
    if pack is None or x.numel() < pack.least:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, pack.weight, bias, "none", [], "")


class Linear(nn.Linear):
    """A linear map whose weight can be packed; while it is, changes to `weight` have no effect."""

    packed: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return product(x, self.weight, self.packed, self.bias)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout: zeros each element with probability `share`, rounded to 1 / 65,536, and scales up the rest.

    On a CPU one random 64-bit number serves four elements: one number each took a twelfth of a training step.
    """
    if not training or not share:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = min(65_535, round(share * 65_536))
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 32_768
    apply = cast("Callable[..., Tensor]", Dropout.apply)  # torch leaves it untyped
    return apply(x, kept, torch.tensor(65_536 / (65_536 - dropped), dtype=x.dtype).item())


class Dropout(torch.autograd.Function):
    """x * scale where `kept`, 0 elsewhere; saves one byte an element for the backward pass.

    A factor of int8 takes half the time of one in the type of x, which has to be made first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:  # type of ctx: as torch has it
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept.view(torch.int8)).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept.view(torch.int8)).mul_(ctx.scale), None, None


def scaled_dot_products(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, share: float) -> Tensor:
    """Attention over (B, H, L or K, D/H), with dropout of `share` of the attention weights -> (B, H, L, D/H).

    bias: added to the scores, broadcastable to (B, H, L, K).
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # The backward pass of torch's CPU kernel takes six times as long in bf16 as in float32.
        # So it runs in float32; what it saves of q, keys and values stays in bf16, which loses nothing.
        wide_q, wide_keys, wide_values = q.float(), keys.float(), values.float()
        pairs = (wide_q, q), (wide_keys, keys), (wide_values, values)
        narrow = {(wide.data_ptr(), wide.shape): half for wide, half in pairs}
        with (
            torch.autocast("cpu", enabled=False),
            torch.autograd.graph.saved_tensors_hooks(lambda x: narrow.get((x.data_ptr(), x.shape), x), Tensor.float),
        ):
            return F.scaled_dot_product_attention(wide_q, wide_keys, wide_values, attn_mask=bias, dropout_p=share)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, dropout_p=share)
