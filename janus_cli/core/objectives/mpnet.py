"""MPNet (Song et al., 2020): masked and permuted language modelling.

L = mean over hidden tokens, in a random order z, of  -log P(y_{z_k} | X, observed tokens, y_{z_<k}, MASK for z_>=k)
    + 0.1 CE_length   (equation 5; the length term is Mask-Predict's, because generation has to predict the length)

Until a token is revealed, there is a MASK in its place, which dies when the token is born; so each query attends to
all positions. These are JANUS's AUX slots alone, in a random order. The first query sees what a mask-predict MASK sees.
"""

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import MpnetObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, hidden_tokens, random_order
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, length_term, stream_loss
from janus_cli.core.stream import beside, masked, revealed


def plan(batch: Batch, draws: Draws, knobs: MpnetObjective) -> Plan:
    hidden = hidden_tokens(batch, draws, knobs.noise)
    rank = random_order(hidden, draws)
    stream = beside(masked(batch.target, rank).unlabelled, *revealed(batch.target, rank))
    return Plan({"permuted": stream}, count_units(batch, hidden))


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: MpnetObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    ce = stream_loss(model, memory, plan.streams["permuted"], knobs.label_smoothing)
    return {
        "ce_permuted": Term(ce, "hidden", 1.0),
        "length": length_term(model, memory, batch, knobs.length),
    }


MPNET = Objective(plan, loss, terms=("ce_permuted", "length"))
