"""The autoregressive Transformer (Vaswani et al., 2017), and R-Drop (Liang et al., NeurIPS 2021).

L = CE_AR,   P_AR(y_t | X, y_<t)

With `rdrop` (alpha), source and target pass twice, with other dropout, and the two distributions are tied:

L = 1/2 (CE_1 + CE_2) + alpha/2 KLs(P_1, P_2),   KLs = 1/2 KL(P_1 || P_2) + 1/2 KL(P_2 || P_1)

This is half of the paper's loss: alpha is the same, and the loss keeps the size of CE_AR.
"""

from janus_cli.core.aux_loss import tied
from janus_cli.core.batch import Batch
from janus_cli.core.knobs import ArObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, stream_loss
from janus_cli.core.stream import ar_stream, repeated


def plan(batch: Batch, draws: Draws, knobs: ArObjective) -> Plan:
    stream = ar_stream(batch.target, knobs.ar_stream)
    return Plan({"ar": repeated(stream, 2) if knobs.rdrop else stream}, count_units(batch))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ArObjective) -> dict[str, Term]:
    stream, smoothing = plan.streams["ar"], knobs.label_smoothing
    if not knobs.rdrop:
        memory = model.encode(batch.source, batch.source_real)
        return {"ce_ar": Term(stream_loss(model, memory, stream, smoothing), "tokens", 1.0)}
    memory = model.encode(batch.source.repeat(2, 1), batch.source_real.repeat(2, 1))
    states = model.decode(stream, memory)[stream.labelled].unflatten(0, (2, -1))  # (2B, L, D) -> (2, N, D)
    gold, share = stream.labels[stream.labelled].unflatten(0, (2, -1))[0], plan.share("tokens")
    coefficients = [share / 2, share / 2, knobs.rdrop / 2 * share]
    words, bias = model.output_weight, model.output_bias
    first, second, kl = tied(states, words, gold, smoothing, coefficients, [(0, 1)], (1.0, 1.0), bias=bias)
    return {"ce_ar": Term((first + second) / 2, "tokens", 1.0), "kl_rdrop": Term(kl, "tokens", knobs.rdrop / 2)}


AR = Objective(plan, loss, terms=("ce_ar",), further=lambda knobs: ("kl_rdrop",) if knobs.rdrop else ())
