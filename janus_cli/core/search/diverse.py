"""Diverse beam search: groups of hypotheses, each a beam that avoids what the groups before it write in the same place.

Vijayakumar et al. 2018, algorithm 1 with the Hamming distance. In each place the groups take turns. A group ranks the
continuations of its hypotheses by their summed log-probability, less `diversity` for each hypothesis of an earlier
group that goes on with the same token there. This decides the ranks in this place only: sums and scores stay the
model's. EOS is never penalised. Otherwise a group is a beam as in `beam.py`.

Dimensions besides those of `core`: A sentences still searched, G groups, F live hypotheses of each (first 1, then
beam / groups), C candidates of each.
"""

from collections.abc import Iterable
from itertools import zip_longest
from math import inf

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS
from janus_cli.core.search import Output
from janus_cli.core.search.beam import Hypothesis, Step, candidates, extended, just_ended, only_eos


def diverse_beam_search(
    step: Step, max_lengths: Tensor, beam: int, groups: int, diversity: float, *,
    length_penalty: float = 1.0, nbest: int = 1,
) -> list[list[Output]]:  # fmt: skip
    """The best hypotheses of the groups, first one of each, then a second of each; `nbest` in all, best first.

    Equal ones of several groups count once, so there may be fewer.

    Args:
        step, max_lengths, beam, length_penalty, nbest: as for `beam_search`. groups: a divisor of `beam`.
        diversity: what each hypothesis of an earlier group takes from the rank of a token, in nats.
    """
    width, batch = beam // groups, len(max_lengths)
    finished: list[list[Hypothesis]] = [[] for _ in range(batch * groups)]
    if not finished:
        return []
    alive = torch.arange(batch, device=max_lengths.device)  # (A,) places in the batch
    tokens = torch.full((batch * groups, 1, 1), BOS, device=alive.device)  # (A * G, F, 1 + passes)
    totals = torch.zeros(tokens.shape, dtype=torch.float64, device=alive.device)  # (A * G, F, 1 + passes) running sums
    best = totals.new_full((len(tokens), width), -inf)  # (A * G, F) scores of finished hypotheses, in descending order
    going, passes = torch.ones_like(tokens[:, 0, 0], dtype=torch.bool), torch.zeros_like(max_lengths)
    last = tokens[::groups, 0, -1]  # the first pass has one row a sentence
    parents: Tensor | None = None
    shortest, longest = int(max_lengths.min()), int(max_lengths.max())
    for length in range(1, longest + 1):
        logps, most = step(last, parents), max_lengths[alive]
        passes[alive] += 1
        if length >= shortest:
            logps = only_eos(logps, most.eq(length).repeat_interleave(len(logps) // len(alive)))
        logps = logps.view(len(alive), -1, tokens.shape[1], logps.shape[1])  # (A, 1 or G, F, V)
        total, slot, token = _in_turns(logps, totals[..., -1], going, width, diversity)  # (A * G, C)
        is_eos = token == EOS
        scores = torch.where((is_eos & going[:, None])[:, :width], total[:, :width] / length**length_penalty, -inf)
        places = (alive[:, None] * groups + torch.arange(groups, device=alive.device)).flatten().tolist()
        for row, hypothesis in just_ended(scores, total, slot, tokens, totals):
            finished[places[row]].append(hypothesis)
        best = torch.cat([best, scores], dim=1).sort(dim=1, descending=True).values[:, :width]

        live = _live(is_eos, width)
        total = total.masked_fill(is_eos, -inf).gather(1, live)
        slot, token = slot.gather(1, live), token.gather(1, live)
        limit = most.repeat_interleave(groups)
        reachable = total.amax(1) / limit**length_penalty
        enough = best[:, -(-nbest // groups) - 1] >= reachable
        going = going & (best[:, -1] == -inf) & ~enough & limit.gt(length)
        left = going.view(-1, groups).any(1).nonzero()[:, 0]
        if not len(left):
            break
        own = torch.arange(len(slot), device=alive.device)[:, None]
        rows = slot + (own // groups if parents is None else own * tokens.shape[1])
        tokens, totals = extended(tokens, slot, token), extended(totals, slot, total)
        kept = (left[:, None] * groups + torch.arange(groups, device=left.device)).flatten()
        alive, best, going, rows, tokens, totals = alive[left], *(t[kept] for t in (best, going, rows, tokens, totals))
        last, parents = tokens[..., -1].flatten(), rows.flatten()
    chosen = (spread(finished[start : start + groups], nbest) for start in range(0, len(finished), groups))
    return [
        [Output(*fields, passes=count) for fields in some] for some, count in zip(chosen, passes.tolist(), strict=True)
    ]


def _in_turns(
    logps: Tensor, sums: Tensor, going: Tensor, width: int, diversity: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of each group by what penalties leave: true totals, slots, tokens; each (A * G, C).

    logps (A, 1 or G, F, V), sums (A * G, F), going (A * G,) bool: the groups that are still searched.
    """
    sentences, shared, _, size = logps.shape
    sums, going = sums.view(sentences, -1, sums.shape[1]), going.view(sentences, -1)
    before = logps.new_zeros((sentences, size))  # hypotheses of earlier groups that go on with each token
    found = []
    for group in range(sums.shape[1]):
        own = logps[:, group if shared > 1 else 0]  # (A, F, V)
        rated = own - diversity * before[:, None] if group else own
        _, slot, token = candidates(rated.flatten(0, 1), sums[:, group], width)
        total = sums[:, group].gather(1, slot) + own.flatten(1).gather(1, slot * size + token)
        found.append((total, slot, token))
        live = _live(token == EOS, width)
        going_on = total.masked_fill(token == EOS, -inf).gather(1, live) > -inf
        counted = going_on & going[:, group, None]
        before.scatter_add_(1, token.gather(1, live), counted.to(before.dtype))
    total, slot, token = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*found, strict=True))
    return total, slot, token


def _live(is_eos: Tensor, width: int) -> Tensor:
    """The first `width` candidates of each row that do not end, as far as there are so many. (N, C) -> (N, width)."""
    return is_eos.int().sort(dim=1, stable=True).indices[:, :width]


def spread(groups: list[list[Hypothesis]], nbest: int) -> list[Hypothesis]:
    """The best hypothesis of each group, then the second ones and so on, no text twice; `nbest` in all, best first."""

    def best_first(some: Iterable[Hypothesis | None]) -> list[Hypothesis]:
        return sorted(filter(None, some), key=lambda hypothesis: -hypothesis[2])

    different: dict[tuple[int, ...], Hypothesis] = {}
    for each in zip_longest(*map(best_first, groups)):
        for hypothesis in best_first(each):
            different.setdefault(tuple(hypothesis[0]), hypothesis)
    return best_first([*different.values()][:nbest])
