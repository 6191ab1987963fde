"""Learning to correct oneself (Huang et al., ICLR 2022, section 3): gold is asked for where the model's words stand.

CE_correct: -log P(y_c | X, observed tokens but those at c, what the model itself writes at every c, every MASK)

c is a part of the observed tokens; what the model writes there is the likeliest token of a pass over nothing but MASKs,
without gradient. That pass keeps its dropout, as in the released code: without it a model that has seen its text many
times makes too few mistakes to learn from.
"""

import torch
from torch import Tensor

from janus_cli.core.batch import IGNORE
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, is_text, pick
from janus_cli.core.objectives.base import guesses
from janus_cli.core.steps import NOR_EOS
from janus_cli.core.stream import Stream, masked


def correction(target: Tensor, hidden: Tensor, share: float, draws: Draws) -> tuple[Stream, Stream, int]:
    """P_NAR's slots that ask for gold at every c (`corrected` then writes the model's words there); nothing but MASKs,
    from which the model writes those words; and how many places c there are.

    target, hidden (B, T). share: the part of the observed tokens that are replaced.
    """
    text = is_text(target)
    observed = text & ~hidden
    wrong = pick(observed, (share * observed.sum(1, keepdim=True)).long(), draws)
    labels = target.masked_fill(~wrong, IGNORE)
    correct, guess = (masked(target, masks.long()).replace(labels=labels) for masks in (hidden, text))
    return correct, guess, int(wrong.sum())


def corrected(model: Transformer, memory: Memory, correct: Stream, guess: Stream) -> Stream:
    """The stream `correct` with the model's own words at every c."""
    wrong = correct.labelled
    written = guesses(model, memory, guess, wrong, NOR_EOS)
    return correct.replace(tokens=torch.where(wrong, written, correct.tokens))
