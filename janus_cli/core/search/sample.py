"""Sampling, left to right: tokens are drawn, not searched for.

Each row draws with noise of its own: a pure function of the row's key, the place and the token (the Gumbel-max trick:
the largest log-probability plus Gumbel noise is a sample). So a sample depends neither on the batch nor on its order,
and rounding changes it only where two sums are equal up to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.noise import mixed, uniform
from janus_cli.core.search import Output
from janus_cli.core.search.beam import Step, largest, rows_of
from janus_cli.core.search.greedy import finished

Draw = Callable[[Tensor, Tensor, int], Tensor]
FEW = 256  # likeliest tokens nearly always cover top-p; otherwise the number is doubled


def sample(
    step: Step, draw: Draw, max_lengths: Tensor, count: int, length_penalty: float = 1.0, *, free_end: bool = False
) -> list[list[Output]]:
    """`count` samples of each sentence, best first; some may be equal.

    Args:
        step: as for `beam_search`. A sentence has one row in the first pass, then one for each sample, until all end.
        draw: `draw(logps, rows, place)` -> tokens (R,) that follow. logps (R, V), rows: (R,) int64, the number of each
            sample among all, those of a sentence side by side; place: of the token, from 0.
        max_lengths: (B,) int64, the most tokens of a sample, EOS included; at least 1.
        length_penalty: see `beam_search`; decides the scores and their order. Scores are the model's: neither the
            temperature nor what was cut off changes them. free_end: EOS costs nothing at the maximum length.
    """
    sentences = torch.arange(len(max_lengths), device=max_lengths.device)
    if not len(sentences):
        return []
    rows = rows_of(sentences, count)
    tokens = torch.full((len(rows), int(max_lengths.max())), PAD, device=rows.device)
    logps = torch.zeros(tokens.shape, device=rows.device)
    going, passes = torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(max_lengths)
    last = torch.full_like(sentences, BOS)
    parents: Tensor | None = None
    for place in range(tokens.shape[1]):
        found = step(last, parents)
        if not place:
            found = found.repeat_interleave(count, dim=0)
        at_end = max_lengths[rows // count] == place + 1
        chosen = draw(found, rows, place).masked_fill(at_end, EOS)
        certainty = found.gather(1, chosen[:, None])[:, 0].to(logps.dtype)
        certainty = certainty.masked_fill(at_end & ((certainty == -inf) | free_end), 0.0)
        tokens[rows, place], logps[rows, place] = torch.where(going, chosen, PAD), torch.where(going, certainty, 0.0)
        passes[rows[::count] // count] += 1
        going = going & (chosen != EOS)
        left = going.view(-1, count).any(1).nonzero()[:, 0]
        if not len(left):
            break
        kept = rows_of(left, count)
        parents = None if place and len(kept) == len(rows) else kept
        if not place:
            parents = left.repeat_interleave(count)
        rows, going, last = rows[kept], going[kept], chosen[kept]
    most, took = (each.repeat_interleave(count) for each in (max_lengths, passes))
    outputs = finished(tokens, logps, most, length_penalty, took.tolist(), forced=True)
    groups = (outputs[start : start + count] for start in range(0, len(outputs), count))
    return [sorted(group, key=lambda output: -output.score) for group in groups]


@dataclass(frozen=True)
class Gumbel:
    """The `draw` of `sample`: from p ** (1 / temperature), cut to the likeliest tokens and normalised.

    keys: (R,) int64, a number for each row that decides its samples; see `row_keys`. temperature: more than 0.
    top_k: draw among so many of the likeliest tokens (Fan 2018); 0: all. top_p: and of these among the likeliest that
    have this probability together (Holtzman 2020); 1: all.
    """

    keys: Tensor
    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    def __call__(self, logps: Tensor, rows: Tensor, place: int) -> Tensor:
        scores = (logps - logps.amax(1, keepdim=True)) / self.temperature  # however cold, the best one stays 0
        scores, tokens = likeliest(scores, self.top_k, self.top_p)
        bits = mixed(mixed(self.keys[rows] + place)[:, None] + tokens)
        noise = -(-uniform(bits).clamp(min=2.0**-54).log()).log()
        best = (scores.double() + noise).argmax(1, keepdim=True)
        return tokens.gather(1, best)[:, 0]


def likeliest(scores: Tensor, top_k: int = 0, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scores of the tokens to draw among, -inf for others, and these tokens. (R, V) -> (R, C), (R, C) int64."""
    size = scores.shape[1]
    if 0 < top_k < size:
        scores, tokens = largest(scores, top_k)
        shares = scores.double().softmax(1)
    elif top_p < 1:
        every, count = scores.float().softmax(1), FEW
        shares, tokens = largest(every, count)
        while count < size and bool((shares.sum(1, dtype=torch.float64) < top_p).any()):
            count *= 2
            shares, tokens = largest(every, count)
        scores, shares = scores.gather(1, tokens), shares.double()
    else:
        return scores, torch.arange(size, device=scores.device).expand_as(scores)
    if top_p < 1:
        scores = scores.masked_fill(shares.cumsum(1) - shares >= top_p, -inf)  # those before it suffice
    return scores, tokens


def row_keys(source: Tensor, seed: int, count: int) -> Tensor:
    """A number for each of `count` samples of each row of `source` (B, S): (B * count,) int64.

    A function of the seed, the row's ids up to its padding, and the number of the sample.
    """
    places = torch.arange(source.shape[1], device=source.device)
    text = mixed(mixed(source) + places).masked_fill(source == PAD, 0).sum(1)  # sums of int64 wrap around
    keys = mixed(mixed(torch.full_like(text, seed)) + text)
    return mixed(keys[:, None] + torch.arange(count, device=keys.device)).flatten()
