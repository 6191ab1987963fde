"""Paired bootstrap: deterministic, fair to equal systems, sure of clear differences, with the samples of sacrebleu."""

import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from janus_cli.scoring.bootstrap import compare, compare_seeds, intervals
from janus_cli.scoring.metrics import score
from janus_cli.scoring.scores import Score

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "slowly")


def text(seed: int, lines: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 9))) for _ in range(lines)]


def worse(lines: list[str], share: float, seed: int) -> list[str]:
    """The lines with that share of their words replaced."""
    rng = random.Random(seed)
    return [" ".join("zzz" if rng.random() < share else word for word in line.split()) for line in lines]


REFERENCE = text(0, 81)
NAMES = ["bleu", "chrf", "ter", "rouge1", "exact"]
GOOD, BAD = (score(worse(REFERENCE, share, 1), [REFERENCE], NAMES) for share in (0.05, 0.3))


def means(values: list[float], name: str = "bleu") -> Score:
    """A metric that is the mean of one number a line."""
    rows = np.array([[1.0, value] for value in values])
    return Score(name, float(np.mean(values)), "", rows, lambda total: float(total[1] / total[0]))


def test_identical_outputs_do_not_differ() -> None:
    for found in compare(GOOD, GOOD, samples=50, seed=1):
        assert (found.difference, found.wins, found.p) == (0, 0, 1)
        assert (found.interval.mean, found.interval.low, found.interval.high) == (0, 0, 0)


def test_a_clear_difference_is_found_whichever_comes_first() -> None:
    names = [found.name for found in compare(GOOD, BAD, samples=99, seed=1)]
    assert names == NAMES
    for found, swapped in zip(compare(GOOD, BAD, 99, 1), compare(BAD, GOOD, 99, 1), strict=True):
        assert found.p == swapped.p == 0.01  # 1 / (99 + 1): no sample was as extreme
        assert (found.wins, swapped.wins) == (1, 0)
        assert found.difference == pytest.approx(-swapped.difference)
        assert found.interval.low == pytest.approx(-swapped.interval.high)
        lowest, highest = sorted((found.interval.low, found.interval.high))
        assert lowest < found.difference < highest
        assert (lowest > 0) or (highest < 0)
    assert compare(GOOD, BAD, 99, 1)[2].difference < 0  # TER: fewer edits win


def test_equal_systems_get_a_small_p_rarely() -> None:
    # Under no difference p is uniform: P(p < 0.1) = 0.1. Of 60 trials, 15 or more would have a chance of 1 in 1000.
    rng = random.Random(5)
    small = 0
    for trial in range(60):
        one, other = (means([rng.gauss(0, 1) for _ in range(50)]) for _ in range(2))
        small += compare([one], [other], samples=100, seed=trial)[0].p < 0.1
    assert 1 <= small < 15


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert compare(GOOD, BAD, 40, 3) == compare(GOOD, BAD, 40, 3)
    assert compare(GOOD, BAD, 40, 3) != compare(GOOD, BAD, 40, 4)
    assert intervals(GOOD, 40, 3) == intervals(GOOD, 40, 3)
    assert [found.first for found in compare(GOOD, BAD, 40, 3)] == intervals(GOOD, 40, 3)


def test_lines_are_drawn_in_pairs() -> None:
    # Hard and easy lines: each output varies a lot, but their difference is the same on every line.
    hard_and_easy = [0.0, 100.0] * 20
    (found,) = compare([means([value + 1 for value in hard_and_easy])], [means(hard_and_easy)], samples=200, seed=1)
    assert found.first.high - found.first.low > 10
    assert found.interval.low == pytest.approx(1)
    assert found.interval.high == pytest.approx(1)
    assert found.wins == 1


def test_with_one_seed_a_comparison_over_seeds_is_that_of_its_outputs() -> None:
    for one, other, found in zip(GOOD, BAD, compare(GOOD, BAD, 40, 3), strict=True):
        for one_system in (False, True):
            assert compare_seeds([one], [other], 40, 3, one_system=one_system) == found


def test_a_difference_that_depends_on_the_seed_is_not_sure() -> None:
    # Every line differs by 10 with one seed and by -2 with the other: sure for these seeds, not for others.
    base = [0.0, 100.0] * 50
    unequal = [means([value + more for value in base]) for more in (10, -2)]
    alike = [means([value + more for value in base]) for more in (4.1, 3.9)]
    unsure, sure = (compare_seeds(seeds, [means(base)] * 2, 200, 1, one_system=False) for seeds in (unequal, alike))
    assert unsure.difference == pytest.approx(4) == sure.difference
    assert (unsure.interval.low, unsure.interval.high) == (pytest.approx(-2), pytest.approx(10))
    assert (sure.interval.low, sure.interval.high) == (pytest.approx(3.9), pytest.approx(4.1))
    assert sure.p < 0.05 < unsure.p


def test_two_ways_to_decode_the_same_models_have_the_same_seeds() -> None:
    # One model is 20 better than the other, and with each of them the first way is 1 better.
    base = [0.0, 100.0] * 50
    first, second = ([means([value + more + better for value in base]) for more in (0, 20)] for better in (1, 0))
    other, same = (compare_seeds(first, second, 200, 1, one_system=one) for one in (False, True))
    assert other.difference == pytest.approx(1) == same.difference
    assert (same.interval.low, same.interval.high) == (pytest.approx(1), pytest.approx(1))
    assert same.p < 0.05 < other.p


def test_intervals_against_the_normal_approximation() -> None:
    rng = random.Random(2)
    values = [rng.gauss(50, 10) for _ in range(400)]
    (found,) = intervals([means(values)], samples=2000, seed=1)
    error = float(np.std(values)) / 400**0.5
    assert found.mean == pytest.approx(float(np.mean(values)), abs=0.1)
    assert found.low == pytest.approx(float(np.mean(values)) - 1.96 * error, abs=0.15)
    assert found.high == pytest.approx(float(np.mean(values)) + 1.96 * error, abs=0.15)


def test_samples_are_those_of_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    good, bad = worse(REFERENCE, 0.05, 1), worse(REFERENCE, 0.3, 1)
    test = PairedTest([("a", bad), ("b", good)], {"BLEU": BLEU()}, [REFERENCE], test_type="bs", n_samples=200)
    _, results = test()
    theirs = results["BLEU"][1]
    (mine,) = compare(GOOD[:1], BAD[:1], samples=200, seed=7)
    assert mine.first.mean == pytest.approx(theirs.mean, abs=1e-3)  # they add in float32
    assert (mine.first.high - mine.first.low) / 2 == pytest.approx(theirs.ci, abs=0.3)  # they take the nearest samples
