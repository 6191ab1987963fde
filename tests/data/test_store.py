"""Ids on disk: what is written is read, damage is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import store as module
from janus_cli.data.store import Ragged, Store, StoreWriter, store_files
from janus_cli.errors import DataError
from janus_cli.files import MANIFEST, write_json

Rows = Sequence[Sequence[int]]
PIECES: list[tuple[Rows, Rows]] = [([[5, 6], [], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 5]])]


def write(folder: Path, pieces: Sequence[tuple[Rows, Rows]] = PIECES, *, split: str = "train", top: int = 10) -> str:
    writer = StoreWriter(folder, split, source_vocabulary=top, target_vocabulary=top + 1, origin={"text": "abc"})
    with writer:
        for number, (sources, targets) in enumerate(pieces):
            writer.add(*((Ragged.of(sources), Ragged.of(targets)) if number % 2 else (sources, targets)))
    about = {"kept": writer.rows, "fingerprint": writer.fingerprint}
    write_json(folder / MANIFEST, {"vocabulary": {"source": top, "target": top + 1}, "splits": {split: about}})
    return writer.fingerprint


def test_pairs_lengths_and_sizes(tmp_path: Path) -> None:
    fingerprint = write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MANIFEST, *store_files("train")])
    store = Store.open(tmp_path, "train")
    assert [[side.tolist() for side in store.pair(index)] for index in range(len(store))] == [
        [[5, 6], [8]],
        [[], [9, 9]],
        [[7], []],
        [[6], [5, 5, 5]],
    ]
    assert [side.tolist() for side in store.lengths()] == [[2, 0, 1, 1], [1, 2, 0, 3]]
    assert {side.dtype for side in store.lengths()} == {np.dtype(np.int64)}
    assert (store.source_vocabulary, store.target_vocabulary, store.split) == (10, 11, "train")
    assert store.fingerprint == fingerprint
    for index in (-1, 4, 100):
        with pytest.raises(IndexError):
            store.pair(index)
    row = store.pair(0)[0]
    assert row.dtype == np.int32
    assert (row.flags.owndata, row.flags.writeable, type(row)) == (False, False, np.ndarray)


rows = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@given(st.lists(rows), st.integers(0, 9), st.integers(0, 9))
def test_any_rows_in_any_pieces_come_back(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[Rows], start: int, more: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    write(folder, [(piece, piece[::-1]) for piece in pieces])
    store = Store.open(folder, "train")
    sides = [row for piece in pieces for row in piece], [row for piece in pieces for row in piece[::-1]]
    assert [[side.tolist() for side in store.pair(index)] for index in range(len(store))] == [
        [list(row) for row in pair] for pair in zip(*sides, strict=True)
    ]
    assert store.tokens == tuple(sum(map(len, side)) for side in sides)
    for lengths, side in zip(store.lengths(start, start + more), sides, strict=True):
        assert lengths.tolist() == [len(row) for row in side[start : start + more]]
    assert [len(side) for side in store.lengths(start)] == [max(0, len(store) - start)] * 2


def test_the_fingerprint_tells_contents_apart_and_is_as_ever(tmp_path: Path) -> None:
    """Runs that were begun with an earlier version go on with text that is prepared again."""
    other = [([[5, 6], [], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 6]])]
    moved = [([[5], [6], [7]], [[8], [9, 9], []]), ([[6]], [[5, 5, 5]])]
    found = [
        write(tmp_path),
        write(tmp_path, other),
        write(tmp_path, moved),
        write(tmp_path, split="valid"),
        write(tmp_path, top=11),
    ]
    assert len(set(found)) == len(found)
    assert write(tmp_path) == found[0] == "88cfab7702fbad781f90f656525297fc07eb1f0a0a0d4346c55758dd9950effd"


@pytest.mark.parametrize(("side", "bad"), [("source", 10), ("target", 11), ("source", -1), ("target", 2**31 - 1)])
@pytest.mark.parametrize("at_once", [1, 100])
def test_ids_outside_the_vocabulary_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str, bad: int, at_once: int
) -> None:
    monkeypatch.setattr(module, "CHECKED_AT_ONCE", at_once)
    piece: tuple[Rows, Rows] = ([[1], [bad]], [[1], [2]]) if side == "source" else ([[1], [2]], [[1, bad], []])
    write(tmp_path, [PIECES[0], piece])
    assert len(Store.open(tmp_path, "train", check=False)) == 5
    with pytest.raises(DataError, match=f"{side} id {bad} lies outside the vocabulary"):
        Store.open(tmp_path, "train")


@pytest.mark.parametrize("name", [MANIFEST, *store_files("train")])
def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    whole = (tmp_path / name).read_bytes().rstrip()
    for size in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(DataError, match="is damaged"):
            Store.open(tmp_path, "train")


def test_flipped_bits_are_refused_or_harmless_but_never_crash(tmp_path: Path) -> None:
    write(tmp_path)
    names, rng = [MANIFEST, *store_files("train")], random.Random(2)
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    for number in range(400):
        name = names[number % len(names)]
        damaged = bytearray(whole[name])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            store = Store.open(tmp_path, "train")
            pairs = [store.pair(index) for index in range(len(store))]
            assert all(side.size == 0 or 0 <= side.min() <= side.max() < 2**31 for pair in pairs for side in pair)
        except DataError:
            pass
        (tmp_path / name).write_bytes(whole[name])


def edit(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(old, new))


def offsets(*rows: tuple[int, int]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "train.offsets.npy", np.array(rows))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json does not exist"),
        (lambda folder: (folder / "train.source.npy").unlink(), "train.source.npy does not exist"),
        (edit("train", "valid"), "is damaged"),
        (edit("10", '"many"'), "is damaged"),
        (edit("4", "5"), "4 pairs where 5 were written"),
        (lambda folder: (folder / "train.target.npy").write_text("hello\n" * 100), "was not written by janus"),
        (lambda folder: np.save(folder / "train.target.npy", np.zeros(9)), "holds float64"),
        (offsets((0, 0), (2, 1), (2, 3), (3, 3)), "3 pairs where 4 were written"),
        (offsets((0, 0), (2, 1), (2, 3), (3, 3), (400, 6)), "do not fit"),
        (offsets((0, 0), (2, 1), (2, 3), (3, 3), (4, 5)), "do not fit"),
        (offsets((0, 0), (3, 1), (2, 3), (3, 3), (4, 6)), "do not fit"),
        (offsets((1, 0), (2, 1), (2, 3), (3, 3), (4, 6)), "do not fit"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        Store.open(tmp_path, "train")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process has mapped")
def test_memory_does_not_grow_with_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of 120 MB, in no order: a process holds a part of the file."""

    def mapped() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) // 1024  # MiB

    pairs, length = 30_000, 1000
    with StoreWriter(tmp_path, "train", source_vocabulary=9, target_vocabulary=9, origin={}) as writer:
        targets = Ragged(np.full(pairs // 10 * length, 7, np.int32), np.full(pairs // 10, length, np.int64))
        for _ in range(10):
            writer.add([[]] * len(targets.lengths), targets)
    about = {"kept": writer.rows, "fingerprint": writer.fingerprint}
    write_json(tmp_path / MANIFEST, {"vocabulary": {"source": 9, "target": 9}, "splits": {"train": about}})
    monkeypatch.setattr(module, "SMALL", 1 << 20)
    before, most = mapped(), 0
    store = Store.open(tmp_path, "train")
    for number, row in enumerate(np.random.default_rng(1).permutation(pairs).tolist()):
        assert int(store.pair(row)[1][-1]) == 7
        if number % 100 == 0:
            most = max(most, mapped())
    assert most - before < 100  # 32 pairs, 2 MB around each, and their offsets
