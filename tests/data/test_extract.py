"""Which column of a table is the text to decode: the one asked for, the recipe's, or one with a usual name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from janus_cli.data.extract import check_source, source_lines
from janus_cli.errors import DataError
from janus_cli.recipe import Data

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("data", "column", "expected"),
    [
        (Data(), None, "of source"),
        (Data(source="de", target="en"), None, "of de"),
        (Data(source="de", target="en"), "other", "of other"),
        (Data(columns=("other", "de")), None, "of other"),
        (Data(columns=("other", "de")), "de", "of de"),
        (Data(clean=("remove_spaces",)), None, "ofsource"),
    ],
)
def test_the_column_of_the_source(data: Data, column: str | None, expected: str) -> None:
    row = {"source": "of source", "de": "of de", "other": "of other"}
    Path("t.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    Path("t.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("t.tsv", "t.jsonl"):
        text = source_lines(data, Path(name), column)
        assert list(text) == [expected]
        assert check_source(text).lines == 1


def test_a_column_by_number_means_that_there_is_no_header() -> None:
    Path("t.tsv").write_text("a\tb\nc\td\n")
    assert list(source_lines(Data(columns=(2, 1)), Path("t.tsv"))) == ["b", "d"]
    os.mkfifo("pipe.tsv")
    with pytest.raises(DataError, match="is a pipe"):
        check_source(source_lines(Data(), Path("pipe.tsv"), "1"))
    Path("none.tsv").touch()
    with pytest.raises(DataError, match=r"none\.tsv"):
        check_source(source_lines(Data(), Path("none.tsv"), "1"))
