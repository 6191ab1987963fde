"""Glancing (Qian et al., ACL 2021, section 3): the worse the model predicts, the more hidden tokens are revealed.

The model first predicts all hidden tokens in one pass, without gradient. Of the hidden tokens, `ratio` times the number
of wrong predictions, drawn at random, are then revealed, and the loss is taken over the rest. So a target that the
model cannot predict yet becomes easier, and one that it can stays hidden. Means are over all tokens hidden at first.
"""

from torch import Tensor

from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, random_order
from janus_cli.core.objectives.base import guesses
from janus_cli.core.stream import Stream, masked
from janus_cli.core.writing import NEVER_WRITTEN


def first_look(target: Tensor, hidden: Tensor, draws: Draws) -> Stream:
    """What the first pass reads: a MASK for every hidden token; they die in a random order, that of being revealed."""
    return masked(target, random_order(hidden, draws))


def still_hidden(model: Transformer, memory: Memory, look: Stream, ratio: float) -> Tensor:
    """The tokens that stay hidden after the first pass, (B, T) bool. look: see `first_look`."""
    hidden = look.labelled
    written = guesses(model, memory, look, hidden, NEVER_WRITTEN)
    mistakes = (hidden & (written != look.labels)).sum(1, keepdim=True)
    return hidden & (look.death > (ratio * mistakes).floor())
