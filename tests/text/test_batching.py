"""Batches: every sentence once, within the budget, the same for the same seed and epoch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.errors import DataError
from janus_cli.text.batching import epoch_batches, padding

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"


@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60),
    budget=st.integers(22, 200),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_every_sentence_once_and_within_the_budget(
    lengths: list[tuple[int, int]], budget: int, seed: int, epoch: int
) -> None:
    source, target = (np.array([pair[i] for pair in lengths], dtype=np.int64) for i in (0, 1))
    batches = epoch_batches(source, target, budget, seed, epoch)
    assert sorted(i for rows in batches for i in rows.tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) * max(source[rows].max() + 1, target[rows].max() + 2) <= budget
    again = epoch_batches(source, target, budget, seed, epoch)
    assert [rows.tolist() for rows in batches] == [rows.tolist() for rows in again]


def test_epochs_and_seeds_differ() -> None:
    source = target = np.arange(1, 200) % 17 + 1
    orders = [[r.tolist() for r in epoch_batches(source, target, 64, s, e)] for s, e in ((1, 0), (1, 1), (2, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_padding_is_counted_by_hand() -> None:
    source, target = np.array([1, 3]), np.array([2, 2])
    found = padding(source, target, [np.array([0, 1])])
    assert (found.real, found.cells) == (2 + 4 + 4 + 4, 2 * 4 + 2 * 4)


def test_a_pair_longer_than_the_budget_is_named() -> None:
    with pytest.raises(DataError, match="pair 2 has 102 tokens"):
        epoch_batches(np.array([1, 100]), np.array([1, 100]), 64, 1, 0)


@pytest.mark.skipif(not MULTI30K.exists(), reason="multi30k is not at hand")
def test_padding_on_real_lengths_is_small() -> None:
    """Words stand for tokens; the same budget as the recipe."""
    source, target = (
        np.array([len(line.split()) for line in (MULTI30K / f"train.{side}").read_bytes().split(b"\n")[:-1]])
        for side in ("de", "en")
    )
    assert padding(source, target, epoch_batches(source, target, 4096, 1, 0)).share < 0.10
