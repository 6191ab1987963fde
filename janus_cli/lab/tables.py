"""Output of the lab's commands: tables, JSON, and the templates beside this file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from janus_cli import console
from janus_cli.errors import UsageError
from janus_cli.lab import machine
from janus_cli.terminal import visible

NUMBERS = tuple("–+-0123456789")  # what the cells of a column of numbers begin with
HEAD = 1024  # bytes at the start of a file that contain its mark


def cells(columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Rows of values as text. columns: title, and format of its numbers; None becomes a dash."""

    def text(value: Any, form: str) -> str:
        return "–" if value is None else value if isinstance(value, str) else format(value, form)

    return [[text(*pair) for pair in zip(row, columns.values(), strict=True)] for row in rows]


def without_empty(columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> tuple[dict[str, str], list[list[Any]]]:
    """The columns in which a row has a value (all if there are no rows), and their values; see `cells`."""
    kept = [place for place in range(len(columns)) if not rows or any(row[place] is not None for row in rows)]
    titles = list(columns.items())
    return dict(titles[place] for place in kept), [[row[place] for place in kept] for row in rows]


def markdown(columns: Mapping[str, str], values: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of `cells`, aligned in plain text, too: numbers right, words and the first column left."""
    titles, rows = list(columns), cells(columns, values)
    widths = [max(len(line[place]) for line in [titles, *rows]) for place in range(len(titles))]
    words = {place for row in rows for place, cell in enumerate(row) if not cell.startswith(NUMBERS)} | {0}

    def line(row: Sequence[str]) -> str:
        sides = enumerate(zip(row, widths, strict=True))
        return f"| {' | '.join(text.ljust(w) if place in words else text.rjust(w) for place, (text, w) in sides)} |"

    rule = ["-" * width if place in words else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    return "\n".join(line(row) for row in [titles, rule, *rows])


def json_file(values: Mapping[str, Any]) -> bytes:
    """JSON as a file holds it, and as `--json` prints it."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def render(name: str, values: Mapping[str, Any], **filters: Callable[..., object]) -> str:
    """The template `name`, filled in; in .html every value is escaped unless it is `Markup`."""
    html = name.endswith(".html")
    environment = Environment(
        autoescape=html, finalize=printable if html else None, undefined=StrictUndefined, trim_blocks=True
    )
    ours = {"commas": "{:,}".format, "counted": console.counted, "in_words": machine.in_words}
    environment.filters |= ours | filters
    text = resources.files("janus_cli.lab").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text).render(values).rstrip("\n")


def must_be_free(file: Path, *, force: bool, mark: str = "") -> None:
    """Raises UsageError unless `file` does not exist, holds this mark of an earlier one, or `force` is given."""
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}", "make it, or name another file")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "name a file")
    if force or not (file.exists() or file.is_symlink()):
        return
    with suppress(OSError), file.open("rb") as opened:
        if mark and mark.encode() in opened.read(HEAD):
            return
    other = " and is not a report of janus" if mark else " already"
    raise UsageError(f"{file} exists{other}", "overwrite it with --force, or name another file")


def printable(value: object) -> object:
    """Text with control characters escaped, but for line ends; `Markup` stays as it is."""
    return value if isinstance(value, Markup) else "\n".join(map(visible, str(value).split("\n")))
