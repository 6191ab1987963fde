"""Texts in tables: what kind a file is, which columns it has, and their texts. For Parquet, Arrow and data sets see
`columnar.py`.

What a file is, only this module decides: by its first bytes and its suffix (in any case, `.gz` aside), and where they
do not say, by its first lines. A column is named by its header or key (`a.b` for b inside a), or by its number from 1.
In a TSV or CSV digits are always a number, and if all columns are given by number there is no header.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from janus_cli import console
from janus_cli.console import counted
from janus_cli.data import columnar
from janus_cli.data.lines import LONGEST_LINE, STDIN, Lines, is_stream, name_of, opened, suffix_of
from janus_cli.data.stored import SPLITS_OF, is_data_set
from janus_cli.errors import DataError
from janus_cli.recipe_load import guess
from janus_cli.terminal import command, quoted

Kind = Literal["text", "TSV", "CSV", "JSON lines", "Parquet", "Arrow", "data set"]
SUFFIXES: dict[str, Kind] = {
    ".tsv": "TSV", ".csv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON lines",
    ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow",
}  # fmt: skip
STARTS: dict[bytes, Kind] = {
    columnar.PARQUET: "Parquet", columnar.ARROW_FILE: "Arrow", columnar.ARROW_STREAM: "Arrow",
}  # fmt: skip
COLUMNAR: tuple[Kind, ...] = (*STARTS.values(), "data set")
DELIMITED: tuple[Kind, ...] = ("TSV", "CSV")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of a CSV; the first that fits is taken
MORE = 10  # rows that do not fit, besides the first, are named
HEAD = 20  # lines that decide where the suffix does not
COLUMN = "name it with --column"  # a hint
ALIGNED = "of aligned text name both files, the source first"

Cell = str | list[str]
Row = tuple[int, list[str]]  # the line where it begins, from 1; its cells


def kind_of(path: Path) -> Kind:
    """What a file is by its first bytes and its suffix; `text` for all that is no table.

    Raises:
        DataError: the suffix promises what the file is not.
    """
    if is_data_set(path):
        return "data set"
    if path.is_dir():
        hint = "name one of its files" if not (path / SPLITS_OF).is_file() else "name the folder of one of its splits"
        raise DataError(f"{path} is a folder, and no data set that save_to_disk wrote", hint)
    named: Kind = "text" if path == STDIN else SUFFIXES.get(suffix_of(path), "text")
    if not path.is_file():
        return named
    with opened(path) as file:
        start = file.read(64)
    for magic, kind in STARTS.items():
        if start.startswith(magic):
            return kind
    if named in COLUMNAR:
        raise DataError(f"{path} is no {named} file: it does not begin as one", "fetch it, or write it again")
    if named == "JSON lines" and start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        lines = path.with_name(f"{path.name.split('.')[0]}.lines.jsonl")
        raise DataError(
            f"{path} is a JSON array; janus reads JSON lines, one object a line",
            f"convert it: {command('gzip', '-cdf', path)} | jq -c '.[]' > {quoted(str(lines))}",
        )
    return named


@dataclass(frozen=True)
class Table:
    """What a table is: its kind, None for a stream, whose first line will decide; the names that its columns may have
    (cells of the first row, keys of the first objects, fields); and what separates the cells of a TSV or CSV."""

    path: Path
    kind: Kind | None
    names: Sequence[str] = ()
    mark: str = "\t"

    def choose(
        self, wanted: Sequence[Sequence[str]], hint: str = COLUMN, *, in_order: bool = False, several: bool = False
    ) -> list[str]:
        """The columns to read: for each that is wanted, the first of its names that there is (see `called`).

        several: all but the first may be several columns.
        in_order: a TSV with none of these names, but with as many columns, has no header, and they are taken in order.

        Raises:
            DataError: they are not there, or one is there twice; hint: how to give them.
        """
        if self.kind is None or (self.kind == "JSON lines" and not self.names):  # reading says what is wrong
            return [names[0] for names in wanted]
        found = [self.called(names, several=several and place > 0) for place, names in enumerate(wanted)]
        if in_order and self.kind == "TSV" and len(self.names) == len(wanted) and not any(found):
            return [str(number) for number in range(1, len(wanted) + 1)]
        chosen = [name for columns in found for name in columns]
        twice = [name for name in chosen if self.names.count(name) > 1 and not name.isdecimal()]
        if all(found) and not twice:
            return chosen
        if self.kind not in COLUMNAR and not is_stream(self.path):  # what is wrong in the first row is said first
            next(iter(Texts(self, ())), None)
        missing = [repr(names[0]) for names, columns in zip(wanted, found, strict=True) if not columns]
        problem = f"no column {' or '.join(missing)}" if missing else f"several columns {twice[0]!r}"
        raise DataError(f"{name_of(self.path)} ({self.kind}) has {problem}; its columns: {listed(self.names)}", hint)

    def called(self, names: Sequence[str], *, several: bool = False) -> list[str]:
        """The column called so by the first of the names for which there is one, in upper or lower case; empty if none
        is. several: also all that are called NAME1, NAME2, … A single name may be that of a key in an object that is
        null, or empty, in the first lines.
        """
        for name in names:
            numbered = self.names[int(name) - 1 : int(name)] if name.isdecimal() and int(name) else []
            if self.kind in DELIMITED and name.isdecimal():
                return [name] if numbered else []
            alike = [each for each in self.names if each.casefold() == name.casefold()]
            if found := [name] if name in self.names else alike[:1] or list(numbered):
                return found
            if several and (found := self.numbered(name)):
                return found
        inside = self.kind == "JSON lines" and any(names[0].startswith(f"{each}.") for each in self.names)
        return list(names) if len(names) == 1 and inside else []

    def numbered(self, name: str) -> list[str]:
        """The columns called NAME1, NAME2, …"""
        return list(filter(re.compile(rf"{re.escape(name)}[ _-]?\d+", re.IGNORECASE).fullmatch, self.names))

    def split(self, lines: Iterator[str]) -> Iterator[Row]:
        """The rows of a TSV or CSV."""
        if self.kind == "CSV":
            return _csv_rows(self.path, lines, self.mark)
        return ((number, line.split("\t")) for number, line in enumerate(lines, 1))  # no quotes: a tab always separates

    def tell(self, columns: Sequence[str]) -> None:
        """Says what the table was taken for."""
        marks = f" with {DELIMITERS[self.mark]}" if self.kind == "CSV" else ""
        header = first = ""
        if self.kind in DELIMITED and all(name.isdecimal() for name in columns):
            header, first = ", no header", f"; the first row is {listed(self.names)}" if self.names else ""
        named = f"column{'s' * (len(columns) > 1)} {', '.join(columns)}"
        console.say(f"{name_of(self.path)}: {self.kind or 'a table'}{marks}{header}; {named}{first}")


def listed(names: Sequence[str]) -> str:
    """Columns by number and name; without a header, a name is a text, and long."""
    shown = (f"{number} {name if len(name) <= 40 else f'{name[:40]}…'!r}" for number, name in enumerate(names, 1))
    return ", ".join(shown) or "none"


def table_at(path: Path, hint: str = ALIGNED) -> Table:
    """The table in a file, whatever its name, or in a stream.

    Raises:
        DataError: it cannot be read, or is no table (hint).
    """
    if is_stream(path):
        return Table(path, None)
    kind = kind_of(path)
    if kind in COLUMNAR:
        return Table(path, kind, columnar.fields(path))
    lines = _lines(path)
    return table_of_lines(path, list(islice(lines, HEAD)), lines, kind, hint)


def find_table(path: Path, keys: Sequence[str], hint: str = COLUMN) -> Table | None:
    """The table in a file; None if it is plain text, as a stream is, and JSON lines whose name does not say so and that
    have none of these keys.

    Raises:
        DataError: see `table_at`, unless it is text; or it is a stream that is called as a table is. hint: how to name
            its column.
    """
    if is_stream(path):
        if (kind := kind_of(path)) != "text":
            raise DataError(
                f"{path} is a pipe or a device: the column of the table in it ({kind}, by its name) must be named",
                f"{hint}, or store the table in a file",
            )
        return None
    if kind_of(path) != "text":
        return table_at(path)
    head = list[str]()
    with suppress(DataError):  # as for a line that is too long: said when the text is read
        head += islice(_lines(path), HEAD)
    return table_of_lines(path, head, kind="JSON lines") if is_json_lines(head, keys) else None


def _lines(path: Path) -> Iterator[str]:
    return iter(Lines(path, strict=True, keep_bytes=True, quiet=True))


def table_of_lines(
    path: Path, head: Sequence[str], rest: Iterable[str] = (), kind: Kind = "text", hint: str = ALIGNED
) -> Table:
    """The table with these lines, which decide if the kind is `text`. Raises DataError (hint) if they are no table."""
    if kind == "text":
        kind = _kind_of_lines(head, path, hint)
    if kind == "JSON lines":  # what is null in one object may hold keys in another
        objects = map(_object, islice(filter(str.strip, chain(head, rest)), HEAD))
        return Table(path, kind, list(dict.fromkeys(key for each in objects for key in _keys(each or {}))))
    marks = _delimiters(head, path) if kind == "CSV" else ["\t"]
    # If none fits, what is most frequent in the header.
    table = Table(path, kind, mark=marks[0] if marks else max(DELIMITERS, key=head[0].count) if head else ",")
    _, names = next(table.split(chain(head, rest)), (1, []))
    return Table(path, kind, names, table.mark)


def is_json_lines(lines: Iterable[str], keys: Sequence[str] = ()) -> bool:
    """Whether there are lines, and each that is not empty is a JSON object, with one of the keys if any are named."""
    objects = [_object(line) for line in lines if line.strip()]
    return bool(objects) and all(
        record is not None and (not keys or any(key in record for key in keys)) for record in objects
    )


def _object(line: str) -> dict[str, Any] | None:
    if line.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            return dict(json.loads(line))
    return None


def _keys(record: Mapping[str, Any]) -> list[str]:
    """The keys of an object; those inside another as `key.key`."""
    return [
        f"{key}.{inner}" if inner else key
        for key, value in record.items()
        for inner in (_keys(value) if isinstance(value, dict) and value else [""])
    ]


def _kind_of_lines(head: Sequence[str], path: Path, hint: str) -> Kind:
    if is_json_lines(head):
        return "JSON lines"
    if head and "\t" in head[0] and len({line.count("\t") for line in head}) == 1:
        return "TSV"
    if _delimiters(head, path):
        return "CSV"
    if not is_stream(path):  # if it is no UTF-8, that is said first
        next(iter(Lines(path, strict=True, quiet=True)), None)
    raise DataError(
        f"{name_of(path)} is no table: neither JSON lines, nor a number of columns that all lines have",
        hint,
    )


def _delimiters(head: Sequence[str], path: Path) -> list[str]:
    """The delimiters that split the header and every further row equally often."""
    widths: dict[str, list[int]] = {mark: [] for mark in DELIMITERS}
    for mark, found in widths.items():
        with suppress(DataError):  # said when the rows are read; perhaps a text only goes on after these lines
            for _, cells in _csv_rows(path, iter(head), mark):
                found.append(len(cells))
        if len(head) == HEAD and len(found) > 1:
            found.pop()  # the last row may go on, too
    return [mark for mark, found in widths.items() if len(set(found)) == 1 and found[0] > 1]


def _csv_rows(path: Path, lines: Iterator[str], mark: str) -> Iterator[Row]:
    """The rows of a CSV; lines between them may be empty, if there are columns."""
    csv.field_size_limit(LONGEST_LINE)
    reader, begins, width = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True), 1, 0
    try:
        for cells in reader:
            width = width or len(cells)
            if cells or width == 1:
                yield begins, cells or [""]
            begins = reader.line_num + 1
    except csv.Error as problem:
        hint = 'a quote inside a text is written twice, and what has one is quoted: "like ""this"""'
        raise DataError(f"{name_of(path)}:{begins}: the row that begins here is no CSV: {problem}", hint) from None


@dataclass
class Texts:
    """The texts of a table in the chosen columns: iterating gives the line (or number) of each row, and its cells; the
    first time, what was odd in them is said at the end.

    single: whether the first column holds no lists. lines: the table's, if they were read before. hint: how to give
    columns. keep_bytes: bytes that are not UTF-8 stay, as surrogates; otherwise they raise DataError.
    A missing value is an empty text. Line ends inside a text become spaces; `line_ends` counts these texts, `in_quotes`
    those of a TSV that look quoted as in a CSV, and `empty` the empty ones in lists that hold others.

    Raises:
        DataError: rows of another width, cells that hold no text; with file, line and column.
    """

    table: Table
    columns: Sequence[str]
    single: bool = False
    hint: str = COLUMN
    keep_bytes: bool = False
    lines: Iterable[str] | None = None
    line_ends: int = 0
    in_quotes: int = 0
    empty: int = 0
    said: bool = False

    def __iter__(self) -> Iterator[tuple[int, list[Cell]]]:
        self.line_ends = self.in_quotes = self.empty = 0
        yield from self._rows()
        if not self.said:
            self._warn()
            self.said = True

    def _rows(self) -> Iterator[tuple[int, list[Cell]]]:
        path, kind = self.table.path, self.table.kind
        if kind in COLUMNAR:
            return self._from_records(enumerate(columnar.records(path, self.columns), 1))
        lines = iter(Lines(path, strict=True, keep_bytes=self.keep_bytes) if self.lines is None else self.lines)
        if kind is None:  # the first line must do: the next may come later
            head = list(islice(lines, 1))
            self.table, lines = table_of_lines(path, head), chain(head, lines)
            self.columns = self.table.choose([[name] for name in self.columns], self.hint)
        if self.table.kind == "JSON lines":
            return self._from_records(self._objects(lines))
        return self._from_cells(lines)

    def _objects(self, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if (record := _object(line)) is None:
                raise DataError(f"{self._place(number)} is not JSON, or no object", "JSON lines hold an object a line")
            yield number, record

    def _from_records(self, records: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, list[Cell]]]:
        for number, record in records:
            yield number, [self._cell(self._value(record, name, number), name, number) for name in self.columns]

    def _value(self, record: Mapping[str, Any], name: str, number: int) -> Any:
        if name in record:
            return record[name]
        value: Any = record
        for part in name.split("."):
            if value is None:
                return None
            if not isinstance(value, dict) or part not in value:
                has = listed(_keys(record))
                raise DataError(
                    f'{self._place(number)} has no text under "{name}"; its columns: {has}',
                    f"{self.hint}; where a text is missing, null or an empty one is dropped and counted",
                )
            value = value[part]
        return value

    def _from_cells(self, lines: Iterator[str]) -> Iterator[tuple[int, list[Cell]]]:
        rows = self.table.split(lines)
        start, first = next(rows, (1, []))
        if all(name.isdecimal() for name in self.columns):  # no header
            rows = chain([(start, first)], rows)
        places = [int(name) - 1 if name.isdecimal() else first.index(name) for name in self.columns]
        rows = _without_blank_end(rows) if len(first) > 1 else rows
        for number, cells in rows:
            if len(cells) != len(first):
                raise self._of_another_width((number, cells), (start, first), rows)
            chosen = [cells[place] for place in places]
            if self.table.kind == "TSV":
                self.in_quotes += sum(cell[:1] == cell[-1:] == '"' and '""' in cell[1:-1] for cell in chosen)
            yield number, [self._text(cell, name, number) for cell, name in zip(chosen, self.columns, strict=True)]

    def _of_another_width(self, row: Row, header: Row, rest: Iterator[Row]) -> DataError:
        """All such rows are counted, so that they can be mended at once."""
        (number, cells), (start, first), more = row, header, list[int]()
        with suppress(DataError):  # said once these are mended
            more += (place for place, others in rest if len(others) != len(first))
        shown = ", ".join(map(str, more[:MORE])) + ", …" * (len(more) > MORE)
        also = f"; {counted(len(more), 'row')} after it, too, {'does' if len(more) == 1 else 'do'} not fit: {shown}"
        csv = "quote texts with the delimiter inside"
        hint = csv if self.table.kind == "CSV" else "a tab always begins a column; with quotes: .csv"
        said = f"{self._place(number)} has {counted(len(cells), 'column')}, line {start} has {len(first)}"
        return DataError(said + also * bool(more), hint)

    def _cell(self, value: Any, name: str, number: int) -> Cell:
        if isinstance(value, list) and not (self.single and name == self.columns[0]):
            texts = [self._text(each, name, number) for each in value]
            self.empty += texts.count("") if any(texts) else 0
            return texts
        return self._text(value, name, number)

    def _text(self, value: Any, name: str, number: int) -> str:
        value = "" if value is None else value
        if not isinstance(value, str):
            why = "; a source is one text" if isinstance(value, list) and self.single else ""
            raise DataError(f'{self._place(number)} has no text under "{name}": {value!r:.60}{why}', self.hint)
        try:
            value.encode(errors="surrogateescape" if self.keep_bytes else "strict")
        except UnicodeEncodeError:
            raise DataError(
                f'{self._place(number)}: half of a surrogate pair under "{name}"', r"an escape such as \ud83d needs two"
            ) from None
        if "\n" not in value:
            return value
        self.line_ends += 1
        return re.sub(r"\r?\n", " ", value)

    def _place(self, number: int) -> str:
        return f"{name_of(self.table.path)}:{number}"

    def _warn(self) -> None:
        name = name_of(self.table.path)
        if self.empty:
            console.warn(f"{name}: {counted(self.empty, 'empty text')} in lists with others: not used")
        if self.line_ends:
            console.warn(f"{name}: line ends inside {counted(self.line_ends, 'text')} became spaces")
        if self.in_quotes:
            console.warn(
                f'{name}: {counted(self.in_quotes, "text")} in quotes, with "" inside: in a TSV they are text; if a '
                "program quoted as in a CSV, name the file .csv"
            )


def _without_blank_end(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows without blank lines at their end."""
    blank: list[Row] = []
    for row in rows:
        blank.append(row)
        if row[1] != [""]:
            yield from blank
            blank.clear()


@dataclass(kw_only=True)
class Column(Lines):
    """One column of a table, as lines."""

    texts: Texts

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[str]:
        for _, (cell,) in self.texts:
            yield self.clean(str(cell))


def text_or_column(
    path: Path, usual: Sequence[str], column: str | None = None, given: str | None = None,
    clean: Callable[[str], str] = str, *, strict: bool = True,
) -> Lines:  # fmt: skip
    """The lines of a text, or a column of a table, which is said.

    column: the one that is asked for: then it must be a table. given, else usual: names of the column of a table; those
    usual also tell JSON lines, see `find_table`. clean, strict: see `Lines`.
    """
    table = table_at(path, "for lines of text leave out --column") if column else find_table(path, usual)
    if table is None:
        return Lines(path, clean, strict)
    name = column or given
    hint = f"name another with --column{guess(column, table.names)}" if column else COLUMN
    chosen = table.choose([[name]] if name else [usual], hint, in_order=not name)
    table.tell(chosen)
    return Column(path, clean, texts=Texts(table, chosen, single=True))


def column_of_each(paths: Sequence[Path], column: str | None) -> list[str | None]:
    """The column to read of each file: the one that is asked for, of those that are tables; of all if none is."""
    tables = [path for path in paths if column is None or _is_table(path)]
    return [column if path in tables or not tables else None for path in paths]


def _is_table(path: Path) -> bool:
    with suppress(DataError):
        return bool(table_at(path))
    return False
