"""Sums over tokens, in nats and float32. The loop divides them by counts taken over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from janus_cli.core.transformer import Memory, Transformer


LOGITS_AT_ONCE = (
    4 << 20
)  # numbers: 16 MiB in float32. Larger temporaries cost page faults, on CPU more than the arithmetic


def rows_at_once(vocabulary: int) -> int:
    """How many rows of logits are made together."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


def cross_entropy(states: Tensor, weight: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing: (1 - s) * -log p(gold) + s * mean over V of -log p.

    states (N, D), output table weight (V, D), gold (N,) -> scalar, the sum over N in nats.
    Szegedy 2016, as Vaswani 2017 uses it.
    """
    rows = rows_at_once(len(weight))
    parts = [
        F.cross_entropy(F.linear(x, weight).float(), y, label_smoothing=smoothing, reduction="sum")
        for x, y in zip(states.split(rows), gold.split(rows), strict=True)
    ]
    return torch.stack(parts).sum()


def length_loss(model: Transformer, memory: Memory, lengths: Tensor) -> Tensor:
    """-log p(n | source), summed over sentences; lengths (B,) without BOS and EOS (Mask-Predict, section 3.2)."""
    scores = model.length_logits(memory).float()
    return F.cross_entropy(scores, lengths.clamp(0, scores.shape[1] - 1), reduction="sum")
