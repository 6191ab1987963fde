"""Beam search on scripted callables: hand-worked answers, and every answer found by trying all of them."""

import itertools
from math import inf, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from janus_cli.core.batch import EOS, SPECIAL
from janus_cli.core.search import Output, beam_search
from janus_cli.core.search.beam import _largest

A, B, C = SPECIAL, SPECIAL + 1, SPECIAL + 2
VOCABULARY = SPECIAL + 3


class Script:
    """A step that knows the probabilities of the next token after every prefix, and checks what the search tells it."""

    def __init__(self, tables: list[dict[tuple[int, ...], dict[int, float]]]) -> None:
        self.tables = tables
        self.prefixes: list[tuple[int, ...]] = [()] * len(tables)  # of each row
        self.sentences = list(range(len(tables)))
        self.rows: list[int] = []  # of each pass

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        if self.rows:
            sources = range(len(last)) if parents is None else parents.tolist()
            pairs = [(self.sentences[s], (*self.prefixes[s], int(t))) for s, t in zip(sources, last, strict=True)]
            self.sentences, self.prefixes = [p[0] for p in pairs], [p[1] for p in pairs]
        self.rows.append(len(last))
        logps = torch.full((len(last), VOCABULARY), -inf)
        for row, (sentence, prefix) in enumerate(zip(self.sentences, self.prefixes, strict=True)):
            for token, probability in self.tables[sentence].get(prefix, {}).items():
                logps[row, token] = log(probability)
        return logps


class Random:
    """A step whose log-probabilities are a fixed function of sentence seed and prefix; like a model without weights."""

    def __init__(self, seeds: list[int]) -> None:
        self.seeds = seeds
        self.script: Script = Script([{} for _ in seeds])

    def distribution(self, sentence: int, prefix: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seeds[sentence], prefix)) % 2**31)
        logits = torch.full((VOCABULARY,), -inf)
        logits[[EOS, A, B, C]] = 2 * torch.randn(4, generator=generator)
        return logits.log_softmax(0)

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        self.script(last, parents)
        rows = zip(self.script.sentences, self.script.prefixes, strict=True)
        return torch.stack([self.distribution(sentence, prefix) for sentence, prefix in rows])


def lengths(*values: int) -> Tensor:
    return torch.tensor(values)


def every_output(step: Random, sentence: int, longest: int, penalty: float) -> list[tuple[float, list[int]]]:
    """All complete outputs with their scores, best first; the last place can only hold EOS."""
    scored = []
    for size in range(longest):
        for tokens in itertools.product((A, B, C), repeat=size):
            path = [*tokens, EOS]
            logp = sum(float(step.distribution(sentence, tuple(path[:i]))[t]) for i, t in enumerate(path))
            scored.append((logp / (size + 1) ** penalty, list(tokens)))
    return sorted(scored, key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("longest", [1, 2, 4])
def test_a_beam_that_holds_everything_finds_what_trying_everything_finds(penalty: float, longest: int) -> None:
    seeds = list(range(12))
    step = Random(seeds)
    found = beam_search(step, torch.full((len(seeds),), longest), beam=40, length_penalty=penalty, nbest=5)
    for sentence in range(len(seeds)):
        expected = every_output(step, sentence, longest, penalty)[:5]
        assert [output.tokens for output in found[sentence]] == [tokens for _, tokens in expected]
        assert [output.score for output in found[sentence]] == pytest.approx([score for score, _ in expected], abs=1e-5)


GARDEN = {  # greedy goes for A and ends with 0.6 * 0.4 = 0.24; B then EOS has 0.4 * 0.9 = 0.36
    (): {A: 0.6, B: 0.4},
    (A,): {A: 0.35, C: 0.25, EOS: 0.4},
    (B,): {EOS: 0.9, A: 0.1},
    (A, A): {EOS: 1.0},
    (A, C): {EOS: 1.0},
    (B, A): {EOS: 1.0},
}


def test_a_beam_of_one_is_greedy_and_a_beam_of_two_sees_further() -> None:
    greedy = beam_search(Script([GARDEN]), lengths(9), beam=1, length_penalty=0.0)
    assert greedy[0][0].tokens == [A]
    assert greedy[0][0].logps == pytest.approx([log(0.6), log(0.4)])
    assert greedy[0][0].logp == pytest.approx(log(0.24))
    beam = beam_search(Script([GARDEN]), lengths(9), beam=2, length_penalty=0.0)
    assert beam[0][0].tokens == [B]
    assert beam[0][0].score == pytest.approx(log(0.36))


def test_the_length_penalty_counts_eos_and_decides() -> None:
    table = {(): {EOS: 0.3, A: 0.7}, (A,): {A: 1.0}, (A, A): {EOS: 0.3, B: 0.7}, (A, A, B): {EOS: 1.0}}
    # EOS: log .3, length 1. A A EOS: log .21, length 3. A A B EOS: log .49, length 4.
    sums = {1: log(0.3), 3: log(0.21), 4: log(0.49)}
    for penalty in (0.0, 1.0, 3.0):
        found = beam_search(Script([table]), lengths(9), beam=3, length_penalty=penalty, nbest=3)[0]
        assert {o.length: o.score for o in found} == pytest.approx({n: s / n**penalty for n, s in sums.items()})
        assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)


def test_eos_is_forced_at_the_maximum_and_keeps_its_own_probability() -> None:
    endless = {tuple([A] * n): {A: 0.9, EOS: 0.1} for n in range(9)}
    (output,) = beam_search(Script([endless]), lengths(3), beam=1)[0]
    assert (output.tokens, output.length, output.passes) == ([A, A], 3, 3)
    assert output.logps == pytest.approx([log(0.9), log(0.9), log(0.1)])
    (nothing,) = beam_search(Script([endless]), lengths(1), beam=4)[0]
    assert (nothing.tokens, nothing.length, nothing.passes) == ([], 1, 1)


def test_finished_sentences_leave_the_batch_and_passes_are_counted_for_each() -> None:
    short = {(): {EOS: 1.0}}
    long = {tuple([A] * n): ({A: 1.0} if n < 3 else {EOS: 1.0}) for n in range(4)}
    step = Script([long, short, long])
    found = beam_search(step, lengths(9, 9, 9), beam=1)
    assert step.rows == [3, 2, 2, 2]
    assert [(o.tokens, o.passes) for (o,) in found] == [([A] * 3, 4), ([], 1), ([A] * 3, 4)]


def test_every_hypothesis_counts_the_passes_of_its_sentence() -> None:
    late = {(): {EOS: 0.6, A: 0.4}, (A,): {A: 1.0}, (A, A): {EOS: 1.0}}
    found = beam_search(Script([late, {(): {EOS: 1.0}}]), lengths(9, 9), beam=2, nbest=2)
    assert [[(o.tokens, o.passes) for o in outputs] for outputs in found] == [[([A, A], 3), ([], 3)], [([], 1)]]


def test_it_stops_as_soon_as_nothing_alive_can_overtake() -> None:
    table = {tuple([A] * n): {EOS: 0.9, A: 0.1} for n in range(50)}
    step = Script([table])
    (output,) = beam_search(step, lengths(50), beam=4, length_penalty=0.0)[0]
    assert (output.tokens, len(step.rows)) == ([], 1)  # log .1 is less than log .9 already
    step = Script([table])
    assert len(beam_search(step, lengths(50), beam=4, length_penalty=0.0, nbest=2)[0]) == 2
    assert len(step.rows) == 2


def test_it_goes_on_while_something_alive_can_still_overtake_by_its_length() -> None:
    table = {(): {EOS: 0.5, A: 0.4, B: 0.1}, (A,): {EOS: 1.0}, (B,): {EOS: 1.0}}
    (output,) = beam_search(Script([table]), lengths(9), beam=3, length_penalty=1.0)[0]
    assert output.tokens == [A]  # log .4 / 2 is more than log .5 / 1, but log .4 / 1 was less
    assert output.score == pytest.approx(log(0.4) / 2)


def test_a_finished_hypothesis_takes_no_room_from_the_living() -> None:
    table = {(): {EOS: 0.4, A: 0.35, B: 0.25}, (A,): {A: 0.9, EOS: 0.1}, (A, A): {EOS: 1.0}, (B,): {EOS: 1.0}}
    found = beam_search(Script([table]), lengths(9), beam=2, length_penalty=1.0, nbest=2)[0]
    assert [o.tokens for o in found] == [[B], []]  # B was third behind EOS and A, and is alive


def test_equals_are_ranked_by_slot_then_token() -> None:
    flat = {EOS: 0.25, A: 0.25, B: 0.25, C: 0.25}
    table = {prefix: flat for size in range(3) for prefix in itertools.product((A, B, C), repeat=size)}
    found = beam_search(Script([table]), lengths(3), beam=3, length_penalty=1.0, nbest=3)[0]
    # pass 1 keeps EOS, A and B of the four equals in the beam, and A, B, C alive; pass 2 EOS after A, then A A, A B
    assert [o.tokens for o in found] == [[], [A], [A, A]]


@pytest.mark.parametrize("beam", [1, 2, 3, 7])
def test_a_sentence_does_not_depend_on_its_neighbours(beam: int) -> None:
    seeds, most = list(range(30)), [1 + i % 7 for i in range(30)]
    together = beam_search(Random(seeds), lengths(*most), beam, nbest=beam)
    alone = [beam_search(Random([s]), lengths(m), beam, nbest=beam)[0] for s, m in zip(seeds, most, strict=True)]
    assert together == alone
    assert all(len(outputs) >= 1 for outputs in together)


def test_fewer_outputs_where_fewer_exist_and_none_without_sentences() -> None:
    (outputs,) = beam_search(Script([{(): {A: 1.0}, (A,): {EOS: 1.0}}]), lengths(5), beam=3, nbest=3)
    assert [o.tokens for o in outputs] == [[A]]
    assert beam_search(Script([]), torch.zeros(0, dtype=torch.int64), beam=3) == []


def test_the_step_keeps_its_tensor() -> None:
    table = torch.full((1, VOCABULARY), -1.0)
    before = table.clone()
    (output,) = beam_search(lambda last, parents: table, lengths(1), beam=1)[0]
    assert isinstance(output, Output)
    assert torch.equal(table, before)


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
