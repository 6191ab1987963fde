"""Which target tokens are hidden, drawn for each sentence on its own.

Draws depend on (seed, epoch, sentence) alone, not on batch or rank: a sentence gets the same noise wherever it lands.
So one rank and many see the same data, and so do a run that was interrupted and one that was not.
"""

from math import exp, factorial

import torch
from torch import Tensor

from janus_cli.core.batch import SPECIAL, UNK, Batch
from janus_cli.core.knobs import Noise

# Increment and multipliers of SplitMix64 (Steele et al. 2014), as signed int64.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
LONGEST_SPAN = 20


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # a logical shift: int64 shifts drag the sign along


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def mixed(x: Tensor) -> Tensor:
    """A random-looking number for each number: SplitMix64 with this state. int64 -> int64."""
    return _mix((x + 1) * _GOLDEN)


def uniform(bits: Tensor) -> Tensor:
    """Random bits, int64, as numbers in [0, 1), float64."""
    return _shifted(bits, 11).double() / (1 << 53)


class Draws:
    """Counter-based random numbers: a pure function of (seed, epoch, sentence, number of the call, index)."""

    def __init__(self, seed: int, epoch: int, ids: Tensor) -> None:
        """ids: (B,) int64, the sentences' numbers."""
        key = _mix(torch.tensor(seed, dtype=torch.int64) * _GOLDEN + epoch)
        self._state = _mix(key + ids * _GOLDEN)
        self._calls = 0

    def uniform(self, count: int) -> Tensor:
        """(B, count) float64 in [0, 1); each call gives new numbers."""
        self._calls += 1
        index = torch.arange(1, count + 1, device=self._state.device) + (self._calls << 32)
        bits = _mix(self._state[:, None] + index * _GOLDEN)
        return uniform(bits)


def is_text(tokens: Tensor) -> Tensor:
    """True for text tokens, UNK included; False for PAD, BOS, EOS and MASK. (B, T) -> (B, T) bool."""
    return (tokens >= SPECIAL) | (tokens == UNK)


def pick(among: Tensor, count: Tensor, draws: Draws) -> Tensor:
    """`count` (B, 1) of the places `among` (B, T) bool, or all if there are fewer, at random -> (B, T) bool."""
    return (rank(draws.uniform(among.shape[1]), among) < count) & among


def hide(target: Tensor, draws: Draws, noise: Noise) -> Tensor:
    """Chooses the hidden tokens. target: (B, T) -> (B, T) bool; BOS, EOS and padding are never hidden.

    Each sentence draws one sampler from the mixture. Of a non-empty sentence at least one token is hidden.
    """
    text = is_text(target)
    n = text.sum(1, keepdim=True)
    weights = torch.tensor([noise.uniform, noise.fixed, noise.suffix, noise.full, noise.spans], dtype=torch.float64)
    edges = (weights / weights.sum()).cumsum(0)[:-1]
    kind = (draws.uniform(1) >= edges.to(target.device)).sum(1, keepdim=True)
    _, fixed, suffix, full, spans = (kind == index for index in range(5))  # (B, 1) each
    some = (draws.uniform(1) * n).long() + 1
    share = (noise.share * n).round().long().clamp(min=1)
    count = torch.where(fixed, share, torch.where(full, n, some)).clamp(max=n)
    random_places = pick(text, count, draws)
    last_places = text.flip(1).cumsum(1).flip(1) <= count
    in_spans = _spans(text, draws, noise.span_mean, noise.span_budget)
    return torch.where(spans, in_spans, torch.where(suffix, last_places, random_places)) & text


def hidden_tokens(batch: Batch, draws: Draws, noise: Noise) -> Tensor:
    """The target tokens that the noise of the batch's text hides, or else `hide` -> (B, T) bool."""
    return hide(batch.target, draws, noise) if batch.hidden is None else batch.hidden


def random_order(among: Tensor, draws: Draws) -> Tensor:
    """Ranks 1 .. k for the k chosen places of each row, in random order, 0 elsewhere. (B, T) bool -> (B, T) int64."""
    return (rank(draws.uniform(among.shape[1]), among) + 1) * among


def rank(score: Tensor, among: Tensor) -> Tensor:
    """Rank of each score in its row, from 0; places outside `among` rank last. (B, T) -> (B, T)."""
    return score.masked_fill(~among, 2.0).argsort(dim=1).argsort(dim=1)


def _spans(text: Tensor, draws: Draws, mean: float, budget: float) -> Tensor:
    """Spans of Poisson length from random starts until their lengths add up to the budget; (B, T) bool.

    As in the released JANUS (and BART's text infilling): starts are distinct, but spans may overlap or run past the end
    of the sentence, so with a budget of 70 % only 55-58 % of the tokens are hidden, and practically never all.
    Lengths are drawn from Poisson(mean) without 0, because a span of length 0 hides nothing.
    """
    batch, width = text.shape
    n = text.sum(1, keepdim=True)
    allowed = (budget * n).ceil()
    length = span_lengths(draws.uniform(width), mean)  # (B, T), one span a column
    before = length.cumsum(1) - length
    length = torch.minimum(length, (allowed - before).clamp(min=0).long())
    start = rank(draws.uniform(width), text)  # the j-th text token starts span number start[j]
    length = length.gather(1, start) * text  # (B, T), length of the span that starts here
    return covered(torch.arange(width, device=text.device).expand(batch, width), length, width) & text


def span_lengths(uniform: Tensor, mean: float) -> Tensor:
    """Lengths from Poisson(mean) without 0, up to LONGEST_SPAN, from numbers in [0, 1); int64 of the same shape."""
    mass = torch.tensor([exp(-mean) * mean**k / factorial(k) for k in range(1, LONGEST_SPAN + 1)], dtype=torch.float64)
    edges = (mass / mass.sum()).cumsum(0)[:-1].to(uniform.device)
    return torch.bucketize(uniform, edges, right=True) + 1


def covered(start: Tensor, length: Tensor, width: int) -> Tensor:
    """The places inside spans, which may overlap; start, length (B, N), length 0 for no span -> (B, width) bool."""
    edge, is_span = torch.zeros(len(start), width + 1, dtype=torch.int64, device=start.device), (length > 0).long()
    edge.scatter_add_(1, start.clamp(max=width), is_span)
    edge.scatter_add_(1, (start + length).clamp(max=width), -is_span)
    return edge.cumsum(1)[:, :width] > 0
