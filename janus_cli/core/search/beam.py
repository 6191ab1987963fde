"""Left-to-right search: greedy (a beam of one) and beam search with a length penalty.

Each pass ranks all continuations of a sentence's live hypotheses by their summed log-probability. Of the best `beam`,
those that end in EOS are finished; of those that do not, the best `beam` live on. At the maximum length EOS is the only
choice. A sentence leaves the batch when `beam` of its hypotheses are finished (so a beam of one is greedy search), or
when no live hypothesis can overtake the `nbest` best finished ones any more. Ties go to the lower beam slot, then the
lower token id.

Dimensions besides those of `core`: A sentences still searched, F live hypotheses of each (first 1, then `beam`),
C candidates of each (up to 2 * beam).
"""

from collections.abc import Callable, Iterator
from math import inf

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS
from janus_cli.core.fast import topk
from janus_cli.core.search import Output

Step = Callable[[Tensor, Tensor | None], Tensor]
Hypothesis = tuple[list[int], list[float], float]  # tokens, log-probabilities, score


def beam_search(
    step: Step, max_lengths: Tensor, beam: int, length_penalty: float = 1.0, nbest: int = 1
) -> list[list[Output]]:
    """The best `nbest` hypotheses of each sentence, best first; fewer only if fewer exist.

    Args:
        step: `step(last, parents)` -> (R, V) float log-probabilities of the token that follows. last: (R,) int64, the
            newest token of each row, rows of a sentence side by side. parents: (R,) int64, the row of the previous pass
            that each row continues; None if each continues itself. The first pass has one row a sentence, BOS.
            Tokens that must not be generated have -inf.
        max_lengths: (B,) int64, the most tokens of a hypothesis, EOS included; at least 1.
        beam: live hypotheses of a sentence. nbest: hypotheses wanted, at most `beam`.
        length_penalty: p >= 0 in score = sum of log-probabilities / length ** p; the length includes EOS.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(len(max_lengths))]
    if not finished:
        return []
    shortest, longest = int(max_lengths.min()), int(max_lengths.max())
    alive = torch.arange(len(finished), device=max_lengths.device)  # (A,) places in the batch
    tokens = torch.full((len(alive), 1, 1), BOS, device=alive.device)  # (A, F, 1 + passes)
    totals = torch.zeros(tokens.shape, dtype=torch.float64, device=alive.device)  # (A, F, 1 + passes) running sums
    best = totals.new_full((len(alive), beam), -inf)  # (A, beam) scores of finished hypotheses, in descending order
    passes = torch.zeros_like(max_lengths)
    parents: Tensor | None = None
    for length in range(1, longest + 1):
        logps = step(tokens[..., -1].flatten(), parents)  # (A * F, V)
        passes[alive] += 1
        most = max_lengths[alive]
        if length >= shortest:
            logps = only_eos(logps, most.eq(length).repeat_interleave(tokens.shape[1]))
        total, slot, token = candidates(logps, totals[..., -1], beam)  # (A, C), best first
        is_eos = token == EOS
        if bool((is_eos & (total > -inf))[:, :beam].any()):
            ended = is_eos[:, :beam]
            scores = torch.where(ended, total[:, :beam] / length**length_penalty, -inf)
            places = alive.tolist()
            for row, hypothesis in just_ended(scores, total, slot, tokens, totals):
                finished[places[row]].append(hypothesis)
            best = torch.cat([best, scores], dim=1).sort(dim=1, descending=True).values[:, :beam]

        # At most one EOS a live hypothesis: when they sink to the end, `beam` of the 2 * beam candidates remain.
        live = is_eos.int().sort(dim=1, stable=True).indices[:, :beam]
        total = total.masked_fill(is_eos, -inf).gather(1, live)
        slot, token = slot.gather(1, live), token.gather(1, live)
        reachable = total[:, 0] / most**length_penalty  # sums only fall, lengths only grow
        going = (best[:, -1] == -inf) & (best[:, nbest - 1] < reachable) & most.gt(length)
        keep = going.nonzero()[:, 0]
        if not len(keep):
            break
        rows = torch.arange(len(alive), device=alive.device)[:, None] * tokens.shape[1] + slot
        tokens, totals = extended(tokens, slot, token), extended(totals, slot, total)
        left = len(keep) < len(alive)
        if left:
            alive, best, rows, tokens, totals = (t[keep] for t in (alive, best, rows, tokens, totals))
        parents = rows.flatten() if beam > 1 or left else None
    return [
        [Output(*fields, passes=count) for fields in sorted(hypotheses, key=lambda h: -h[2])[:nbest]]
        for hypotheses, count in zip(finished, passes.tolist(), strict=True)
    ]


def just_ended(
    scores: Tensor, total: Tensor, slot: Tensor, tokens: Tensor, totals: Tensor
) -> Iterator[tuple[int, Hypothesis]]:
    """Candidates that have a score, each with the row of its sentence. scores, total, slot (A, C); paths (A, F, t)."""
    row, rank = (scores > -inf).nonzero(as_tuple=True)
    source = slot[row, rank]
    logps = torch.cat([totals[row, source], total[row, rank, None]], dim=1).diff(dim=1)
    words = tokens[row, source, 1:]
    yield from zip(
        row.tolist(), zip(words.tolist(), logps.tolist(), scores[row, rank].tolist(), strict=True), strict=True
    )


def only_eos(logps: Tensor, at_end: Tensor) -> Tensor:
    """logps (R, V) with EOS as the only choice in the rows `at_end` (R,)."""
    other = torch.arange(logps.shape[1], device=logps.device) != EOS
    return logps.masked_fill(at_end[:, None] & other, -inf)


def candidates(logps: Tensor, sums: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations: logps (A * F, V), sums (A, F) -> totals, beam slots, tokens; each (A, C)."""
    sentences, live = sums.shape
    values, tokens = largest(logps, beam + 1)  # EOS and `beam` others of each row suffice
    totals = (sums[..., None] + values.reshape(sentences, live, -1)).flatten(1)
    totals, places = totals.sort(dim=1, descending=True, stable=True)
    totals, places = totals[:, : 2 * beam], places[:, : 2 * beam]
    return totals, places // values.shape[1], tokens.reshape(sentences, -1).gather(1, places)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their indices, the lower index first among equal ones."""
    count = min(count, values.shape[1])
    top, places = topk(values, min(count + 1, values.shape[1]))
    equal = (top[:, 1:] == top[:, :-1]) & (top[:, 1:] > -inf)
    if bool(equal.any()):  # frequent in bf16; topk guarantees neither their order nor which of them it takes
        if top.shape[1] > count and bool(equal[:, -1].any()):
            rows = equal[:, -1].nonzero()[:, 0]
            places[rows, :count] = _first_among_equals(values[rows], top[rows, count - 1 : count], count)
        places = places[:, :count].sort(dim=1).values
        top, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    return top[:, :count], places[:, :count]


def _first_among_equals(values: Tensor, least: Tensor, count: int) -> Tensor:
    """Indices of all above `least` (R, 1), then of the first equal to it, `count` in all. (R, V) -> (R, count)."""
    more, equal = values > least, values == least
    missing = count - more.sum(1, keepdim=True)
    taken = more | (equal & (equal.cumsum(1, dtype=torch.int32) <= missing))
    return taken.nonzero()[:, 1].view(len(values), count)


def extended(paths: Tensor, slot: Tensor, last: Tensor) -> Tensor:
    """paths (A, F, t), slot and last (A, beam) -> (A, beam, t + 1): the path of each slot, then `last`."""
    picked = paths.gather(1, slot[..., None].expand(-1, -1, paths.shape[2]))
    return torch.cat([picked, last[..., None]], dim=2)
