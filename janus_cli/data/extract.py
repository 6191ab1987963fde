"""Tables become plain text, a line a row, which is then read like any other; references become JSON lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from janus_cli import console
from janus_cli.data.lines import Lines, TextFile, cleaner, must_be_stored, suffix_of
from janus_cli.data.references import references as read_references
from janus_cli.data.references import texts_in
from janus_cli.data.tables import SUFFIXES, Cell, Table, Texts, table_at, text_or_column
from janus_cli.errors import DataError
from janus_cli.recipe import Data

REFERENCES = "references"  # a side besides source and target
NOWHERE = Path(os.devnull)
ROWS = 1000  # between signs of progress
COLUMNS = "choose with --set data.columns=[SOURCE,TARGET]: names, or numbers if there is no header"


def _usual(side: str, suffix: str) -> list[str]:
    """Names under which the column of a side is found without being given: as in `de`, `translation.de`, `source`."""
    return [suffix, f"translation.{suffix}", side]


def _names(data: Data) -> list[list[str]]:
    """For the source, and each target, the names that its column may have."""
    given = [[str(name)] for name in data.columns]
    return given or [_usual("source", data.source), _usual("target", data.target)]


def source_names(data: Data) -> list[str]:
    """The names that the column of the source may have in a table."""
    return _names(data)[0]


def source_lines(data: Data, path: Path, column: str | None = None, *, strict: bool = False) -> Lines:
    """Cleaned text to decode: the lines of a text, or a table's source column.

    column: by default the recipe's, or one with a usual name. strict: see `Lines`.

    Raises:
        DataError: the table has no such column.
    """
    given = str(data.columns[0]) if data.columns else None
    return text_or_column(path, _usual("source", data.source), column, given, cleaner(data.clean), strict=strict)


def pairs(data: Data, split: str, path: Path, plain: Path | None, *, keep_bytes: bool) -> dict[str, TextFile]:
    """Source and target of a table (a test split may have none), and for valid and test the references, if a row has
    several.

    plain: the folder for the text; without one, the table is only checked. keep_bytes: see `Texts`.

    Raises:
        DataError: the table is empty or cannot be used, see `Texts`.
    """
    must_be_stored(path)
    hint = COLUMNS + ("" if suffix_of(path) in SUFFIXES or path.is_dir() else "; of aligned text, name both files")
    table = table_at(path)
    source, *targets = _columns(data, split, table, hint)
    table.tell([source, *targets])
    if split != "train":
        _tell_unread(table, source, targets)
    elif len(targets) > 1:
        tell = console.warn if data.columns else console.say  # a list may be meant as several columns of a source
        tell(
            f"{path}: the source is column {source}, the targets to train on are those of column {targets[0]}; "
            f"only where that is empty, those of {', '.join(targets[1:])}"
        )
    texts = Texts(table, [source, *targets], single=True, hint=hint, keep_bytes=keep_bytes)
    read = _first_of if split == "train" else texts_in
    rows = ((str(text), read(cells)) for _, (text, *cells) in texts)
    if split == "train":  # a list of targets gives as many pairs
        rows = ((source, [target]) for source, of_row in rows for target in of_row)
    columns = {"source": source}
    if targets:
        columns |= {"target": targets[0], REFERENCES: ",".join(targets)}
    return _written(split, path, rows, columns, plain)


def _first_of(cells: Sequence[Cell]) -> list[str]:
    """The texts in the first cell that has any."""
    return next(filter(any, (texts_in([cell]) for cell in cells)), [""])


def _tell_unread(table: Table, source: str, targets: Sequence[str]) -> None:
    """Says which columns beside a target are called like it, with a number, and are no references."""
    unread = [name for name in table.numbered(targets[0]) if name not in targets] if targets else []
    if unread and not targets[0].isdecimal():
        named = ",".join([source, *targets, *unread])
        how = f"rename {targets[0]} to {targets[0]}1, or, if every table has them, --set data.columns=[{named}]"
        console.say(f"{table.path}: not read: {', '.join(unread)}; to score against them, too, {how}")


def _columns(data: Data, split: str, table: Table, hint: str) -> list[str]:
    """The columns of a split: the source, and the targets, which only a test split may lack.

    Raises:
        DataError: they are not there.
    """
    try:
        return table.choose(_names(data), hint, in_order=not data.columns, several=True)
    except DataError as problem:
        if split == "test":
            with suppress(DataError):
                source = table.choose(_names(data)[:1], hint, in_order=not data.columns)
                console.warn(f"{problem.message}: the test split can be decoded, not scored")
                return source
        raise


def has_source(data: Data, path: Path) -> bool:
    """Whether a file is a table with a source column."""
    with suppress(DataError):
        return bool(table_at(path).called(_names(data)[0]))
    return False


def has_pairs(data: Data, path: Path) -> bool:
    """Whether a file is a table with columns for source and target."""
    with suppress(DataError):
        return bool(_columns(data, "valid", table_at(path), COLUMNS))
    return False


def references(
    split: str, path: Path, plain: Path | None, *, with_target: bool, keep_bytes: bool
) -> dict[str, TextFile]:
    """The references of a split. plain, keep_bytes: as in `pairs`. with_target: the first of a line is also the target.

    Raises:
        DataError: see `references.references`.
    """
    must_be_stored(path)
    columns = {"target": "1"} if with_target else {}
    rows = (("", texts) for texts in read_references(path, keep_bytes=keep_bytes, of_split=True))
    return _written(split, path, rows, {**columns, REFERENCES: REFERENCES}, plain)


def _written(
    split: str, path: Path, rows: Iterable[tuple[str, Sequence[str]]], columns: dict[str, str], plain: Path | None
) -> dict[str, TextFile]:
    """Writes a text for each of the columns, by side; rows: source, and targets, of which the first is the target.

    Training has no references. Beside a target, there are none unless a row has several.
    """
    columns = {side: name for side, name in columns.items() if split != "train" or side != REFERENCES}
    if plain is not None:
        plain.mkdir(exist_ok=True)
    unread, count, several = TextFile.unread(path), 0, "target" not in columns
    places = {side: plain / f"{split}.{side}" if plain else None for side in columns}
    with ExitStack() as stack:
        bar = stack.enter_context(console.progress(f"reading {path}", None))
        files = {side: stack.enter_context((place or NOWHERE).open("wb")) for side, place in places.items()}
        for source, targets in rows:
            line = {"source": source, "target": targets[0]}
            if REFERENCES in files:
                line[REFERENCES] = _as_list(targets)
            for side, file in files.items():
                file.write(line[side].encode(errors="surrogateescape") + b"\n")
            count, several = count + 1, several or len(targets) > 1
            if count % ROWS == 0:
                bar.advance(ROWS)
    if split == "train" and several:
        console.warn(f"{path}: some lines have several references; training takes the first of a line")
    return {
        side: unread.read(count, name, places[side]) for side, name in columns.items() if several or side != REFERENCES
    }


def _as_list(texts: Sequence[str]) -> str:
    """A JSON list; bytes that are not UTF-8 are replaced: those of source and target the encoder deals with."""
    whole = [text.encode(errors="surrogateescape").decode(errors="replace") for text in texts]
    return json.dumps(whole, ensure_ascii=False)
