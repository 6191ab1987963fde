"""Tables: what a file is taken for, which columns are read, and what is said of mistakes."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data.lines import STDIN
from janus_cli.data.references import references
from janus_cli.data.tables import (
    Table,
    choose,
    columns_of,
    is_json_lines,
    kind_of,
    kind_of_text,
    table_kind,
    tell,
)
from janus_cli.errors import DataError

pytestmark = pytest.mark.usefixtures("empty_folder")


def put(name: str, text: str | bytes) -> Path:
    """The file with this text, gzipped if its name ends in .gz in whatever case."""
    path, data = Path(name), text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def cells(path: Path, *columns: str) -> list[list[str | list[str]]]:
    return [row for _, row in Table(path, columns, table_kind(path))]


OBJECTS = '{"a": "x", "b": ["y", "z"]}\n\n{"a": "", "b": null}\n'


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x.txt", "a\tb\n", "text"),
        ("x.de.gz", "a\n", "text"),
        ("x.tsv", "a\tb\n", "TSV"),
        ("x.TSV", "a\tb\n", "TSV"),
        ("x.tsv.gz", "a\tb\n", "TSV"),
        ("x.Csv.GZ", "a,b\n", "CSV"),
        ("x.jsonl.gz", OBJECTS, "JSON lines"),
        ("x.ndjson", OBJECTS, "JSON lines"),
        ("x.json", OBJECTS, "JSON lines"),
        ("x.txt", b"PAR1....", "Parquet"),
        ("x.bin", b"ARROW1\0\0", "Arrow"),
        ("x.csv", b"\xff\xff\xff\xff\x10\0\0\0", "Arrow"),
    ],
)
def test_first_bytes_come_before_the_suffix_whose_case_does_not_matter(name: str, text: str | bytes, kind: str) -> None:
    assert kind_of(put(name, text)) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OBJECTS, "JSON lines"),
        ("name\tn a m e\t1\nother\to t h e r\t2\n", "TSV"),
        ("de;en\na;b\n", "CSV"),
        ("a line\nanother, longer line\n", None),
        ("a\tb\nc\n", None),
        ("", None),
    ],
)
def test_without_a_suffix_the_lines_decide(text: str, kind: str | None) -> None:
    path = put("wd_64", text)
    assert kind_of(path) == "text"
    if kind is None:
        with pytest.raises(DataError, match="wd_64 is no table"):
            table_kind(path)
    else:
        assert table_kind(path) == kind


@pytest.mark.parametrize(
    ("text", "keys", "found"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', ("a",), True),
        ('{"a": 1}\n{"b": 2}\n', ("a",), False),
        ('{"a": 1}\n{"b": 2}\n', ("a", "b"), True),
        ('{"a": 1}\n{"b": 2}\n', (), True),
        ('{"a": 1}\n{\n', (), False),
        ('{"a": 1}\n[]\n', (), False),
        ('{"quoted" brackets in a text}\n', (), False),
        ("\n\n", (), False),
        ("", (), False),
        ("{" + '"a":{' * 100_000, (), False),
    ],
)
def test_json_lines_are_objects_in_every_line(text: str, keys: tuple[str, ...], found: bool) -> None:
    assert is_json_lines(text.split("\n"), keys) == found
    assert (kind_of_text(put("x.txt", text), keys) == "JSON lines") == found


def test_text_that_happens_to_be_json_stays_text() -> None:
    """Structured input of a data-to-text task has no key of ours."""
    assert kind_of_text(put("x.src", '{"name": "Blue Spice"}\n'), ("hypothesis",)) == "text"


def test_a_json_array_is_refused_with_the_command_that_converts_it() -> None:
    for name, text in (("my data.json", '[{"a": 1}]'), ("y.jsonl.gz", '\ufeff\n [\n{"a": 1}\n]')):
        with pytest.raises(DataError, match="is a JSON array") as caught:
            kind_of(put(name, text))
        assert "| jq -c '.[]' > " in caught.value.hint
    assert caught.value.hint == "convert it: gzip -cdf y.jsonl.gz | jq -c '.[]' > y.lines.jsonl"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.feather.gz"])
def test_a_suffix_that_promises_what_the_file_is_not(name: str) -> None:
    with pytest.raises(DataError, match=r"is no (Parquet|Arrow) file"):
        kind_of(put(name, "text\n"))


# --- columns ---


def test_columns_by_name_and_by_number() -> None:
    path = put("x.tsv", "de\ten\tn\na\tb\t1\n\tc\t2\n")
    assert cells(path, "de", "en") == [["a", "b"], ["", "c"]]
    assert cells(path, "en", "1") == [["b", "a"], ["c", ""]], "one name: there is a header"
    assert cells(path, "2", "3")[0] == ["en", "n"], "numbers alone: there is none"
    path = put("x.jsonl", '{"t": {"de": "a", "en": "b"}, "t.x": "c"}\n')
    assert cells(path, "t.de", "t.x") == [["a", "c"]]
    assert columns_of(path, "JSON lines") == ["t.de", "t.en", "t.x"]
    assert cells(put("z.jsonl", '{"t": {"de": null}}\n{"t": null}\n'), "t.de") == [[""], [""]]
    assert cells(put("y.jsonl", OBJECTS), "a", "b") == [["x", ["y", "z"]], ["", ""]]


@pytest.mark.parametrize(
    ("header", "usual", "found"),
    [
        ("en,de,n", [("de",), ("en",)], ["de", "en"]),
        ("en,de,n", [("german", "de"), ("translation.en", "en")], ["de", "en"]),
        ("EN,De", [("de",), ("en",)], ["De", "EN"]),
        ("DE,de,En", [("de",), ("en",)], ["de", "En"]),
    ],
)
def test_usual_names_are_found(header: str, usual: list[tuple[str, ...]], found: list[str]) -> None:
    for name, mark in (("x.csv", ","), ("x.tsv", "\t")):
        path = put(name, header.replace(",", mark) + "\n")
        assert choose(path, kind_of(path), usual) == found


def test_a_first_row_that_is_taken_for_text_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    path = put("x.tsv", "English\tGerman\na\tb\n")
    tell(path, "TSV", choose(path, "TSV", [("de",), ("en",)]))
    assert "TSV, no header; columns 1, 2; the first row is 1 'English', 2 'German'" in capsys.readouterr().err
    with pytest.raises(DataError, match="has no column 'en'; it has 1 'German', 2 'de'"):
        choose(put("y.tsv", "German\tde\na\tb\n"), "TSV", [("de",), ("en",)])


def test_a_tsv_without_a_header_gives_its_columns_in_order_if_there_are_as_many() -> None:
    assert choose(put("x.tsv", "a\tb\n"), "TSV", [("de",), ("en",)]) == ["1", "2"]
    for name, text, listed in (
        ("x.tsv", f"a\tb\t{'c' * 50}\n", f"1 'a', 2 'b', 3 '{'c' * 40}…'"),
        ("x.csv", "german,english\na,b\n", "1 'german', 2 'english'"),
        ("x.jsonl", '{"document": "a", "n": {"x": 1}}\n', "1 'document', 2 'n.x'"),
    ):
        with pytest.raises(DataError) as caught:
            choose(put(name, text), kind_of(Path(name)), [("de",), ("en",)], "THE HINT")
        assert caught.value.message.endswith(f"has no column 'de' or 'en'; it has {listed}")
        assert caught.value.hint == "THE HINT"


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("x.tsv", "de\ten\na\tb\n", "fr", "x.tsv has no column 'fr'; it has 1 'de', 2 'en'"),
        ("x.tsv", "de\tde\na\tb\n", "de", "x.tsv has several columns 'de'"),
        ("x.tsv", "a\tb\n", "3", "x.tsv has no column '3'"),
        ("x.tsv", "a\tb\n", "0", "x.tsv has no column '0'"),
        ("x.csv", "0,1\na,b\n", "0 1", "x.csv has no column '0'; it has 1 '0', 2 '1'"),
        ("x.tsv", "", "1", "x.tsv has no column '1'; it has none"),
        ("x.tsv", "a\tb\nc\td\ne\tf\tg\n", "1", "x.tsv:3 has 3 columns, line 1 has 2"),
        ("x.tsv", "a\tb\nc\n", "1", "x.tsv:2 has 1 column, line 1 has 2"),
        ("x.tsv", b"a\tb\nc\t\xff\n", "1", "x.tsv:2:3: byte 0xff is not UTF-8"),
        ("x.csv", 'de,en\n"a\nb",c\nd,e,f\n', "de", "x.csv:4 has 3 columns, line 1 has 2"),
        ("x.csv", 'de,en\na,b\n"c,d\ne,f\n', "de", "x.csv:3: the row that begins here is no CSV"),
        ("x.jsonl", '{"a": "x"}\n\n{"b": "x"}\n', "a", "x.jsonl:3 has no text under \"a\"; it has 1 'b'"),
        ("x.jsonl", '{"a": {"b": 1}}\n', "a.c", "x.jsonl:1 has no text under \"a.c\"; it has 1 'a.b'"),
        ("x.jsonl", '{"a": 5}\n', "a", 'x.jsonl:1 has no text under "a": 5'),
        ("x.jsonl", '{"a": ["x", 5]}\n', "a", 'x.jsonl:1 has no text under "a": 5'),
        ("x.jsonl", '{"a": "x"}\n{\n', "a", "x.jsonl:2 is not JSON"),
        ("x.jsonl", '{"a": "x"}\n"y"\n', "a", "x.jsonl:2 is not JSON, or no object"),
        ("x.jsonl", '{"a": "\\ud83d"}\n', "a", 'x.jsonl:1: half of a surrogate pair under "a"'),
        ("x.jsonl", '{"a": ' + "[" * 100_000 + "\n", "a", "x.jsonl:1 is not JSON"),
    ],
)  # fmt: skip
def test_a_mistake_says_file_line_and_column(name: str, text: str | bytes, columns: str, message: str) -> None:
    path = put(name, text)
    with pytest.raises(DataError) as caught:
        list(Table(path, columns.split(), kind_of(path)))
    assert caught.value.message.startswith(message)


def test_bytes_that_are_not_utf8_may_stay() -> None:
    path = put("x.tsv", b"a\tb\xff\n")
    ((_, row),) = Table(path, ["1", "2"], "TSV", keep_bytes=True)
    assert [str(cell).encode(errors="surrogateescape") for cell in row] == [b"a", b"b\xff"]


# --- CSV ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("de,en\na,b\n", [["a", "b"]]),
        ("de;en\nja, gut;yes, good\nnein;no\n", [["ja, gut", "yes, good"], ["nein", "no"]]),
        ("de\ten\na, b\tc\n", [["a, b", "c"]]),
        ('de,en\n"a, ""b""","c\nd"\n\ne,f\n', [['a, "b"', "c d"], ["e", "f"]]),
        ("de,en\r\na,b\r\n", [["a", "b"]]),
        # Letters split these lines evenly, too: a sniffer takes one of them.
        ("de,en\nEVERY day,EVERYONE\nEVERY man,EVERYWHERE\n", [["EVERY day", "EVERYONE"], ["EVERY man", "EVERYWHERE"]]),
        ("de,en\n" + "a,b\n" * 30 + '"c\nd",e\n', [["a", "b"]] * 30 + [["c d", "e"]]),
        ("de,en\n" + "a,b\n" * 18 + '"c\n' + "\n" * 9 + 'd",e\n', [["a", "b"]] * 18 + [["c" + " " * 10 + "d", "e"]]),
    ],
)
def test_delimiters_and_quotes(text: str, expected: list[list[str]]) -> None:
    assert cells(put("x.csv", text), "de", "en") == expected


def test_rows_of_another_width_are_named_even_among_the_first() -> None:
    path = put("x.csv", 'de,en\n"a\nb",c\nd,e, f\n')
    with pytest.raises(DataError, match=r"x\.csv:4 has 3 columns, line 1 has 2"):
        cells(path, "de", "en")


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), min_size=2,
                         max_size=2), min_size=1))  # fmt: skip
def test_what_the_csv_module_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    import csv

    path = tmp_path_factory.mktemp("t") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["de", "en"], *rows])
    assert cells(path, "de", "en") == [[cell.replace("\n", " ") for cell in row] for row in rows]


def test_of_two_delimiters_that_fit_the_comma_is_taken_and_what_is_taken_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = put("x.csv", "de;x;y,en\na;b;c,d\n")
    assert cells(path, "2") == [["en"], ["d"]]
    tell(path, "CSV", ["de;x;y", "en"])
    tell(put("y.csv", "de;en\na;b\n"), "CSV", ["de", "en"])
    said = capsys.readouterr().err.split("\n")
    assert said[:2] == ["x.csv: CSV with commas; columns de;x;y, en", "y.csv: CSV with semicolons; columns de, en"]


def test_blank_lines_are_texts_only_where_there_is_one_column() -> None:
    assert cells(put("x.tsv", "de\ten\na\tb\n\n\n"), "de", "en") == [["a", "b"]]
    with pytest.raises(DataError, match=r"x\.tsv:2 has 1 column, line 1 has 2"):
        cells(put("x.tsv", "de\ten\n\na\tb\n"), "de", "en")
    assert cells(put("y.tsv", "de\na\n\nb\n\n"), "de") == [["a"], [""], ["b"], [""]]
    assert cells(put("y.csv", "de\na\n\nb\n\n"), "de") == [["a"], [""], ["b"], [""]]


def test_quotes_in_a_tsv_that_a_program_wrote_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = '"ja"\t"so ""ist"" es"\n"a ""b"" c"\td\ne\tf\n'
    table = Table(put("x.tsv", text), ["1", "2"], "TSV")
    assert [row[1] for _, row in table] == ['"so ""ist"" es"', "d", "f"]
    table.warn()
    assert capsys.readouterr().err.count('x.tsv: 2 texts in quotes, with "" inside') == 1


def test_line_ends_inside_texts_are_counted() -> None:
    table = Table(put("x.jsonl", '{"a": "b\\r\\nc\\nd"}\n{"a": "e"}\n'), ["a"], "JSON lines")
    assert [row for _, row in table] == [["b c d"], ["e"]]
    assert table.line_ends == 1


def test_a_table_on_stdin_is_found_by_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ('{"de": "a"}\n{"de": "b"}\n', "en\tde\nx\ta\ny\tb\n", "en;de\nx;a\ny;b\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert [row for _, row in Table(STDIN, ["de"])] == [["a"], ["b"]]


# --- references ---


@pytest.mark.parametrize(
    ("name", "text", "columns", "expected"),
    [
        ("r.txt", "a\n\nb\n", (), [["a"], [""], ["b"]]),
        ("r.tsv", "a\tb\nc\n\t\td\t\n\n", (), [["a", "b"], ["c"], ["d"], [""]]),
        ("r.TSV.gz", "a\tb\n", (), [["a", "b"]]),
        ("r.tsv", "reference1\tReference_2\na\tb\n", (), [["a", "b"]]),
        ("r.tsv", "id\tx\n1\ta\n", ("x",), [["a"]]),
        ("r.tsv", "id\treference1\treference2\n1\ta\tb\n", (), [["a", "b"]]),
        ("r.csv", "id,target,ref 1,ref 2\n1,z,a,\n", (), [["a"]]),
        ("r.csv", "id,target\n1,a\n", (), [["a"]]),
        ("r.txt", "id,x,y\n1,a,b\n2,,\n", ("y", "x"), [["b", "a"], [""]]),
        ("r.jsonl", '{"references": ["a", "b"], "id": 1}\n{"references": []}\n', (), [["a", "b"], [""]]),
        ("r.txt", '{"references": ["a", "b"]}\n', (), [["a", "b"]]),
        ("r.txt", '{"reference": "a"}\n', (), [["a"]]),
        ("r.txt", '{"text": "a"}\n', (), [['{"text": "a"}']]),
        ("r.txt", '{"text": "a"}\n', ("text",), [["a"]]),
        ("r.tsv", "", (), []),
        ("test.refs.jsonl", '["a", "b"]\n["c"]\n[]\n', (), [["a", "b"], ["c"], [""]]),
        ("test.refs.jsonl", '["a"]\n\n["b"]\n\n', (), [["a"], ["b"]]),
        ("r.txt", '["a", 1]\n', (), [['["a", 1]']]),
    ],
)
def test_references(name: str, text: str, columns: tuple[str, ...], expected: list[list[str]]) -> None:
    assert list(references(put(name, text), columns)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a"]\n["b", null]\n', "r.jsonl:2 is no JSON list of texts"),
        ('["a", null]\n', "r.jsonl:1 is no JSON list of texts"),
        ('["a"]\n\nb\n', "r.jsonl:3 is no JSON list of texts"),
        ('[{"reference": "a"}]\n', "r.jsonl is a JSON array"),
        ('[\n"a"\n]\n', "r.jsonl is a JSON array"),
    ],
)
def test_a_list_of_references_that_is_none_is_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(references(put("r.jsonl", text)))


def test_what_is_no_plain_text_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    list(references(put("r.txt", "a\n")))
    assert capsys.readouterr().err == ""
    list(references(put("r.txt", json.dumps({"reference": "a"}))))
    assert "r.txt: JSON lines; column reference\n" in capsys.readouterr().err
    list(references(put("r.tsv", "a\tb\n")))
    assert "r.tsv: TSV, no header; every column holds references\n" in capsys.readouterr().err
    list(references(put("r.txt", "a\tb\nc\td\n")))
    assert "warning: r.txt: every line has a tab" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"has no column of references; it has 1 'id', 2 'x'"):
        list(references(put("r.csv", "id,x\n1,a\n")))


def test_a_byte_order_mark_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    path = put("x.csv", "\ufeffde;en\r\na;b\r\n")
    assert choose(path, table_kind(path), [("de",), ("en",)]) == ["de", "en"]
    assert cells(path, "de", "en") == [["a", "b"]]
    assert capsys.readouterr().err == "x.csv: byte order mark removed\n"
    assert list(references(put("r.csv", "\ufeffreference\na\n"))) == [["a"]]
    assert capsys.readouterr().err.count("byte order mark") == 1
