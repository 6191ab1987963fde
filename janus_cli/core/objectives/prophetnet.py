"""ProphetNet (Qi et al., 2020): each prefix predicts the next g tokens at once.

L = 1/g sum_{k=1..g} CE_k,   P_k(y_{d+k} | X, y_<=d)
    (equation 3, with equal weights, as in the released code)

Stream k has a slot for each prefix y_<=d: a MASK at position d + k that lives for one instant only, so it attends to
the prefix and itself. Decoding uses stream 1 only; the others are auxiliary losses.
"""

import torch
from torch import Tensor

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import ProphetnetObjective
from janus_cli.core.losses import labelled_loss
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units
from janus_cli.core.stream import Stream, beside, content, future


def prophets(target: Tensor, steps: int) -> Stream:
    """Content, then the slots of streams 1 .. `steps`, one stream after another; target (B, T)."""
    slots = [(d, k) for k in range(1, steps + 1) for d in range(target.shape[1] - k)]
    known, step = torch.tensor(slots, device=target.device).T
    return beside(content(target).unlabelled, future(target, known, step, alone=True))


def plan(batch: Batch, draws: Draws, knobs: ProphetnetObjective) -> Plan:
    stream = prophets(batch.target, knobs.ngram)
    units = count_units(batch)
    return Plan({"prophets": stream}, {**units, "later": int(stream.labelled.sum()) - units["tokens"]})


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ProphetnetObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    stream = plan.streams["prophets"]
    states = model.decode(stream, memory)
    ends = 2 * (batch.target.shape[1] - 1)  # content, then stream 1
    ce_ar, ce_later = (
        labelled_loss(stream, states, model.output_weight, knobs.label_smoothing, slots)
        for slots in (slice(0, ends), slice(ends, None))
    )
    return {
        "ce_ar": Term(ce_ar, "tokens", 1 / knobs.ngram),
        "ce_later": Term(ce_later, "later", 1 - 1 / knobs.ngram),
    }


PROPHETNET = Objective(plan, loss, ar=True, nar=False, terms=("ce_ar", "ce_later"))
