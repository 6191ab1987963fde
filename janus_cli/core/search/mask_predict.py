"""Non-autoregressive refinement: predict every token at once, hide the least certain ones, predict those again.

Mask-Predict, Ghazvininejad 2019 (section 4); `update="all"` is the decoding of CMLMC, Huang 2022. There, all lengths
that are tried take part in every pass, and the likeliest text wins; here the first pass can choose (`over_lengths`).
"""

from collections.abc import Callable
from math import inf, log
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD
from janus_cli.core.search.repeats import NONE, Repeats

Step = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]
Trace = Callable[[Tensor, Tensor, Tensor, Tensor], None]
Update = Literal["hidden", "all"]


def mask_predict(
    step: Step, tokens: Tensor, iters: int, *, update: Update = "hidden", fan: int = 1, sure: float = 1,
    repeats: Repeats = NONE, begun: tuple[Tensor, Tensor] | None = None, only: Tensor | None = None,
    leaving: bool = True, trace: Trace | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Fills in every MASK in at most `iters` decoder passes.

    After pass i of T the floor(n (T - i) / T) least certain of a row's n tokens to write are hidden again (of equal
    ones, the leftmost first), so none after the last. A sentence skips a pass that cannot change it: each row reads
    what it read before, or has nothing to write. No row depends on another.

    Args:
        step: `step(tokens, asked, sentences)` -> the best token and its log-probability at each place `asked` (A, T)
            bool; both (A, T). One decoder pass. sentences: (S,) int64, those whose rows these are; None for all.
            If it gives the next best, too, these are written for what would equal a neighbour and is less certain.
        tokens: (R, T) int64, MASK where a token is to be written, PAD after the end of a row.
        iters: decoder passes, at least 1.
        update: "hidden": a pass rewrites hidden tokens, the others keep token and certainty. "all": everything that was
            once MASK is written anew in each pass, hidden or not.
        fan: adjacent rows of each sentence. sure: a token of this probability or more is not hidden again.
        repeats: what repeats is hidden again in any case, but for the most certain of its kind.
        begun: what the first pass wrote, tokens and log-probabilities (R, T), if it is done already.
        only: (R, T) bool, the places that may be written; a MASK elsewhere stays.
        leaving: whether sentences may skip passes; if not, the host never waits for a GPU.
        trace: called after each pass: tokens, logps, what is hidden next, and what of that because it repeats.

    Returns:
        tokens (R, T), their log-probabilities (R, T) in nats, 0 where none was written, and the passes (B,) of each.
    """
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
        rows, sentences = _taking_part(active, fan) if leaving else (None, None)
        if begun is not None and done == 1:
            tokens, logps = begun
        elif rows is None:
            tokens, logps = _written(tokens, logps, asked, *step(reading, asked, None))
        elif len(rows):
            part = asked[rows]
            some = _written(tokens[rows], logps[rows], part, *step(reading[rows], part, sentences))
            tokens, logps = tokens.index_copy(0, rows, some[0]), logps.index_copy(0, rows, some[1])
        passes += active
        read, hidden = reading, least_certain(logps, ours, count * (iters - done) // iters)
        if sure < 1:
            hidden = hidden & (logps < log(sure))
        repeated = torch.zeros_like(hidden)
        if repeats and done < iters:
            repeated = repeats.less_certain(tokens, logps) & ours
        hidden = hidden | repeated
        if trace is not None:
            trace(tokens, logps, hidden, repeated)
    return tokens, logps, passes


def _written(tokens: Tensor, logps: Tensor, asked: Tensor, *found: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and log-probabilities with what a pass has found where it was asked. All (A, T)."""
    best, sure, *others = found
    tokens, logps = torch.where(asked, best, tokens), torch.where(asked, sure.to(logps.dtype), logps)
    if others:
        equal = asked & Repeats(doubled=True).less_certain(tokens, logps)
        tokens = torch.where(equal, others[0], tokens)
        logps = torch.where(equal, others[1].to(logps.dtype), logps)
    return tokens, logps


def _taking_part(active: Tensor, fan: int) -> tuple[Tensor | None, Tensor | None]:
    """Rows and sentences (int64) of the next pass; None for all of them."""
    if bool(active.all()):
        return None, None
    sentences = active.nonzero()[:, 0]
    return (sentences[:, None] * fan + torch.arange(fan, device=active.device)).flatten(), sentences


class Written(NamedTuple):
    """K rows of each of B sentences: rows (B * K,) int64, which of those given they are; their scores (B * K,) in nats;
    tokens, logps (B * K, T) and passes (B,) as of `mask_predict`."""

    rows: Tensor
    scores: Tensor
    tokens: Tensor
    logps: Tensor
    passes: Tensor


def over_lengths(
    first: Step, step: Step, tokens: Tensor, prior: Tensor, iters: int, *, fan: int, keep: int = 0,
    update: Update = "hidden", sure: float = 1, repeats: Repeats = NONE, leaving: bool = True,
    trace: Trace | None = None,
) -> Written:  # fmt: skip
    """`mask_predict` over several lengths of each sentence; keeps those about which the first pass has least doubt.

    A row of n tokens has the score (log p(n) - sum of the entropies at its n places) / (n + 1): the length counts as a
    token, as EOS does left to right. Later passes are no judge of lengths: a token that they write fits what stands
    around it, however bad the length.

    Args:
        first: the step of the first pass, which also gives the entropy in nats at each place, 0 where not asked.
        tokens: (B * fan, T) int64, MASK where a token is to be written, PAD after the end of a row.
        prior: (B * fan,) log p(n).
        keep: K, the rows of each sentence that go on, best first; 0: all, as in the paper, with scores of 0.
    """
    rows, begun = torch.arange(len(tokens), device=tokens.device), None
    scores = torch.zeros(len(tokens), device=tokens.device)
    if keep:
        asked = tokens == MASK
        *written, entropies = first(tokens, asked, None)
        scores = (prior - entropies.sum(1)) / (asked.sum(1) + 1)
        ranked = scores.view(-1, fan).sort(dim=1, descending=True, stable=True).indices[:, :keep]
        rows = (ranked + fan * torch.arange(len(ranked), device=tokens.device)[:, None]).flatten()
        begun = _written(
            tokens[rows], torch.zeros_like(written[1][rows]), asked[rows], *(each[rows] for each in written)
        )
        fan, scores = keep, scores[rows]
    tokens, logps, passes = mask_predict(
        step, tokens[rows], iters,
        update=update, fan=fan, sure=sure, repeats=repeats, begun=begun, leaving=leaving, trace=trace,
    )  # fmt: skip
    return Written(rows, scores, tokens, logps, passes)


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


def mean_logp(tokens: Tensor, logps: Tensor) -> Tensor:
    """The mean log-probability of a row's tokens in nats; 0 for a row without tokens. (R, T) -> (R,)."""
    return logps.sum(1) / (tokens != PAD).sum(1).clamp(min=1)
