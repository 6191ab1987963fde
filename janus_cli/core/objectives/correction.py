"""CMLMC's correction loss (Huang et al., ICLR 2022, section 3): the model reads its own tokens and predicts gold ones.

CE_correct: -log P(y_c | X, observed tokens but those at c, the model's own predictions at every c, every MASK)

c is a part of the observed tokens; the model's predictions there are the likeliest tokens of a pass over MASKs only,
without gradient. That pass keeps its dropout, as in the released code: without it a model that has seen its text many
times makes too few mistakes to learn from.
"""

import torch
from torch import Tensor

from janus_cli.core.batch import IGNORE
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, is_text, pick
from janus_cli.core.objectives.base import guesses
from janus_cli.core.stream import Stream, masked
from janus_cli.core.writing import NEVER_WRITTEN


def correction(target: Tensor, hidden: Tensor, share: float, draws: Draws) -> tuple[Stream, Stream, int]:
    """Returns P_NAR's slots with gold labels at every c (`corrected` puts the model's predictions there); the stream of
    MASKs only, from which the model predicts them; and the number of places c.

    target, hidden (B, T). share: of the observed tokens, to be replaced.
    """
    text = is_text(target)
    observed = text & ~hidden
    wrong = pick(observed, (share * observed.sum(1, keepdim=True)).long(), draws)
    labels = target.masked_fill(~wrong, IGNORE)
    correct, guess = (masked(target, masks.long()).replace(labels=labels) for masks in (hidden, text))
    return correct, guess, int(wrong.sum())


def corrected(model: Transformer, memory: Memory, correct: Stream, guess: Stream) -> Stream:
    """The stream `correct` with the model's own predictions, from the stream `guess`, at every c."""
    wrong = correct.labelled
    written = guesses(model, memory, guess, wrong, NEVER_WRITTEN.or_eos)
    return correct.replace(tokens=torch.where(wrong, written, correct.tokens))
