"""References: one or several a line, from plain text, tables, JSON lists a line, or a split of prepared data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from janus_cli import console
from janus_cli.data.lines import Lines, suffix_of
from janus_cli.data.tables import SUFFIXES, Cell, Texts, find_table, listed, table_at
from janus_cli.errors import DataError
from janus_cli.runs import text_name

KEYS = ("references", "reference")  # every object of JSON lines that are not named so has one of them
USUAL = (re.compile(r"(?i)ref(erence)?s?[ _-]?\d*"), re.compile(r"(?i)(target|tgt)[ _-]?\d*"))  # names of columns
CALLED_SO = re.compile(r"(?i)(^|[._-])ref(erence)?s?\d*([._-]|$)")  # names of files in which all columns are such
HINT = "name them with --reference-column"
CALLED = "call its columns reference1, reference2, …"  # a hint for references beside a split


def references(
    path: Path, columns: Sequence[str] = (), *, keep_bytes: bool = False, of_split: bool = False
) -> Iterator[list[str]]:
    """The references of each line or row, at least one (which may be empty).

    columns: of a table; by default those called reference, reference1, …, else target; in a TSV without such a header,
    all columns, and an empty cell is no reference. A cell may hold a list. keep_bytes: see `Texts`. of_split: it
    belongs to a source beside it; else a TSV may have one itself, unless it is called NAME.refs.tsv.

    Raises:
        DataError: the file cannot be read, or has no such columns, or may have a source among them.
    """
    lines, hint = Lines(path, strict=True, keep_bytes=keep_bytes), CALLED if of_split else HINT
    if not columns and _holds_lists(lines):
        console.say(f"{lines.name}: a JSON list of references a line")
        return _from_lists(lines)
    table = table_at(path) if columns else find_table(path, KEYS, hint)
    if table is None:
        return _from_text(lines)
    if columns:
        chosen = table.choose([[name] for name in columns], hint)
    else:
        chosen = next(filter(None, (list(filter(name.fullmatch, table.names)) for name in USUAL)), [])
    if table.kind == "TSV" and not chosen:
        if len(table.names) > 1 and not (of_split or CALLED_SO.search(path.name)):
            raise DataError(
                f"{path} (TSV, no header): its first column may be the source; it holds {listed(table.names)}",
                f"{hint}; or call the file NAME.refs.tsv, if every column holds references",
            )
        console.say(f"{lines.name}: TSV, no header; every column holds references")
        return (texts_in(cells) for _, cells in table.split(iter(lines)))
    if not chosen:
        raise DataError(f"{path} ({table.kind}) has no column of references; its columns: {listed(table.names)}", hint)
    table.tell(chosen)
    return (texts_in(cells) for _, cells in Texts(table, chosen, hint=hint, keep_bytes=keep_bytes))


def _from_text(lines: Lines) -> Iterator[list[str]]:
    tabs = count = 0
    for line in lines:
        tabs, count = tabs + ("\t" in line), count + 1
        yield [line]
    if count and tabs == count:
        console.warn(f"{lines.name}: every line has a tab; name it .tsv if it has several references in columns")


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
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                hint = 'write ["one reference", "another"] in each line'
                raise DataError(f"{lines.name}:{number} is no JSON list of texts", hint)
            yield texts_in(value)


def summary(counts: Sequence[int]) -> dict[str, int]:
    """The sum, the least and the most of the numbers of references of all lines."""
    return {"sum": sum(counts), "least": min(counts), "most": max(counts)}


def in_words(found: Mapping[str, int]) -> str:
    """What `summary` gave, for people."""
    least, most = found["least"], found["most"]
    return f"{found['sum']:,} references, {most if least == most else f'{least} to {most}'} a line"


def by_column(rows: Iterable[Sequence[str]]) -> list[list[str | None]]:
    """The references as lists of N lines, None if a line has fewer than others."""
    return [list(column) for column in zip_longest(*rows)]


def without_blank(columns: Sequence[Sequence[str | None]]) -> list[list[str | None]]:
    """The same columns, in which an empty text beside other references of its line is none."""
    rows = list(zip(*columns, strict=True))
    return [[row[place] or (None if any(row) else row[place]) for row in rows] for place in range(len(columns))]


def prepared_references(folder: Path, split: str, rows: Sequence[int] | None = None) -> list[list[str | None]]:
    """The references of a split of prepared data, or of these of its lines, see `by_column`.

    Raises:
        DataError: a line is no list of texts, or is missing.
    """
    several = folder / text_name(split, "references")
    try:
        if several.is_file():
            lines = list(_from_lists(Lines(several, strict=True)))
        else:
            lines = [[line] for line in Lines(folder / text_name(split, "target"))]
        return by_column(lines if rows is None else [lines[row] for row in rows])
    except IndexError:
        raise DataError(f"{folder} has too few references for its {split} split", "prepare the text again") from None
