"""The autoregressive Transformer (Vaswani et al., 2017).

L = CE_AR,   P_AR(y_t | X, y_<t)
"""

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import ArObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, stream_loss
from janus_cli.core.stream import ar_stream


def plan(batch: Batch, draws: Draws, knobs: ArObjective) -> Plan:
    return Plan({"ar": ar_stream(batch.target, knobs.ar_stream)}, count_units(batch))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: ArObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    return {"ce_ar": Term(stream_loss(model, memory, plan.streams["ar"], knobs.label_smoothing), "tokens", 1.0)}


AR = Objective(plan, loss, ar=True, nar=False, terms=("ce_ar",))
