"""Prepared data, opened again: what was changed since is found, and what was read before is not read again."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_corpus import CORPUS, OUT, made, recipe_for

from janus_cli import recipe_load
from janus_cli.data import prepared, survival
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import CHECKED, open_prepared
from janus_cli.data.store import Store, StoreWriter, store_files
from janus_cli.errors import DataError
from janus_cli.files import sha256, write_json

pytestmark = pytest.mark.usefixtures("small_corpus")
Change = Callable[[Path, Path], object]  # of the prepared folder, or of the text's


def edit(name: str, old: bytes, new: bytes) -> Change:
    def change(out: Path, _: Path) -> None:
        data = (out / name).read_bytes()
        assert old in data
        (out / name).write_bytes(data.replace(old, new, 1))

    return change


def swap(out: Path, _: Path) -> None:
    for first, second in zip(store_files("train"), store_files("valid"), strict=True):
        (out / first).rename(out / "x")
        (out / second).rename(out / first)
        (out / "x").rename(out / second)


def resign(out: Path) -> None:
    """Makes the manifest agree with the sizes and sha256 of all files."""
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (out / name).stat().st_size, "sha256": sha256(out / name)}
    write_json(out / "manifest.json", manifest)


def forge(rows: list[list[int]]) -> Change:
    def change(out: Path, _: Path) -> None:
        with StoreWriter(out, "valid", source_vocabulary=90, target_vocabulary=90, origin={}) as writer:
            writer.add(rows, rows)
        resign(out)

    return change


def link(out: Path, _: Path) -> None:
    (out / "valid.target.npy").rename(out.parent / "elsewhere")
    (out / "valid.target.npy").symlink_to(out.parent / "elsewhere")


def reach_out(out: Path, folder: Path) -> None:
    shutil.copy(out / "test.offsets.npy", out.parent)
    edit("manifest.json", b'"test.offsets.npy"', b'"../test.offsets.npy"')(out, folder)


def other_text(_: Path, folder: Path, *, older: bool = False) -> None:
    """Of the same size; older: in the place of the file, with an early date."""
    path, other = folder / "train.de", folder / "other"
    (other if older else path).write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    if older:
        os.utime(other, (0, 0))
        other.replace(path)


def lengthen_text(_: Path, folder: Path) -> None:
    (folder / "valid.en").write_bytes((folder / "valid.en").read_bytes() + b"more\n")
    os.utime(folder / "valid.en", (0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, "train.source.npy has"),
        (lambda out, _: (swap(out, _), resign(out)), "6 pairs where 60 were written"),
        (lambda out, _: os.truncate(out / "train.source.npy", 200), "train.source.npy has 200 bytes instead of"),
        (link, "valid.target.npy is missing or not a plain file"),
        (forge([[90]] * 6), "id 90 lies outside the vocabulary of 72"),
        (edit("tokenizer.vocab.txt", b"der", b"dre"), "tokenizer.vocab.txt was changed"),
        (edit("manifest.json", b'"format": 2', b'"format": 1'), "prepared by another version of janus"),
        (edit("manifest.json", b'"splits"', b'"split"'), "manifest.json is damaged"),
        (edit("manifest.json", b'"created": "2', b'"created": "x'), "manifest.json is damaged"),
        (reach_out, r"\.\./test.offsets.npy is missing or not a plain file"),
        (lambda out, _: (out / "manifest.json").unlink(), "there is no prepared data"),
        (lambda out, _: (out / "train.source.npy").unlink(), "train.source.npy is missing"),
        (other_text, r"the text .*train\.de was changed"),
        (lengthen_text, r"the text .*valid\.en was changed"),
        (partial(other_text, older=True), r"the text .*train\.de was changed"),
    ],
)
def test_what_was_changed_since_is_refused(change: Change, message: str) -> None:
    recipe = recipe_for()
    made(recipe)
    change(OUT, CORPUS)
    with pytest.raises(DataError, match=message) as caught:
        open_prepared(recipe, OUT)
    assert "janus preprocess" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "tokenizer", "message", "words"),
    [
        ({"max_tokens": 99}, {}, "data.max_tokens was 175, the recipe says 99", "--set data.max_tokens=175"),
        (
            {"clean": ("lowercase",)}, {}, r"data.clean was \[\], the recipe says \['lowercase'\]",
            "--set 'data.clean=[]'",
        ),
        ({}, {"vocabulary": 99}, "tokenizer.vocabulary was 500, the recipe says 99", "--set tokenizer.vocabulary=500"),
        (
            {"deduplicate": True}, {"joiner": "@@"}, "data.deduplicate was False.*tokenizer.joiner was ''",
            "--set data.deduplicate=false --set 'tokenizer.joiner=\"\"'",
        ),
    ],
)  # fmt: skip
def test_other_settings_are_named(data: dict[str, Any], tokenizer: dict[str, Any], message: str, words: str) -> None:
    made(recipe_for(), bad_utf8="replace")
    with pytest.raises(DataError, match=message) as caught:
        open_prepared(recipe_for(data=data, **tokenizer), OUT)
    place = f"--data-dir {CORPUS} --bad-utf8 replace --out {OUT} --force"
    as_it_was, again_made = caught.value.hint.split("; or make it again: ")
    assert as_it_was.endswith(f" {words}")
    assert again_made == f"janus preprocess --recipe tiny {place}"
    again = recipe_load.load("iwslt14", [word for word in shlex.split(words) if word != "--set"])
    assert (again.data.clean, again.tokenizer.joiner) == ((), "")


def test_where_the_text_was_does_not_matter() -> None:
    made(recipe_for())
    os.utime(CORPUS / "train.de")  # it was only touched
    open_prepared(recipe_for(), OUT)
    open_prepared(recipe_for(None, data={"notes": "other"}), OUT)
    for file in list(CORPUS.iterdir()):  # compressed, it is the same text
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    open_prepared(recipe_for(), OUT)
    shutil.rmtree(CORPUS)
    open_prepared(recipe_for(None), OUT)
    OUT.rename(Path("moved"))
    open_prepared(recipe_for(None), Path("moved"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Opens the data in `out`, where files of this moment count as old; names of what it reads to the end."""
    recipe, names, check = recipe_for(), list[str](), Store._check
    monkeypatch.setattr(prepared, "SETTLED", -(10**12))
    monkeypatch.setattr(prepared, "sha256", lambda path: (names.append(path.name), sha256(path))[1])
    monkeypatch.setattr(Store, "_check", lambda store: (names.append(f"ids of {store.split}"), check(store))[1])
    prepare(recipe, OUT)

    def open_it() -> list[str]:
        names.clear()
        open_prepared(recipe, OUT, text=False)
        return names

    return open_it


def test_a_second_time_nothing_is_read_but_what_only_just_changed(
    reads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"train.source.npy", "ids of train", "valid.target.txt", "tokenizer.vocab.txt"}
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "SETTLED", 10**15)  # however slow the disk was
        for _ in range(2):
            assert set(reads()) >= everything
        patch.setattr(prepared, "SETTLED", -(10**12))
        patch.setattr(prepared, "write_json", lambda *_: Path("/").mkdir())  # a folder that only can be read
        for _ in range(2):
            assert set(reads()) >= everything
    assert set(reads()) >= everything
    assert reads() == []


@pytest.mark.parametrize("in_place", [True, False])
def test_what_changed_since_is_found_though_it_looks_alike(reads: Callable[[], list[str]], in_place: bool) -> None:
    reads()
    time.sleep(0.02)  # the file system's clock goes on
    file, other = OUT / "train.source.npy", Path("other")
    before, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # one id becomes another
    (file if in_place else other).write_bytes(data)
    if not in_place:
        other.replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"train\.source\.npy was changed"):
        reads()


@pytest.mark.parametrize("notes", ["[]", '{"train.source.npy": 1}', '{"train.source.npy": ["x", 1, 2, 3, 4]}'])
def test_notes_that_are_damaged_or_foreign_count_for_nothing(reads: Callable[[], list[str]], notes: str) -> None:
    (OUT / CHECKED).write_text(notes)
    assert "ids of train" in reads()


def test_data_that_is_older_than_a_knob_has_its_default() -> None:
    made(recipe_for())
    manifest = json.loads((OUT / "manifest.json").read_bytes())
    for knob in ("task", "max_source_tokens", "truncate_source"):
        del manifest["data"][knob]
    for split in manifest["splits"].values():
        for count in ("unknown", "round_trip", "long_sources"):
            split.pop(count, None)
    (OUT / "manifest.json").write_text(json.dumps(manifest))
    assert len(open_prepared(recipe_for(), OUT).train) == 60
    with pytest.raises(DataError, match=r"data\.truncate_source was False, the recipe says True"):
        open_prepared(recipe_for(data={"truncate_source": True}), OUT)
    assert survival.in_words(manifest) == {}
