"""What repeats, worked by hand: what is hidden again between passes, what is dropped at the end."""

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import MASK, PAD, SPECIAL
from janus_cli.core.search.mask_predict import mask_predict, masks
from janus_cli.core.search.repeats import Repeats

A, B, C, D, E = range(SPECIAL, SPECIAL + 5)
DOUBLED, PAIRS, TRIPLES = Repeats(doubled=True), Repeats(ngram=2), Repeats(ngram=3)


def row(*tokens: int, width: int = 0) -> Tensor:
    return torch.tensor([[*tokens, *[PAD] * (width - len(tokens))]])


def hidden(repeats: Repeats, tokens: list[int], sure: list[float]) -> list[int]:
    found = repeats.less_certain(torch.tensor([tokens]), torch.tensor([sure]).log())
    return found[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("repeats", "tokens", "sure", "places"),
    [
        (DOUBLED, [A, B, B, C], [0.9, 0.5, 0.4, 0.9], [2]),
        (DOUBLED, [A, B, B, C], [0.9, 0.4, 0.5, 0.9], [1]),
        (DOUBLED, [A, B, B, C], [0.9, 0.5, 0.5, 0.9], [2]),  # the first stays
        (DOUBLED, [B, B, B], [0.5, 0.9, 0.8], [0, 2]),
        (DOUBLED, [B, A, B, A], [0.5] * 4, []),
        (DOUBLED, [A, A, PAD, PAD], [0.5, 0.4, 1.0, 1.0], [1]),
        (PAIRS, [A, B, C, A, B], [0.5, 0.5, 0.9, 0.6, 0.6], [0, 1]),
        (PAIRS, [A, B, C, A, B], [0.9, 0.5, 0.9, 0.6, 0.6], [3, 4]),  # 0.45 together, against 0.36
        (PAIRS, [A, B, C, A, B], [0.5] * 5, [3, 4]),
        (PAIRS, [A, B, C, A, B, D, A, B], [0.5, 0.5, 0.9, 0.6, 0.6, 0.9, 0.4, 0.4], [0, 1, 6, 7]),
        (PAIRS, [A, A, A], [0.5, 0.9, 0.8], []),  # A A twice, but they share a token: without it, neither is there
        (PAIRS, [A, A, A, A], [0.5, 0.9, 0.8, 0.9], [0, 1]),
        (PAIRS, [A, B, A, C, A], [0.1] * 5, []),  # single tokens may come again
        (PAIRS, [A, B, PAD, PAD, PAD, PAD], [0.5] * 6, []),
        (TRIPLES, [A, B, C, D, A, B, C], [0.5] * 7, [4, 5, 6]),
        (TRIPLES, [A, B, C, D, A, B, D], [0.5] * 7, []),
        (TRIPLES, [A, A], [0.5] * 2, []),  # shorter than one
        (Repeats(doubled=True, ngram=2), [A, A, B, C, B, C], [0.9, 0.8, 0.5, 0.5, 0.4, 0.4], [1, 4, 5]),
        (Repeats(), [A, A, A, A], [0.5] * 4, []),
    ],
)
def test_of_what_repeats_all_but_the_most_certain_is_hidden(
    repeats: Repeats, tokens: list[int], sure: list[float], places: list[int]
) -> None:
    assert hidden(repeats, tokens, sure) == places


@pytest.mark.parametrize(
    ("repeats", "tokens", "left"),
    [
        (DOUBLED, [A, A, B, B, B, A], [0, 2, 5]),
        (PAIRS, [A, B, A, B, C], [0, 1, 4]),
        (TRIPLES, [A, B, C, A, B, C, D], [0, 1, 2, 6]),
        (TRIPLES, [A, B, C, D, A, B, C, E], [0, 1, 2, 3, 7]),  # the whole of it, not C alone
        (PAIRS, [A, B, C, D, E, A, B, C, E], [0, 1, 2, 3, 4, 8]),  # and where it is longer, the rest of it
        (TRIPLES, [A, B, C, D, A, B, E], [0, 1, 2, 3, 4, 5, 6]),
        (TRIPLES, [A, A, A, A, A, B], [0, 1, 2, 5]),  # where they overlap, the first stays whole
        (TRIPLES, [A, B, A, B, A, B, C], [0, 1, 2, 5, 6]),
        (PAIRS, [A, B, C, A, B, C, A, B], [0, 1, 2]),
        (Repeats(ngram=1), [A, B, A, C, B], [0, 1, 3]),
        (Repeats(doubled=True, ngram=2), [A, B, B, A, A, B, C], [0, 1, 6]),
        (DOUBLED, [], []),
    ],
)
def test_the_first_of_what_repeats_stays_with_its_probabilities(
    repeats: Repeats, tokens: list[int], left: list[int]
) -> None:
    width = len(tokens) + 2
    logps = -torch.arange(1.0, width + 1)[None].masked_fill(row(*tokens, width=width) == PAD, 0.0)
    kept, sure = repeats.without(row(*tokens, width=width), logps)
    assert kept.tolist() == row(*(tokens[place] for place in left), width=width).tolist()
    assert sure[0].tolist() == [*(-1.0 - place for place in left), *[0.0] * (width - len(left))]


def texts(count: int, words: int) -> tuple[Tensor, Tensor]:
    """Texts of 0 to 12 tokens, that repeat much, with their log-probabilities."""
    draw = random.Random(5)
    sizes = [draw.randint(0, 12) for _ in range(count)]
    tokens = torch.full((count, max(sizes)), PAD)
    for place, size in enumerate(sizes):
        tokens[place, :size] = torch.tensor([draw.randrange(SPECIAL, SPECIAL + words) for _ in range(size)])
    logps = -torch.rand(tokens.shape, generator=torch.Generator().manual_seed(5))
    return tokens, logps.masked_fill(tokens == PAD, 0.0)


def repeating(repeats: Repeats, text: list[int], *, apart: bool = False) -> bool:
    """apart: n-grams that share tokens do not count."""
    n = repeats.ngram
    grams = [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
    doubled = any(one == other for one, other in pairwise(text))
    later = (gram in grams[: max(0, place - n + 1 if apart else place)] for place, gram in enumerate(grams))
    return (repeats.doubled and doubled) or (n > 0 and any(later))


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("ngram", [0, 1, 2, 3])
def test_nothing_repeats_any_more_and_what_never_did_is_unchanged_to_the_bit(doubled: bool, ngram: int) -> None:
    repeats, (tokens, logps) = Repeats(doubled, ngram), texts(400, words=4)
    kept, sure = repeats.without(tokens, logps)
    rows = [[token for token in text if token != PAD] for text in tokens.tolist()]
    again = [repeating(repeats, text) for text in rows]
    assert {*again} == ({False, True} if repeats else {False})
    hidden = repeats.less_certain(tokens, logps).any(1).tolist()
    assert hidden == [repeating(repeats, text, apart=True) for text in rows]
    for place, text in enumerate(kept.tolist()):
        size = text.index(PAD) if PAD in text else len(text)
        assert not repeating(repeats, text[:size])
        assert not any(text[size:])
        if not again[place]:
            assert torch.equal(kept[place], tokens[place])
            assert torch.equal(sure[place], logps[place])


def test_what_repeats_depends_on_no_other_row_and_on_no_padding() -> None:
    repeats, (tokens, logps) = Repeats(doubled=True, ngram=2), texts(60, words=5)
    found = repeats.less_certain(tokens, logps)
    for place, size in enumerate((tokens != PAD).sum(1).tolist()):
        alone = repeats.less_certain(tokens[place : place + 1, :size], logps[place : place + 1, :size])
        assert torch.equal(alone[0], found[place, :size])
        assert not found[place, size:].any()


class Stammering:
    """Writes the same word at each MASK, but for what each place is to have once something else is known."""

    def __init__(self, known: list[int], sure: list[float]) -> None:
        self.known, self.sure, self.seen = torch.tensor([known]), torch.tensor([sure]).log(), list[list[int]]()

    def __call__(self, tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
        self.seen.append(tokens[0].tolist())
        first = len(self.seen) == 1
        return torch.full_like(tokens, B) if first else self.known, self.sure


def test_a_repeat_is_hidden_again_though_it_is_sure_and_the_schedule_would_keep_it() -> None:
    sure = [0.5, 0.9, 0.95]
    step = Stammering([A, C, D], sure)
    states: list[tuple[Tensor, ...]] = []
    tokens, _, passes = mask_predict(
        step, masks(torch.tensor([3])), 3, sure=0.45, repeats=DOUBLED, trace=lambda *state: states.append(state)
    )
    assert step.seen == [[MASK, MASK, MASK], [MASK, MASK, B]]
    assert (tokens.tolist(), passes.tolist()) == ([[A, C, B]], [2])
    assert [[state[3].tolist() for state in states]] == [[[[True, True, False]], [[False] * 3], [[False] * 3]]]
    assert mask_predict(Stammering([A, C, D], sure), masks(torch.tensor([3])), 3, sure=0.45)[0].tolist() == [[B] * 3]


def test_of_equal_neighbours_the_less_certain_is_the_next_best_if_it_is_written_in_this_pass() -> None:
    def step(tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, ...]:
        if tokens[0, 0] == MASK:  # the first pass: B B B A
            best, sure = [[B, B, B, A]], [[0.8, 0.6, 0.7, 0.9]]
        else:  # B is surer in the middle than at its left, and A less sure than at its right
            best, sure = [[C, B, A, C]], [[0.5, 0.9, 0.6, 0.5]]
        others = torch.tensor([[C, D, E, C]]), torch.tensor([[0.1, 0.3, 0.2, 0.1]]).log()
        return torch.tensor(best), torch.tensor(sure).log(), *others

    states: list[tuple[Tensor, ...]] = []
    tokens, logps, _ = mask_predict(step, masks(torch.tensor([4])), 2, trace=lambda *state: states.append(state))
    assert states[0][0].tolist() == [[B, D, B, A]]
    assert tokens.tolist() == [[B, B, E, A]]
    assert logps.exp()[0].tolist() == pytest.approx([0.8, 0.9, 0.2, 0.9])


def test_what_was_known_from_the_start_stays_and_after_the_last_pass_nothing_is_hidden() -> None:
    states: list[tuple[Tensor, ...]] = []
    step = Stammering([B, B, B], [0.9, 0.5, 0.5])
    start = torch.tensor([[B, MASK, MASK]])
    tokens, _, _ = mask_predict(step, start, 2, repeats=DOUBLED, trace=lambda *state: states.append(state))
    assert tokens.tolist() == [[B, B, B]]
    assert [state[2].tolist() for state in states] == [[[False, True, True]], [[False] * 3]]
