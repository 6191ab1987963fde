"""What was read to the end once is not read again, unless it changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from janus_cli import recipe_load
from janus_cli.data import checked, prepare, prepared
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.errors import DataError
from janus_cli.recipe import Recipe


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return recipe_load.load(str(tiny_recipe))


@pytest.fixture
def read(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Data in the folder `data`; names of what is read to the end from here on."""
    prepare.prepare(recipe, Path("data"), workers=1, force=False)
    names: list[str] = []
    sha256, check = prepared.sha256, Store._check

    def hashed(path: Path) -> str:
        names.append(path.name)
        return sha256(path)

    def looked_at(store: Store) -> None:
        names.append(f"ids of {store.split}")
        check(store)

    monkeypatch.setattr(prepared, "sha256", hashed)
    monkeypatch.setattr(Store, "_check", looked_at)
    return names


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as old."""
    monkeypatch.setattr(checked, "SETTLED", -(10**12))


def test_a_second_time_nothing_is_read(recipe: Recipe, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    open_prepared(recipe, Path("data"))
    assert {"train.source.npy", "ids of train", "valid.target.txt", "tokenizer.model"} <= set(read)
    read.clear()
    train = open_prepared(recipe, Path("data")).train
    assert read == []
    assert len(train) == 64


def test_what_only_just_changed_is_read_again(recipe: Recipe, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "SETTLED", 10**15)  # however slow the disk was
    open_prepared(recipe, Path("data"))
    assert not (Path("data") / checked.NOTES).exists()
    read.clear()
    open_prepared(recipe, Path("data"))
    assert "ids of train" in read


def rewrite(file: Path) -> None:
    """One id becomes another; size and time of the contents are as before."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    shutil.copy2(file, "other")
    rewrite(Path("other"))
    Path("other").replace(file)


@pytest.mark.parametrize("change", [rewrite, replace])
def test_what_changed_since_is_found_though_it_looks_alike(
    recipe: Recipe, read: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    settle(monkeypatch)
    open_prepared(recipe, Path("data"))
    time.sleep(0.02)  # the file system's clock goes on
    change(Path("data/train.source.npy"))
    with pytest.raises(DataError, match=r"train\.source\.npy was changed"):
        open_prepared(recipe, Path("data"))


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"train.source.npy": 1}', '{"train.source.npy": ["x", 1, 2, 3, 4]}'])
def test_notes_that_are_damaged_or_foreign_count_for_nothing(recipe: Recipe, read: list[str], notes: str) -> None:
    (Path("data") / checked.NOTES).write_text(notes)
    open_prepared(recipe, Path("data"))
    assert "ids of train" in read


def test_a_folder_that_only_can_be_read(recipe: Recipe, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checked, "write_atomically", refuse)
    for _ in range(2):
        open_prepared(recipe, Path("data"))
    assert read.count("ids of train") == 2
