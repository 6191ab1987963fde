"""What a bench and a comparison print and write: tables that are valid Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column left-aligned, the others right-aligned, also where Markdown is read as plain text."""
    widths = [max(len(line[place]) for line in [columns, *rows]) for place in range(len(columns))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [columns, rule, *rows])


def document(head: str, tables: Sequence[str], notes: Sequence[str]) -> str:
    """A line about the conditions, the tables, and what must stand with the numbers."""
    return "\n\n".join([head, *tables, "\n".join(f"* {note}" for note in notes)])


def json_file(values: Mapping[str, Any]) -> bytes:
    """JSON as a file holds it, and as `--json` prints it."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
