"""Mask-predict on scripted callables: what is hidden after each pass, worked by hand."""

from math import log
from typing import Literal

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD, SPECIAL
from janus_cli.core.decoders import mask_predict, mean_logp, predicted_lengths, without_repeats

A, B, C = SPECIAL, SPECIAL + 1, SPECIAL + 2


class Counting:
    """Pass p writes token SPECIAL + p everywhere; how sure it is comes from a table. Remembers what it was shown."""

    def __init__(self, *sure: list[list[float]]) -> None:
        self.sure = [torch.tensor(table) for table in sure]
        self.seen: list[list[list[int]]] = []

    def __call__(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        done = len(self.seen)
        self.seen.append(tokens.tolist())
        logps = self.sure[min(done, len(self.sure) - 1)].log().expand(tokens.shape)
        return torch.full_like(tokens, SPECIAL + done), logps


def row(n: int, iters: int) -> list[int]:
    """How many tokens each pass was shown hidden."""
    step = Counting([[0.5] * max(n, 1)])
    mask_predict(step, torch.tensor([n]), iters)
    return [tokens[0].count(MASK) for tokens in step.seen]


@pytest.mark.parametrize(
    ("n", "iters", "hidden"),
    [
        (10, 1, [10]),
        (10, 4, [10, 7, 5, 2]),  # floor(10 * 3/4), floor(10 * 2/4), floor(10 * 1/4)
        (7, 10, [7, 6, 5, 4, 4, 3, 2, 2, 1, 0]),
        (3, 5, [3, 2, 1, 1, 0]),
        (1, 4, [1, 0, 0, 0]),
        (2, 3, [2, 1, 0]),
        (0, 3, [0, 0, 0]),
    ],
)
def test_exactly_t_passes_and_the_number_hidden_before_each(n: int, iters: int, hidden: list[int]) -> None:
    assert row(n, iters) == hidden


def test_the_least_certain_are_hidden_again_and_others_keep_token_and_certainty() -> None:
    step = Counting([[0.9, 0.2, 0.5, 0.3]], [[0.1, 0.4, 0.1, 0.8]], [[0.1, 0.6, 0.7, 0.1]])
    tokens, logps = mask_predict(step, torch.tensor([4]), 3)
    assert step.seen == [
        [[MASK] * 4],
        [[A, MASK, A, MASK]],  # floor(4 * 2/3) = 2: 0.2 and 0.3
        [[A, MASK, A, B]],  # certainties 0.9, 0.4, 0.5, 0.8: floor(4 * 1/3) = 1
    ]
    assert tokens.tolist() == [[A, C, A, B]]
    assert logps[0].tolist() == pytest.approx([log(p) for p in (0.9, 0.6, 0.5, 0.8)])


def test_update_all_writes_every_token_anew() -> None:
    step = Counting([[0.9, 0.2, 0.5, 0.3]], [[0.1, 0.4, 0.2, 0.8]], [[0.3, 0.6, 0.7, 0.5]])
    tokens, logps = mask_predict(step, torch.tensor([4]), 3, "all")
    assert step.seen[1:] == [[[A, MASK, A, MASK]], [[MASK, B, B, B]]]
    assert tokens.tolist() == [[C] * 4]
    assert logps[0].tolist() == pytest.approx([log(p) for p in (0.3, 0.6, 0.7, 0.5)])


def test_equals_are_hidden_from_the_left() -> None:
    step = Counting([[0.5, 0.5, 0.9, 0.5, 0.5]])
    mask_predict(step, torch.tensor([5]), 2)
    assert step.seen[1] == [[MASK, MASK, A, A, A]]


def test_padding_is_never_hidden_shown_or_counted() -> None:
    step = Counting([[0.5, 0.4, 0.3, 0.2, 0.1, 0.05]])
    tokens, logps = mask_predict(step, torch.tensor([6, 2, 0, 4]), 2)
    assert step.seen[0] == [[MASK] * n + [PAD] * (6 - n) for n in (6, 2, 0, 4)]
    assert step.seen[1] == [
        [A, A, A, MASK, MASK, MASK],
        [A, MASK, PAD, PAD, PAD, PAD],
        [PAD] * 6,
        [A, A, MASK, MASK, PAD, PAD],
    ]
    assert tokens[1:3].tolist() == [[A, B, PAD, PAD, PAD, PAD], [PAD] * 6]
    assert logps[1, 2:].tolist() == [0.0] * 4
    assert mean_logp(tokens, logps)[:3].tolist() == pytest.approx([float(logps[0].mean()), log(0.5 * 0.4) / 2, 0.0])


def neighbourless(tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """A step in which each row depends on its own tokens only, in a way that is hard to guess."""
    place = torch.arange(tokens.shape[1]) + 1
    weight = (tokens * real * place).sum(1, keepdim=True) * 31 + tokens * 7 + place**2
    return SPECIAL + weight % 11, -((weight % 97) / 97.0) - 0.01


@pytest.mark.parametrize("update", ["hidden", "all"])
def test_a_row_does_not_depend_on_its_neighbours(update: Literal["hidden", "all"]) -> None:
    sizes = torch.tensor([5, 1, 9, 0, 9, 3, 17])
    tokens, logps = mask_predict(neighbourless, sizes, 6, update)
    for index, n in enumerate(sizes.tolist()):
        alone, sure = mask_predict(neighbourless, sizes[index : index + 1], 6, update)
        assert tokens[index, :n].tolist() == alone[0].tolist()
        assert logps[index, :n].tolist() == sure[0].tolist()


def test_the_trace_tells_what_was_written_and_what_is_hidden_next() -> None:
    told: list[tuple[int, list[int], list[bool]]] = []
    step = Counting([[0.9, 0.2, 0.5]])
    mask_predict(step, torch.tensor([3]), 3, trace=lambda i, t, p, h: told.append((i, t[0].tolist(), h[0].tolist())))
    assert told == [
        (1, [A, A, A], [False, True, True]),
        (2, [A, B, B], [False, True, False]),
        (3, [A, C, B], [False, False, False]),
    ]


def test_lengths_are_the_likeliest_in_range_and_all_different() -> None:
    logits = torch.tensor([[9.0, 1.0, 3.0, 3.0, 2.0, 8.0], [0.0, 0.0, 0.0, 0.0, 5.0, 9.0]])
    assert predicted_lengths(logits, 3, longest=4).tolist() == [[2, 3, 4], [4, 1, 2]]  # neither 0 nor 5
    assert predicted_lengths(logits, 4, longest=4).tolist() == [[2, 3, 4, 1], [4, 1, 2, 3]]


def test_repeats_are_dropped_with_their_probabilities() -> None:
    tokens = torch.tensor([[A, A, B, B, B, A], [A, B, C, PAD, PAD, PAD], [C, C, PAD, PAD, PAD, PAD]])
    logps = -torch.arange(18.0).view(3, 6).masked_fill(tokens == PAD, 0.0)
    kept, sure = without_repeats(tokens, logps)
    assert kept.tolist() == [[A, B, A, PAD, PAD, PAD], [A, B, C, PAD, PAD, PAD], [C, PAD, PAD, PAD, PAD, PAD]]
    assert sure.tolist() == [[0, -2, -5, 0, 0, 0], [-6, -7, -8, 0, 0, 0], [-12, 0, 0, 0, 0, 0]]
    empty = torch.empty(2, 0, dtype=torch.int64)
    assert without_repeats(empty, empty.float())[0].shape == (2, 0)
