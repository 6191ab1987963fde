"""What the lab's commands print and write: Markdown tables, JSON, and the templates beside this file, filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from janus_cli import console
from janus_cli.lab import machine


def cell(value: float | None, form: str) -> str:
    """A number in this format; a dash where there is none."""
    return "–" if value is None else format(value, form)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column left-aligned, the others right-aligned, also where Markdown is read as plain text."""
    widths = [max(len(line[place]) for line in [columns, *rows]) for place in range(len(columns))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [columns, rule, *rows])


def json_file(values: Mapping[str, Any]) -> bytes:
    """JSON as a file holds it, and as `--json` prints it."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def render(name: str, values: Mapping[str, Any], **filters: Callable[..., object]) -> str:
    """The template `name`, filled in; in .html every value is escaped, but for what is `Markup` already."""
    html = name.endswith(".html")
    environment = Environment(
        autoescape=html, finalize=printable if html else None, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "commas": "{:,}".format, "counted": console.counted, "in_words": machine.in_words, **filters
    }  # fmt: skip
    text = resources.files("janus_cli.lab").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text).render(values).rstrip("\n")


def printable(value: object) -> object:
    """Text with its control characters as `·`; what is HTML already stays."""
    return value if isinstance(value, Markup) else re.sub(r"[^\n\t -\x7e\x80-\U0010ffff]", "·", str(value))
