"""References, several a line."""

from pathlib import Path

import pytest

from janus_cli.scoring.inputs import read_references


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
