"""Reading text: what a line is, what is refused and where, cleaning."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpus import put_file

from janus_cli.data import lines as module
from janus_cli.data.corpus import Split, chunks
from janus_cli.data.encode import _texts
from janus_cli.data.lines import STDIN, Lines, check, cleaner
from janus_cli.errors import DataError

ODD = "a\u2028b\u0085c\x0bd\x0ce\x1cf\rg\0h"  # one line, whatever str.splitlines says
TEXTS: list[tuple[bytes, list[str]]] = [
    (b"\n", [""]),
    (b"a\nb\n", ["a", "b"]),
    (b"a\nb", ["a", "b"]),  # no final line end
    (b"a\r\nb\r", ["a", "b"]),
    (b"a\rb\r\r\n", ["a\rb\r"]),
    (b"\n\na\n\n", ["", "", "a", ""]),
    (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # a BOM only at the start
    (f"{ODD}\nz\n\x00".encode(), [ODD, "z", "\0"]),
    ("ä\n€\n😀\n".encode(), ["ä", "€", "😀"]),
]


def from_stdin(data: bytes) -> tuple[list[str], Lines]:
    text = Lines(STDIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return list(text), text


def strictly(path: Path, *, keep_bytes: bool = False) -> Lines:
    return Lines(path, strict=True, keep_bytes=keep_bytes)


def every_reading(path: Path) -> list[list[str]]:
    """The lines as the encoder sees them, as `score` reads them, and as `decode` does, from a file and from stdin."""
    chunked = chunks(Split("train", {"source": check(strictly(path))}))
    encoded = [line for (source,) in chunked for line in _texts(source, set())]
    data = path.read_bytes()
    data = gzip.decompress(data) if data.startswith(module.GZIP) else data
    return [encoded, list(strictly(path)), list(Lines(path)), from_stdin(data)[0]]


@pytest.mark.parametrize(("data", "expected"), TEXTS)
def test_a_line_ends_at_the_newline_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[str]
) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    path = put_file(tmp_path / "x.de", data)
    assert every_reading(path) == [expected] * 4
    assert check(strictly(path)).lines == Lines(path).count() == len(expected)
    assert list(Lines(path, str.upper)) == [line.upper() for line in expected]
    assert Lines(STDIN).count() is None


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), min_size=1))
def test_lines_come_back_whatever_they_hold(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    if lines[0].startswith("\ufeff"):
        lines[0] = "x"
    path = put_file(tmp_path_factory.mktemp("t") / "x", "".join(f"{line}\n" for line in lines).encode())
    assert every_reading(path) == [[line.removesuffix("\r") for line in lines]] * 4


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8))
def test_as_many_lines_as_there_are_line_feeds(lines: list[bytes]) -> None:
    """After a first line that is text: other beginnings are refused as what they are."""
    text = [b"x" * 1000, *lines]
    assert len(from_stdin(b"".join(line + b"\n" for line in text))[0]) == len(text)


def test_bad_bytes_are_replaced_and_lines_with_them_counted() -> None:
    found, text = from_stdin(b"ok\n\xffx\xfe\n\xef\xbf\xbd\n\xc3")
    assert found == ["ok", "\ufffdx\ufffd", "\ufffd", "\ufffd"]
    assert text.bad_utf8 == 2  # a U+FFFD that was there is text
    bad: set[int] = set()
    assert _texts(b"\xff a\r\nb\rc\n\xef\xbf\xbd\n\r", bad) == ["\ufffd a", "b\rc", "\ufffd", ""]
    assert bad == {0}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("extra", [0, 1, 2, 3, 40, 77])
def test_of_a_long_line_the_start_is_read_and_the_next_line_is_its_own(
    monkeypatch: pytest.MonkeyPatch, extra: int, bom: bytes
) -> None:
    monkeypatch.setattr(module, "READ_OF_A_LINE", 20)
    long = "a" * extra + "äöü€" * 9
    found, text = from_stdin(bom + f"{long}\nnext\n{long}".encode())
    start = long.encode()[:20].decode(errors="ignore")
    assert found == [start, "next", start]
    assert (text.cut, text.bad_utf8) == (2, 0)
    for size, cut in ((17, 0), (20, 0), (21, 2)):
        found, text = from_stdin(bom + b"x" * size + b"\n" + b"y" * size)
        assert (found, text.cut) == (["x" * min(size, 20), "y" * min(size, 20)], cut)


def test_a_bom_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("plain", b"a\n"), ("marked", b"\xef\xbb\xbfa\n")):
        list(Lines(put_file(tmp_path / name, data)))
    assert capsys.readouterr().err == f"{tmp_path}/marked: byte order mark removed\n"


def test_sha256_and_size_are_those_of_the_file_on_disk_and_bad_utf8_may_be_left_to_the_encoder(tmp_path: Path) -> None:
    file = check(Lines(put_file(tmp_path / "x", b"a\n")))
    assert file.sha256 == "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7"  # echo a | sha256sum
    assert file.bytes == 2
    assert check(strictly(put_file(tmp_path / "x", b"\xff\nb\n"), keep_bytes=True)).lines == 2


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"good\nbad \xff\n", ":2:5: byte 0xff"),
        (b"\xef\xbb\xbfa\xff\n", ":1:2: byte 0xff"),
        (b"caf\xc3\n", ":1:4: byte 0xc3"),  # a sequence that breaks off
        (b"caf\xc3", ":1:4: byte 0xc3"),  # at the end of the file
        (b"a\nb\n\xed\xa0\x80\n", ":3:1: byte 0xed"),  # a surrogate
        (b"a\n\xe2\x82\xac\xe2\x82\n", ":2:4: byte 0xe2"),
    ],
)
def test_invalid_utf8_is_refused_with_its_place(tmp_path: Path, data: bytes, place: str) -> None:
    path = put_file(tmp_path / "x.de", data)
    with pytest.raises(DataError) as caught:
        check(strictly(path))
    assert caught.value.message.startswith(f"{path}{place}")
    assert "--bad-utf8" in caught.value.hint


def test_line_ends_of_old_macs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data, told in ((b"a\rb\rc\r", True), (b"a\rb\rc", True), (b"a\r", False), (b"a\rb\rc\n", False)):
        assert len(list(Lines(put_file(tmp_path / "x.de", data)))) == 1
        assert ("x.de" in (err := capsys.readouterr().err) and "carriage return" in err) == told


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"%PDF-1.7\n", "PDF"), (b"PK\3\4\n", "ZIP"), (b"\x7fELF" + bytes(60), "program"), (b"ab\0\0\0c\0\0", "no text")],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, kind: str) -> None:
    path = put_file(tmp_path / "x.de", data)
    for text in (Lines(path), strictly(path)):
        with pytest.raises(DataError, match=kind) as caught:
            list(text)
        assert "UTF-16" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "program"), [(b"\xfd7zXZ\0\0", "xz"), (b"\x28\xb5\x2f\xfd\0", "zstd"), (b"BZh91AY&SY\xf8", "bzip2")]
)
def test_what_another_program_packed_is_unpacked_by_it(tmp_path: Path, data: bytes, program: str) -> None:
    with pytest.raises(DataError) as caught:
        list(strictly(put_file(tmp_path / "x.de", data)))
    assert f"{program} -dc " in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_of_a_script_without_ascii_is_named(tmp_path: Path, encoding: str) -> None:
    path = put_file(tmp_path / "x.th", ("ร้านอาหาร\n" * 9).encode(encoding))
    with pytest.raises(DataError, match="is UTF-16") as caught:
        list(strictly(path))
    assert encoding.upper().replace("-LE", "LE").replace("-BE", "BE") in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("strict", [True, False])
def test_utf16_is_named(tmp_path: Path, encoding: str, strict: bool) -> None:
    text = "guten Tag\nzwei\n"
    path = put_file(tmp_path / "x.de", text.encode(encoding))
    with pytest.raises(DataError, match="UTF-16") as caught:
        list(Lines(path, strict=strict))
    given = caught.value.hint.partition("-f ")[2].split()[0]
    assert path.read_bytes().decode(given) == text


def test_a_few_nuls_are_text(tmp_path: Path) -> None:
    for text in (b"a\0b\n\0\n", b"hello\0\nworld\n", b"hell\0\nworld\n", b"anna\n\0bc\n"):
        assert list(strictly(put_file(tmp_path / "x", text))) == text.decode().split("\n")[:-1]
    assert len(list(Lines(put_file(tmp_path / "y", b"BZhukov\nAnna\n")))) == 2


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x", b"", "is empty"),
        ("x.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("x", b"\xef\xbb\xbf", "is empty"),
        ("x.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-9], "cannot be read"),
        ("x.gz", gzip.compress(b"a\n" * 99, mtime=0)[:20] + b"\xff" * 20, "cannot be read"),
        ("x", None, "does not exist"),
        (".", None, "cannot be read: Is a directory"),
        ("x", gzip.compress(gzip.compress(b"a\n", mtime=0), mtime=0), "x is compressed"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    for read in (check, list) if words != "is empty" else (check,):
        with pytest.raises(DataError, match=words):
            read(Lines(path))


@pytest.mark.parametrize("data", [b"a\n\nb", b"\xef\xbb\xbfa\n\nb\r\n"])
def test_gzipped_text_is_known_by_its_first_bytes(tmp_path: Path, data: bytes) -> None:
    for name in ("plain", "plain.gz", "plain.GZ"):
        (tmp_path / name).write_bytes(data)
    for name in ("packed", "packed.txt", "packed.GZ"):
        (tmp_path / name).write_bytes(gzip.compress(data))
    for path in tmp_path.iterdir():
        assert every_reading(path)[:3] == [["a", "", "b"]] * 3
        assert Lines(path).count() == (3 if path.name.startswith("plain") else None)


def test_compressed_data_on_stdin_is_refused() -> None:
    with pytest.raises(DataError, match="stdin is compressed") as caught:
        from_stdin(gzip.compress(b"a\n"))
    assert "gunzip" in caught.value.hint


def test_what_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDLESS_LINE", 1 << 24)
    for text in (Lines(Path("/dev/zero")), strictly(Path("/dev/zero"))):
        with pytest.raises(DataError, match="/dev/zero:1: this line is longer than"):
            list(text)


def test_a_pipe_is_said_to_be_waited_for_and_refused_where_it_would_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe, STDIN):
        with pytest.raises(DataError, match="is a pipe or a device"):
            check(Lines(path))
    assert capsys.readouterr().err == ""
    threading.Thread(target=pipe.write_text, args=("a\n",), daemon=True).start()
    assert list(Lines(pipe)) == ["a"]
    assert "pipe is a pipe: waiting" in capsys.readouterr().err


def test_no_line_may_be_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "LONGEST_LINE", 20)
    path = put_file(tmp_path / "x", b"aaa\n" + b"b" * 20 + b"\nc\n")
    assert check(strictly(path)).lines == 3
    path = put_file(tmp_path / "x", b"aaa\n" + b"b" * 40 + b"\nc\n")
    with pytest.raises(DataError, match="x:2: this line is longer"):
        check(strictly(path))


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
        (("remove_spaces",), " ф а\u00a0л\tь я", "фалья"),
        (("mark_sentences",), "a . <S_SEP> b . <S_SEP> c", "a . ¶ b . ¶ c"),
        (("unescape_html", "strip_tags"), "&lt;b&gt;x", "x"),  # in this order
        (("strip_tags", "unescape_html"), "&lt;b&gt;x", "<b>x"),
    ],
)  # fmt: skip
def test_cleaning(steps: Sequence[str], line: str, expected: str) -> None:
    assert cleaner(steps)(line) == expected


@given(
    st.text(st.characters(exclude_characters="\n")) | st.sampled_from(["&#10;", "&NewLine;", "&#x0a;", "&#13;&#10;"])
)
def test_no_cleaning_makes_a_second_line(line: str) -> None:
    assert "\n" not in cleaner(("unescape_html", "strip_tags", "collapse_spaces", "lowercase", "nfc"))(line)
