"""Sums over tokens, in nats and float32. The loop divides them by counts taken over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from janus_cli.core.transformer import Memory, Transformer


def cross_entropy(logits: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing: (1 - s) * -log p(gold) + s * mean over V of -log p.

    logits (N, V), gold (N,) -> scalar, the sum over N in nats. Szegedy 2016, as Vaswani 2017 uses it.
    """
    return F.cross_entropy(logits.float(), gold, label_smoothing=smoothing, reduction="sum")


def length_loss(model: Transformer, memory: Memory, lengths: Tensor) -> Tensor:
    """-log p(n | source), summed over sentences; lengths (B,) without BOS and EOS (Mask-Predict, section 3.2)."""
    scores = model.length_logits(memory).float()
    return F.cross_entropy(scores, lengths.clamp(0, scores.shape[1] - 1), reduction="sum")
