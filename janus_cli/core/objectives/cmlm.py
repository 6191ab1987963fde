"""The conditional masked language model, Mask-Predict (Ghazvininejad et al., 2019).

L = CE_NAR + 0.1 CE_length,   P_NAR(y_h | X, observed tokens, every MASK)

Off by default, `glance` reveals hidden tokens in proportion to the model's mistakes (`glancing.py`).
"""

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import CmlmObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, hidden_tokens
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, length_term, stream_loss
from janus_cli.core.objectives.glancing import first_look, still_hidden
from janus_cli.core.stream import masked


def plan(batch: Batch, draws: Draws, knobs: CmlmObjective) -> Plan:
    hidden = hidden_tokens(batch, draws, knobs.noise)
    drafts = {"look": first_look(batch.target, hidden, draws)} if knobs.glance else {}
    return Plan({"nar": masked(batch.target, hidden.long())}, count_units(batch, hidden), drafts=drafts)


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: CmlmObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    nar = plan.streams["nar"]
    if knobs.glance and model.training:
        nar = masked(batch.target, still_hidden(model, memory, plan.drafts["look"], knobs.glance).long())
    return {
        "ce_nar": Term(stream_loss(model, memory, nar, knobs.label_smoothing), "hidden", 1.0),
        "length": length_term(model, memory, batch, knobs.length),
    }


CMLM = Objective(plan, loss, terms=("ce_nar", "length"))
