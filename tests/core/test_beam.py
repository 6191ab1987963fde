"""Beam search on scripted callables: hand-worked answers, and every answer found by trying all of them."""

import itertools
from collections import Counter
from math import exp, inf, log
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.core.batch import EOS
from janus_cli.core.search import Output
from janus_cli.core.search.beam import Ending, beam_search, largest
from tests.core.language import VOCABULARY, A, B, C, Language, Steps, Table


def search(tables: list[int] | list[Table], *lengths: int, **options: Any) -> list[list[Output]]:
    return beam_search(Steps(tables).all, torch.tensor(lengths, dtype=torch.int64), **{"beam": 1, **options})


Found = tuple[list[int], float]  # tokens, and the score or the summed log-probability


def every_output(language: Language, sentence: int, longest: int, penalty: float) -> list[tuple[float, list[int]]]:
    """All complete outputs with their scores, best first; the last place can only hold EOS."""
    scored = []
    for size in range(longest):
        for tokens in itertools.product((A, B, C), repeat=size):
            path = [*tokens, EOS]
            logp = sum(float(language.logps(sentence, tuple(path[:i]))[t]) for i, t in enumerate(path))
            scored.append((logp / (size + 1) ** penalty, list(tokens)))
    return sorted(scored, key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("longest", [1, 2, 4])
def test_a_beam_that_holds_everything_finds_what_trying_everything_finds(penalty: float, longest: int) -> None:
    seeds = list(range(12))
    found = search(seeds, *[longest] * len(seeds), beam=40, length_penalty=penalty, nbest=5)
    for sentence, outputs in enumerate(found):
        expected = every_output(Language(seeds), sentence, longest, penalty)[:5]
        assert [output.tokens for output in outputs] == [tokens for _, tokens in expected]
        assert [output.score for output in outputs] == pytest.approx([score for score, _ in expected], abs=1e-5)


GARDEN: Table = {
    (): {A: 0.6, B: 0.4}, (A,): {A: 0.35, C: 0.25, EOS: 0.4}, (B,): {EOS: 0.9, A: 0.1},
    (A, A): {EOS: 1.0}, (A, C): {EOS: 1.0}, (B, A): {EOS: 1.0},
}  # fmt: skip
ENDLESS: Table = {tuple([A] * n): {A: 0.9, EOS: 0.1} for n in range(9)}
SHORT: Table = {tuple([A] * n): {EOS: 0.9, A: 0.1} for n in range(50)}
LENGTHS: Table = {(): {EOS: 0.3, A: 0.7}, (A,): {A: 1.0}, (A, A): {EOS: 0.3, B: 0.7}, (A, A, B): {EOS: 1.0}}
LONGER: Table = {(): {EOS: 0.5, A: 0.4, B: 0.1}, (A,): {EOS: 1.0}, (B,): {EOS: 1.0}}
ROOM: Table = {(): {EOS: 0.4, A: 0.35, B: 0.25}, (A,): {A: 0.9, EOS: 0.1}, (A, A): {EOS: 1.0}, (B,): {EOS: 1.0}}
FLAT: Table = {
    prefix: dict.fromkeys((EOS, A, B, C), 0.25)
    for size in range(3)
    for prefix in itertools.product((A, B, C), repeat=size)
}

# What follows a prefix, the most tokens, beam, length penalty; outputs with their probabilities, passes.
BY_HAND: dict[str, tuple[Table, int, int, float, list[tuple[list[int], float]], int]] = {
    "greedy goes for A": (GARDEN, 9, 1, 0.0, [([A], 0.24)], 2),
    "a beam of two sees further": (GARDEN, 9, 2, 0.0, [([B], 0.36)], 2),
    "EOS is forced at the maximum": (ENDLESS, 3, 1, 1.0, [([A, A], 0.081)], 3),
    "and at once": (ENDLESS, 1, 4, 1.0, [([], 0.1)], 1),
    "without a penalty": (LENGTHS, 9, 3, 0.0, [([A, A, B], 0.49), ([], 0.3), ([A, A], 0.21)], 4),
    "the length counts EOS": (LENGTHS, 9, 3, 1.0, [([A, A, B], 0.49), ([A, A], 0.21), ([], 0.3)], 4),
    "nothing alive can overtake: 0.1 < 0.9": (SHORT, 50, 4, 0.0, [([], 0.9)], 1),
    "nor the second": (SHORT, 50, 4, 0.0, [([], 0.9), ([A], 0.09)], 2),
    "log .4 / 1 < log .5 / 1 < log .4 / 2": (LONGER, 9, 3, 1.0, [([A], 0.4)], 2),
    "B is third behind EOS and A, and lives": (ROOM, 9, 2, 1.0, [([B], 0.25), ([], 0.4)], 2),
    # Pass 1 keeps EOS, A and B of four equals in the beam, and A, B, C alive; pass 2 EOS after A, then A A, A B.
    "equals, by slot, then token": (FLAT, 3, 3, 1.0, [([], 1 / 4), ([A], 1 / 16), ([A, A], 1 / 64)], 3),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_answers_worked_by_hand(name: str) -> None:
    table, most, beam, penalty, expected, passes = BY_HAND[name]
    (found,) = search([table], most, beam=beam, length_penalty=penalty, nbest=len(expected))
    assert [o.tokens for o in found] == [tokens for tokens, _ in expected]
    assert [sum(o.logps) for o in found] == pytest.approx([log(p) for _, p in expected])
    assert [o.score for o in found] == pytest.approx([log(p) / (len(o) + 1) ** penalty for o, p in expected])
    assert {(o.length - len(o.tokens), o.passes) for o in found} == {(1, passes)}


@pytest.mark.parametrize(("stop", "best"), [("full", [A]), ("likely", [A, B]), ("never", [A, B])])
def test_a_full_beam_may_wait_for_a_live_hypothesis_that_promises_more(stop: Any, best: list[int]) -> None:
    table: Table = {(): {EOS: 0.3, A: 0.7}, (A,): {EOS: 0.3, B: 0.7}, (A, B): {EOS: 1.0}}
    assert search([table], 9, beam=2, ending=Ending(stop))[0][0].tokens == best


def test_the_eos_of_the_longest_output_may_be_free() -> None:
    ((output,),) = search([ENDLESS], 3, ending=Ending(free=True), length_penalty=0.0)
    assert (output.tokens, output.limited) == ([A, A], True)
    assert exp(output.score) == pytest.approx(0.81)


def test_finished_sentences_leave_the_batch_and_every_hypothesis_counts_the_passes_of_its_sentence() -> None:
    late = {(): {EOS: 0.6, A: 0.4}, (A,): {A: 1.0}, (A, A): {EOS: 1.0}}
    step = Steps([late, {(): {EOS: 1.0}}, late])
    found = beam_search(step.all, torch.tensor([9, 9, 9]), beam=2, nbest=2)
    assert step.passes == [3, 4, 4]
    two = [([A, A], 3), ([], 3)]
    assert [[(o.tokens, o.passes) for o in outputs] for outputs in found] == [two, [([], 1)], two]


@pytest.mark.parametrize(("beam", "groups"), [(1, 1), (2, 1), (7, 1), (6, 3)])
def test_a_sentence_does_not_depend_on_its_neighbours(beam: int, groups: int) -> None:
    seeds, most = list(range(30)), [1 + i % 7 for i in range(30)]
    options = {"beam": beam, "nbest": beam, "groups": groups, "diversity": 0.5}
    together = search(seeds, *most, **options)
    assert together == [search([s], m, **options)[0] for s, m in zip(seeds, most, strict=True)]
    assert all(together)


def turn(
    language: Language, sentence: int, live: list[Found], before: Counter[int], diversity: float, at_end: bool
) -> list[tuple[int, int, float]]:
    """A group's continuations by penalised total: slot, token, true total."""
    ranked = []
    for slot, (tokens, total) in enumerate(live):
        for token, logp in enumerate(language.logps(sentence, tuple(tokens)).tolist()):
            if logp > -inf and (token == EOS or not at_end):
                ranked.append((-(total + logp - diversity * before[token]), slot, token, total + logp))
    return [(slot, token, total) for _, slot, token, total in sorted(ranked)]


def diverse(
    language: Language, sentence: int, most: int, beam: int, groups: int, diversity: float, nbest: int
) -> list[Found]:
    """Algorithm 1 of Vijayakumar et al. 2018 in plain Python, with the score log-probability / length."""
    width, wanted = beam // groups, -(-nbest // groups)
    live: list[list[Found]] = [[([], 0.0)] for _ in range(groups)]
    done: list[list[Found]] = [[] for _ in range(groups)]
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
    rounds = itertools.zip_longest(*(sorted(group, key=lambda each: -each[1]) for group in done))
    spread = [each for some in rounds for each in sorted(filter(None, some), key=lambda each: -each[1])]
    different = {tuple(tokens): (tokens, score) for tokens, score in reversed(spread)}
    first = [different[key] for key in dict.fromkeys(tuple(tokens) for tokens, _ in spread)]
    return sorted(first[:nbest], key=lambda each: -each[1])


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0, 50.0])
@pytest.mark.parametrize(("beam", "groups"), [(2, 2), (4, 4), (4, 2), (6, 3), (6, 2), (3, 1)])
def test_groups_find_what_plain_python_finds(beam: int, groups: int, diversity: float) -> None:
    seeds, most = list(range(25)), [1 + seed % 7 for seed in range(25)]
    for nbest in {1, groups, beam}:
        found = search(seeds, *most, beam=beam, groups=groups, diversity=diversity, nbest=nbest)
        for sentence, outputs in enumerate(found):
            expected = diverse(Language(seeds), sentence, most[sentence], beam, groups, diversity, nbest)
            assert [each.tokens for each in outputs] == [tokens for tokens, _ in expected]
            assert [each.score for each in outputs] == pytest.approx([score for _, score in expected], abs=1e-5)
            assert all(sum(each.logps) / each.length == pytest.approx(each.score, abs=1e-5) for each in outputs)


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
    (found,) = search([ONCE], 5, beam=beam, groups=groups, diversity=diversity, nbest=beam)
    assert [each.tokens for each in found] == expected


def test_fewer_outputs_where_fewer_exist_none_without_sentences_and_the_step_keeps_its_tensor() -> None:
    (outputs,) = search([{(): {A: 1.0}, (A,): {EOS: 1.0}}], 5, beam=3, nbest=3)
    assert [o.tokens for o in outputs] == [[A]]
    assert search([], beam=3) == []
    table = torch.full((1, VOCABULARY), -1.0)
    beam_search(lambda last, parents: table, torch.tensor([1]), beam=1)
    assert (table == -1.0).all()


@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([2, 3, 40]))
def test_the_largest_are_those_of_a_stable_sort(seed: int, count: int, different: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, different, (5, 6 + seed % 9), generator=generator).float()
    values[0, ::2] = -torch.inf
    values[1] = -torch.inf
    values[1, 3] = 1.0
    expected, order = values.sort(dim=1, descending=True, stable=True)
    top, places = largest(values, count)
    assert torch.equal(top, expected[:, :count])
    finite = top > -torch.inf
    assert torch.equal(places[finite], order[:, : top.shape[1]][finite])
