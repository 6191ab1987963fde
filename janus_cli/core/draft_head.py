"""A draft head: it says which of the tokens that one NAR pass predicts follow each other.

Each place of a draft is predicted without the others, so that neighbours may not fit, and words come one place early or
late. Let w be the last token and c a candidate: a likely token, d places from w. Its score in nats is

    scale * log p_NAR(c) + distances[d] + bias[c] + e_w before after^T e_c

with e the rows of the model's output table and before, after (D, r): a transition of rank r between tokens (Sun et al.,
NeurIPS 2019, there between all tokens, in training too). The model stays as it is. `fit` finds these numbers so that
the best candidate is what greedy search writes after w; a wrong one costs no more than a wrong draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.shapes import DISTANCES, NEAR

RANK = 32
IMPOSSIBLE, ELSEWHERE = -1e30, -8.0  # nats: of what is no candidate; of a token that is none near its place
EPOCHS, BATCHES, ROWS, RATE = 5, 30, 4096, 0.01  # BATCHES of an epoch, at least; ROWS of a batch, at most


class DraftHead(NamedTuple):
    """before, after (D, r); bias (V,); distances (NEAR,); scale (1,). All float32."""

    before: Tensor
    after: Tensor
    bias: Tensor
    distances: Tensor
    scale: Tensor


class Draft(NamedTuple):
    """What a NAR pass predicted for a batch: tokens (B, T, C) and their log-probabilities in nats; lengths (B,)."""

    tokens: Tensor
    logps: Tensor
    lengths: Tensor


class Examples(NamedTuple):
    """last (N,); candidates near it (N, NEAR * C) and their log-probabilities, IMPOSSIBLE for none; following (N,)."""

    last: Tensor
    candidates: Tensor
    logps: Tensor
    following: Tensor


def examples(draft: Draft, outputs: Tensor) -> Examples:
    """What follows each token of outputs (B, N), without EOS, then PAD, beside the candidates near its place."""
    parts = list(_along(*_framed(draft), draft.lengths + 1, outputs))
    return Examples(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _framed(draft: Draft) -> tuple[Tensor, Tensor]:
    """Candidates and log-probabilities (B, T + 1 + NEAR, C) of BOS, the draft, EOS, and none at the places after it."""
    batch, longest, fan = draft.tokens.shape
    tokens = torch.full((batch, longest + 1 + NEAR, fan), PAD)
    logps = torch.full(tokens.shape, IMPOSSIBLE)
    real = torch.arange(longest) < draft.lengths[:, None]
    tokens[:, 1 : longest + 1], tokens[:, 0] = draft.tokens, BOS
    logps[:, 1 : longest + 1] = draft.logps.masked_fill(~real[:, :, None], IMPOSSIBLE)
    rows, ends = torch.arange(batch), draft.lengths + 1
    tokens[rows, ends], logps[rows, ends, 0] = EOS, 0.0
    return tokens, logps


def _along(tokens: Tensor, logps: Tensor, ends: Tensor, outputs: Tensor) -> Iterator[Examples]:
    """The examples of each place of the outputs; the place in the draft goes along. ends (B,): the place of EOS."""
    rows, place, near = torch.arange(len(outputs)), torch.zeros_like(ends), torch.arange(NEAR)
    distances = torch.tensor(DISTANCES)[:, None]
    closed = torch.cat([outputs, torch.full((len(outputs), 1), PAD)], dim=1)
    closed[rows, (outputs != PAD).sum(1)] = EOS
    last = torch.full((len(outputs),), BOS)
    for following in closed.T:
        here = rows[:, None], place[:, None] + near  # (B, NEAR)
        found, sure = tokens[here], logps[here]  # (B, NEAR, C)
        going = following != PAD
        yield Examples(*(part[going] for part in (last, found.flatten(1), sure.flatten(1), following)))
        scores = torch.where(found == following[:, None, None], sure, ELSEWHERE) + distances
        last, place = following, (place + scores.flatten(1).argmax(1) // found.shape[2]).minimum(ends)


class _Head(nn.Module):
    def __init__(self, table: Tensor, rank: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(1)
        self.table = table
        self.before, self.after = (
            nn.Parameter(0.02 * torch.randn(table.shape[1], rank, generator=draws)) for _ in range(2)
        )
        self.bias = nn.Parameter(torch.zeros(len(table)))
        self.distances = nn.Parameter(torch.tensor(DISTANCES))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, some: Examples) -> Tensor:
        """(N, NEAR * C) scores."""
        before, after = self.table @ self.before, self.table @ self.after  # (V, r)
        scores = self.scale * some.logps + self.bias[some.candidates]
        scores = scores + (before[some.last][:, None] * after[some.candidates]).sum(2)
        return scores + self.distances.repeat_interleave(scores.shape[1] // NEAR)


def fit(table: Tensor, every: Examples, rank: int = RANK) -> tuple[DraftHead, float]:
    """The head, and how often its best candidate is the token that follows, in a tenth that it was not fitted to.

    table: (V, D), the model's output table. Cross-entropy of the candidates that are the token that follows, over those
    examples that have one; the same numbers for the same examples.
    """
    right = (every.candidates == every.following[:, None]) & (every.logps > IMPOSSIBLE)
    some = right.any(1)
    every, right = Examples(*(part[some] for part in every)), right[some]
    spread = table.std()
    head, draws = _Head(table / spread, rank), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-4)
    order = torch.randperm(len(right), generator=draws)
    held, seen = order[: len(order) // 10], order[len(order) // 10 :]
    size = max(1, min(ROWS, len(seen) // BATCHES))
    batches = [seen[rows] for _ in range(EPOCHS) for rows in torch.randperm(len(seen), generator=draws).split(size)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches) + 1, pct_start=0.1)
    for rows in batches:
        scores = head(Examples(*(part[rows] for part in every)))
        loss = (scores.logsumexp(1) - scores.masked_fill(~right[rows], IMPOSSIBLE).logsumexp(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judged = held if len(held) else seen
    with torch.no_grad():
        best = head(Examples(*(part[judged] for part in every))).argmax(1, keepdim=True)
    found = (head.before / spread, head.after / spread, head.bias, head.distances, head.scale)
    return DraftHead(*(each.detach() for each in found)), float(right[judged].gather(1, best).float().mean()) * float(
        some.float().mean()
    )
