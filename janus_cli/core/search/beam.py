"""Left-to-right search: beam search with a length penalty, and diverse beam search.

Each pass ranks all continuations of a sentence's live hypotheses by their summed log-probability. Of the best `beam`,
those that end in EOS are finished; of those that do not, the best `beam` live on. At the maximum length EOS is the only
choice. A sentence leaves the batch when `beam` of its hypotheses are finished (so a beam of one is greedy search), or
when no live hypothesis can overtake the `nbest` best finished ones any more; `Ending` has other ways. Ties go to the
lower beam slot, then the lower token id.

Diverse beam search (Vijayakumar et al. 2018, algorithm 1 with the Hamming distance) divides the beam into groups, each
a beam as above, which take turns in each place. A group ranks its continuations less `diversity` for each hypothesis of
an earlier group that goes on with the same token there. This decides the ranks in this place only: sums and scores stay
the model's. EOS is never penalised.

Dimensions besides those of `core`: A sentences still searched, G groups, F live hypotheses of each (first 1, then
beam / groups), C candidates of each (up to twice as many).
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from math import inf, log
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS
from janus_cli.core.search import Output

# `step(last, parents)` -> (R, V) float log-probabilities of the token that follows, -inf for what must not be written.
# last: (R,) int64, the newest token of each row, rows of a sentence side by side. parents: (R,) int64, the row of the
# previous pass that each row continues; None if each continues itself. The first pass has one row a sentence, BOS.
Step = Callable[[Tensor, Tensor | None], Tensor]
Hypothesis = tuple[list[int], list[float], float]  # tokens, log-probabilities, score


class Ending(NamedTuple):
    """When a search ends. stop: see `Decoding.early_stopping`. free: the EOS of the longest output costs nothing."""

    stop: Literal["full", "likely", "never"] = "full"
    free: bool = False


USUAL = Ending()


def beam_search(
    step: Step, max_lengths: Tensor, beam: int, length_penalty: float = 1.0, nbest: int = 1, *,
    groups: int = 1, diversity: float = 0.0, ending: Ending = USUAL,
) -> list[list[Output]]:  # fmt: skip
    """The best `nbest` hypotheses of each sentence, best first; fewer only if fewer exist.

    Of several groups, first one of each, then a second of each. Equal ones count once, so there may be fewer.

    Args:
        max_lengths: (B,) int64, the most tokens of a hypothesis, EOS included; at least 1.
        beam: live hypotheses of a sentence. nbest: hypotheses wanted, at most `beam`.
        length_penalty: p >= 0 in score = sum of log-probabilities / length ** p; the length includes EOS.
        groups: a divisor of `beam`. diversity: what each hypothesis of an earlier group takes from the rank of a token,
            in nats.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(len(max_lengths) * groups)]
    passes = torch.zeros_like(max_lengths)
    enough = -(-nbest // groups)  # hypotheses of a group
    shape = (groups, beam // groups, length_penalty, enough, diversity, ending)
    for place, found in _ended(step, max_lengths, passes, *shape):
        finished[place].append(found)
    chosen = (_spread(finished[start : start + groups], nbest) for start in range(0, len(finished), groups))
    surely = beam == 1 and not ending.free
    return [
        [Output(*fields, passes=count, limited=count >= most and not (surely and _is_sure(fields))) for fields in some]
        for some, count, most in zip(chosen, passes.tolist(), max_lengths.tolist(), strict=True)
    ]


def _is_sure(found: Hypothesis) -> bool:
    """Whether its EOS was likelier than all other tokens together: greedy search ends there without a limit, too."""
    return found[1][-1] > log(0.5)


def _ended(
    step: Step, max_lengths: Tensor, passes: Tensor, groups: int, width: int, length_penalty: float, enough: int,
    diversity: float, ending: Ending,
) -> Iterator[tuple[int, Hypothesis]]:  # fmt: skip
    """Every hypothesis that ends, with the number of its group among all; a group ends when `enough` are the best.

    passes: (B,) of each sentence, counted here. width: live hypotheses of a group.
    """
    if not len(max_lengths):
        return
    shortest, longest = int(max_lengths.min()), int(max_lengths.max())
    alive = torch.arange(len(max_lengths), device=max_lengths.device)  # (A,) places in the batch
    tokens = torch.full((len(alive) * groups, 1, 1), BOS, device=alive.device)  # (A * G, F, 1 + passes)
    totals = torch.zeros(tokens.shape, dtype=torch.float64, device=alive.device)  # (A * G, F, 1 + passes) running sums
    best = totals.new_full((len(tokens), width), -inf)  # (A * G, F) scores of finished hypotheses, in descending order
    going = torch.ones_like(tokens[:, 0, 0], dtype=torch.bool)  # (A * G,)
    last, parents = tokens[::groups, 0, 0], None
    for length in range(1, longest + 1):
        logps, most = step(last, parents), max_lengths[alive]
        passes[alive] += 1
        if length >= shortest:
            logps = _only_eos(logps, most.eq(length).repeat_interleave(len(logps) // len(alive)), free=ending.free)
        logps = logps.view(len(alive), -1, tokens.shape[1], logps.shape[1])  # (A, 1 or G, F, V)
        total, slot, token = _in_turns(logps, totals[..., -1], going, width, diversity)  # (A * G, C), best first
        is_eos = token == EOS
        scores = torch.where((is_eos & going[:, None])[:, :width], total[:, :width] / length**length_penalty, -inf)
        if bool((scores > -inf).any()):
            places = rows_of(alive, groups).tolist()
            for row, hypothesis in _just_ended(scores, total, slot, tokens, totals):
                yield places[row], hypothesis
            best = torch.cat([best, scores], dim=1).sort(dim=1, descending=True).values[:, :width]

        live = _live(is_eos, width)
        total = total.masked_fill(is_eos, -inf).gather(1, live)
        slot, token = slot.gather(1, live), token.gather(1, live)
        limit = most.repeat_interleave(groups)
        reachable = total.amax(1) / limit**length_penalty  # sums only fall, lengths only grow
        hoped = total.amax(1) / length**length_penalty if ending.stop == "likely" else reachable
        short = best[:, -1] == -inf if ending.stop == "full" else best[:, -1] < hoped
        going = going & short & (best[:, enough - 1] < reachable) & limit.gt(length)
        keep = going.view(-1, groups).any(1).nonzero()[:, 0]
        if not len(keep):
            return
        own = torch.arange(len(slot), device=alive.device)[:, None]
        rows = slot + (own // groups if parents is None else own * tokens.shape[1])
        tokens, totals = _extended(tokens, slot, token), _extended(totals, slot, total)
        left = len(keep) < len(alive)
        if left:
            kept, alive = rows_of(keep, groups), alive[keep]
            best, going, rows, tokens, totals = (t[kept] for t in (best, going, rows, tokens, totals))
        last, parents = tokens[..., -1].flatten(), rows.flatten() if groups * width > 1 or left else None


def rows_of(sentences: Tensor, count: int) -> Tensor:
    """The rows of these sentences, `count` each, side by side. (A,) -> (A * count,)."""
    return (sentences[:, None] * count + torch.arange(count, device=sentences.device)).flatten()


def _in_turns(
    logps: Tensor, sums: Tensor, going: Tensor, width: int, diversity: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of each group by what penalties leave: true totals, slots, tokens; each (A * G, C).

    logps (A, 1 or G, F, V), sums (A * G, F), going (A * G,) bool: the groups that are still searched.
    """
    sentences, shared, _, size = logps.shape
    if len(sums) == sentences:
        return _candidates(logps.flatten(0, 2), sums, width)
    sums, going = sums.view(sentences, -1, sums.shape[1]), going.view(sentences, -1)
    before = logps.new_zeros((sentences, size))  # hypotheses of earlier groups that go on with each token
    found = []
    for group in range(sums.shape[1]):
        own = logps[:, group if shared > 1 else 0]  # (A, F, V)
        rated = own - diversity * before[:, None] if group else own
        _, slot, token = _candidates(rated.flatten(0, 1), sums[:, group], width)
        total = sums[:, group].gather(1, slot) + own.flatten(1).gather(1, slot * size + token)
        found.append((total, slot, token))
        live = _live(token == EOS, width)
        going_on = total.masked_fill(token == EOS, -inf).gather(1, live) > -inf
        counted = going_on & going[:, group, None]
        before.scatter_add_(1, token.gather(1, live), counted.to(before.dtype))
    total, slot, token = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*found, strict=True))
    return total, slot, token


def _live(is_eos: Tensor, width: int) -> Tensor:
    """The first `width` candidates of each row that do not end. (N, C) -> (N, width).

    At most one of each live hypothesis ends: when they sink to the end, `width` of twice as many candidates remain.
    """
    return is_eos.int().sort(dim=1, stable=True).indices[:, :width]


def _just_ended(
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


def _only_eos(logps: Tensor, at_end: Tensor, *, free: bool) -> Tensor:
    """logps (R, V) with EOS as the only choice in the rows `at_end` (R,), at no cost if it is `free` or forbidden."""
    other = torch.arange(logps.shape[1], device=logps.device) != EOS
    logps = logps.masked_fill(at_end[:, None] & other, -inf)
    end = logps[:, EOS]
    logps[:, EOS] = end.masked_fill(at_end & ((end == -inf) | free), 0.0)
    return logps


def _candidates(logps: Tensor, sums: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
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
    top, places = values.topk(min(count + 1, values.shape[1]), dim=1)
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


def _extended(paths: Tensor, slot: Tensor, last: Tensor) -> Tensor:
    """paths (A, F, t), slot and last (A, beam) -> (A, beam, t + 1): the path of each slot, then `last`."""
    picked = paths.gather(1, slot[..., None].expand(-1, -1, paths.shape[2]))
    return torch.cat([picked, last[..., None]], dim=2)


def _spread(groups: list[list[Hypothesis]], nbest: int) -> list[Hypothesis]:
    """The best hypothesis of each group, then the second ones and so on, no text twice; `nbest` in all, best first."""

    def best_first(some: Iterable[Hypothesis | None]) -> list[Hypothesis]:
        return sorted(filter(None, some), key=lambda hypothesis: -hypothesis[2])

    different: dict[tuple[int, ...], Hypothesis] = {}
    for each in zip_longest(*map(best_first, groups)):
        for hypothesis in best_first(each):
            different.setdefault(tuple(hypothesis[0]), hypothesis)
    return best_first([*different.values()][:nbest])
