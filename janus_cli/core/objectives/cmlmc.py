"""The conditional masked language model with correction, CMLMC (Huang et al., ICLR 2022).

    L = 1/2 (CE_NAR + CE_correct) + 0.1 CE_length

    P_NAR    (y_h | X, observed tokens, every MASK)
    P_correct(y_c | X, observed tokens but those at c, what the model itself writes at every c, every MASK)

c are 30 % of the observed tokens; what the model writes there is the likeliest token of a pass over nothing but MASKs,
without gradient. Thus the model learns to doubt what it reads, and decoding rewrites every token in every pass.

That pass keeps its dropout, as in the released code: without it a model that has seen its text many times makes too few
mistakes to learn from. In the layers, a causal self-attention tells equal neighbours apart (`model.causal_attention`),
and positions stand beside the tokens (`model.embedding`): `recipe.SYSTEMS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from janus_cli.core.batch import EOS, IGNORE, Batch
from janus_cli.core.losses import labelled_loss, length_loss, without_gradient
from janus_cli.core.noise import Draws, hide, is_text, pick
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units
from janus_cli.core.steps import NEVER_WRITTEN, chosen_at
from janus_cli.core.stream import base
from janus_cli.core.transformer import Transformer

if TYPE_CHECKING:
    from janus_cli.recipe import CmlmcObjective


def plan(batch: Batch, draws: Draws, knobs: CmlmcObjective) -> Plan:
    target, text = batch.target, is_text(batch.target)
    hidden = hide(target, draws, knobs.noise)
    observed = text & ~hidden
    count = (knobs.replaced * observed.sum(1, keepdim=True)).long()
    wrong = pick(observed, count, draws)
    nar, labels = base(target, hidden.long()), target.masked_fill(~wrong, IGNORE)
    correct = nar.replace(labels=labels)  # `loss` puts the wrong tokens in
    guess = base(target, text.long()).replace(labels=labels)
    counts = {**count_units(batch, hidden), "wrong": int(wrong.sum())}
    return Plan({"nar": nar, "correct": correct}, counts, drafts={"guess": guess})


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: CmlmcObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    nar, correct, guess = plan.streams["nar"], plan.streams["correct"], plan.drafts["guess"]
    wrong = correct.labelled
    with without_gradient(batch.source.device.type):
        written, _ = chosen_at(model, model.decode(guess, memory), wrong, (*NEVER_WRITTEN, EOS))
    correct = correct.replace(tokens=torch.where(wrong, written, correct.tokens))

    ce_nar, ce_correct = (
        labelled_loss(model, stream, model.decode(stream, memory), knobs.label_smoothing) for stream in (nar, correct)
    )
    return {
        "ce_nar": Term(ce_nar, "hidden", knobs.nar),
        "ce_correct": Term(ce_correct, "wrong", knobs.correct),
        "length": Term(length_loss(model, memory, batch.target_lengths), "sentences", knobs.length),
    }


CMLMC = Objective(plan, loss, ar=False, nar=True, terms=("ce_nar", "ce_correct", "length"))
