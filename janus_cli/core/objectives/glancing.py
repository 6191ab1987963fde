"""Glancing (Qian et al., ACL 2021, section 3): the worse the model would do, the more of the hidden tokens it is shown.

The model writes all hidden tokens in one pass, without gradient. Of those, `ratio` times the number that it got wrong
are shown to it, at random, before it is asked for the rest. So a text that it cannot write yet becomes an easier one,
and one that it can write stays hidden. Means are still taken over all that was hidden at first.
"""

from torch import Tensor

from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws, random_order
from janus_cli.core.objectives.base import guesses
from janus_cli.core.steps import NEVER_WRITTEN
from janus_cli.core.stream import Stream, masked


def first_look(target: Tensor, hidden: Tensor, draws: Draws) -> Stream:
    """The pass without gradient: a MASK for every hidden token; they die in a random order, that of being shown."""
    return masked(target, random_order(hidden, draws))


def still_hidden(model: Transformer, memory: Memory, look: Stream, ratio: float) -> Tensor:
    """What stays hidden after the model has looked, (B, T) bool."""
    hidden = look.labelled
    written = guesses(model, memory, look, hidden, NEVER_WRITTEN)
    mistakes = (hidden & (written != look.labels)).sum(1, keepdim=True)
    return hidden & (look.death > (ratio * mistakes).floor())
