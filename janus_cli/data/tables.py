"""Texts in tables: what kind a file is, and its columns as text. For Parquet, Arrow and data sets see `columnar.py`.

What a file is, only this module decides: by its first bytes and its suffix (in any case, `.gz` aside), and where they
do not say, by its lines. A column is named by its header or key (`a.b` for b inside a). In a TSV or CSV digits are
always its number, from 1, and if all columns are given by number there is no header.
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
from janus_cli.data.lines import LONGEST_LINE, STDIN, Lines, name_of, opened, suffix_of
from janus_cli.data.stored import SPLITS_OF, is_data_set
from janus_cli.errors import DataError
from janus_cli.terminal import command, quoted

Kind = Literal["text", "TSV", "CSV", "JSON lines", "Parquet", "Arrow", "data set"]
SUFFIXES: dict[str, Kind] = {
    ".tsv": "TSV", ".csv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON lines",
    ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow",
}  # fmt: skip
STARTS: dict[bytes, Kind] = {
    columnar.PARQUET: "Parquet", columnar.ARROW_FILE: "Arrow", columnar.ARROW_STREAM: "Arrow",
}  # fmt: skip
DELIMITED: tuple[Kind, ...] = ("TSV", "CSV")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of a CSV; the first that fits is taken
HEAD = 20  # lines that decide where the suffix does not
COLUMN = "name it with --column"  # a hint

Cell = str | list[str]


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
    if named in STARTS.values():
        raise DataError(f"{path} is no {named} file: it does not begin as one", "fetch it, or write it again")
    if named == "JSON lines" and start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        lines = path.with_name(f"{path.name.split('.')[0]}.lines.jsonl")
        raise DataError(
            f"{path} is a JSON array; janus reads JSON lines, one object a line",
            f"convert it: {command('gzip', '-cdf', path)} | jq -c '.[]' > {quoted(str(lines))}",
        )
    return named


def kind_of_text(path: Path, keys: Sequence[str], column: str | None = None) -> Kind | None:
    """As `kind_of`, where plain text is usual: other names may hold JSON lines, with one of the keys in each.

    column: the one that is asked for, if any; then it must be a table. None: its lines will decide.
    """
    kind = kind_of(path)
    if kind == "text" and column is not None:
        return None
    return "JSON lines" if kind == "text" and path.is_file() and _holds_json_lines(path, keys) else kind


def _holds_json_lines(path: Path, keys: Sequence[str]) -> bool:
    with suppress(DataError):  # a line that is too long
        return is_json_lines(Lines(path, strict=True, keep_bytes=True, quiet=True), keys)
    return False


def column_of_each(paths: Sequence[Path], column: str | None) -> list[str | None]:
    """The column to read of each file: the one that is asked for, of those that are tables; of all if none is."""
    are_tables = [len(paths) == 1 or column is None or _is_table(path) for path in paths]
    return [column if is_table or not any(are_tables) else None for is_table in are_tables]


def _is_table(path: Path) -> bool:
    with suppress(DataError):
        return not path.is_file() or table_kind(path) != "text"  # what can be read only once is taken at its word
    return False


def table_kind(path: Path) -> Kind:
    """As `kind_of`, of a file that must be a table whatever its name; raises DataError if it is none."""
    kind = kind_of(path)
    if kind != "text":
        return kind
    return kind_of_lines(list(islice(Lines(path, strict=True, keep_bytes=True, quiet=True), HEAD)), path)


def is_json_lines(lines: Iterable[str], keys: Sequence[str] = ()) -> bool:
    """Whether there are lines, and each that is not empty is a JSON object, with one of the keys if any are named."""
    found = False
    for line in lines:
        if line.strip():
            record = _object(line)
            if record is None or (keys and not any(key in record for key in keys)):
                return False
            found = True
    return found


def _object(line: str) -> dict[str, Any] | None:
    if line.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            return dict(json.loads(line))
    return None


def kind_of_lines(head: Sequence[str], path: Path) -> Kind:
    """What a table is by its first lines; raises DataError if they are no table."""
    if is_json_lines(head):
        return "JSON lines"
    if head and "\t" in head[0] and len({line.count("\t") for line in head}) == 1:
        return "TSV"
    if _delimiters(head, path):
        return "CSV"
    raise DataError(
        f"{name_of(path)} is no table: neither JSON lines, nor a number of columns that all lines have",
        "of aligned text name both files, the source first",
    )


def _delimiters(head: Sequence[str], path: Path) -> list[str]:
    """The delimiters that split the header and every further row equally often."""
    widths: dict[str, list[int]] = {}
    for mark in DELIMITERS:
        widths[mark] = []
        with suppress(DataError):  # said when the rows are read; perhaps a text only goes on after these lines
            for _, cells in _csv_rows(path, iter(head), mark):
                widths[mark].append(len(cells))
        if len(head) == HEAD and len(widths[mark]) > 1:
            widths[mark].pop()  # the last row may go on, too
    return [mark for mark, found in widths.items() if len(set(found)) == 1 and found[0] > 1]


def _delimiter(head: Sequence[str], path: Path) -> str:
    """The delimiter of a CSV, by its first lines; if none fits, what is most frequent in the header."""
    fitting = _delimiters(head, path)
    return fitting[0] if fitting else max(DELIMITERS, key=head[0].count) if head else ","


def _csv_rows(path: Path, lines: Iterator[str], mark: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row and the line where it begins; lines between rows may be empty, if there are columns."""
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


def delimited(path: Path, kind: Kind, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a TSV or CSV, and the line where it begins, from 1."""
    if kind == "TSV":  # has no quotes: a tab always separates
        return ((number, line.split("\t")) for number, line in enumerate(lines, 1))
    head = list(islice(lines, HEAD))
    return _csv_rows(path, chain(head, lines), _delimiter(head, path))


def columns_of(path: Path, kind: Kind) -> list[str]:
    """The names that columns may have: cells of the first row, keys of the first objects, fields."""
    lines = Lines(path, strict=True, keep_bytes=True, quiet=True)  # what is wrong is said when all are read
    if kind in DELIMITED:
        return next((cells for _, cells in delimited(path, kind, iter(lines))), [])
    if kind == "JSON lines":
        head = islice((line for line in lines if line.strip()), HEAD)  # what is null in one may hold keys in another
        return list(dict.fromkeys(key for line in head for key in _keys(_object(line) or {})))
    return columnar.fields(path)


def _keys(record: Mapping[str, Any]) -> list[str]:
    """The keys of an object; those inside another as `key.key`."""
    return [
        f"{key}.{inner}" if inner else key
        for key, value in record.items()
        for inner in (_keys(value) if isinstance(value, dict) and value else [""])
    ]


def choose(
    path: Path, kind: Kind, wanted: Sequence[Sequence[str]], hint: str = COLUMN, *, in_order: bool = True
) -> list[str]:
    """The columns to read: for each that is wanted, the first of its names that there is (see `_called`). All but the
    first may be several columns.

    in_order: a TSV with none of these names, but with as many columns, has no header, and they are taken in order.

    Raises:
        DataError: they are not there; hint: how to give them.
    """
    there = columns_of(path, kind)
    found = [_called(names, kind, there, several=place > 0) for place, names in enumerate(wanted)]
    if all(found):
        return [name for columns in found for name in columns]
    if in_order and kind == "TSV" and len(there) == len(wanted) and not any(found):
        return [str(number) for number in range(1, len(there) + 1)]
    if kind in (*DELIMITED, "JSON lines"):
        next(iter(Lines(path, strict=True, quiet=True)), None)  # perhaps the names are no UTF-8: that is said first
    missing = " or ".join(repr(names[0]) for names, columns in zip(wanted, found, strict=True) if not columns)
    raise DataError(f"{path} ({kind}) has no column {missing}; it has {listed(there)}", hint)


def _called(names: Sequence[str], kind: Kind, there: Sequence[str], *, several: bool) -> list[str]:
    """The column called so by the first of the names for which there is one, in upper or lower case; empty if none is.

    several: also all that are called NAME1, NAME2, ….
    """
    for name in names:
        if kind in DELIMITED and name.isdecimal():
            return [name] if 0 < int(name) <= len(there) else []
        alike = [each for each in there if each.casefold() == name.casefold()]
        if found := [name] if name in there else alike[:1]:
            return found
        if several and (found := numbered(name, there)):
            return found
    return []


def numbered(name: str, there: Sequence[str]) -> list[str]:
    """The columns called NAME1, NAME2, …"""
    return list(filter(re.compile(rf"{re.escape(name)}[ _-]?\d+", re.IGNORECASE).fullmatch, there))


def listed(names: Sequence[str]) -> str:
    """Columns by number and name; without a header, a name is a text, and long."""
    shown = (f"{number} {name if len(name) <= 40 else f'{name[:40]}…'!r}" for number, name in enumerate(names, 1))
    return ", ".join(shown) or "none"


def tell(path: Path, kind: Kind | None, columns: Sequence[str]) -> None:
    """Says what a table was taken for."""
    header = first = ""
    if kind == "CSV" and path.is_file():
        head = list(islice(Lines(path, strict=True, keep_bytes=True, quiet=True), HEAD))
        header = f" with {DELIMITERS[_delimiter(head, path)]}"
    if kind in DELIMITED and all(name.isdecimal() for name in columns):
        cells = columns_of(path, kind) if path.is_file() else []
        header, first = f"{header}, no header", f"; the first row is {listed(cells)}" if cells else ""
    named = f"column{'s' * (len(columns) > 1)} {', '.join(columns)}"
    console.say(f"{name_of(path)}: {kind or 'a table'}{header}; {named}{first}")


@dataclass
class Table:
    """The rows of a table: iterating gives the line (or number) of each from 1, and its cells of the given columns.

    kind: None finds it from the lines. lines: the table's, if they were read before. hint: how to give columns.
    keep_bytes: bytes that are not UTF-8 stay, as surrogates; otherwise they raise DataError.
    A missing value is an empty text. Line ends inside a text become spaces; `line_ends` counts these texts, and
    `in_quotes` those of a TSV that look quoted as in a CSV.

    Raises:
        DataError: no such column, rows of another width, cells that hold no text; with file, line and column.
    """

    path: Path
    columns: Sequence[str]
    kind: Kind | None = None
    lines: Iterable[str] | None = None
    hint: str = COLUMN
    keep_bytes: bool = False
    line_ends: int = 0
    in_quotes: int = 0

    def __iter__(self) -> Iterator[tuple[int, list[Cell]]]:
        self.line_ends = self.in_quotes = 0
        kind = self.kind
        if kind in STARTS.values() or kind == "data set":
            there = columnar.fields(self.path)
            for name in self.columns:
                if name not in there:
                    raise self._no_column(name, there)
            return self._from_records(enumerate(columnar.records(self.path, self.columns), 1))
        lines = iter(Lines(self.path, strict=True, keep_bytes=self.keep_bytes) if self.lines is None else self.lines)
        if kind is None:  # of stdin, the first line must do: the next may come later
            head = list(islice(lines, 1 if self.path == STDIN else HEAD))
            kind, lines = kind_of_lines(head, self.path), chain(head, lines)
        return self._from_records(self._objects(lines)) if kind == "JSON lines" else self._from_cells(kind, lines)

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
                raise DataError(f'{self._place(number)} has no text under "{name}"; it has {has}', self.hint)
            value = value[part]
        return value

    def _from_cells(self, kind: Kind, lines: Iterator[str]) -> Iterator[tuple[int, list[Cell]]]:
        rows = delimited(self.path, kind, lines)
        start, first = next(rows, (1, []))
        places = [self._index(name, first) for name in self.columns]
        headless = all(name.isdecimal() for name in self.columns)
        rows = chain([(start, first)], rows) if headless else rows
        for number, cells in _without_blank_end(rows) if len(first) > 1 else rows:
            if len(cells) != len(first):
                raise DataError(
                    f"{self._place(number)} has {counted(len(cells), 'column')}, line {start} has {len(first)}",
                    "quote texts with the delimiter inside"
                    if kind == "CSV"
                    else "a tab always begins a column; with quotes: .csv",
                )
            chosen = [cells[place] for place in places]
            if kind == "TSV":
                self.in_quotes += sum(cell[:1] == cell[-1:] == '"' and '""' in cell[1:-1] for cell in chosen)
            yield number, [self._cell(cell, name, number) for cell, name in zip(chosen, self.columns, strict=True)]

    def _index(self, name: str, first: Sequence[str]) -> int:
        """The place of a column in a row, from 0."""
        if name.isdecimal():  # never a name in the header, such as pandas' 0 and 1
            if 0 < int(name) <= len(first):
                return int(name) - 1
        elif first.count(name) == 1:
            return first.index(name)
        raise self._no_column(name, first)

    def _no_column(self, name: str, there: Sequence[str]) -> DataError:
        has = f"several columns {name!r}" if there.count(name) > 1 else f"no column {name!r}"
        return DataError(f"{name_of(self.path)} has {has}; it has {listed(there)}", self.hint)

    def _cell(self, value: Any, name: str, number: int) -> Cell:
        if isinstance(value, list):
            return [self._text(each, name, number) for each in value]
        return self._text(value, name, number)

    def _text(self, value: Any, name: str, number: int) -> str:
        value = "" if value is None else value
        if not isinstance(value, str):
            raise DataError(f'{self._place(number)} has no text under "{name}": {value!r:.60}', self.hint)
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
        return f"{name_of(self.path)}:{number}"

    def warn(self) -> None:
        """Says how many texts had line ends or look quoted."""
        if self.line_ends:
            console.warn(f"{name_of(self.path)}: line ends inside {counted(self.line_ends, 'text')} became spaces")
        if self.in_quotes:
            console.warn(
                f'{name_of(self.path)}: {counted(self.in_quotes, "text")} in quotes, with "" inside: in a TSV they are '
                "text; if a program quoted as in a CSV, name the file .csv"
            )


def _without_blank_end(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """The rows without blank lines at their end."""
    blank: list[tuple[int, list[str]]] = []
    for row in rows:
        blank.append(row)
        if row[1] != [""]:
            yield from blank
            blank.clear()


@dataclass
class Column(Lines):
    """One column of a table, as lines. kind: see `Table`."""

    column: str = ""
    kind: Kind | None = None
    told: bool = False  # that line ends became spaces

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[str]:
        table = Table(self.path, [self.column], self.kind)
        for number, (cell,) in table:
            if isinstance(cell, list):
                raise DataError(f'{self.name}:{number} has a list of texts under "{self.column}"', COLUMN)
            yield self.clean(cell)
        if not self.told:
            table.warn()
            self.told = True


def text_or_column(
    path: Path, keys: Sequence[str], column: str | None, pick: Callable[[Kind], str],
    clean: Callable[[str], str] = str, *, strict: bool = True,
) -> Lines:  # fmt: skip
    """The lines of a text, or a column of a table, which is said: the one that is asked for, else what `pick` says.

    keys, column: see `kind_of_text`. clean, strict: see `Lines`.
    """
    kind = kind_of_text(path, keys, column)
    if kind == "text":
        return Lines(path, clean, strict)
    if column is None:
        assert kind is not None
        column = pick(kind)
    tell(path, kind, [column])
    return Column(path, clean, column=column, kind=kind)
