"""Diverse beam search against plain Python, by hand, and where it is an ordinary beam."""

from collections import Counter
from itertools import zip_longest
from math import inf
from typing import Any

import pytest
import torch

from janus_cli.core.batch import EOS
from janus_cli.core.search import Output
from janus_cli.core.search.beam import beam_search
from janus_cli.core.search.diverse import diverse_beam_search, spread
from tests.core.language import A, B, C, Language, Steps, Table

Hypothesis = tuple[list[int], float]  # tokens, and the score or the summed log-probability
SHAPES = [(2, 2), (4, 4), (4, 2), (6, 3), (6, 2), (3, 1)]  # beam, groups


def search(
    tables: list[int] | list[Table], most: list[int], beam: int, groups: int, diversity: float, **options: Any
) -> list[list[Output]]:
    lengths = torch.tensor(most, dtype=torch.int64)
    return diverse_beam_search(Steps(tables).all, lengths, beam, groups, diversity, **{"nbest": beam, **options})


def turn(
    language: Language, sentence: int, live: list[Hypothesis], before: Counter[int], diversity: float, at_end: bool
) -> list[tuple[int, int, float]]:
    """A group's continuations by penalised total: slot, token, true total."""
    ranked = []
    for slot, (tokens, total) in enumerate(live):
        for token, logp in enumerate(language.logps(sentence, tuple(tokens)).tolist()):
            if logp > -inf and (token == EOS or not at_end):
                ranked.append((-(total + logp - diversity * before[token]), slot, token, total + logp))
    return [(slot, token, total) for _, slot, token, total in sorted(ranked)]


def by_hand(
    language: Language, sentence: int, most: int, beam: int, groups: int, diversity: float, nbest: int
) -> list[Hypothesis]:
    """Algorithm 1 of the paper, with the score log-probability / length."""
    width, wanted = beam // groups, -(-nbest // groups)
    live: list[list[Hypothesis]] = [[([], 0.0)] for _ in range(groups)]
    done: list[list[Hypothesis]] = [[] for _ in range(groups)]
    going = set(range(groups))
    for length in range(1, most + 1):
        before = Counter[int]()
        for group in sorted(going):
            ranked = turn(language, sentence, live[group], before, diversity, length == most)
            done[group] += [
                (live[group][slot][0], total / length) for slot, token, total in ranked[:width] if token == EOS
            ]
            going_on = [each for each in ranked if each[1] != EOS][:width]
            live[group] = [([*live[group][slot][0], token], total) for slot, token, total in going_on]
            before.update(token for _, token, _ in going_on)
            scores = sorted((score for _, score in done[group]), reverse=True)
            best = max((total for *_, total in going_on), default=-inf) / most
            if len(scores) >= width or (len(scores) >= wanted and scores[wanted - 1] >= best) or not going_on:
                going.discard(group)
    rounds = zip_longest(*(sorted(group, key=lambda each: -each[1]) for group in done))
    spread = [each for some in rounds for each in sorted(filter(None, some), key=lambda each: -each[1])]
    different = {tuple(tokens): (tokens, score) for tokens, score in reversed(spread)}
    first = [different[key] for key in dict.fromkeys(tuple(tokens) for tokens, _ in spread)]
    return sorted(first[:nbest], key=lambda each: -each[1])


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0, 50.0])
@pytest.mark.parametrize(("beam", "groups"), SHAPES)
def test_it_finds_what_plain_python_finds(beam: int, groups: int, diversity: float) -> None:
    seeds, most = list(range(25)), [1 + seed % 7 for seed in range(25)]
    for nbest in {1, groups, beam}:
        found = search(seeds, most, beam, groups, diversity, nbest=nbest)
        for sentence, outputs in enumerate(found):
            expected = by_hand(Language(seeds), sentence, most[sentence], beam, groups, diversity, nbest)
            assert [each.tokens for each in outputs] == [tokens for tokens, _ in expected]
            assert [each.score for each in outputs] == pytest.approx([score for _, score in expected], abs=1e-5)
            assert all(sum(each.logps) / each.length == pytest.approx(each.score, abs=1e-5) for each in outputs)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_one_group_is_an_ordinary_beam(beam: int) -> None:
    seeds, most = list(range(30)), torch.tensor([1 + seed % 7 for seed in range(30)])
    expected = beam_search(Steps(seeds).all, most, beam, nbest=beam)
    assert search(seeds, most.tolist(), beam, 1, 0.7) == expected


def test_a_sentence_does_not_depend_on_its_neighbours() -> None:
    seeds, most = list(range(30)), [1 + seed % 7 for seed in range(30)]
    together = search(seeds, most, 6, 3, 0.5)
    assert together == [search([s], [m], 6, 3, 0.5)[0] for s, m in zip(seeds, most, strict=True)]
    assert search([], [], 4, 2, 1.0) == []


# What follows a prefix: after one token each ends. A 0.5, B 0.3, C 0.2: their logarithms differ by 0.51 and 0.41.
ONCE: Table = {(): {A: 0.5, B: 0.3, C: 0.2}, (A,): {EOS: 1.0}, (B,): {EOS: 1.0}, (C,): {EOS: 1.0}}


@pytest.mark.parametrize(
    ("groups", "beam", "diversity", "expected"),
    [
        (3, 3, 0.1, [[A]]),  # three times the same, which counts once
        (3, 3, 0.6, [[A], [B]]),  # the second takes B, the third A again: 0.5 e^-0.6 > 0.3 e^-0.6, 0.2
        (3, 3, 1.0, [[A], [B], [C]]),  # now C leads A e^-1 and B e^-1
        (2, 4, 1.0, [[A], [B], [C]]),  # A and B; then C first, and A e^-1 before B e^-1
    ],
)
def test_penalties_worked_by_hand(groups: int, beam: int, diversity: float, expected: list[list[int]]) -> None:
    (found,) = search([ONCE], [5], beam, groups, diversity)
    assert [each.tokens for each in found] == expected


def test_the_best_of_each_group_comes_before_the_second_of_any() -> None:
    first = [([A], [], -3.0), ([A, A], [], -1.0), ([A, B], [], -1.5)]
    second = [([B], [], -9.0), ([A, A], [], -1.0), ([C], [], -8.0)]
    third = [([C], [], -8.0)]
    for nbest, scores in ((1, [-1.0]), (2, [-1.0, -8.0]), (3, [-1.0, -1.5, -8.0]), (9, [-1.0, -1.5, -3.0, -8.0, -9.0])):
        assert [score for *_, score in spread([first, second, third], nbest)] == scores, "A A and C count once"


def test_no_text_comes_twice_and_diversity_makes_the_first_tokens_differ() -> None:
    seeds, most = list(range(20)), [8] * 20
    for diversity in (0.0, 0.5, 30.0):
        for outputs in search(seeds, most, 3, 3, diversity):
            texts = [tuple(each.tokens) for each in outputs]
            assert len(set(texts)) == len(texts)
            if diversity == 30.0:
                starts = [text[0] for text in texts if text]
                assert len(set(starts)) == len(starts)
