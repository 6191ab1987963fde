"""Non-autoregressive refinement: predict every token at once, hide the least certain ones, predict those again.

Mask-Predict, Ghazvininejad 2019 (section 4); `update="all"` is the decoding of CMLMC, Huang 2022. There, every length
that is tried takes part in every pass; here the first pass can choose among them (`keep`).
"""

from collections.abc import Callable
from math import inf, log
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD

Step = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
Trace = Callable[[Tensor, Tensor, Tensor], None]
Update = Literal["hidden", "all"]


class Written(NamedTuple):
    """What mask-predict wrote: K rows for each of B sentences.

    tokens (B * K, T) int64, PAD after the end; logps (B * K, T), their log-probabilities in nats, 0 where none was
    written; passes (B,), those that the sentence took part in; rows (B * K,), which of the given rows these are.
    """

    tokens: Tensor
    logps: Tensor
    passes: Tensor
    rows: Tensor


def mask_predict(
    step: Step, tokens: Tensor, iters: int, *, update: Update = "hidden", fan: int = 1, keep: int = 0,
    prior: Tensor | None = None, sure: float = 1, only: Tensor | None = None, leaving: bool = True,
    trace: Trace | None = None,
) -> Written:  # fmt: skip
    """Fills in every MASK in at most `iters` decoder passes.

    After pass i of T the floor(n (T - i) / T) least certain of a row's n tokens to write are hidden again (of equal
    ones, the leftmost first), so none after the last. No row depends on another, but for those that `keep` drops.

    A sentence skips a pass that cannot change it: each of its rows reads what it read in the previous pass,
    and so would get the same answer, or has nothing to write.

    Args:
        step: `step(tokens, asked, sentences)` -> the best token and its log-probability at each place `asked` (A, T)
            bool; both (A, T). One decoder pass. sentences: (S,) int64, those whose rows these are; None for all.
        tokens: (R, T) int64, MASK where a token is to be written, PAD after the end of a row.
        iters: decoder passes, at least 1.
        update: "hidden": a pass rewrites hidden tokens, the others keep token and certainty. "all": everything that was
            once MASK is written anew in each pass, hidden or not.
        fan: number of rows of each sentence, which are adjacent.
        keep: K, the rows of each sentence that go on after the first pass, those of the highest `mean_logp` by then; 0
            for all.
        prior: (R,), see `mean_logp`.
        sure: a token of this probability or more is not hidden again; so a row ends as soon as all its tokens have it.
        only: (R, T) bool, the places that may be written; a MASK elsewhere stays.
        leaving: whether sentences may skip passes; if not, the host never waits for a GPU.
        trace: called after each pass as `trace(tokens, logps, hidden)`: what is written, and what is hidden next.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    ours = tokens == MASK if only is None else only & (tokens == MASK)
    count = ours.sum(1)
    hidden, logps = ours, torch.zeros(tokens.shape, device=tokens.device)
    passes = torch.zeros(len(tokens) // fan, dtype=torch.int64, device=tokens.device)
    read = torch.full_like(tokens, -1)
    for done in range(1, iters + 1):
        reading = tokens.masked_fill(hidden, MASK)
        asked = hidden if update == "hidden" else ours
        changes = (reading != read).any(1) & asked.any(1)
        active = changes.view(-1, fan).any(1)
        part, sentences = _taking_part(active, fan) if leaving else (None, None)
        if part is None:
            best, certainty = step(reading, asked, None)
            tokens, logps = torch.where(asked, best, tokens), torch.where(asked, certainty.to(logps.dtype), logps)
        elif len(part):
            places = asked[part]
            best, certainty = step(reading[part], places, sentences)
            tokens = tokens.index_copy(0, part, torch.where(places, best, tokens[part]))
            logps = logps.index_copy(0, part, torch.where(places, certainty.to(logps.dtype), logps[part]))
        passes += active
        if done == 1 and 0 < keep < fan:
            rows, fan = _likeliest(mean_logp(tokens, logps, prior).view(-1, fan), keep), keep
            tokens, logps, reading, ours, count = (each[rows] for each in (tokens, logps, reading, ours, count))
        read, hidden = reading, least_certain(logps, ours, count * (iters - done) // iters)
        if sure < 1:
            hidden = hidden & (logps < log(sure))
        if trace is not None:
            trace(tokens, logps, hidden)
    return Written(tokens, logps, passes, rows)


def _taking_part(active: Tensor, fan: int) -> tuple[Tensor | None, Tensor | None]:
    """Rows and sentences (int64) of the next pass; None for all of them."""
    if bool(active.all()):
        return None, None
    sentences = active.nonzero()[:, 0]
    return (sentences[:, None] * fan + torch.arange(fan, device=active.device)).flatten(), sentences


def _likeliest(scores: Tensor, keep: int) -> Tensor:
    """The rows (B * keep,) of the `keep` highest scores of each sentence, in their old order. scores: (B, fan)."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :keep].sort(dim=1).values
    return (best + torch.arange(len(scores), device=scores.device)[:, None] * scores.shape[1]).flatten()


def masks(lengths: Tensor) -> Tensor:
    """`lengths` (R,) MASKs in each row, then PAD -> (R, T) int64, T the largest length."""
    longest = int(lengths.max()) if len(lengths) else 0
    real = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return torch.where(real, MASK, PAD)


def least_certain(logps: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` (R,) smallest log-probabilities of each row, the leftmost first among equals -> (R, T) bool."""
    order = logps.masked_fill(~among, inf).sort(dim=1, stable=True).indices
    rank = order.argsort(dim=1)
    return among & (rank < count[:, None])


def predicted_lengths(logits: Tensor, count: int, longest: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest lengths of each sentence within 1 .. longest, and their log-probabilities among these.

    logits (B, classes), class n stands for n tokens -> (B, count) int64 and in nats, likeliest first, all different.
    `count` is at most `longest`.
    """
    allowed = logits.float()[:, 1 : longest + 1]
    places = allowed.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return 1 + places, allowed.log_softmax(1).gather(1, places)


def without_repeats(tokens: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """Drops each token that equals the one before it and closes the gaps. Both (R, T), PAD after the end."""
    repeated = torch.zeros_like(tokens, dtype=torch.bool)
    repeated[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
    order = repeated.int().sort(dim=1, stable=True).indices
    return (
        tokens.masked_fill(repeated, PAD).gather(1, order),
        logps.masked_fill(repeated, 0.0).gather(1, order),
    )


def mean_logp(tokens: Tensor, logps: Tensor, prior: Tensor | None = None) -> Tensor:
    """The mean log-probability of a row's tokens in nats; 0 for a row without tokens. (R, T) -> (R,).

    prior: (R,) the log-probability of the row's length, which counts as a token, as EOS does left to right.
    """
    count, total = (tokens != PAD).sum(1), logps.sum(1)
    return total / count.clamp(min=1) if prior is None else (total + prior) / (count + 1)
