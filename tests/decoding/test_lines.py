"""Reading lines to decode, whatever the bytes."""

import gzip
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.decoding import lines
from janus_cli.decoding.lines import STDIN, Reader
from janus_cli.errors import DataError


def read(data: bytes) -> tuple[list[str], Reader]:
    reader = Reader(STDIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return list(reader), reader


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r", ["a", "b"]),
        (b"a\rb\r\r\n", ["a\rb\r"]),
        ("a\u2028b\x0bc\x0cd\x1ce\x85f\n\x00".encode(), ["a\u2028b\x0bc\x0cd\x1ce\x85f", "\x00"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
    ],
)
def test_only_line_feeds_end_lines(data: bytes, expected: list[str]) -> None:
    assert read(data)[0] == expected


def test_bad_bytes_are_replaced_and_lines_with_them_counted() -> None:
    found, reader = read(b"ok\n\xffx\xfe\n\xef\xbf\xbd\n\xc3")
    assert found == ["ok", "\ufffdx\ufffd", "\ufffd", "\ufffd"]
    assert reader.bad_utf8 == 2  # a U+FFFD that was there is text


@pytest.mark.parametrize("extra", [0, 1, 2, 3, 40, 77])
def test_of_a_long_line_the_start_is_read_and_the_next_line_is_its_own(
    monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 20)
    long = "a" * extra + "äöü€" * 9
    found, reader = read(f"{long}\nnext\n{long}".encode())
    start = long.encode()[:20].decode(errors="ignore")
    assert found == [start, "next", start]
    assert (reader.cut, reader.bad_utf8) == (2, 0)
    whole, reader = read(b"x" * 20 + b"\n" + b"y" * 20)
    assert (whole, reader.cut) == (["x" * 20, "y" * 20], 0)


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8))
def test_as_many_lines_as_there_are_line_feeds(parts: list[bytes]) -> None:
    data = b"".join(part + b"\n" for part in parts)
    assert len(read(data)[0]) == len(parts)


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\n\nb", "a\r\x0b\u2028b\nc", "long" * 9 + "\n" * 9 + "end"])
def test_lines_are_counted_where_that_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:  # fmt: skip
    monkeypatch.setattr(lines, "COUNT_BYTES", 7)
    reader = Reader(tmp_path / "text")
    reader.path.write_bytes(text.encode())
    assert reader.count() == len(list(reader))
    (tmp_path / "text.gz").write_bytes(gzip.compress(text.encode()))
    for other in (tmp_path / "text.gz", tmp_path, STDIN):
        assert Reader(other).count() is None


def test_files_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x\ny")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"x\ny"))
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"x\ny")[:-9])
    upper = Reader(tmp_path / "a", str.upper)
    assert list(upper) == ["X", "Y"]
    assert list(Reader(tmp_path / "b.gz")) == ["x", "y"]
    for bad in (tmp_path / "c.gz", tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(Reader(bad))
