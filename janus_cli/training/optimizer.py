"""The optimiser of a training."""

from __future__ import annotations

import torch
from torch import nn

from janus_cli.recipe import Training


def make_optimizer(model: nn.Module, knobs: Training) -> torch.optim.AdamW:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(
        model.parameters(), lr=knobs.learning_rate, betas=(knobs.beta1, knobs.beta2), eps=knobs.epsilon,
        weight_decay=knobs.weight_decay, fused=True,
    )  # fmt: skip
