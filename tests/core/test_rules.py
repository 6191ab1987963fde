"""What a search must not write: against trying every output, and by hand."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.search.beam import beam_search
from janus_cli.core.search.rules import Obeying, obeying, repeating
from tests.core.language import VOCABULARY, A, B, C, Language, Steps
from tests.core.test_beam import every_output


def repeats(tokens: list[int], ngram: int) -> bool:
    grams = [tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)]
    return len(set(grams)) < len(grams)


@pytest.mark.parametrize(
    ("ngram", "least"), [(1, 0), (2, 0), (3, 0), (0, 1), (0, 3), (2, 2), (1, 3)], ids=lambda value: str(value)
)
def test_a_beam_that_holds_everything_finds_the_best_of_what_is_allowed(ngram: int, least: int) -> None:
    """Scores are the model's: nothing is normalised again."""
    seeds, longest = list(range(8)), 5
    step = Obeying(Steps(seeds).all, ngram=ngram, least=least)
    found = beam_search(step, torch.full((len(seeds),), longest), beam=300, nbest=6)
    for sentence, outputs in enumerate(found):
        every = every_output(Language(seeds), sentence, longest, 1.0)
        allowed = [
            (score, tokens) for score, tokens in every
            if len(tokens) >= least and not (ngram and repeats(tokens, ngram))
        ]  # fmt: skip
        assert len(allowed) < len(every)
        assert [output.tokens for output in outputs] == [tokens for _, tokens in allowed[:6]]
        assert [output.score for output in outputs] == pytest.approx([score for score, _ in allowed[:6]], abs=1e-5)


def forbidden(logps: Tensor) -> list[list[int]]:
    return [[token for token, value in enumerate(row) if value == -inf] for row in logps.tolist()]


@pytest.mark.parametrize(
    ("tokens", "ngram", "expected"),
    [
        ([A, B, A], 2, [B]), ([A, B, A, C, A], 2, [B, C]), ([A, A], 2, [A]), ([A, B, C], 2, []), ([A], 2, []),
        ([A, B, C, A, B], 3, [C]), ([A, B, A, B], 3, [A]), ([A, A], 1, [A]), ([B, A], 1, [A, B]), ([], 1, []),
        ([A, B, A], 0, []),
    ],
)  # fmt: skip
def test_what_would_repeat_an_ngram(tokens: list[int], ngram: int, expected: list[int]) -> None:
    written = torch.tensor([tokens], dtype=torch.int64)
    found = obeying(torch.zeros(1, VOCABULARY).index_fill(1, torch.tensor([PAD]), -inf), written, ngram, 0)
    assert forbidden(found) == [sorted([PAD, *expected])]
    if len(tokens) >= ngram > 0:
        assert sorted({*repeating(written, ngram)[0].tolist()} - {PAD}) == expected


@pytest.mark.parametrize("place", [0, 1, 2])
def test_eos_comes_no_earlier_than_told(place: int) -> None:
    found = obeying(torch.zeros(2, VOCABULARY), torch.full((2, place), A), 0, 2)
    assert forbidden(found) == [[EOS] * (place < 2)] * 2


def test_the_first_token_may_be_given_and_costs_nothing() -> None:
    step = Obeying(lambda last, parents: torch.full((len(last), VOCABULARY), -2.0), first=B)
    first, second = (step(torch.full((1,), A), None) for _ in range(2))
    assert first[0].tolist() == [0.0 if token == B else -inf for token in range(VOCABULARY)]
    assert second[0].tolist() == [-2.0] * VOCABULARY


def test_a_row_without_any_other_choice_keeps_what_it_has() -> None:
    table = torch.full((2, VOCABULARY), -inf)
    table[0, EOS] = table[0, A] = table[1, B] = -1.0
    before = table.clone()
    found = obeying(table, torch.tensor([[A], [A]]), 1, 5)
    assert forbidden(found)[0] == forbidden(before)[0], "EOS is too early, and A was written: both stay"
    assert forbidden(found)[1] == forbidden(before)[1]
    assert torch.equal(found[0], before[0])


def test_rows_are_followed_as_the_search_reorders_them() -> None:
    seen: list[Any] = []
    step = Obeying(lambda last, parents: seen.append(len(last)) or torch.zeros(len(last), VOCABULARY), ngram=1)
    step(torch.tensor([2, 2]), None)
    step(torch.tensor([A, B, C]), torch.tensor([0, 0, 1]))
    step(torch.tensor([B, A]), torch.tensor([2, 0]))
    assert step.tokens is not None
    assert step.tokens.tolist() == [[C, B], [A, A]]
    step(torch.tensor([A, A]), None)
    assert step.tokens.tolist() == [[C, B, A], [A, A, A]]
    assert seen == [2, 3, 2, 2]
