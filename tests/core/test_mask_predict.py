"""Mask-predict on scripted callables: what is hidden after each pass, worked by hand."""

from math import log

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD, SPECIAL
from janus_cli.core.search.mask_predict import (
    Update,
    mask_predict,
    masks,
    mean_logp,
    over_lengths,
    predicted_lengths,
)

A, B, C = SPECIAL, SPECIAL + 1, SPECIAL + 2


class Counting:
    """Pass p writes token SPECIAL + p everywhere; how sure it is comes from a table. Remembers what it was shown."""

    def __init__(self, *sure: list[float]) -> None:
        self.sure = [torch.tensor([table]) for table in sure]
        self.seen: list[list[list[int]]] = []

    def __call__(self, tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
        done = len(self.seen)
        self.seen.append(tokens.tolist())
        logps = self.sure[min(done, len(self.sure) - 1)].log().expand(tokens.shape)
        return torch.full_like(tokens, SPECIAL + done), logps


@pytest.mark.parametrize(
    ("n", "iters", "hidden"),
    [
        (10, 1, [10]),
        (10, 4, [10, 7, 5, 2]),  # floor(10 * 3/4), floor(10 * 2/4), floor(10 * 1/4)
        (7, 10, [7, 6, 5, 4, 3, 2, 1]),  # floors 7 6 5 4 4 3 2 2 1 0: 4 and 2 hide the same tokens twice, 0 none
        (3, 5, [3, 2, 1]),
        (1, 4, [1]),
        (2, 3, [2, 1]),
        (0, 3, []),
    ],
)
def test_the_number_hidden_before_each_pass_that_can_change_something(n: int, iters: int, hidden: list[int]) -> None:
    step = Counting([0.5] * max(n, 1))
    mask_predict(step, masks(torch.tensor([n])), iters)
    assert [tokens[0].count(MASK) for tokens in step.seen] == hidden


def test_the_least_certain_are_hidden_again_and_others_keep_token_and_certainty() -> None:
    step = Counting([0.9, 0.2, 0.5, 0.3], [0.1, 0.4, 0.1, 0.8], [0.1, 0.6, 0.7, 0.1])
    tokens, logps, _ = mask_predict(step, masks(torch.tensor([4])), 3)
    assert step.seen == [
        [[MASK] * 4],
        [[A, MASK, A, MASK]],  # floor(4 * 2/3) = 2: 0.2 and 0.3
        [[A, MASK, A, B]],  # certainties 0.9, 0.4, 0.5, 0.8: floor(4 * 1/3) = 1
    ]
    assert tokens.tolist() == [[A, C, A, B]]
    assert logps[0].tolist() == pytest.approx([log(p) for p in (0.9, 0.6, 0.5, 0.8)])


def test_update_all_writes_every_token_anew() -> None:
    step = Counting([0.9, 0.2, 0.5, 0.3], [0.1, 0.4, 0.2, 0.8], [0.3, 0.6, 0.7, 0.5])
    tokens, logps, _ = mask_predict(step, masks(torch.tensor([4])), 3, update="all")
    assert step.seen[1:] == [[[A, MASK, A, MASK]], [[MASK, B, B, B]]]
    assert tokens.tolist() == [[C] * 4]
    assert logps[0].tolist() == pytest.approx([log(p) for p in (0.3, 0.6, 0.7, 0.5)])


def test_equals_are_hidden_from_the_left_and_only_where_it_may_be_written() -> None:
    step = Counting([0.5, 0.5, 0.9, 0.5, 0.5])
    mask_predict(step, masks(torch.tensor([5])), 2)
    assert step.seen[1] == [[MASK, MASK, A, A, A]]
    step, only = Counting([0.5] * 4), torch.tensor([[True, True, False, False]])
    tokens, _, _ = mask_predict(step, masks(torch.tensor([4])), 2, only=only)
    assert step.seen == [[[MASK] * 4], [[MASK, A, MASK, MASK]]]
    assert tokens.tolist() == [[B, A, MASK, MASK]]


def test_padding_is_never_hidden_shown_or_counted() -> None:
    step = Counting([0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    tokens, logps, _ = mask_predict(step, masks(torch.tensor([6, 2, 0, 4])), 2)
    assert step.seen[0] == [[MASK] * n + [PAD] * (6 - n) for n in (6, 2, 4)]  # nothing to write in the empty one
    assert step.seen[1] == [
        [A, A, A, MASK, MASK, MASK],
        [A, MASK, PAD, PAD, PAD, PAD],
        [A, A, MASK, MASK, PAD, PAD],
    ]
    assert tokens[1:3].tolist() == [[A, B, PAD, PAD, PAD, PAD], [PAD] * 6]
    assert logps[1, 2:].tolist() == [0.0] * 4
    assert mean_logp(tokens, logps)[:3].tolist() == pytest.approx([float(logps[0].mean()), log(0.5 * 0.4) / 2, 0.0])


def neighbourless(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
    """A step in which each row depends on its own tokens only, in a way that is hard to guess."""
    place = torch.arange(tokens.shape[1]) + 1
    weight = (tokens * (tokens != PAD) * place).sum(1, keepdim=True) * 31 + tokens * 7 + place**2
    return SPECIAL + weight % 11, -((weight % 97) / 97.0) - 0.01


def every_pass(tokens: Tensor, iters: int, update: Update) -> tuple[Tensor, Tensor]:
    """The published loop, without leaving anything out."""
    ours = hidden = tokens == MASK
    logps = torch.zeros(tokens.shape)
    for done in range(1, iters + 1):
        best, sure = neighbourless(tokens.masked_fill(hidden, MASK), hidden, None)
        written = hidden if update == "hidden" else ours
        tokens, logps = torch.where(written, best, tokens), torch.where(written, sure, logps)
        hidden = torch.zeros_like(ours)
        for row, sure_here in enumerate(logps.tolist()):
            places = sorted(ours[row].nonzero()[:, 0].tolist(), key=lambda place, p=sure_here: p[place])
            hidden[row, places[: len(places) * (iters - done) // iters]] = True
    return tokens, logps


@pytest.mark.parametrize("update", ["hidden", "all"])
@pytest.mark.parametrize("iters", [1, 4, 12])
@pytest.mark.parametrize("fan", [1, 3])
def test_neither_neighbours_nor_passes_left_out_change_anything(update: Update, iters: int, fan: int) -> None:
    sizes = torch.tensor([5, 1, 9, 0, 2, 3, 17, 4, 4])
    start = masks(sizes)
    start[6, 3:6] = torch.tensor([A, B, C])  # known from the start
    tokens, logps, passes = mask_predict(neighbourless, start, iters, update=update, fan=fan)
    expected, sure = every_pass(start, iters, update)
    assert tokens.tolist() == expected.tolist()
    assert torch.allclose(logps, sure)
    assert tokens[6, 3:6].tolist() == [A, B, C]
    assert int(passes.max()) <= iters
    if fan == 1:
        for row, n in enumerate(sizes.tolist()):
            alone, _, took = mask_predict(neighbourless, start[row : row + 1, :n], iters, update=update)
            assert (alone[0].tolist(), took.tolist()) == (tokens[row, :n].tolist(), [int(passes[row])])
    if iters == 12 and update == "hidden" and fan == 1:
        assert [passes[1], passes[3]] == [1, 0]  # one token, and none
        assert all(n < 12 for n in passes[[0, 4, 5, 7, 8]].tolist())


def test_sentences_are_named_when_some_are_left_out() -> None:
    seen: list[tuple[int, list[int] | None]] = []

    def step(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append((len(tokens), None if sentences is None else sentences.tolist()))
        return neighbourless(tokens, asked, sentences)

    mask_predict(step, masks(torch.tensor([1, 2, 6, 6, 1, 1])), 3, fan=2)
    assert seen == [(6, None), (4, [0, 1]), (2, [1])]


def test_what_is_sure_enough_stays_and_ends_a_row() -> None:
    step = Counting([0.9, 0.2, 0.5, 0.3], [0.1, 0.8, 0.1, 0.4], [0.1, 0.1, 0.1, 0.6])
    tokens, logps, passes = mask_predict(step, masks(torch.tensor([4])), 8, sure=0.45)
    assert step.seen == [
        [[MASK] * 4],
        [[A, MASK, A, MASK]],  # floor(4 * 7/8) = 3, but 0.5 is sure enough
        [[A, B, A, MASK]],
    ]
    assert (tokens.tolist(), passes.tolist()) == ([[A, B, A, C]], [3])
    assert logps[0].tolist() == pytest.approx([log(p) for p in (0.9, 0.8, 0.5, 0.6)])


def doubting(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`neighbourless`, with entropies that have nothing to do with its certainties."""
    best, logps = neighbourless(tokens, asked, sentences)
    return best, logps, torch.where(asked, (best * 7 % 13) / 4.0, 0.0)


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("update", ["hidden", "all"])
def test_the_lengths_with_least_doubt_in_the_first_pass_go_on_best_first(keep: int, update: Update) -> None:
    fan, iters, sizes = 4, 5, [3, 9, 4, 17, 8, 9, 2, 5, 6, 11, 1, 7]
    start, prior = masks(torch.tensor(sizes)), torch.tensor([0.4, 0.3, 0.2, 0.1] * 3).log()
    found = over_lengths(doubting, neighbourless, start, prior, iters, fan=fan, keep=keep, update=update)
    entropies = doubting(start, start == MASK, None)[2].sum(1).tolist()
    scores = [(float(p) - h) / (n + 1) for p, h, n in zip(prior, entropies, sizes, strict=True)]
    rows = [row for s in range(0, 12, fan) for row in sorted(range(s, s + fan), key=lambda r: -scores[r])[:keep]]
    assert found.rows.tolist() == rows
    assert found.scores.tolist() == pytest.approx([scores[row] for row in rows])
    expected, sure = every_pass(start[rows], iters, update)
    assert found.tokens.tolist() == expected.tolist()
    assert torch.allclose(found.logps, sure)
    assert (found.passes <= iters).all()


def test_of_equally_doubtful_texts_the_likelier_length_wins() -> None:
    def even(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return *neighbourless(tokens, asked, sentences), asked.float()

    lengths, prior = torch.tensor([4, 4, 4]), torch.tensor([0.2, 0.5, 0.3]).log()
    assert over_lengths(even, neighbourless, masks(lengths), prior, 2, fan=3, keep=2).rows.tolist() == [1, 2]


def test_lengths_that_are_dropped_are_not_decoded_again_and_the_first_pass_is_made_once() -> None:
    seen: list[tuple[int, list[int] | None]] = []

    def step(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append((len(tokens), None if sentences is None else sentences.tolist()))
        return neighbourless(tokens, asked, sentences)

    start, prior = masks(torch.tensor([1, 2, 1, 6, 7, 5])), torch.zeros(6)
    found = over_lengths(doubting, step, start, prior, 3, fan=3, keep=2)
    assert all(rows == 2 * len(sentences or (0, 1)) for rows, sentences in seen)
    assert len(seen) == int(found.passes.max()) - 1


def test_without_a_choice_all_lengths_are_finished() -> None:
    start = masks(torch.tensor([3, 9, 4, 8, 2, 5]))
    found = over_lengths(doubting, neighbourless, start, torch.zeros(6), 4, fan=3)
    tokens, logps, passes = mask_predict(neighbourless, start, 4, fan=3)
    assert found.rows.tolist() == list(range(6))
    assert (found.tokens.tolist(), found.passes.tolist()) == (tokens.tolist(), passes.tolist())
    assert torch.equal(found.logps, logps)


def test_lengths_are_the_likeliest_in_range_and_all_different() -> None:
    logits = torch.tensor([[9.0, 1.0, 3.0, 3.0, 2.0, 8.0], [0.0, 0.0, 0.0, 0.0, 5.0, 9.0]])
    assert predicted_lengths(logits, 3, longest=4)[0].tolist() == [[2, 3, 4], [4, 1, 2]]  # neither 0 nor 5
    lengths, logps = predicted_lengths(logits, 4, longest=4)
    assert lengths.tolist() == [[2, 3, 4, 1], [4, 1, 2, 3]]
    assert logps.exp().sum(1).tolist() == pytest.approx([1, 1])
    assert (logps[0, 0] - logps[0, 2]).item() == pytest.approx(1)
