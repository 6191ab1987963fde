"""Reading text: what a line is, what is refused and where, cleaning."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import corpus
from janus_cli.data.cleaning import cleaner
from janus_cli.data.corpus import Side, Split, check, chunks, sample, survey
from janus_cli.data.encode import _lines
from janus_cli.errors import DataError
from janus_cli.recipe import Data

ODD = "a\u2028b\u0085c\x0bd\x0ce\x1cf\rg\0h"  # one line, whatever str.splitlines says


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines_of(path: Path) -> list[str]:
    """The file's lines as the encoder sees them."""
    side = check(path, "stop")
    return [line for chunk in chunks(Split("train", side, None)) for line in _lines(chunk.source)[0]]


@pytest.mark.parametrize("name", ["x.de", "x.de.gz"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),  # no final line end
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\n\na\n\n", ["", "", "a", ""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # a BOM only at the start
        (f"{ODD}\nz\n".encode(), [ODD, "z"]),
        (b"\0\n", ["\0"]),
        ("ä\n€\n😀\n".encode(), ["ä", "€", "😀"]),
    ],
)
def test_a_line_ends_at_the_newline_and_nowhere_else(
    tmp_path: Path, name: str, data: bytes, expected: list[str]
) -> None:
    path = put(tmp_path / name, data)
    assert lines_of(path) == expected
    assert check(path, "stop").lines == len(expected)


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), min_size=1))
def test_lines_come_back_whatever_they_hold(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    if lines[0].startswith("\ufeff"):
        lines[0] = "x"
    path = put(tmp_path_factory.mktemp("t") / "x", "".join(f"{line}\n" for line in lines).encode())
    assert lines_of(path) == [line.removesuffix("\r") for line in lines]


def test_a_bom_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(put(tmp_path / "plain", b"a\n"), "stop")
    assert capsys.readouterr().err == ""
    check(put(tmp_path / "marked", b"\xef\xbb\xbfa\n"), "stop")
    assert "marked: byte order mark removed" in capsys.readouterr().err


def test_sha256_and_size_are_those_of_the_file_on_disk(tmp_path: Path) -> None:
    side = check(put(tmp_path / "x", b"a\n"), "stop")
    assert side.sha256 == "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7"  # echo a | sha256sum
    assert side.bytes == 2


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"good\nbad \xff\n", ":2:5: byte 0xff"),
        (b"\x80", ":1:1: byte 0x80"),
        (b"caf\xc3\n", ":1:4: byte 0xc3"),  # a sequence that breaks off
        (b"caf\xc3", ":1:4: byte 0xc3"),  # at the end of the file
        (b"a\nb\n\xed\xa0\x80\n", ":3:1: byte 0xed"),  # a surrogate
        (b"x\n" * 700_000 + b"\xfe", ":700001:1: byte 0xfe"),  # beyond the first block
    ],
)
def test_invalid_utf8_is_refused_with_its_place(tmp_path: Path, data: bytes, place: str) -> None:
    path = put(tmp_path / "x.de", data)
    with pytest.raises(DataError) as caught:
        check(path, "stop")
    assert caught.value.message.startswith(f"{path}{place}")
    assert "--bad-utf8" in caught.value.hint


def test_a_character_across_two_blocks_is_fine(tmp_path: Path) -> None:
    path = put(tmp_path / "x", b"a" * (corpus.BLOCK - 1) + "€\n".encode())
    assert check(path, "stop").lines == 1


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_other_policies_leave_invalid_utf8_to_the_encoder(tmp_path: Path, policy: corpus.BadUtf8) -> None:
    assert check(put(tmp_path / "x", b"\xff\nb\n"), policy).lines == 2
    assert _lines(b"\xff a\r\nb\rc\n") == (["\ufffd a", "b\rc", ""], {0})


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("x", b"", "is empty"),
        ("x.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("x", b"\xef\xbb\xbf", "is empty"),
        ("x.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-9], "is damaged"),
        ("x.gz", b"a\n", "is damaged"),
        ("x.gz", gzip.compress(b"a\n" * 99, mtime=0)[:20] + b"\xff" * 20, "is damaged"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, data: bytes, word: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=word):
        check(path, "stop")


def test_no_line_may_be_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BLOCK", 8)
    monkeypatch.setattr(corpus, "LONGEST_LINE", 20)
    assert check(put(tmp_path / "x", b"aaa\n" + b"b" * 20 + b"\nc\n"), "stop").lines == 3
    with pytest.raises(DataError, match=r"x:2: this line is longer"):
        check(put(tmp_path / "x", b"aaa\n" + b"b" * 40 + b"\nc\n"), "stop")


def corpus_of(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        stem, _, suffix = name.partition("_")
        put(folder / f"{stem}.{suffix.replace('_', '.')}", data)
    return folder


ONE = {"train_src": b"a\n", "train_tgt": b"b\n", "valid_src": b"a\n", "valid_tgt": b"b\n"}


def test_plain_files_and_gz_and_a_test_split_without_references(tmp_path: Path) -> None:
    files = {"train_src_gz": b"a\n", "train_tgt": b"b\n", "valid_src": b"a\n", "valid_tgt": b"b\n", "test_src": b"\n"}
    splits = survey(Data(), corpus_of(tmp_path, **files), "stop")
    assert [(split.name, list(split.sides)) for split in splits] == [
        ("train", ["source", "target"]),
        ("valid", ["source", "target"]),
        ("test", ["source"]),
    ]
    assert splits[0].source.path.name == "train.src.gz"


def test_no_test_split_is_fine_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(survey(Data(), corpus_of(tmp_path, **ONE), "stop")) == 2
    assert "no test split" in capsys.readouterr().err


@pytest.mark.parametrize("absent", list(ONE))
def test_training_and_validation_need_both_sides(tmp_path: Path, absent: str) -> None:
    corpus_of(tmp_path, **{name: data for name, data in ONE.items() if name != absent})
    with pytest.raises(DataError, match=absent.replace("_", r"\.")) as caught:
        survey(Data(), tmp_path, "stop")
    assert "--data-dir" in caught.value.hint


LENGTHS = (3, 40, 9, 25, 60, 5, 33, 12, 48, 20, 7, 55, 15, 28, 4, 36, 50, 11)


@pytest.mark.parametrize("longer", ["src", "tgt"])
@pytest.mark.parametrize("extra", [0, 6, 12, len(LENGTHS)])
def test_unequal_line_counts_name_the_line_where_they_go_apart(tmp_path: Path, longer: str, extra: int) -> None:
    good = [b"x" * length for length in LENGTHS]
    odd = [*good[:extra], b"x" * 150, *good[extra:]]  # one line too many
    sides = {"src": good, "tgt": good, longer: odd}
    files = {f"train_{suffix}": b"".join(line + b"\n" for line in lines) for suffix, lines in sides.items()}
    with pytest.raises(DataError) as caught:
        survey(Data(), corpus_of(tmp_path, **{**ONE, **files}), "stop")
    message = caught.value.message.replace(f"{tmp_path}/", "")
    counts = ("19", "18") if longer == "src" else ("18", "19")
    assert message.startswith(f"train.src has {counts[0]} lines, train.tgt has {counts[1]};")
    assert message.endswith(f"go apart at line {extra + 1}")


@pytest.mark.parametrize(
    ("steps", "line", "expected"),
    [
        ((), " A  <b> ", " A  <b> "),
        (("strip_tags",), "<seg id=\"1\"> Hallo Welt </seg>", "Hallo Welt"),
        (("strip_tags",), "<title>Ein Titel</title>", "Ein Titel"),
        (("strip_tags",), "<url>http://example.org</url>", ""),
        (("strip_tags",), "<keywords>talks, art</keywords>", ""),
        (("strip_tags",), "<talkid>1</talkid>", ""),
        (("strip_tags",), "1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        (("strip_tags",), "<3 you", "<3 you"),
        (("unescape_html",), "Tom &amp; &quot;J&quot; &#10;x", 'Tom & "J"  x'),
        (("collapse_spaces",), "  a \t\u2028 b\u00a0 ", "a b"),
        (("lowercase",), "ÄÖ İ", "äö i\u0307"),
        (("nfc",), "a\u0308", "ä"),
        (("unescape_html", "strip_tags"), "&lt;b&gt;x", "x"),  # in this order
        (("strip_tags", "unescape_html"), "&lt;b&gt;x", "<b>x"),
    ],
)  # fmt: skip
def test_cleaning(steps: tuple[str, ...], line: str, expected: str) -> None:
    assert cleaner(steps)(line) == expected


@given(
    st.text(st.characters(exclude_characters="\n")) | st.sampled_from(["&#10;", "&NewLine;", "&#x0a;", "&#13;&#10;"])
)
def test_no_cleaning_makes_a_second_line(line: str) -> None:
    assert "\n" not in cleaner(("unescape_html", "strip_tags", "collapse_spaces", "lowercase", "nfc"))(line)


def test_the_sample_is_spread_evenly(tmp_path: Path) -> None:
    path = put(tmp_path / "x", b"".join(b"%d\n" % number for number in range(100)))
    side = check(path, "stop")
    assert [int(line) for line in sample(side, 4, str)] == [0, 25, 50, 75]
    assert [int(line) for line in sample(side, 3, str)] == [0, 34, 67]
    assert len(list(sample(side, 1000, str))) == 100


def test_the_sample_leaves_out_empty_and_broken_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "x", b"A\r\n\n\xff\nB")
    assert list(sample(Side(path, 4, 0, ""), 9, str.lower)) == ["a", "b"]


@pytest.mark.parametrize(("lines", "size"), [(2, 1 << 20), (100, 10)])
def test_chunks_are_bounded_by_lines_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, size: int
) -> None:
    monkeypatch.setattr(corpus, "CHUNK_LINES", lines)
    monkeypatch.setattr(corpus, "CHUNK_BYTES", size)
    source, target = (check(put(tmp_path / name, b"aaaa\nb\n\nd\ne"), "stop") for name in "xy")
    found = list(chunks(Split("train", source, target)))
    assert len(found) == 3
    assert b"\n".join(chunk.source for chunk in found) == b"aaaa\nb\n\nd\ne"
    assert sum(chunk.lines for chunk in found) == 5
