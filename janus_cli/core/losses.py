"""Losses: sums over tokens, in nats. The training loop divides them by counts taken over all ranks.

The logits of a whole batch are never held: they are computed in chunks of tokens, turned into the loss and at once into
its gradient with respect to states and output table, and dropped. So memory does not grow with vocabulary x tokens.
"""

from collections.abc import Callable, Iterator
from math import inf, isfinite
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from janus_cli.core.stream import Stream

LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}  # elements: 16 MiB in float32; a GPU wants few, large products


class _WithGradient(torch.autograd.Function):
    """Totals (K,) whose gradient with respect to `states` and `weight` was computed beforehand, for one weighting.

    by_states, by_weight: the gradient of (coefficients * totals).sum(). The caller must weight the totals in
    proportion to `coefficients` (K,); on a CPU the backward pass raises RuntimeError if not.
    """

    @staticmethod
    def forward(
        ctx: Any, totals: Tensor, coefficients: Tensor, states: Tensor, weight: Tensor, by_states: Tensor,
        by_weight: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(coefficients, by_states, by_weight)
        return totals.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, by_states, by_weight = ctx.saved_tensors
        size = (coefficients * coefficients).sum()
        scale = (grad * coefficients).sum() / torch.where(size > 0, size, 1.0)
        # Not checked on a GPU, which would make the host wait; the training loop skips non-finite gradients.
        largest = float(grad.abs().max()) if grad.device.type == "cpu" else inf
        if isfinite(largest) and not torch.allclose(grad, scale * coefficients, rtol=1e-4, atol=1e-6 * largest):
            raise RuntimeError(
                f"the gradient was made for totals weighted {coefficients.tolist()}, not {grad.tolist()}"
            )
        return None, None, by_states * scale, by_weight * scale, None, None


with_gradient = cast("Callable[..., Tensor]", _WithGradient.apply)  # torch leaves it untyped


def in_chunks(
    states: Tensor, weight: Tensor, vocabularies: int, bias: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Goes through N states (..., N, D) in chunks; yields slice, states, table (V, D) and logits (..., R, V) of each.

    States and table come in the type of matrix products (bf16 under autocast), logits in float32 at least.
    vocabularies: rows of logits for each of the N. bias: (V,) or None, a constant that is added to the logits.
    """
    device = states.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    count = max(1, LOGITS_AT_ONCE.get(device, 1 << 26) // (vocabularies * len(weight)))
    with torch.no_grad(), torch.autocast(device, enabled=False):
        table = weight.to(low)
        for start in range(0, states.shape[-2], count):
            some = states[..., start : start + count, :].to(low)
            logits = some @ table.T  # (..., R, D) @ (D, V) -> (..., R, V)
            logits = logits if logits.dtype.itemsize > 4 else logits.float()
            yield slice(start, start + count), some, table, logits if bias is None else logits.add_(bias)


def cross_entropy(states: Tensor, weight: Tensor, gold: Tensor, smoothing: float, bias: Tensor | None = None) -> Tensor:
    """Cross-entropy with label smoothing: (1 - s) * -log p(gold) + s * mean over V of -log p.

    states (N, D), output table weight (V, D), gold (N,), bias (V,) or None, not trained -> scalar, the sum over N in
    nats.
    Szegedy 2016, as Vaswani 2017 uses it.
    """
    wanted = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    total = torch.zeros((), dtype=torch.promote_types(states.dtype, torch.float32), device=states.device)
    by_states, by_weight = torch.zeros_like(states), torch.zeros_like(weight)
    average, level = weight.detach().mean(0), 0.0 if bias is None else bias.mean()
    for chunk, some, table, logits in in_chunks(states, weight, 1, bias):
        words, logs = gold[chunk, None], logits.log_softmax(1)
        chosen = logs.gather(1, words)
        norm = logits.gather(1, words) - chosen
        mean = (some @ average.to(some.dtype)).to(norm.dtype)[:, None] + level - norm  # of log p over the vocabulary
        total -= (1 - smoothing) * chosen.sum() + smoothing * mean.sum()
        if wanted:  # by logits: p - (1 - s) [gold] - s/V; the last part is equal for all words: no pass over them
            slope = logs.exp_().scatter_add_(1, words, torch.full_like(norm, smoothing - 1)).to(some.dtype)
            by_states[chunk] = slope @ table - smoothing * average
            by_weight += slope.T @ some
            by_weight -= smoothing / len(weight) * some.sum(0)
    if not wanted:
        return total
    return with_gradient(total[None], torch.ones_like(total)[None], states, weight, by_states, by_weight)[0]


def labelled_loss(
    stream: Stream, states: Tensor, weight: Tensor, smoothing: float, slots: slice = slice(None),
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cross-entropy of a stream's labelled slots, or of those among `slots`; states (B, L, D) -> scalar, in nats."""
    asked, labels = stream.labelled[:, slots], stream.labels[:, slots]
    return cross_entropy(states[:, slots][asked], weight, labels[asked], smoothing, bias)  # (N, D), (N,)


def length_loss(logits: Tensor, lengths: Tensor) -> Tensor:
    """-log p(n | source), summed over sentences; lengths (B,) without BOS and EOS (Mask-Predict, section 3.2)."""
    return F.cross_entropy(logits.float(), lengths.clamp(0, logits.shape[1] - 1), reduction="sum")
