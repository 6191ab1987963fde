"""The optimiser of a training, and its learning rate."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn

from janus_cli.recipe import Training


def make_optimizer(model: nn.Module, knobs: Training) -> torch.optim.AdamW:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(
        model.parameters(), lr=knobs.learning_rate, betas=(knobs.beta1, knobs.beta2), eps=knobs.epsilon,
        weight_decay=knobs.weight_decay, fused=True,
    )  # fmt: skip


def learning_rate(step: int, knobs: Training) -> float:
    """The learning rate of update `step` (from 0): linear warm-up to the peak, then the schedule.

    inverse_sqrt: falls with 1/sqrt(step) (Vaswani 2017). linear, cosine: would reach 0 right after the last update.
    """
    done = step + 1
    if done < knobs.warmup:
        return knobs.learning_rate * done / knobs.warmup
    if knobs.schedule == "inverse_sqrt":
        return knobs.learning_rate * (max(1, knobs.warmup) / done) ** 0.5
    left = min(1.0, max(0.0, (knobs.updates - step) / max(1, knobs.updates - knobs.warmup)))
    return knobs.learning_rate * (left if knobs.schedule == "linear" else 0.5 - 0.5 * cos(pi * left))
