"""Left-to-right search: greedy (a beam of one) and beam search with a length penalty."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS
from janus_cli.core.decoders.output import Output

Step = Callable[[Tensor, Tensor | None], Tensor]


def beam_search(
    step: Step, max_lengths: Tensor, beam: int, length_penalty: float = 1.0, nbest: int = 1
) -> list[list[Output]]:
    """The best `nbest` hypotheses of each sentence, best first; fewer only where fewer exist.

    Each pass ranks all continuations of a sentence's live hypotheses by their summed log-probability. Those among the
    best `beam` that end in EOS are finished; the best `beam` that do not live on. EOS is the only choice at the maximum
    length. A sentence leaves the batch when `beam` of its hypotheses are finished (with a beam of one: greedy search),
    or when nothing alive can overtake the `nbest` best of them any more. Equals are ranked by the lower beam slot, then
    by the lower token id.

    Args:
        step: `step(last, parents)` -> (R, V) float log-probabilities of the token that follows. last: (R,) int64, the
            newest token of each row, rows of a sentence side by side. parents: (R,) int64, the row of the pass before
            that each row continues; None where rows are as they were. The first pass has one row a sentence, BOS.
            Tokens that must not be generated have -inf.
        max_lengths: (B,) int64, the most tokens of a hypothesis, EOS included; at least 1.
        beam: live hypotheses of a sentence. nbest: hypotheses wanted, at most `beam`.
        length_penalty: p >= 0 in score = sum of log-probabilities / length ** p.
    """
    device = max_lengths.device
    found: list[list[Output]] = [[] for _ in range(len(max_lengths))]
    alive = torch.arange(len(max_lengths), device=device)  # (A,) sentences still searched
    sums = torch.zeros(
        len(alive), 1, dtype=torch.float64, device=device
    )  # (A, F) F: live hypotheses, first 1 then beam
    tokens = torch.full((len(alive), 1, 1), BOS, device=device)  # (A, F, 1 + tokens so far)
    totals = sums[..., None]  # (A, F, 1 + tokens so far) `sums` after each token
    best = torch.full((len(alive), beam), -inf, dtype=torch.float64, device=device)  # (A, beam) scores of the finished
    parents: Tensor | None = None
    for length in range(1, int(max_lengths.max()) + 1 if len(max_lengths) else 1):
        logps = step(tokens[..., -1].reshape(-1), parents)  # (A * F, V)
        at_end = length == max_lengths[alive]
        if bool(at_end.any()):
            logps = _only_eos(logps, at_end.repeat_interleave(tokens.shape[1]))
        total, slot, token = _candidates(logps, sums, beam)  # (A, up to 2 * beam)
        ended = (token == EOS) & (total > -inf)
        ended[:, beam:] = False
        scores = torch.where(ended, total / length**length_penalty, -inf)
        row, rank = ended.nonzero(as_tuple=True)
        if len(row):
            source = slot[row, rank]
            paths = torch.cat([totals[row, source], total[row, rank, None]], dim=1).diff(dim=1)
            columns = (t.tolist() for t in (alive[row], tokens[row, source, 1:], paths, scores[row, rank]))
            for sentence, *fields in zip(*columns, strict=True):
                found[sentence].append(Output(*fields, passes=length))
        best = torch.cat([best, scores], dim=1).sort(dim=1, descending=True).values[:, :beam]

        # EOS candidates sink to the end; at most one a live hypothesis, so `beam` of the 2 * beam candidates remain
        live = (token == EOS).int().sort(dim=1, stable=True).indices[:, :beam]
        sums = total.gather(1, live).masked_fill(token.gather(1, live) == EOS, -inf)
        reachable = sums.amax(1) / max_lengths[alive] ** length_penalty  # a sum only falls, a length only grows
        done = (best[:, -1] > -inf) | (best[:, nbest - 1] >= reachable) | at_end
        slot, token = slot.gather(1, live), token.gather(1, live)
        keep = (~done).nonzero()[:, 0]
        if not len(keep):
            break
        rows = (torch.arange(len(alive), device=device)[:, None] * tokens.shape[1] + slot)[keep].reshape(-1)
        parents = None if _unchanged(rows, logps.shape[0]) else rows
        alive, sums, best = alive[keep], sums[keep], best[keep]
        tokens = _extend(tokens[keep], slot[keep], token[keep])
        totals = _extend(totals[keep], slot[keep], sums)
    for hypotheses in found:
        hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
    return [hypotheses[:nbest] for hypotheses in found]


def _only_eos(logps: Tensor, at_end: Tensor) -> Tensor:
    """logps (R, V) with EOS as the only choice in the rows `at_end` (R,)."""
    other = torch.arange(logps.shape[1], device=logps.device) != EOS
    return logps.masked_fill(at_end[:, None] & other, -inf)


def _candidates(logps: Tensor, sums: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations: logps (A * F, V), sums (A, F) -> totals, beam slots, tokens, each (A, up to 2 * beam)."""
    sentences, live = sums.shape
    values, tokens = _largest(logps, min(2 * beam, logps.shape[1]))  # of each row first: all rows hold few of the best
    totals = (sums[..., None] + values.view(sentences, live, -1)).flatten(1)
    totals, index = _largest(totals, min(2 * beam, totals.shape[1]))
    return totals, index // values.shape[1], tokens.view(sentences, -1).gather(1, index)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their places, the lower place first among equals."""
    top, places = values.topk(min(count + 1, values.shape[1]), dim=1)
    if top.shape[1] > count and bool(((top[:, count - 1] == top[:, count]) & (top[:, count] > -inf)).any()):
        # equals on both sides of the cut: topk does not promise which of them it takes
        places = values.sort(dim=1, descending=True, stable=True).indices
    places = places[:, :count]
    places = places.sort(dim=1).values
    top, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return top, places.gather(1, order)


def _extend(paths: Tensor, slot: Tensor, last: Tensor) -> Tensor:
    """paths (A, F, t), slot and last (A, beam) -> (A, beam, t + 1): the path of each slot, then `last`."""
    picked = paths.gather(1, slot[..., None].expand(-1, -1, paths.shape[2]))
    return torch.cat([picked, last[..., None]], dim=2)


def _unchanged(rows: Tensor, before: int) -> bool:
    return len(rows) == before and bool((rows == torch.arange(before, device=rows.device)).all())
