"""The conditional masked language model with a masked encoder, CeMAT (Li et al., ACL 2022).

    L = 0.3 CE_encoder + 0.7 CE_NAR + 0.1 CE_length

    P_encoder(x_h | X', MASK at every h)                          10-20 % of the source
    P_NAR    (y_h | X', observed tokens, every MASK)              20-100 % of the target (50 in the paper)

X' is the source with 15 % of its words switched: where the target has a translation of x_i by some dictionary, x_i is
replaced by another of its translations, and the one in the target is hidden (aligned code-switching). The dictionary
is one of tokens, because the model reads tokens: `Batch.lexicon`, made by `data/lexicon.py`.

Whatever is hidden is a MASK here; the released code leaves every tenth token as it is and makes every tenth a random
one. CeMAT pre-trains on many languages and is then trained on; here it is trained on one pair, with a length head, so
that it decodes as CMLM does. The encoder predicts with the source's embedding table.
"""

import torch
from torch import Tensor

from janus_cli.core.batch import IGNORE, MASK, PAD, Batch
from janus_cli.core.knobs import CematObjective
from janus_cli.core.losses import cross_entropy
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, is_text, pick
from janus_cli.core.objectives.base import EncoderInput, Objective, Plan, Term, count_units, length_term, stream_loss
from janus_cli.core.stream import masked


def plan(batch: Batch, draws: Draws, knobs: CematObjective) -> Plan:
    source, target = is_text(batch.source), is_text(batch.target)
    source_count = _drawn(source, knobs.source_least, knobs.source_most, draws)
    target_count = _drawn(target, knobs.target_least, knobs.target_most, draws).clamp(min=1)
    read, switched, aligned = switch(batch, knobs.switched, draws)
    unread = pick(source & ~switched, source_count, draws)
    chosen = batch.hidden  # by the noise of plain text
    if chosen is None:
        chosen = pick(target & ~aligned, target_count - aligned.sum(1, keepdim=True), draws)
    hidden = aligned | chosen
    reading = EncoderInput(read.masked_fill(unread, MASK), batch.source.masked_fill(~unread, IGNORE))
    counts = {**count_units(batch, hidden), "unread": int(unread.sum())}
    return Plan({"nar": masked(batch.target, hidden.long())}, counts, source=reading)


def _drawn(text: Tensor, least: float, most: float, draws: Draws) -> Tensor:
    """How many tokens to hide, (B, 1): a share between `least` and `most`, drawn for each sentence."""
    share = least + (most - least) * draws.uniform(1)
    return (share * text.sum(1, keepdim=True)).round().long()


def switch(batch: Batch, share: float, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Aligned code-switching of this share of the source, or as much of it as the lexicon allows.

    Returns the source (B, S) with tokens switched, which tokens were switched (B, S) bool, and which target tokens
    (B, T) bool are aligned with them: every occurrence of the likeliest translation that the target contains.
    """
    source, target, text = batch.source, batch.target, is_text(batch.source)
    if batch.lexicon is None:
        return source, torch.zeros_like(text), torch.zeros_like(target, dtype=torch.bool)
    known = batch.lexicon[source]  # (B, S) -> (B, S, K)
    real = known != PAD
    there = real[..., None] & (known[..., None] == target[:, None, None, :])  # (B, S, K, T)
    translated = there.any(3)
    other = real & ~translated & (known != source[..., None])  # no translation that would reveal a target token
    count = (share * text.sum(1, keepdim=True)).round().long()
    switched = pick(text & translated.any(2) & other.any(2), count, draws)
    which = (draws.uniform(source.shape[1]) * other.sum(2)).long()
    chosen = other & (other.cumsum(2) == which[..., None] + 1)
    read = torch.where(switched, (known * chosen).sum(2), source)
    likeliest = translated & (translated.cumsum(2) == 1) & switched[..., None]
    return read, switched, (there & likeliest[..., None]).flatten(1, 2).any(1)


def loss(model: Transformer, batch: Batch, plan: Plan, knobs: CematObjective) -> dict[str, Term]:
    assert plan.source is not None, "made by `plan`"
    memory = model.encode(plan.source.tokens, batch.source_real)
    unread = plan.source.labels != IGNORE
    states = memory.states[:, : unread.shape[1]]  # without the suffix of `model.source_suffix`
    ce_encoder = cross_entropy(
        states[unread], model.source_table.weight, plan.source.labels[unread], knobs.label_smoothing
    )  # (B, S, D) -> (N, D)
    ce_nar = stream_loss(model, memory, plan.streams["nar"], knobs.label_smoothing)
    return {
        "ce_encoder": Term(ce_encoder, "unread", knobs.encoder),
        "ce_nar": Term(ce_nar, "hidden", knobs.nar),
        "length": length_term(model, memory, batch, knobs.length),
    }


CEMAT = Objective(plan, loss, terms=("ce_encoder", "ce_nar", "length"))
