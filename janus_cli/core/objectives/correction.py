"""Learning to correct oneself (Huang et al., ICLR 2022, section 3): gold is asked for where its own words stand.

CE_correct: -log P(y_c | X, observed tokens but those at c, what the model itself writes at every c, every MASK)

c is a part of the observed tokens; what the model writes there is the likeliest token of a pass over nothing but MASKs,
without gradient. That pass keeps its dropout, as in the released code: without it a model that has seen its text many
times makes too few mistakes to learn from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from janus_cli.core.batch import EOS, IGNORE
from janus_cli.core.losses import without_gradient
from janus_cli.core.noise import is_text, pick
from janus_cli.core.steps import NEVER_WRITTEN, chosen_at
from janus_cli.core.stream import Stream, base

if TYPE_CHECKING:
    from torch import Tensor

    from janus_cli.core.model import Memory, Transformer
    from janus_cli.core.noise import Draws


class Correction(NamedTuple):
    """correct: P_NAR's slots that ask for gold at every c; `corrected` writes the model's words there.

    guess: nothing but MASKs, which the model writes over for that. wrong: how many places c there are.
    """

    correct: Stream
    guess: Stream
    wrong: int


def correction(target: Tensor, hidden: Tensor, share: float, draws: Draws) -> Correction:
    """share: the part of the observed tokens of target (B, T) that are replaced. hidden: (B, T) bool."""
    text = is_text(target)
    observed = text & ~hidden
    wrong = pick(observed, (share * observed.sum(1, keepdim=True)).long(), draws)
    labels = target.masked_fill(~wrong, IGNORE)
    correct, guess = (base(target, masks.long()).replace(labels=labels) for masks in (hidden, text))
    return Correction(correct, guess, int(wrong.sum()))


def corrected(model: Transformer, memory: Memory, correct: Stream, guess: Stream) -> Stream:
    """The stream `correct` with the model's own words at every c."""
    wrong = correct.labelled
    with without_gradient(correct.tokens.device.type):
        written, _ = chosen_at(model, model.decode(guess, memory), wrong, (*NEVER_WRITTEN, EOS))
    return correct.replace(tokens=torch.where(wrong, written, correct.tokens))
