"""ProphetNet (Qi et al., 2020): each prefix predicts the next g tokens at once.

L = 1/g sum_{k=1..g} CE_k,   CE_k the mean over its own slots of  -log P_k(y_{d+k} | X, y_<=d)
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


def units(knobs: ProphetnetObjective) -> tuple[str, ...]:
    """What the streams are averaged over, stream 1 first: tokens, later, later_3, later_4 …"""
    return ("tokens", "later", *(f"later_{k}" for k in range(3, knobs.ngram + 1)))[: knobs.ngram]


def places(width: int, knobs: ProphetnetObjective) -> list[slice]:
    """Where the slots of each stream are, stream 1 first; width: T."""
    sizes = [max(0, width - k) for k in range(1, knobs.ngram + 1)]
    starts = [width - 1 + sum(sizes[:k]) for k in range(knobs.ngram)]  # after the content
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def plan(batch: Batch, draws: Draws, knobs: ProphetnetObjective) -> Plan:
    stream = prophets(batch.target, knobs.ngram)
    found = (int(stream.labelled[:, slots].sum()) for slots in places(batch.target.shape[1], knobs))
    counts = dict(zip(units(knobs), found, strict=True))
    return Plan({"prophets": stream}, {**count_units(batch), **counts})


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ProphetnetObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    stream = plan.streams["prophets"]
    states, words = model.decode(stream, memory), (model.output_weight, knobs.label_smoothing)
    each = zip(terms(knobs), units(knobs), places(batch.target.shape[1], knobs), strict=True)
    return {
        name: Term(labelled_loss(stream, states, *words, slots, model.output_bias), unit, 1 / knobs.ngram)
        for name, unit, slots in each
    }


def terms(knobs: ProphetnetObjective) -> tuple[str, ...]:
    """The names of CE_1 .. CE_g: ce_ar, ce_later, ce_later_3, ce_later_4 …"""
    return ("ce_ar", *(f"ce_{unit}" for unit in units(knobs)[1:]))


PROPHETNET = Objective(plan, loss, terms=("ce_ar",), further=lambda knobs: terms(knobs)[1:])
