"""The files of a corpus: which ones, whether they are aligned, sampled, in chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import put_file

from janus_cli.data import corpus
from janus_cli.data.corpus import Split, chunks, sample, survey
from janus_cli.data.lines import Lines, TextFile, check
from janus_cli.errors import DataError
from janus_cli.recipe import Data


def corpus_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        put_file(folder / name, data)
    return folder


ONE = {"train.src": b"a\n", "train.tgt": b"b\n", "valid.src": b"a\n", "valid.tgt": b"b\n"}


def test_plain_files_and_gz_and_a_test_split_without_references_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"train.src.gz": b"a\n", "train.tgt": b"b\n", "valid.src": b"a\n", "valid.tgt": b"b\n", "test.src": b"\n"}
    splits = survey(Data(), corpus_of(tmp_path, files), "stop")
    assert [(split.name, list(split.sides)) for split in splits] == [
        ("train", ["source", "target"]),
        ("valid", ["source", "target"]),
        ("test", ["source"]),
    ]
    assert splits[0].sides["source"].path.name == "train.src.gz"
    (tmp_path / "test.src").unlink()
    capsys.readouterr()
    assert len(survey(Data(), tmp_path, "stop")) == 2
    assert "no test split" in capsys.readouterr().err


@pytest.mark.parametrize("absent", list(ONE))
def test_training_and_validation_need_both_sides(tmp_path: Path, absent: str) -> None:
    corpus_of(tmp_path, {name: data for name, data in ONE.items() if name != absent})
    with pytest.raises(DataError, match=absent) as caught:
        survey(Data(), tmp_path, "stop")
    assert "--data-dir" in caught.value.hint


LENGTHS = (3, 40, 9, 25, 60, 5, 33, 12, 48, 20, 7, 55, 15, 28, 4, 36, 50, 11) * 3


@pytest.mark.parametrize("longer", ["src", "tgt"])
@pytest.mark.parametrize("extra", [0, 6, 12, len(LENGTHS)])
def test_unequal_line_counts_name_the_line_where_they_go_apart(tmp_path: Path, longer: str, extra: int) -> None:
    sides = {suffix: [b"x" * (length // part) for length in LENGTHS] for suffix, part in (("src", 1), ("tgt", 3))}
    sides[longer].insert(extra, b"x" * 150)  # one line too many
    files = {f"train.{suffix}": b"".join(line + b"\n" for line in lines) for suffix, lines in sides.items()}
    with pytest.raises(DataError) as caught:
        survey(Data(), corpus_of(tmp_path, ONE | files), "stop")
    message = caught.value.message.replace(f"{tmp_path}/", "")
    counts = ("55", "54") if longer == "src" else ("54", "55")
    assert message.startswith(f"train.src has {counts[0]} lines, train.tgt has {counts[1]} lines;")
    assert message.endswith(f" at line {extra + 1}" if extra < len(LENGTHS) else "only the last lines are missing")


def test_the_sample_is_spread_evenly_without_empty_and_broken_lines(tmp_path: Path) -> None:
    side = check(Lines(put_file(tmp_path / "x", b"".join(b"%d\n" % number for number in range(100)))))
    assert [int(line) for line in sample(side, 4, str)] == [0, 25, 50, 75]
    assert [int(line) for line in sample(side, 3, str)] == [0, 34, 67]
    assert len(list(sample(side, 1000, str))) == 100
    path = put_file(tmp_path / "x", b"A\r\n\n\xff\nB")
    assert list(sample(TextFile(path, 4, 0, ""), 9, str.lower)) == ["a", "b"]


@pytest.mark.parametrize(("lines", "size", "at_once"), [(2, 1 << 20, 1), (2, 1 << 20, 2), (100, 10, 1)])
def test_chunks_are_bounded_by_lines_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, size: int, at_once: int
) -> None:
    monkeypatch.setattr(corpus, "CHUNK_LINES", lines)
    monkeypatch.setattr(corpus, "CHUNK_BYTES", size)
    monkeypatch.setattr(corpus, "AT_ONCE", at_once)
    source, target = (check(Lines(put_file(tmp_path / name, b"aaaa\nb\n\nd\ne"))) for name in "xy")
    found = list(chunks(Split("train", {"source": source, "target": target})))
    assert len(found) == 3
    assert [b"".join(chunk[side] for chunk in found) for side in (0, 1)] == [b"aaaa\nb\n\nd\ne"] * 2
    assert all(first == second for first, second in found)
