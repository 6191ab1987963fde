"""The optimiser, AdamW, and what share of the learning rate each weight has.

`training.layer_decay`, as in ELECTRA (Clark et al., ICLR 2020) and BEiT (Bao et al., ICLR 2022): a layer has that times
the rate of the layer above it. Encoder and decoder are two stacks side by side:

    output and length table, norms above the layers    1
    layer n, the top one of a stack of n               decay
    layer 1                                            decay ** n
    embeddings: tables, positions, their norms         decay ** (n + 1), n of the higher stack

A table that is tied to others is embeddings. What `train --from` made fresh has 1 wherever it lies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from janus_cli.core.batch import MASK
from janus_cli.core.model import Transformer
from janus_cli.core.shapes import part_of
from janus_cli.errors import UsageError
from janus_cli.recipe import Training

FRESH_MASK = "MASK"  # stands for a row of the embeddings among the names of fresh weights
TABLES = ("source_table.weight", "target_table.weight")  # of embeddings; tied ones have the second name


@dataclass(frozen=True)
class Shares:
    """The share of the learning rate that each weight has, by name; 0 if it is frozen.

    mask: the MASK is fresh, and its row of the embeddings has 1, whatever they have. frozen, parameters: how many there
    are.
    """

    by_name: Mapping[str, float]
    mask: bool
    frozen: int
    parameters: int

    @classmethod
    def of(cls, model: Transformer, training: Training, fresh: Collection[str] = ()) -> Shares:
        """fresh: names of weights, or FRESH_MASK, that `train --from` made fresh.

        Raises:
            UsageError: nothing is left to train.
        """
        found, mask, frozen, parameters = dict[str, float](), FRESH_MASK in fresh, 0, 0
        for name, weight in model.named_parameters():
            part, below = part_of(name, model.knobs)
            parameters += weight.numel()
            found[name] = 1.0 if name in fresh else 0.0 if part in training.freeze else training.layer_decay**below
            if not found[name]:
                frozen += weight.numel() - (model.knobs.width if mask and name in TABLES else 0)
        if not mask and not any(found[name] for name, weight in model.named_parameters() if weight.requires_grad):
            parts = ", ".join(training.freeze)
            raise UsageError(f"training.freeze {parts}: nothing of this model is left to train", "leave a part out")
        return cls(found, mask, frozen, parameters)

    def in_words(self, training: Training) -> str:
        """How many parameters there are, how many are frozen, and the range of the rates if they differ."""
        trained = {share for share in self.by_name.values() if share} | ({1.0} if self.mask else set())
        parts = ", ".join(training.freeze)
        parts += "; the MASK, which is fresh, is trained" if self.mask and "embeddings" in training.freeze else ""
        words = [f"{self.parameters:,} parameters"]
        words += [f"{self.frozen:,} of them frozen ({parts})"] if self.frozen else []
        if trained - {1.0}:
            low, high = (f"{training.learning_rate * share:.3g}" for share in (min(trained), max(trained)))
            words.append(f"peak learning rates from {low} in the lowest layer to {high}")
        return ", ".join(words)


def make_optimizer(parameters: Iterable[Any], knobs: Training) -> torch.optim.AdamW:
    """Adam with decoupled weight decay. parameters: weights, or groups of weights."""
    return torch.optim.AdamW(
        parameters, lr=knobs.learning_rate, betas=(knobs.beta1, knobs.beta2), eps=knobs.epsilon,
        weight_decay=knobs.weight_decay, fused=True,
    )  # fmt: skip


def optimizer_of(model: Transformer, training: Training, shares: Shares) -> torch.optim.AdamW:
    """An optimiser with a group of weights for each share of the rate. Frozen weights get no gradient from now on.

    Before each step, every group needs the full `rate` and its own, `lr`: the rate times its `share`.
    A fresh MASK learns at the full rate. Where the embeddings are frozen, their table still has gradient and moments,
    but only this row moves.
    """
    groups = dict[float, list[Tensor]]()
    masks = list[tuple[Tensor, float]]()
    for name, weight in model.named_parameters():
        share, has_mask = shares.by_name[name], shares.mask and name in TABLES
        if has_mask and share < 1:
            masks.append((weight, share))
        elif not share:
            weight.requires_grad_(False)
        if weight.requires_grad:
            groups.setdefault(share, []).append(weight)
    optimizer = make_optimizer([{"params": group, "share": share} for share, group in groups.items()], training)
    for table, share in masks:
        _train_mask(optimizer, table, alone=not share)
    return optimizer


def _train_mask(optimizer: torch.optim.AdamW, table: Tensor, *, alone: bool) -> None:
    """Gives the MASK of a table (V, D) AdamW's step at the full rate, instead of the table's own.

    alone: the other rows get no gradient.
    """
    before, group = table.detach()[MASK].clone(), optimizer.param_groups[0]

    def note(*_: Any) -> None:
        before.copy_(table.detach()[MASK])

    @torch.no_grad()
    def step(*_: Any) -> None:
        (beta1, beta2), rate, state = group["betas"], group["rate"], optimizer.state[table]
        mean = state["exp_avg"][MASK] / (1 - beta1 ** state["step"])
        spread = (state["exp_avg_sq"][MASK] / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        table[MASK] = before * (1 - rate * group["weight_decay"]) - rate * mean / spread

    optimizer.register_step_pre_hook(note)
    optimizer.register_step_post_hook(step)
    if alone:
        row = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
        row[MASK] = 1
        table.register_hook(lambda gradient: gradient * row)
