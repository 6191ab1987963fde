"""Beam search on scripted callables: hand-worked answers, and every answer found by trying all of them."""

import itertools
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.core.batch import EOS
from janus_cli.core.search import Output
from janus_cli.core.search.beam import _largest, beam_search
from tests.core.language import VOCABULARY, A, B, C, Language, Steps, Table


def search(tables: list[int] | list[Table], *lengths: int, **options: float) -> list[list[Output]]:
    return beam_search(Steps(tables).all, torch.tensor(lengths, dtype=torch.int64), **{"beam": 1, **options})


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


def test_a_beam_of_one_is_greedy_and_a_beam_of_two_sees_further() -> None:
    garden = {  # greedy goes for A and ends with 0.6 * 0.4 = 0.24; B then EOS has 0.4 * 0.9 = 0.36
        (): {A: 0.6, B: 0.4}, (A,): {A: 0.35, C: 0.25, EOS: 0.4}, (B,): {EOS: 0.9, A: 0.1},
        (A, A): {EOS: 1.0}, (A, C): {EOS: 1.0}, (B, A): {EOS: 1.0},
    }  # fmt: skip
    ((greedy,),) = search([garden], 9, length_penalty=0.0)
    assert (greedy.tokens, greedy.logps) == ([A], pytest.approx([log(0.6), log(0.4)]))
    ((further,),) = search([garden], 9, beam=2, length_penalty=0.0)
    assert (further.tokens, further.score) == ([B], pytest.approx(log(0.36)))


def test_the_length_penalty_counts_eos_and_decides() -> None:
    table = {(): {EOS: 0.3, A: 0.7}, (A,): {A: 1.0}, (A, A): {EOS: 0.3, B: 0.7}, (A, A, B): {EOS: 1.0}}
    # EOS: log .3, length 1. A A EOS: log .21, length 3. A A B EOS: log .49, length 4.
    sums = {1: log(0.3), 3: log(0.21), 4: log(0.49)}
    for penalty in (0.0, 1.0, 3.0):
        (found,) = search([table], 9, beam=3, length_penalty=penalty, nbest=3)
        assert {o.length: o.score for o in found} == pytest.approx({n: s / n**penalty for n, s in sums.items()})
        assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)


def test_eos_is_forced_at_the_maximum_and_keeps_its_own_probability() -> None:
    endless = {tuple([A] * n): {A: 0.9, EOS: 0.1} for n in range(9)}
    ((output,),) = search([endless], 3)
    assert (output.tokens, output.length, output.passes) == ([A, A], 3, 3)
    assert output.logps == pytest.approx([log(0.9), log(0.9), log(0.1)])
    ((nothing,),) = search([endless], 1, beam=4)
    assert (nothing.tokens, nothing.length, nothing.passes) == ([], 1, 1)


def test_finished_sentences_leave_the_batch_and_every_hypothesis_counts_the_passes_of_its_sentence() -> None:
    late = {(): {EOS: 0.6, A: 0.4}, (A,): {A: 1.0}, (A, A): {EOS: 1.0}}
    step = Steps([late, {(): {EOS: 1.0}}, late])
    found = beam_search(step.all, torch.tensor([9, 9, 9]), beam=2, nbest=2)
    assert step.passes == [3, 4, 4]
    two = [([A, A], 3), ([], 3)]
    assert [[(o.tokens, o.passes) for o in outputs] for outputs in found] == [two, [([], 1)], two]


@pytest.mark.parametrize(("nbest", "passes"), [(1, 1), (2, 2)])
def test_it_stops_as_soon_as_nothing_alive_can_overtake(nbest: int, passes: int) -> None:
    """log .1 is less than log .9 already."""
    table = {tuple([A] * n): {EOS: 0.9, A: 0.1} for n in range(50)}
    (found,) = search([table], 50, beam=4, length_penalty=0.0, nbest=nbest)
    assert [output.tokens for output in found] == [[], [A]][:nbest]
    assert {output.passes for output in found} == {passes}


def test_it_goes_on_while_something_alive_can_still_overtake_by_its_length() -> None:
    table = {(): {EOS: 0.5, A: 0.4, B: 0.1}, (A,): {EOS: 1.0}, (B,): {EOS: 1.0}}
    ((output,),) = search([table], 9, beam=3, length_penalty=1.0)
    assert output.tokens == [A]  # log .4 / 2 is more than log .5 / 1, but log .4 / 1 was less
    assert output.score == pytest.approx(log(0.4) / 2)


def test_a_finished_hypothesis_takes_no_room_from_the_living() -> None:
    table = {(): {EOS: 0.4, A: 0.35, B: 0.25}, (A,): {A: 0.9, EOS: 0.1}, (A, A): {EOS: 1.0}, (B,): {EOS: 1.0}}
    (found,) = search([table], 9, beam=2, nbest=2)
    assert [o.tokens for o in found] == [[B], []]  # B was third behind EOS and A, and is alive


def test_equals_are_ranked_by_slot_then_token() -> None:
    flat = {EOS: 0.25, A: 0.25, B: 0.25, C: 0.25}
    table = {prefix: flat for size in range(3) for prefix in itertools.product((A, B, C), repeat=size)}
    (found,) = search([table], 3, beam=3, nbest=3)
    # pass 1 keeps EOS, A and B of the four equals in the beam, and A, B, C alive; pass 2 EOS after A, then A A, A B
    assert [o.tokens for o in found] == [[], [A], [A, A]]


@pytest.mark.parametrize("beam", [1, 2, 3, 7])
def test_a_sentence_does_not_depend_on_its_neighbours(beam: int) -> None:
    seeds, most = list(range(30)), [1 + i % 7 for i in range(30)]
    together = search(seeds, *most, beam=beam, nbest=beam)
    assert together == [search([s], m, beam=beam, nbest=beam)[0] for s, m in zip(seeds, most, strict=True)]
    assert all(together)


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
    top, places = _largest(values, count)
    assert torch.equal(top, expected[:, :count])
    finite = top > -torch.inf
    assert torch.equal(places[finite], order[:, : top.shape[1]][finite])
