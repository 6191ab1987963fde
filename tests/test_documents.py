"""One reader for all JSON that janus wrote: what is damaged or foreign is refused with its file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from janus_cli import documents
from janus_cli.documents import (
    CheckpointManifest,
    DecodedSplit,
    Document,
    HuggingFaceTokenizer,
    Lexicon,
    LogEntry,
    Manifest,
    RecordsHeader,
    State,
    TokenizerIndex,
    parse,
    parsed_line,
    read,
)
from janus_cli.errors import CheckpointError, DataError

STATE = {"source_vocabulary": 20, "target_vocabulary": 20, "step": 3}
SPLIT = {"kept": 1, "fingerprint": ""}
HEADER = {"format": 2, "files": [], "replace": [], "checkpoint": "last", "sha256": "0", "options": {}}
FAULTS: list[tuple[type[Document], Any, str]] = [
    (State, {**STATE, "step": "60"}, "step should be a valid integer, not '60'"),
    (State, {**STATE, "step": True}, "step should be a valid integer, not True"),
    (State, {**STATE, "batch": -7}, "batch should be greater than or equal to 0, not -7"),
    (State, {**STATE, "epoch": 2**60}, "epoch should be less than or equal to"),
    (State, {**STATE, "target_vocabulary": "x"}, "target_vocabulary should be a valid integer, not 'x'"),
    (State, {**STATE, "source_vocabulary": 2**31}, "source_vocabulary should be less than or equal to"),
    (State, {"step": 3}, "source_vocabulary is missing"),
    (State, {**STATE, "owed": "no"}, "owed should be a valid boolean, not 'no'"),
    (State, {**STATE, "metrics": {"bleu": "9"}}, "metrics.bleu should be a valid number, not '9'"),
    (CheckpointManifest, {"format": 1, "files": {"x": None}}, "files.x should be"),
    (Manifest, {"splits": {"train": {"kept": 1}}}, "splits.train.fingerprint is missing"),
    (Manifest, {"vocabulary": {"source": 9, "target": "9"}}, "vocabulary.target should be"),
    (Manifest, {"distilled": {"run": "x"}}, "distilled.checkpoint is missing"),
    (Manifest, {"splits": {"train": {**SPLIT, "in": []}}}, "splits.train.in should be a valid integer"),
    (Manifest, {"splits": {"train": {**SPLIT, "tokens": {"source": {"mean": "x"}}}}}, "splits.train.tokens.source"),
    (Manifest, {"prepared": 3}, "prepared should be a valid string, not 3"),
    (TokenizerIndex, {"kind": "words", "files": {"source": 1}}, "files.source should be a valid string"),
    (HuggingFaceTokenizer, {"special": [1]}, "special List should have at least 5 items"),
    (Lexicon, {"format": 1, "sha256": "", "translations": {"5": [-1]}}, "translations.5.0 should be"),
    (DecodedSplit, {"hypotheses": ["x"]}, "hypotheses should be a valid string"),
    (RecordsHeader, {**HEADER, "replace": [1]}, "replace.0 should be a valid boolean"),
    (LogEntry, {"kind": "train", "step": "3"}, "step should be a valid integer"),
    (State, [1], "it should be a valid dictionary"),
]


@pytest.mark.parametrize(("kind", "value", "words"), FAULTS)
def test_a_foreign_value_is_refused_with_its_key(tmp_path: Path, kind: type[Document], value: Any, words: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(value))
    with pytest.raises(CheckpointError) as caught:
        read(file, kind, CheckpointError)
    assert caught.value.message.startswith(f"{file} is damaged: {words}")
    assert parsed_line(file.read_bytes(), kind) == {}


DEEP = 200_000
BROKEN = {
    "empty": b"",
    "cut off": b'{"step": ',
    "no UTF-8": b'{"step": "\xff"}',
    "a number without end": b'{"step": ' + b"9" * 10_000 + b"}",
    "lists": b'{"more": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "objects": b'{"more": ' * DEEP + b"1" + b"}" * DEEP,
    "deep, but not for Python": b'{"more": ' + b"[" * 60 + b"]" * 60 + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_json_or_endless_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=r"x\.json is damaged: ") as caught:
        read(file, Manifest)
    assert len(caught.value.message) < 300 + len(str(file))


def test_a_file_larger_than_any_of_ours_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b" " * 200)
    monkeypatch.setattr(Manifest, "largest", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        read(file, Manifest)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nothing", Manifest)
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path, Manifest)


def test_what_is_right_comes_back_as_it_was() -> None:
    """Keys of other versions too, and names of files that are no text."""
    values = {**STATE, "best": None, "seconds": 3, "metrics": {"loss": float("inf")}, "later": {"a": [{"b": None}]}}
    assert parse(json.dumps(values).encode(), State) == values
    manifest = {"prepared": "data/\udcff", "from": None, "splits": {"train": {"kept": 1, "fingerprint": "x", "in": 2}}}
    assert parse(json.dumps(manifest).encode(), Manifest) == manifest
    assert parse(b"{}", Manifest) == {}
    assert documents.Document.largest == 16 << 20
