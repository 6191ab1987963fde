"""The references of a split of prepared data: its target, or several a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from janus_cli.data.lines import Lines
from janus_cli.data.references import json_list
from janus_cli.errors import DataError
from janus_cli.runs import text_name
from janus_cli.scoring.metrics import References


def prepared_references(folder: Path, split: str, rows: Sequence[int] | None = None) -> References:
    """The references of a split, or of these of its lines.

    Raises:
        DataError: a line is no list of texts, or is missing.
    """
    several = folder / text_name(split, "references")
    if several.is_file():
        lines = [_texts(line, f"{several}:{number}") for number, line in enumerate(Lines(several, strict=True), 1)]
    else:
        lines = [[line] for line in Lines(folder / text_name(split, "target"))]
    try:
        chosen = lines if rows is None else [lines[row] for row in rows]
    except IndexError:
        raise DataError(f"{folder} has too few references for its {split} split", "prepare the text again") from None
    return [list(column) for column in zip_longest(*chosen)]


def _texts(line: str, place: str) -> list[str]:
    try:
        return json_list(line)
    except ValueError as problem:
        raise DataError(f"{place}: {problem}", "prepare the text again") from None
