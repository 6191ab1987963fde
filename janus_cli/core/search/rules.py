"""What a left-to-right search must not write next: an n-gram once more, EOS too early, or another first token.

The log-probabilities of the other tokens stay as they are, as in fairseq, so that scores remain the model's.
"""

from math import inf

import torch
from torch import Tensor

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.search.beam import Step


class Obeying:
    """A step of `beam_search` or `sample` that obeys the rules; follows what rows have written.

    ngram: no n-gram of this size may come twice among the tokens of a row (Paulus 2018); 0: any may.
    least: EOS may not come before so many tokens. first: the token that a row begins with, at no cost; 0: any.
    """

    def __init__(self, step: Step, *, ngram: int = 0, least: int = 0, first: int = 0) -> None:
        self.step, self.ngram, self.least, self.first = step, ngram, least, first
        self.tokens: Tensor | None = None  # (R, t) int64, of each row so far, without BOS

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        """As the step that it wraps: (R, V) log-probabilities, -inf for what the rules forbid."""
        if self.tokens is None:  # the first pass reads BOS
            self.tokens = last[:, None][:, :0]
        else:
            before = self.tokens if parents is None else self.tokens[parents]
            self.tokens = torch.cat([before, last[:, None]], dim=1)
        logps = self.step(last, parents)
        if self.first and not self.tokens.shape[1]:
            return torch.full_like(logps, -inf).index_fill_(1, last.new_tensor([self.first]), 0.0)
        return obeying(logps, self.tokens, self.ngram, self.least)


def obeying(logps: Tensor, tokens: Tensor, ngram: int, least: int) -> Tensor:
    """logps (R, V) of what follows tokens (R, t), changed in place: -inf for what the rules forbid.

    A row that would have no token left keeps them all.
    """
    forbidden = [repeating(tokens, ngram)] if 0 < ngram <= tokens.shape[1] else []
    if tokens.shape[1] < least:
        forbidden.append(tokens.new_full((len(tokens), 1), EOS))
    if not forbidden:
        return logps
    places = torch.cat(forbidden, dim=1)
    before = logps.gather(1, places)
    logps.scatter_(1, places, -inf)
    nothing_left = logps.amax(1, keepdim=True) == -inf
    return logps.scatter_(1, places, torch.where(nothing_left, before, -inf))


def repeating(tokens: Tensor, ngram: int) -> Tensor:
    """The tokens that have followed a row's last n - 1 tokens before, PAD for the others. (R, t) -> (R, t - n + 1)."""
    windows = tokens.unfold(1, ngram, 1)  # (R, t - n + 1, n)
    last = tokens[:, tokens.shape[1] - ngram + 1 :]  # (R, n - 1)
    again = (windows[..., :-1] == last[:, None]).all(2)
    return torch.where(again, windows[..., -1], PAD)
