"""Words for people, on stderr. The only module that imports rich; stdout belongs to data."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Item = TypeVar("Item")

quiet = False  # set on every rank but the first


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """rich would end the process, and point its stdout elsewhere, when whoever reads stderr has gone."""
        self.quiet = True


def _console() -> Console:
    return _Stderr(file=sys.stderr, highlight=False, soft_wrap=True)


def _print(marked_up: str) -> None:
    # Where stderr is a file on a full disk or a terminal that is gone, the work is worth more than words about it.
    with suppress(OSError):
        _console().print(marked_up)


def say(message: str) -> None:
    """One line for the user."""
    if not quiet:
        _print(escape(message))


def warn(message: str) -> None:
    """One line that deserves a second look."""
    if not quiet:
        _print(f"[yellow]warning:[/] {escape(message)}")


def error(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it."""
    _print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        _print(f"[bold]hint:[/] {escape(hint)}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, to_stdout: bool = False) -> None:
    """A table; numbers are right-aligned because every column but the first is."""
    drawn = Table(title=escape(title) if title else None, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(escape(column), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    stream = sys.stdout if to_stdout else sys.stderr
    width = None if stream.isatty() else 160
    Console(file=stream, highlight=False, width=width).print(drawn)


class progress:
    """A bar with time left on a terminal, a plain line about every ten seconds elsewhere.

    with progress("encoding", total=n) as bar: bar.advance(1, "12,000 tokens/s")
    """

    def __init__(self, what: str, total: int | None, *, every_seconds: float = 10.0, start: int = 0) -> None:
        self.what, self.total, self.done, self.note = what, total, start, ""
        self.started = self.spoke = time.monotonic()
        self.first, self.every = start, every_seconds
        self.bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=_console(), transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task(escape(what), total=total, completed=start, note="")

    def __enter__(self) -> progress:
        if self.bar:
            with suppress(OSError):
                self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            with suppress(OSError):
                self.bar.stop()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Moves on by `count` items; `note` is shown behind the bar."""
        self.done += count
        self.note = self.note if note is None else note
        if self.bar:  # drawn by a thread of its own
            self.bar.update(self.task, completed=self.done, note=escape(self.note))
        elif time.monotonic() - self.spoke >= self.every:
            self.spoke = time.monotonic()
            say(
                f"{self.what}: {self.done:,}{f' / {self.total:,}' if self.total else ''}"
                f"{self._left()}  {self.note}".rstrip()
            )

    def _left(self) -> str:
        made = self.done - self.first
        if not self.total or made <= 0:
            return ""
        return f", {duration((self.total - self.done) * (time.monotonic() - self.started) / made)} left"

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items and advances after each."""
        for item in items:
            yield item
            self.advance()


def duration(seconds: float) -> str:
    """Seconds as people read them: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
