"""References: one or several a line, from plain text, tables, or JSON lists as prepared data has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from janus_cli import console
from janus_cli.data.lines import Lines, name_of, suffix_of
from janus_cli.data.tables import SUFFIXES, Cell, Table, columns_of, delimited, kind_of_text, listed, tell
from janus_cli.errors import DataError

KEYS = ("references", "reference")  # every object of JSON lines that are not named so has one of them
USUAL = (re.compile(r"(?i)ref(erence)?s?[ _-]?\d*"), re.compile(r"(?i)(target|tgt)[ _-]?\d*"))  # names of columns
HINT = "name them with --reference-column"


def references(
    path: Path, columns: Sequence[str] = (), *, keep_bytes: bool = False, hint: str = HINT
) -> Iterator[list[str]]:
    """The references of each line or row, at least one (which may be empty).

    columns: of a table; by default those called reference, reference1, …, else target; in a TSV without such a header,
    all columns, and an empty cell is no reference. A cell may hold a list. keep_bytes: see `Table`. hint: how to name
    columns.

    Raises:
        DataError: the file cannot be read, or has no such columns.
    """
    lines = Lines(path, strict=True, keep_bytes=keep_bytes)
    if not columns and _holds_lists(lines):
        console.say(f"{name_of(path)}: a JSON list of references a line")
        return _from_lists(lines)
    kind = kind_of_text(path, columns or KEYS, next(iter(columns), None))
    if kind == "text":
        return _from_text(lines)
    there = [] if columns or kind is None else columns_of(path, kind)
    wanted = columns or next(filter(None, (list(filter(name.fullmatch, there)) for name in USUAL)), [])
    if kind == "TSV" and not wanted:
        console.say(f"{name_of(path)}: TSV, no header; every column holds references")
        return (texts_in(cells) for _, cells in delimited(path, kind, iter(lines)))
    if not wanted:
        raise DataError(f"{path} ({kind}) has no column of references; it has {listed(there)}", hint)
    return _from_table(Table(path, wanted, kind, hint=hint, keep_bytes=keep_bytes))


def _from_text(lines: Lines) -> Iterator[list[str]]:
    tabs = count = 0
    for line in lines:
        tabs, count = tabs + ("\t" in line), count + 1
        yield [line]
    if count and tabs == count:
        console.warn(f"{lines.name}: every line has a tab; name it .tsv if it has several references in columns")


def _from_table(table: Table) -> Iterator[list[str]]:
    tell(table.path, table.kind, table.columns)
    yield from (texts_in(cells) for _, cells in table)
    table.warn()


def texts_in(cells: Iterable[Cell]) -> list[str]:
    """All texts in the cells of a row that are not empty; if there is none, an empty one."""
    return [text for cell in cells for text in ([cell] if isinstance(cell, str) else cell) if text] or [""]


def _holds_lists(lines: Lines) -> bool:
    """Whether a file is called JSON lines, and its first line is a list, not of objects: that is a JSON array."""
    if SUFFIXES.get(suffix_of(lines.path)) != "JSON lines" or not lines.path.is_file():
        return False
    with suppress(ValueError, RecursionError):
        first = json.loads(next((line for line in lines if line.strip()), ""))
        return isinstance(first, list) and not any(isinstance(each, dict) for each in first)
    return False


def _from_lists(lines: Lines) -> Iterator[list[str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield texts_in(json_list(line))
            except (ValueError, RecursionError):
                hint = 'write ["one reference", "another"] in each line'
                raise DataError(f"{lines.name}:{number} is no JSON list of texts", hint) from None


def json_list(line: str) -> list[str]:
    """A JSON list of texts; ValueError for anything else."""
    value = json.loads(line)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("no list of texts")
    return value or [""]
