"""Batches: every sentence once, within the budget, the same for the same seed and epoch."""

import hashlib
from itertools import islice
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import batching
from janus_cli.data.batching import epoch_batches, estimate_epoch, padding, rest_of_epoch
from janus_cli.data.store import Store
from janus_cli.errors import DataError


class Pairs:
    """As much of a store as batches need; says which lengths were asked for."""

    def __init__(self, source: np.ndarray, target: np.ndarray) -> None:
        self.sides, self.asked = (source, target), list[tuple[int, int]]()

    def __len__(self) -> int:
        return len(self.sides[0])

    def lengths(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        self.asked.append((start, stop))
        return tuple(side[start:stop] for side in self.sides)


def pairs(source: np.ndarray, target: np.ndarray) -> Store:
    return cast(Store, Pairs(source, target))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 sentences, made of runs of 4."""
    monkeypatch.setattr(batching, "BLOCK", 16)
    monkeypatch.setattr(batching, "RUN", 4)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60),
    budget=st.integers(22, 200),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
    block=st.sampled_from([4, 16, 1 << 20]),
)
def test_every_sentence_once_and_within_the_budget(
    lengths: list[tuple[int, int]], budget: int, seed: int, epoch: int, block: int
) -> None:
    source, target = (np.array([pair[i] for pair in lengths], dtype=np.int64) for i in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "BLOCK", block)
        patch.setattr(batching, "RUN", 4)
        batches, again = (list(epoch_batches(pairs(source, target), budget, seed, epoch)) for _ in range(2))
    assert sorted(i for rows in batches for i in rows.tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) * max(source[rows].max() + 1, target[rows].max() + 2) <= budget
    assert [rows.tolist() for rows in batches] == [rows.tolist() for rows in again]


@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60),
    read=st.lists(st.tuples(st.integers(22, 200), st.integers(1, 2), st.integers(1, 4)), max_size=3),
    budget=st.integers(22, 200),
)
def test_every_sentence_once_also_if_the_budget_changes_inside_an_epoch(
    lengths: list[tuple[int, int]], read: list[tuple[int, int, int]], budget: int
) -> None:
    source, target = (np.array([pair[i] for pair in lengths], dtype=np.int64) for i in (0, 1))
    store, seen = pairs(source, target), list[int]()
    for place, (earlier, seed, count) in enumerate(read):
        for rows in islice(rest_of_epoch(store, earlier, seed, 2, read[:place]), count):
            seen += rows.tolist()
    for rows in rest_of_epoch(store, budget, 1, 2, read):
        assert len(rows) * max(source[rows].max() + 1, target[rows].max() + 2) <= budget
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_the_order_of_data_that_fits_into_a_block_is_as_ever() -> None:
    """Runs that were begun with an earlier version go on with the sentences that they have not seen."""
    source, target = np.arange(300) % 17, np.arange(300) % 23
    order = [rows.tolist() for rows in epoch_batches(pairs(source, target), 128, 1, 2)]
    assert order[0] == [84, 85, 154, 223, 292, 39, 108]
    expected = "1068fd946cedd5207a051d5a76616f79bf72e7e00815f3a82df7ba1f72bee2ba"
    assert hashlib.sha256(repr(order).encode()).hexdigest() == expected


@pytest.mark.usefixtures("small_blocks")
def test_a_block_is_made_of_runs_from_everywhere_and_only_its_lengths_are_read() -> None:
    source = np.arange(1, 402) % 17 + 1
    asked = Pairs(source, source)
    batches = epoch_batches(cast(Store, asked), 64, 1, 0)
    assert asked.asked == []
    next(batches)
    starts = [start for start, _ in asked.asked]
    assert len(starts) == 4
    assert all(start % 4 == 0 and stop - start == 4 for start, stop in asked.asked)
    assert max(starts) - min(starts) > 50
    list(batches)
    assert sorted(asked.asked)[-1] == (400, 401)
    assert len(asked.asked) == 101


@pytest.mark.usefixtures("small_blocks")
def test_an_epoch_is_estimated_from_its_first_block() -> None:
    source = np.full(400, 9)
    epoch = estimate_epoch(pairs(source, source), 44, 1)  # four sentences a batch
    assert (epoch.batches, epoch.approximate) == (100, True)
    assert epoch.padding == 0
    epoch = estimate_epoch(pairs(source[:15], source[:15]), 44, 1)
    assert (epoch.batches, epoch.approximate) == (4, False)
    assert estimate_epoch(pairs(source[:0], source[:0]), 44, 1).batches == 0


@pytest.mark.parametrize("block", [16, 1 << 20])
def test_epochs_and_seeds_differ_and_a_pair_longer_than_the_budget_is_named(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(batching, "BLOCK", block)
    monkeypatch.setattr(batching, "RUN", 4)
    source = target = np.arange(1, 200) % 17 + 1
    orders = [
        [r.tolist() for r in islice(epoch_batches(pairs(source, target), 64, s, e), 9)]
        for s, e in ((1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    lengths = np.array([1] * 30 + [100] + [1] * 20)
    with pytest.raises(DataError, match=r"pair 31 .* has 102 tokens, more than training\.batch_tokens 64"):
        list(epoch_batches(pairs(lengths, lengths), 64, 1, 0))


def test_padding_is_counted_by_hand() -> None:
    source, target = np.array([1, 3]), np.array([2, 2])
    assert padding(source, target, [np.array([0, 1])]) == 1 - (2 + 4 + 4 + 4) / (2 * 4 + 2 * 4)


def test_padding_of_lengths_as_sentences_have_them_is_small() -> None:
    draws = np.random.default_rng(1)
    source = draws.lognormal(2.4, 0.4, 30_000).astype(np.int64)
    target = np.maximum(1, source + draws.integers(-2, 3, len(source)))
    assert padding(source, target, list(epoch_batches(pairs(source, target), 4096, 1, 0))) < 0.10
