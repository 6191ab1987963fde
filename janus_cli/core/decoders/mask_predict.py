"""Non-autoregressive refinement: predict every token at once, hide the least certain ones, predict those again.

Mask-Predict, Ghazvininejad 2019 (section 4); `update="all"` is the decoding of CMLMC, Huang 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Trace = Callable[[int, Tensor, Tensor, Tensor], None]


def mask_predict(
    step: Step, lengths: Tensor, iters: int, update: Literal["hidden", "all"] = "hidden", trace: Trace | None = None
) -> tuple[Tensor, Tensor]:
    """Writes `lengths` tokens in exactly `iters` decoder passes.

    The first pass sees only MASK. After pass i of T the floor(n (T - i) / T) least certain of a row's n tokens are
    hidden again (equals: the leftmost first), so nothing is hidden after the last. No row depends on another.

    Args:
        step: `step(tokens, real)` -> each position's best token and its log-probability; all (R, T). One decoder pass.
        lengths: (R,) int64, n of each row, BOS and EOS not counted; may be 0. T is the largest.
        iters: decoder passes, at least 1.
        update: "hidden": a pass rewrites hidden tokens, the others keep token and certainty. "all": every token is
            written anew in each pass, hidden or not.
        trace: called after each pass as `trace(pass, tokens, logps, hidden)`: what is written, and what is hidden next.

    Returns:
        tokens (R, T) int64 with PAD behind the end, their log-probabilities (R, T) in nats with 0 there.
    """
    longest = int(lengths.max()) if len(lengths) else 0
    real = torch.arange(longest, device=lengths.device) < lengths[:, None]
    hidden = real
    tokens = torch.full_like(real, PAD, dtype=torch.int64)
    logps = torch.zeros(real.shape, device=lengths.device)
    for done in range(1, iters + 1):
        best, certainty = step(tokens.masked_fill(hidden, MASK), real)
        written = hidden if update == "hidden" else real
        tokens = torch.where(written, best, tokens)
        logps = torch.where(written, certainty.to(logps.dtype), logps)
        hidden = least_certain(logps, real, lengths * (iters - done) // iters)
        if trace is not None:
            trace(done, tokens, logps, hidden)
    return tokens, logps


def least_certain(logps: Tensor, real: Tensor, count: Tensor) -> Tensor:
    """The `count` (R,) smallest log-probabilities of each row, the leftmost first among equals -> (R, T) bool."""
    order = logps.masked_fill(~real, inf).sort(dim=1, stable=True).indices
    rank = order.argsort(dim=1)
    return real & (rank < count[:, None])


def predicted_lengths(logits: Tensor, count: int, longest: int) -> Tensor:
    """The `count` likeliest lengths of each sentence within 1 .. longest, likeliest first, all different.

    logits (B, classes), class n stands for n tokens -> (B, count) int64. `count` is at most `longest`.
    """
    allowed = logits.float()[:, 1 : longest + 1]
    return 1 + allowed.sort(dim=1, descending=True, stable=True).indices[:, :count]


def without_repeats(tokens: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """Drops each token that equals the one before it; what remains moves left. Both (R, T), PAD behind the end."""
    repeated = torch.zeros_like(tokens, dtype=torch.bool)
    repeated[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
    order = repeated.int().sort(dim=1, stable=True).indices
    return (
        tokens.masked_fill(repeated, PAD).gather(1, order),
        logps.masked_fill(repeated, 0.0).gather(1, order),
    )


def mean_logp(tokens: Tensor, logps: Tensor) -> Tensor:
    """How sure a row is of itself: the mean over its tokens in nats; 0 for a row without tokens. (R, T) -> (R,)."""
    return logps.sum(1) / (tokens != PAD).sum(1).clamp(min=1)
