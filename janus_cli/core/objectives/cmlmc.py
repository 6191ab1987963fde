"""The conditional masked language model with correction, CMLMC (Huang et al., ICLR 2022).

    L = 1/2 (CE_NAR + CE_correct) + 0.1 CE_length

    P_NAR    (y_h | X, observed tokens, every MASK)
    P_correct(y_c | X, observed tokens but those at c, the model's own predictions at every c, every MASK)

c are 30 % of the observed tokens (`correction.py`). Thus the model learns to correct what it reads, and decoding
rewrites every token in every pass.

Its decoder layers have a second, causal self-attention, which tells equal neighbours apart (`model.causal_attention`),
and position embeddings are concatenated, not added (`model.embedding`): `CmlmcObjective.elsewhere`.
"""

from janus_cli.core.batch import Batch
from janus_cli.core.knobs import CmlmcObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, hidden_tokens
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, length_term, stream_loss
from janus_cli.core.objectives.correction import corrected, correction
from janus_cli.core.stream import masked


def plan(batch: Batch, draws: Draws, knobs: CmlmcObjective) -> Plan:
    hidden = hidden_tokens(batch, draws, knobs.noise)
    correct, guess, wrong = correction(batch.target, hidden, knobs.replaced, draws)
    streams = {"nar": masked(batch.target, hidden.long()), "correct": correct}
    return Plan(streams, {**count_units(batch, hidden), "wrong": wrong}, drafts={"guess": guess})


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: CmlmcObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    correct = corrected(model, memory, plan.streams["correct"], plan.drafts["guess"])
    ce_nar, ce_correct = (
        stream_loss(model, memory, stream, knobs.label_smoothing) for stream in (plan.streams["nar"], correct)
    )
    return {
        "ce_nar": Term(ce_nar, "hidden", knobs.nar),
        "ce_correct": Term(ce_correct, "wrong", knobs.correct),
        "length": length_term(model, memory, batch, knobs.length),
    }


CMLMC = Objective(plan, loss, terms=("ce_nar", "ce_correct", "length"))
