"""The autoregressive Transformer (Vaswani et al., 2017).

L = CE_AR,   P_AR(y_t | X, y_<t)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from janus_cli.core.batch import Batch
from janus_cli.core.losses import cross_entropy
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units
from janus_cli.core.stream import Stream, beside, content, queries
from janus_cli.core.transformer import Transformer

if TYPE_CHECKING:
    from torch import Tensor

    from janus_cli.recipe import ArObjective


def ar_stream(target: Tensor, kind: str) -> Stream:
    """P_AR's slots: `content` predicts the next token itself; with `query`, a MASK slot asks for it (two streams)."""
    return content(target) if kind == "content" else beside(content(target, predict=False), queries(target))


def plan(batch: Batch, draws: Draws, knobs: ArObjective) -> Plan:
    return Plan({"ar": ar_stream(batch.target, knobs.ar_stream)}, count_units(batch))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ArObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    ar = plan.streams["ar"]
    states = model.decode(ar, memory)[ar.labelled]  # (B, L, D) -> (N, D)
    ce = cross_entropy(states, model.output_weight, ar.labels[ar.labelled], knobs.label_smoothing)
    return {"ce_ar": Term(ce, "tokens", 1.0)}


AR = Objective(plan, loss, ar=True, nar=False, terms=("ce_ar",))
