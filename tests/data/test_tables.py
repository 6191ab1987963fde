"""Tables and references: what a file is taken for, the texts of its columns, and what is said of mistakes."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpus import put_file

from janus_cli.data.extract import source_lines
from janus_cli.data.lines import STDIN, check
from janus_cli.data.references import references
from janus_cli.data.tables import Cell, Table, Texts, find_table, kind_of, table_at
from janus_cli.errors import DataError
from janus_cli.recipe import Data

pytestmark = pytest.mark.usefixtures("empty_folder")
Names = tuple[str, ...]


def put(name: str, text: str | bytes) -> Path:
    return put_file(Path(name), text)


def texts(path: Path, *columns: str) -> list[list[Cell]]:
    table = table_at(path)
    return [cells for _, cells in Texts(table, table.choose([[name] for name in columns]))]


OBJECTS = '{"a": "x", "b": ["y", "z"]}\n\n{"a": "", "b": null}\n'


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x.TSV", "a\n", "TSV"),
        ("x.Csv.GZ", "a\n", "CSV"),
        ("x.jsonl.gz", "\n", "JSON lines"),
        ("x.ndjson", "\n", "JSON lines"),
        ("x.json", "\n", "JSON lines"),
        # Without a suffix that says it, the lines decide.
        ("x.txt", OBJECTS, "JSON lines"),
        ("wd_64", "name\tn a m e\t1\nother\to t h e r\t2\n", "TSV"),
        ("wd_64", "de;en\na;b\n", "CSV"),
        ("x.de.gz", "a line\nanother, longer line\n", "text"),
        ("x", "a\tb\nc\n", "text"),
        ("x", "", "text"),
        ("x", '{"a": 1}\n[]\n', "text"),
    ],
)
def test_what_a_file_is_taken_for(name: str, text: str, kind: str) -> None:
    path = put(name, text)
    if kind == "text":
        with pytest.raises(DataError, match=f"{name} is no table"):
            table_at(path)
    else:
        assert table_at(path).kind == kind
    if name in ("x.txt", "wd_64"):
        assert kind_of(path) == "text"


@pytest.mark.parametrize(
    ("text", "keys", "found"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', ("a",), True),
        ('{"a": 1}\n{"b": 2}\n', ("a",), False),  # as the input of a data-to-text task
        ('{"a": 1}\n{"b": 2}\n', ("a", "b"), True),
        ('{"a": 1}\n{\n', ("a",), False),
        ('{"a": 1}\n["a"]\n', ("a",), False),
        ('{"a": 1}\n' * 20 + '{"a": \n', ("a",), True),  # the first lines decide; reading names the damaged one
        ("\n\n", ("a",), False),
        ("a\tb\n", ("a",), False),
        ("{" + '"a":{' * 100_000, ("a",), False),
        ('{"a": "' + "x" * (1 << 22), ("a",), False),
    ],
)
def test_of_text_only_objects_with_one_of_our_keys_are_a_table(text: str, keys: Names, found: bool) -> None:
    assert (find_table(put("x.txt", text), keys) is not None) == found


@pytest.mark.parametrize(
    ("name", "text", "columns", "expected"),
    [
        ("x.tsv", "de\ten\tn\na\tb\t1\n\tc\t2\n", "de en", [["a", "b"], ["", "c"]]),
        ("x.tsv", "de\ten\na\tb\n", "en 1", [["b", "a"]]),  # one name: there is a header
        ("x.tsv", "de\ten\na\tb\n", "2 1", [["en", "de"], ["b", "a"]]),
        ("x.tsv", "De\ten\na\tb\n", "DE", [["a"]]),
        ("x.tsv", "DE\tde\na\tb\n", "de", [["b"]]),
        ("x.tsv", '"a"\tb\n', "1", [['"a"']]),
        ("x.tsv", "de\ten\na\tb\n\n\n", "de en", [["a", "b"]]),
        ("x.tsv", "de\na\n\nb\n\n", "de", [["a"], [""], ["b"], [""]]),  # a single column: blank lines are texts
        ("x.csv", "de\na\n\nb\n\n", "de", [["a"], [""], ["b"], [""]]),
        ("x.csv", "de,en\r\na,b\r\n", "de en", [["a", "b"]]),
        ("x.csv", "de;en\nja, gut;yes, good\nnein;no\n", "de en", [["ja, gut", "yes, good"], ["nein", "no"]]),
        ("x.csv", "de\ten\na, b\tc\n", "de en", [["a, b", "c"]]),
        ("x.csv", "de;x;y,en\na;b;c,d\n", "2", [["en"], ["d"]]),  # of two that fit, the comma
        ("x.csv", 'de,en\n"a, ""b""","c\nd"\n\ne,f\n', "de en", [['a, "b"', "c d"], ["e", "f"]]),
        # Letters split these lines evenly, too: a sniffer takes one of them.
        ("x.csv", "de,en\nEVERY day,EVERYONE\nEVERY man,EVERYWHERE\n", "de", [["EVERY day"], ["EVERY man"]]),
        # Rows that begin among the lines that decide, and end behind them.
        ("x.csv", "de;en\n" + "a;b\n" * 18 + '"c\n' + "\n" * 9 + 'd";e\n', "en", [["b"]] * 18 + [["e"]]),
        ("x.csv", '"a\n' + "\n" * 30 + 'b",c\n', "2", [["c"]]),
        ("x.jsonl", OBJECTS, "a b", [["x", ["y", "z"]], ["", ""]]),
        ("x.jsonl", OBJECTS, "2 a", [[["y", "z"], "x"], ["", ""]]),
        ("x.jsonl", '{"t": {"de": "a"}, "t.x": "b"}\n{"t": null, "t.x": ""}\n', "t.de t.x", [["a", "b"], ["", ""]]),
        ("x.jsonl", '{"t": null}\n{"t": {"de": "a"}}\n', "t.de", [[""], ["a"]]),
        # Later than the lines that decide; of those, empty ones do not count.
        ("x.jsonl", '{"t": null}\n' * 20 + '{"t": {"de": "a"}}\n', "t.de", [[""]] * 20 + [["a"]]),
        ("x.jsonl", "\n" * 20 + '{"a": "x"}\n', "1", [["x"]]),
        ("x.jsonl", '{"a": "b\\r\\nc\\nd"}\n', "a", [["b c d"]]),
    ],
)
def test_the_texts_of_columns(name: str, text: str, columns: str, expected: list[list[Cell]]) -> None:
    assert texts(put(name, text), *columns.split()) == expected


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), min_size=2,
                         max_size=2), min_size=1))  # fmt: skip
def test_what_the_csv_module_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("t") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["de", "en"], *rows])
    assert texts(path, "de", "en") == [[cell.replace("\n", " ") for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("x.tsv", "de\ten\na\tb\n", "de fr", "x.tsv (TSV) has no column 'fr'; its columns: 1 'de', 2 'en'"),
        ("x.tsv", f"a\tb\t{'c' * 50}\n", "x y", f"no column 'x' or 'y'; its columns: 1 'a', 2 'b', 3 '{'c' * 40}…'"),
        ("x.tsv", "de\tde\na\tb\n", "de", "x.tsv (TSV) has several columns 'de'"),
        ("x.tsv", "a\tb\n", "3", "has no column '3'"),
        ("x.csv", "0,1\na,b\n", "0 1", "x.csv (CSV) has no column '0'; its columns: 1 '0', 2 '1'"),
        ("x.tsv", "", "1", "has no column '1'; its columns: none"),
        ("x.jsonl", '{"a": "", "n": {"x": 1}}\n', "n", "(JSON lines) has no column 'n'; its columns: 1 'a', 2 'n.x'"),
        ("x.jsonl", OBJECTS, "3", "has no column '3'; its columns: 1 'a', 2 'b'"),
        ("x.tsv", "a\tb\nc\td\ne\tf\tg\n", "1", "x.tsv:3 has 3 columns, line 1 has 2"),
        ("x.tsv", "de\ten\n\na\tb\n", "de", "x.tsv:2 has 1 column, line 1 has 2"),
        ("x.tsv", "a\tb\nc\nd\te\nf\ng\th\ti\n\n", "1", "2 rows after it, too, do not fit: 4, 5"),
        ("x.csv", 'de,en\n"a\nb",c\nd,e, f\n', "de", "x.csv:4 has 3 columns, line 1 has 2"),
        ("x.csv", 'de,en\na,b\n"c,d\ne,f\n', "de", "x.csv:3: the row that begins here is no CSV"),
        ("x.tsv", b"a\tb\nc\t\xff\n", "1", "x.tsv:2:3: byte 0xff is not UTF-8"),
        ("x.csv", "\ufeffde,en\n".encode("utf-16-le"), "de", "x.csv is UTF-16, not UTF-8"),
        ("x.jsonl", '{"a": "x"}\n\n{"b": "x"}\n', "a", "x.jsonl:3 has no text under \"a\"; its columns: 1 'b'"),
        ("x.jsonl", '{"a": {"b": ""}}\n{"a": {"c": ""}}\n', "a.b", 'x.jsonl:2 has no text under "a.b"'),
        ("x.jsonl", '{"a": 5}\n', "a", 'x.jsonl:1 has no text under "a": 5'),
        ("x.jsonl", '{"a": ["x", 5]}\n', "a", 'x.jsonl:1 has no text under "a": 5'),
        ("x.jsonl", '{"a": "x"}\n{\n', "a", "x.jsonl:2 is not JSON"),
        ("x.jsonl", '{"a": "x"}\n"y"\n', "a", "x.jsonl:2 is not JSON, or no object"),
        ("x.jsonl", '{"a": ' + "[" * 100_000, "a", "x.jsonl:1 is not JSON"),
        ("x.jsonl", '{"a": "\\ud83d"}\n', "a", 'x.jsonl:1: half of a surrogate pair under "a"'),
        ("y.jsonl.gz", '\ufeff\n [\n{"a": 1}\n]', "a", "y.jsonl.gz is a JSON array"),
        ("x.parquet", "text\n", "a", "x.parquet is no Parquet file"),
        ("x.feather.gz", "text\n", "a", "x.feather.gz is no Arrow file"),
    ],
)  # fmt: skip
def test_a_mistake_says_file_line_and_column(name: str, text: str | bytes, columns: str, message: str) -> None:
    path = put(name, text)
    with pytest.raises(DataError) as caught:
        texts(path, *columns.split())
    assert message in caught.value.message
    if "array" in message:
        assert caught.value.hint == "convert it: gzip -cdf y.jsonl.gz | jq -c '.[]' > y.lines.jsonl"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("n\tde\ten", ["de", "en"]),
        ("n\ttranslation.en\tSource", ["Source", "translation.en"]),
        ("source\ttarget\tde\ten", ["de", "en"]),
        ("de\ten1\tEN_2", ["de", "en1", "EN_2"]),
        ("English\tGerman", ["1", "2"]),  # two columns with none of the names: no header
        ("German\tde", None),
        ("English\tGerman\tFrench", None),
    ],
)
def test_usual_names_are_found(header: str, found: list[str] | None) -> None:
    table, usual = table_at(put("x.tsv", header)), [["de", "source"], ["en", "translation.en", "target"]]
    if found is None:
        with pytest.raises(DataError, match="has no column") as caught:
            table.choose(usual, "THE HINT", in_order=True, several=True)
        assert caught.value.hint == "THE HINT"
    else:
        assert table.choose(usual, in_order=True, several=True) == found


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
    for path in (
        put("t.tsv", "source\tde\tother\nof source\tof de\tof other\n"),
        put("t.jsonl", '{"source": "of source", "de": "of de", "other": "of other"}\n'),
    ):
        text = source_lines(data, path, column)
        assert list(text) == list(text) == [expected]
        assert check(text).lines == 1
    with pytest.raises(DataError, match="no text under"):
        list(source_lines(data, put("t.jsonl", '{"source": [""], "de": [""], "other": [""]}\n'), column))


def test_bytes_that_are_not_utf8_may_stay() -> None:
    ((_, row),) = Texts(table_at(put("x.tsv", b"a\tb\xff\n")), ["1", "2"], keep_bytes=True)
    assert [str(cell).encode(errors="surrogateescape") for cell in row] == [b"a", b"b\xff"]


def test_a_table_on_stdin_is_known_by_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ('{"De": "a"}\n{"De": "b"}\n', "en\tDe\nx\ta\ny\tb\n", "en;De\nx;a\ny;b\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert list(source_lines(Data(), STDIN, "de")) == ["a", "b"]


# --- references ---


@pytest.mark.parametrize(
    ("name", "text", "columns", "expected"),
    [
        ("r.txt", "a\n\nb\n", (), [["a"], [""], ["b"]]),
        ("r.txt", '{"text": "a"}\n["a", 1]\n', (), [['{"text": "a"}'], ['["a", 1]']]),
        ("refs.tsv", "a\tb\nc\n\t\td\t\n\n", (), [["a", "b"], ["c"], ["d"], [""]]),
        ("refs.tsv", "", (), []),
        ("r.tsv", "id\treference1\tReference_2\n1\ta\tb\n", (), [["a", "b"]]),
        ("r.csv", "id,target,ref 1,ref 2\n1,z,a,\n", (), [["a"]]),
        ("r.csv", "id,target\n1,a\n", (), [["a"]]),
        ("r.txt", "id,x,y\n1,a,b\n2,,\n", ("y", "x"), [["b", "a"], [""]]),
        ("r.txt", '{"text": "a"}\n', ("text",), [["a"]]),
        ("r.txt", '{"references": ["a", "b"], "id": 1}\n{"references": []}\n', (), [["a", "b"], [""]]),
        ("r.txt", '{"reference": "a"}\n', (), [["a"]]),
        ("r.refs.jsonl", '["a", "b"]\n\n["c"]\n[]\n', (), [["a", "b"], ["c"], [""]]),
    ],
)
def test_references(name: str, text: str, columns: Names, expected: list[list[str]]) -> None:
    assert list(references(put(name, text), columns)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.jsonl", '["a"]\n\nb\n', "r.jsonl:3 is no JSON list of texts"),
        ("r.jsonl", '["a", null]\n', "r.jsonl:1 is no JSON list of texts"),
        ("r.jsonl", '[{"reference": "a"}]\n', "r.jsonl is a JSON array"),
        ("r.jsonl", '[\n"a"\n]\n', "r.jsonl is a JSON array"),
        ("r.csv", "id,x\n1,a\n", r"r.csv \(CSV\) has no column of references; its columns: 1 'id', 2 'x'"),
    ],
)
def test_references_that_are_none_are_named(name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(references(put(name, text)))


# --- what is said ---


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.txt", "a\n", ""),
        ("r.txt", "a\tb\nc\td\n", "warning: r.txt: every line has a tab"),
        ("r.txt", '{"reference": "a"}', "r.txt: JSON lines; column reference\n"),
        ("r.csv", "reference\n", "r.csv: CSV with commas; column reference\n"),
        ("r.csv", "\ufeffid;reference\r\n1;a\r\n", "r.csv: CSV with semicolons; column reference\n"),
        ("refs.tsv", "a\tb\n", "refs.tsv: TSV, no header; every column holds references\n"),
        ("r.jsonl", '["a"]\n', "r.jsonl: a JSON list of references a line\n"),
        ("r.jsonl", '{"reference": "a\\nb"}\n', "r.jsonl: line ends inside 1 text became spaces\n"),
        ("r.tsv", 'reference\n"so ""ist"" es"\n"a ""b"" c"\n"d"\n', 'r.tsv: 2 texts in quotes, with "" inside'),
    ],
)
def test_what_a_file_was_taken_for_is_said_once(
    capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    list(references(put(name, text)))
    err = capsys.readouterr().err
    assert err.count(said) == 1 if said else err == ""
    assert err.count("byte order mark") == ("\ufeff" in text)


def test_a_first_row_that_is_taken_for_text_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Table(Path("x.tsv"), "TSV", ["English", "German"]).tell(["1", "2"])
    assert "x.tsv: TSV, no header; columns 1, 2; the first row is 1 'English', 2 'German'" in capsys.readouterr().err
