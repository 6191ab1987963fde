"""Parquet, Arrow and data sets on disk give the records that JSON lines with the same contents give."""

from __future__ import annotations

import errno
import gzip
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from janus_cli.data import columnar
from janus_cli.data.columnar import fields, records
from janus_cli.data.stored import digest, disk_size
from janus_cli.data.tables import Texts, kind_of, table_at
from janus_cli.errors import DataError, JanusError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("empty_folder")

RECORDS = [{"translation": {"de": f"wort {n}", "en": f"word {n}"}, "refs": ["a", str(n)], "id": n} for n in range(7)]


def save(path: Path, rows: Sequence[dict[str, Any]] = RECORDS, shards: int = 2) -> Path:
    """Writes records in the form that the suffix names; without one, as `save_to_disk` does."""
    table = pa.Table.from_pylist(list(rows))
    if path.suffix == ".gz":
        plain = save(path.with_suffix(""), rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=3)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, 3)
    else:
        path.mkdir(parents=True)
        names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
        for shard, name in enumerate(names):
            part = table.slice(shard * 4, 4)
            with pa.ipc.new_stream(path / name, part.schema) as writer:
                writer.write_table(part, 3)
        state = {"_data_files": [{"filename": name} for name in names], "_split": path.name}
        (path / "state.json").write_text(json.dumps(state))
    return path


KINDS = [("x.parquet", "Parquet"), ("x.parquet.gz", "Parquet"), ("x.arrow", "Arrow"), ("x.arrow.gz", "Arrow"),
         ("data", "data set")]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_form_gives_the_texts(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    monkeypatch.setattr(columnar, "ROWS", 2)
    path = save(Path(name))
    table = table_at(path)
    assert (table.kind, table.names) == (kind, ["translation.de", "translation.en", "refs", "id"])
    assert list(Texts(table, table.choose([["translation.de"], ["3"]]))) == [
        (n + 1, [f"wort {n}", ["a", str(n)]]) for n in range(7)
    ]
    assert list(records(path, ["id"])) == [{"id": n} for n in range(7)], "other columns are not read"
    for wanted in ("german", "translation", "translation.fr", "5"):
        with pytest.raises(DataError) as caught:
            table.choose([["refs"], [wanted]])
        listed = "1 'translation.de', 2 'translation.en', 3 'refs', 4 'id'"
        assert caught.value.message == f"{path} ({kind}) has no column {wanted!r}; its columns: {listed}"
    with pytest.raises(DataError, match=f'{path}:1 has no text under "id": 0'):
        list(Texts(table, ["id"]))


def test_the_first_bytes_come_before_the_suffix() -> None:
    for name, kind in KINDS[:-1]:
        assert kind_of(save(Path(name)).rename("x.csv")) == kind


def cut(path: Path) -> None:
    file = path if path.is_file() else path / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-60])


def select(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))


def reach_out(path: Path) -> None:
    shutil.copy(path / "data-00000-of-00002.arrow", "other.arrow")
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../other.arrow"}]}))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x.parquet", cut, "x.parquet is damaged"),
        ("x.arrow", cut, "x.arrow is damaged"),
        ("data", cut, "data-00001-of-00002.arrow cannot be read"),
        ("data", select, "was saved with a selection of its rows"),
        ("data", reach_out, "there is no file '../other.arrow'"),
        ("data", lambda path: (path / "data-00001-of-00002.arrow").unlink(), "there is no file 'data-00001"),
        ("data", lambda path: (path / "state.json").write_text("{}"), "state.json is damaged"),
    ],
)
def test_damage(name: str, change: Callable[[Path], object], message: str) -> None:
    path = save(Path(name))
    change(path)
    with pytest.raises(DataError) as caught:
        list(records(path, ["id"]))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_text_that_is_not_utf8_is_no_damage() -> None:
    bad = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"de": bad}), "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet has a text that is not UTF-8: .*; --bad-utf8 does nothing"):
        list(records(Path("x.parquet"), ["de"]))


def test_a_full_disk_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Path("x.parquet.gz"))

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(JanusError, match=re.escape(tempfile.gettempdir())) as caught:
        fields(path)
    assert caught.value.exit_code == 1


def test_only_the_files_that_a_data_set_names_are_its_rows_and_its_digest() -> None:
    path = save(Path("data"))
    before = digest(path), disk_size(path)
    save(Path("cache-0123.arrow")).rename(path / "cache-0123.arrow")
    assert (digest(path), disk_size(path)) == before
    assert [row["id"] for row in records(path, ["id"])] == list(range(7))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "_data_files": state["_data_files"][::-1]}))
    assert digest(path) != before[0]


def test_arrow_files_that_no_data_set_names_are_not_read() -> None:
    """As in the cache of Hugging Face: files of several splits in one folder."""
    for name in ("x-train.arrow", "x-test.arrow"):
        Path("cache").mkdir(exist_ok=True)
        save(Path("cache", name))
    with pytest.raises(DataError, match="cache is a folder, and no data set that save_to_disk wrote"):
        kind_of(Path("cache"))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"parquet": save(Path("x.parquet")), "hf": save(Path("data"))}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for extra, path in paths.items():
        with pytest.raises(UsageError, match="pyarrow is not installed") as caught:
            fields(path)
        assert f"[{extra}]" in caught.value.hint
