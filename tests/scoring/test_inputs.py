"""What is read from a file, line by line."""

import gzip
from pathlib import Path

import pytest

from janus_cli.scoring.inputs import read_hypotheses, read_references


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\rc\n", ["a", "b\rc"]),  # only the \r of a line end goes
        ("\ufeffa\u2028b\x85c\x0b\x0c\x1c\0 \n".encode(), ["a\u2028b\x85c\x0b\x0c\x1c\0 "]),
        ("a\n\ufeffb\n".encode(), ["a", "\ufeffb"]),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    plain, packed = tmp_path / "h.txt", tmp_path / "h.txt.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    for path in (plain, packed):
        assert read_hypotheses(path) == lines
        assert read_references(path) == [lines]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a\tb\nc\td\n", [["a", "c"], ["b", "d"]]),
        ("a\nc\td\te\n", [["a", "c"], [None, "d"], [None, "e"]]),
        ("a\t\t\n\t\tb\n", [["a", "b"]]),  # empty cells are no references
        ("\n\t\na\tb\n", [["", "", "a"], [None, None, "b"]]),  # a line without any has the empty text
        ("", [[]]),
    ],
)
def test_several_references_a_line(tmp_path: Path, content: str, columns: list[list[str | None]]) -> None:
    path = tmp_path / "refs.tsv"
    path.write_text(content)
    assert read_references(path) == columns
