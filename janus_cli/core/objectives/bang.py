"""BANG (Qi et al., 2021): a bridge from AR to NAR, by the number of preceding tokens that are hidden.

L = CE_AR + CE_NAR + CE_semi,   P_s(y_t | X, y_<=t-s, s MASKs, the last of them at t)
    AR: s = 1.   NAR: s = t, nothing is known.   semi: 2 <= s < t, up to `streams`
    (section 3, figure 2: streams with cross-stream visible attention)

All slots with the same d = t - s share the interval d .. d + 1: slot (t, s) is born at d + s/T, and dies at d + 1. So
it attends to y_<=d and the MASKs up to itself. No length is predicted: a text ends at its first EOS, and repeats of the
token before are dropped. Each of the three terms is a mean over its own slots; y_1, where s = t = 1, counts as AR.

The released model has 9 streams, so it writes at most 9 tokens in one pass; here NAR predicts the whole text.
"""

import torch
from torch import Tensor

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import BangObjective
from janus_cli.core.losses import labelled_loss
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units
from janus_cli.core.stream import Stream, beside, content, future


def bridge(target: Tensor, streams: int) -> Stream:
    """Content, then the MASKs (t, s) of AR, of NAR, and of the streams between; target (B, T)."""
    last = target.shape[1] - 1  # position of the longest text's EOS
    slots = [(d, 1) for d in range(last)]
    slots += [(0, s) for s in range(2, last + 1)]
    slots += [(d, s) for s in range(2, streams + 1) for d in range(1, last - s + 1)]
    known, step = torch.tensor(slots, device=target.device).T
    return beside(content(target).unlabelled, future(target, known, step, alone=False))


def _ranges(target: Tensor) -> dict[str, slice]:
    """The slots of each term."""
    last = target.shape[1] - 1
    return {"ar": slice(last, 2 * last), "nar": slice(2 * last, 3 * last - 1), "semi": slice(3 * last - 1, None)}


def plan(batch: Batch, draws: Draws, knobs: BangObjective) -> Plan:
    stream = bridge(batch.target, knobs.streams)
    labelled = {name: int(stream.labelled[:, slots].sum()) for name, slots in _ranges(batch.target).items()}
    return Plan({"bridge": stream}, {**count_units(batch), **labelled})


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: BangObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    stream = plan.streams["bridge"]
    states = model.decode(stream, memory)
    terms: dict[str, Term] = {}
    for name, slots in _ranges(batch.target).items():
        ce = labelled_loss(stream, states, model.output_weight, knobs.label_smoothing, slots, model.output_bias)
        terms[f"ce_{name}"] = Term(ce, name, getattr(knobs, name))
    return terms


BANG = Objective(plan, loss, terms=("ce_ar", "ce_nar", "ce_semi"))
