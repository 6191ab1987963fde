"""The autoregressive Transformer (Vaswani et al., 2017).

L = CE_AR,   P_AR(y_t | X, y_<t)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from janus_cli.core.batch import BOS, EOS, PAD, Batch
from janus_cli.core.knobs import ArObjective, ARSide
from janus_cli.core.losses import labelled_loss
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units
from janus_cli.core.stream import Stream, ahead, base, beside, content, left_to_right, queries, revealed

if TYPE_CHECKING:
    from torch import Tensor


def ar_stream(target: Tensor, kind: ARSide) -> Stream:
    """P_AR's slots, target (B, T).

    content: the tokens themselves predict what follows them. query: MASK slots that nobody reads ask for it (two
    streams). self: such slots, which read themselves as well. masks: all tokens stand as MASKs from the start, as many
    as there will be, and are revealed from left to right; EOS is known then.
    """
    if kind == "content":
        return content(target)
    if kind == "masks":
        rank = left_to_right((target != PAD) & (target != BOS) & (target != EOS))
        return beside(base(target, rank, predict=False), *revealed(target, rank))
    if kind == "query":
        return beside(content(target, predict=False), queries(target))
    known = torch.arange(target.shape[1] - 1, device=target.device)
    return beside(content(target, predict=False), ahead(target, known, torch.ones_like(known), alone=True))


def plan(batch: Batch, draws: Draws, knobs: ArObjective) -> Plan:
    return Plan({"ar": ar_stream(batch.target, knobs.ar_stream)}, count_units(batch))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ArObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    ar = plan.streams["ar"]
    ce = labelled_loss(model, ar, model.decode(ar, memory), knobs.label_smoothing)
    return {"ce_ar": Term(ce, "tokens", 1.0)}


AR = Objective(plan, loss, ar=True, nar=False, terms=("ce_ar",))
