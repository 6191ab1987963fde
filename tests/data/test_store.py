"""Ids on disk: what is written is read, damage is refused, nothing half remains."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import store as module
from janus_cli.data.store import Store, StoreWriter
from janus_cli.errors import DataError


@pytest.fixture(autouse=True)
def a_record_batch_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of several record batches without many thousands of pairs."""
    monkeypatch.setattr(module, "BATCH_ROWS", 1)


Rows = Sequence[Sequence[int]]
BATCHES: list[tuple[Rows, Rows]] = [([[5, 6], [], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 5]])]


def write(path: Path, batches: Sequence[tuple[Rows, Rows]] = BATCHES, *, split: str = "train", top: int = 10) -> str:
    writer = StoreWriter(path, split=split, source_vocabulary=top, target_vocabulary=top + 1, origin={"text": "abc"})
    with writer:
        for sources, targets in batches:
            writer.add(sources, targets)
    return writer.fingerprint


def test_pairs_lengths_and_sizes(tmp_path: Path) -> None:
    fingerprint = write(tmp_path / "s")
    store = Store.open(tmp_path / "s", "train")
    assert len(store) == 4
    assert [[side.tolist() for side in store.pair(index)] for index in range(4)] == [
        [[5, 6], [8]],
        [[], [9, 9]],
        [[7], []],
        [[6], [5, 5, 5]],
    ]
    assert [side.tolist() for side in store.lengths()] == [[2, 0, 1, 1], [1, 2, 0, 3]]
    assert {side.dtype for side in store.lengths()} == {np.dtype(np.int64)}
    assert store.pair(0)[0].dtype == np.int32
    assert (store.source_vocabulary, store.target_vocabulary, store.split) == (10, 11, "train")
    assert store.fingerprint == fingerprint
    assert store.origin == {"text": "abc"}


rows = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@given(st.lists(rows))
def test_any_rows_in_any_batches_come_back(tmp_path_factory: pytest.TempPathFactory, batches: list[Rows]) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    write(path, [(batch, batch[::-1]) for batch in batches])
    store = Store.open(path)
    sources, targets = (
        [row for batch in batches for row in batch],
        [row for batch in batches for row in batch[::-1]],
    )
    assert [store.pair(index)[0].tolist() for index in range(len(store))] == sources
    assert [store.pair(index)[1].tolist() for index in range(len(store))] == targets
    assert store.lengths()[0].tolist() == [len(row) for row in sources]


def test_an_empty_store_has_no_pairs(tmp_path: Path) -> None:
    write(tmp_path / "s", [])
    store = Store.open(tmp_path / "s")
    assert len(store) == 0
    assert [len(side) for side in store.lengths()] == [0, 0]


@pytest.mark.parametrize("gathered", [1, 3, 100])
def test_pairs_are_gathered_and_lengths_of_any_part_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gathered: int
) -> None:
    """Many small calls become few record batches; where one ends does not show."""
    monkeypatch.setattr(module, "BATCH_ROWS", gathered)
    row = [[5] * (index % 4) for index in range(10)]
    plain = write(tmp_path / "s", [([each], [each[:1]]) for each in row])
    with pa.memory_map(str(tmp_path / "s")) as file:
        assert pa.ipc.open_file(file).num_record_batches == {1: 10, 3: 4, 100: 1}[gathered] + 1
    store = Store.open(tmp_path / "s")
    assert [store.pair(index)[0].tolist() for index in range(10)] == row
    assert store.tokens == (13, 7)
    for start in range(12):
        for stop in range(start, 12):
            expected = [min(index % 4, 9) for index in range(10)][start:stop]
            source, target = store.lengths(start, stop)
            assert source.tolist() == expected
            assert target.tolist() == [min(length, 1) for length in expected]
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    assert write(tmp_path / "t", [([each], [each[:1]]) for each in row]) == plain


def test_what_was_checked_before_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "s", [([[1], [10]], [[1], [2]])])
    assert len(Store.open(tmp_path / "s", check=False)) == 2
    with pytest.raises(DataError, match="outside the vocabulary"):
        Store.open(tmp_path / "s")


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_no_such_pair(tmp_path: Path, index: int) -> None:
    write(tmp_path / "s")
    with pytest.raises(IndexError):
        Store.open(tmp_path / "s").pair(index)


def test_pairs_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write(tmp_path / "s")
    row = Store.open(tmp_path / "s").pair(0)[0]
    assert not row.flags.owndata
    assert not row.flags.writeable


def test_the_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    other = [([[5, 6], [], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 6]])]
    moved = [([[5], [6], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 5]])]
    found = [
        write(tmp_path / "a"),
        write(tmp_path / "a", other),
        write(tmp_path / "a", moved),
        write(tmp_path / "a", split="valid"),
        write(tmp_path / "a", top=11),
    ]
    assert len(set(found)) == len(found)
    assert write(tmp_path / "b") == found[0]


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_leaves_nothing_and_the_old_store_alone(tmp_path: Path) -> None:
    write(tmp_path / "s")
    before = (tmp_path / "s").read_bytes()
    writer = StoreWriter(tmp_path / "s", split="train", source_vocabulary=9, target_vocabulary=9, origin={})

    def work() -> None:
        with writer:
            writer.add([[1]], [[2]])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert (tmp_path / "s").read_bytes() == before


def test_the_other_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", split="valid")
    with pytest.raises(DataError, match="holds the valid split, not train"):
        Store.open(tmp_path / "s", "train")


@pytest.mark.parametrize(("side", "bad"), [("source", 10), ("target", 11), ("source", -1), ("target", 2**31 - 1)])
def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, side: str, bad: int) -> None:
    batch: tuple[Rows, Rows] = ([[1], [bad]], [[1], [2]]) if side == "source" else ([[1], [2]], [[1, bad], []])
    write(tmp_path / "s", [BATCHES[0], batch])
    with pytest.raises(DataError, match=f"{side} id {abs(bad)} lies outside the vocabulary"):
        Store.open(tmp_path / "s")


def test_a_truncated_store_is_refused_at_every_length(tmp_path: Path) -> None:
    write(tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(DataError, match="is damaged or no janus store"):
            Store.open(tmp_path / "cut")


def test_flipped_bits_are_refused_or_harmless_but_never_crash(tmp_path: Path) -> None:
    write(tmp_path / "s")
    whole, rng = (tmp_path / "s").read_bytes(), random.Random(2)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "bad").write_bytes(damaged)
        try:
            store = Store.open(tmp_path / "bad")
        except DataError:
            continue
        pairs = [store.pair(index) for index in range(len(store))]
        assert all(side.size == 0 or 0 <= side.min() <= side.max() < 2**31 for pair in pairs for side in pair)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Store.open(tmp_path / "none")
    (tmp_path / "text").write_text("hello\n" * 100)
    with pytest.raises(DataError, match="no janus store"):
        Store.open(tmp_path / "text")
    table = pa.table({"other": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "arrow"), table.schema) as file:
        file.write_table(table)
    with pytest.raises(DataError, match="other columns"):
        Store.open(tmp_path / "arrow")


def test_lengths_that_do_not_fit_the_ids_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", [([[5, 6, 7], [8]], [[1], [2]])])
    whole = (tmp_path / "s").read_bytes()
    offsets = np.array([0, 3, 4], np.int32).tobytes()
    assert whole.count(offsets) == 1
    for wrong in ([0, 3, 400], [0, 5, 4], [1, 3, 4], [0, 3, 3], [0, -3, 4]):
        (tmp_path / "bad").write_bytes(whole.replace(offsets, np.array(wrong, np.int32).tobytes()))
        with pytest.raises(DataError, match="is damaged"):
            Store.open(tmp_path / "bad")


def test_a_store_without_its_last_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pa.memory_map(str(tmp_path / "s")) as file:
        reader = pa.ipc.open_file(file)
        last = reader.num_record_batches - 1
        closing = reader.get_batch_with_custom_metadata(last)
        with pa.ipc.new_file(str(tmp_path / "less"), reader.schema) as writer:
            writer.write_batch(reader.get_batch(0))
            writer.write_batch(closing.batch, custom_metadata=closing.custom_metadata)
    with pytest.raises(DataError, match="3 pairs where 4 were written"):
        Store.open(tmp_path / "less")
