"""JANUS (Liang et al., EMNLP 2022): AR, NAR and, between them, AUX, from one decoder.

    L = CE_AR + 1/2 (CE_NAR + CE_AUX) + 0.1 CE_length + 3 KLs(AR, AUX) + 1 KLs(NAR, AUX) + 1 KLs(AR, NAR)

    P_AR (y_t | X, y_<t)
    P_NAR(y_h | X, observed tokens, every MASK)
    P_AUX(y_h | X, observed tokens, hidden tokens before h, MASK from h on)

The KLs and the last two CEs run over the hidden tokens; `core/aux_loss.py` has them. All three distributions predict
y_t from a MASK at position t, so they differ in what they see and in nothing else; but a `content` AR stream, an
ordinary decoder, from y_{t-1} at t - 1.

Beyond the paper, off by default: `correct` adds CMLMC's CE_correct (`correction.py`), `glance` reveals hidden tokens in
proportion to the model's mistakes (`glancing.py`), `kl_sure` weighs each token's KLs by AUX's certainty,
`two_encodings` gives NAR and AUX an encoding of their own, whose dropout is another, as in R-Drop (Liang et al. 2021).
"""

from dataclasses import replace

from torch import Tensor

from janus_cli.core.aux_loss import AuxLoss, aux_loss
from janus_cli.core.batch import IGNORE, Batch
from janus_cli.core.knobs import JanusObjective
from janus_cli.core.losses import cross_entropy
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, hidden_tokens
from janus_cli.core.objectives.base import Objective, Plan, Term, count_units, length_term, stream_loss
from janus_cli.core.objectives.correction import corrected, correction
from janus_cli.core.objectives.glancing import first_look, still_hidden
from janus_cli.core.stream import Stream, ar_stream, beside, left_to_right, masked, revealed


def nar_and_aux(target: Tensor, hidden: Tensor) -> Stream:
    """P_NAR's and P_AUX's slots; target, hidden (B, T)."""
    rank = left_to_right(hidden)
    return beside(masked(target, rank), *revealed(target, rank))


def plan(batch: Batch, draws: Draws, knobs: JanusObjective) -> Plan:
    target, hidden = batch.target, hidden_tokens(batch, draws, knobs.noise)
    streams = {"ar": ar_stream(target, knobs.ar_stream), "nar_aux": nar_and_aux(target, hidden)}
    drafts, counts = {}, count_units(batch, hidden)
    if knobs.correct:
        streams["correct"], drafts["guess"], counts["wrong"] = correction(target, hidden, knobs.replaced, draws)
    if knobs.glance:
        drafts["look"] = first_look(target, hidden, draws)
    return Plan(streams, counts, drafts=drafts, encodings=1 + knobs.two_encodings)


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: JanusObjective) -> dict[str, Term]:
    memory = model.encode(batch.source, batch.source_real)
    other = model.encode(batch.source, batch.source_real) if knobs.two_encodings else memory
    ar, nar_aux = plan.streams["ar"], plan.streams["nar_aux"]
    if knobs.glance and model.training:
        nar_aux = nar_and_aux(batch.target, still_hidden(model, other, plan.drafts["look"], knobs.glance))
    # Two calls: one over the joined streams computes attention scores that are masked, and is slower.
    ar_states, nar_aux_states = model.decode(ar, memory), model.decode(nar_aux, other)

    # All selections have the same order: sentence by sentence, and in each from left to right.
    width, words, bias = batch.target.shape[1], model.output_weight, model.output_bias
    nar_labels, aux_labels = nar_aux.labels[:, :width], nar_aux.labels[:, nar_aux.keys :]
    hidden, asked = nar_labels != IGNORE, ar.labels[ar.labelled]
    ar_states = ar_states[ar.labelled]  # (B, L, D) -> (N tokens, D)
    is_hidden = hidden[:, 1:][batch.target_real[:, 1:]]  # (N tokens,)
    nar_states = nar_aux_states[:, :width][hidden]  # (B, T, D) -> (N hidden, D)
    aux_states = nar_aux_states[:, nar_aux.keys :][aux_labels != IGNORE]  # (B, M, D) -> (N hidden, D)

    # CE_AR runs over all tokens; those that are not hidden have no other distribution to be compared with.
    rest = cross_entropy(ar_states[~is_hidden], words, asked[~is_hidden], knobs.label_smoothing, bias)
    weights = AuxLoss(knobs.ar, knobs.nar, knobs.aux, knobs.kl_ar_aux, knobs.kl_nar_aux, knobs.kl_ar_nar)
    units = ("tokens", *["hidden"] * 5)
    coefficients = AuxLoss(*(weight * plan.share(unit) for weight, unit in zip(weights, units, strict=True)))
    totals = aux_loss(
        ar_states[is_hidden], nar_states, aux_states, words, asked[is_hidden], knobs.label_smoothing,
        coefficients, knobs.kl_to_ar, knobs.kl_temperature, knobs.kl_sure, bias,
    )  # fmt: skip
    totals = totals._replace(ce_ar=rest + totals.ce_ar)
    terms = {
        name: Term(total, unit, weight)
        for name, total, unit, weight in zip(AuxLoss._fields, totals, units, weights, strict=True)
    }
    terms["length"] = length_term(model, memory, batch, knobs.length)
    if knobs.correct:
        correct = corrected(model, memory, plan.streams["correct"], plan.drafts["guess"])
        ce = stream_loss(model, memory, correct, knobs.label_smoothing)
        terms["ce_correct"] = Term(ce, "wrong", knobs.correct)
    return terms


def kl_share(knobs: JanusObjective, step: int) -> float:
    """The share of their full weights that the KLs have at this update."""
    return min(1.0, max(0.0, (step + 1 - knobs.kl_start) / max(1, knobs.kl_warmup)))


def knobs_at(knobs: JanusObjective, step: int) -> JanusObjective:
    weights = (knobs.kl_ar_aux, knobs.kl_nar_aux, knobs.kl_ar_nar)
    kl_ar_aux, kl_nar_aux, kl_ar_nar = (kl_share(knobs, step) * weight for weight in weights)
    return replace(knobs, kl_ar_aux=kl_ar_aux, kl_nar_aux=kl_nar_aux, kl_ar_nar=kl_ar_nar)


JANUS = Objective(
    plan, loss, terms=(*AuxLoss._fields, "length"), further=lambda knobs: ("ce_correct",) if knobs.correct else (),
    knobs_at=knobs_at, kl_share=kl_share,
)  # fmt: skip
