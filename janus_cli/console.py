"""User messages, on stderr, and tables on stdout. The only module that imports rich; stdout belongs to data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from rich.cells import cell_len as cell_len  # the columns that a text takes; also for others
from rich.console import Console
from rich.text import Text

from janus_cli.terminal import fitting, visible

if TYPE_CHECKING:
    from rich.progress import Progress

NARROWEST = 8  # first column of a table
DRAWN, WORDS = 29, 40  # columns of a terminal that a progress bar takes, and that its words need at least

quiet = False  # set on every rank but the first


class _Stderr(Console):
    def __init__(self) -> None:
        super().__init__(file=sys.stderr, highlight=False, soft_wrap=True)
        if self.width < 1:  # COLUMNS=0, and rich would print nothing
            self.width = 80

    def on_broken_pipe(self) -> None:
        """Goes silent when nobody reads stderr any more; rich would end the process."""
        self.quiet = True


def _print(message: str, label: str = "", style: str = "") -> None:
    # A line break of our own is followed by two spaces; any other belongs to a name or a text. So nothing that is named
    # can begin a line, and pass for an error.
    shown = "\n  ".join(map(visible, message.split("\n  ")))
    # If stderr is a file on a full disk or a closed terminal, the work goes on without messages.
    with suppress(OSError):
        _Stderr().print(Text.assemble((label, style), " " * bool(label), shown))


def say(message: str) -> None:
    """A line for the user; further lines of it begin with two spaces."""
    if not quiet:
        _print(message)


def warn(message: str) -> None:
    """A warning."""
    if not quiet:
        _print(message, "warning:", "yellow")


def hint(message: str) -> None:
    """What to do next; prints nothing if the message is empty."""
    if message:
        _print(message, "hint:", "bold")


def error(message: str, next_step: str = "") -> None:
    """What went wrong, and what to do about it; on every rank."""
    _print(message, "error:", "bold red")
    hint(next_step)


def out(*lines: str) -> None:
    """Lines for people on stdout."""
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))
    sys.stdout.flush()


def data(text: str) -> None:
    """Text for programs and files on stdout: as it is, in UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(errors="backslashreplace"))
    sys.stdout.buffer.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; all columns but the first are numbers, right-aligned, and never cut at any width.

    Where it does not fit, titles break at spaces, then the first column shrinks; then every cell gets a line.
    """
    from rich.table import Table  # here, because most commands draw neither tables nor bars

    heads, cells = [_shown(column) for column in columns], [[_shown(cell) for cell in row] for row in rows]
    width = Console(file=sys.stdout).width if sys.stdout.isatty() else 160
    widths = _widths(heads, cells, width)
    if widths is None:
        out(*_as_lines(title, heads, cells))
        return
    drawn = Table(title=Text(visible(title), "bold") if title else None, title_justify="left")
    for index, (head, size) in enumerate(zip(heads, widths, strict=True)):
        drawn.add_column(Text(head), justify="right" if index else "left", width=size, overflow="fold")
    for row in cells:
        drawn.add_row(*map(Text, row))
    Console(file=sys.stdout, highlight=False, width=width).print(drawn)


def _shown(text: str) -> str:
    return fitting(visible(text))  # before widths are measured


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The width of each column of a table, its frame aside; None if it does not fit into `width`."""
    room = width - 3 * len(columns) - 1
    longest = [max([0, *(cell_len(row[place]) for row in cells)]) for place in range(len(columns))]
    whole = [max(cell_len(column), size) for column, size in zip(columns, longest, strict=True)]
    least = [max(map(cell_len, column.split()), default=0) for column in columns]
    least = [max(pair) for pair in zip(least, longest, strict=True)]
    for sizes in (whole, [whole[0], *least[1:]]):
        if sum(sizes) <= room:
            return sizes
    first = room - sum(least[1:])
    return [first, *least[1:]] if first >= NARROWEST else None


def _as_lines(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: each row's first cell, and below it every other one beside the title of its column."""
    lines = [title] if title else []
    for first, *rest in cells:
        lines += [first, *(f"  {column}: {cell}" for column, cell in zip(columns[1:], rest, strict=True))]
    return lines


class progress:
    """Progress: on a terminal a bar with the time left, elsewhere a plain line about every ten seconds.

    with progress("encoding", total=n) as bar: bar.advance(1, "12,000 tokens/s")
    """

    def __init__(
        self, what: str, total: int | None, *, every_seconds: float = 10.0, start: int = 0,
        left: Callable[[], float] = lambda: inf,
    ) -> None:  # fmt: skip
        """left: seconds after which it ends, even if items are left."""
        self.what, self.left = what, left
        self.total, self.done, self.note = total, start, ""
        self.first, self.every = start, every_seconds
        self.started = self.spoke = time.monotonic()
        self.bar: Progress | None = None
        console = _Stderr()
        if sys.stderr.isatty() and not quiet and not console.is_dumb_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
            from rich.table import Column

            wide = console.width >= DRAWN + WORDS
            drawn = [BarColumn(bar_width=20), TimeElapsedColumn()] if wide else []
            room = Column(no_wrap=True, max_width=console.width - DRAWN * wide)
            words = TextColumn("{task.description}", markup=False, table_column=room)
            self.bar = Progress(*drawn, words, console=console, transient=True)
            self.task = self.bar.add_task(visible(f"{self._count()}  {what}"), total=total, completed=start)

    def __enter__(self) -> progress:
        if self.bar:
            with suppress(OSError):
                self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            with suppress(OSError):
                self.bar.stop()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more items are done; `note` is shown after the bar, by default the previous one."""
        self.done += count
        self.note = self.note if note is None else note
        now = time.monotonic()
        if self.bar:  # drawn by a thread of its own
            # What matters most comes first: in a narrow terminal the end is cut off.
            words = visible(f"{self._count()}  {self.what}  {self.note}")
            self.bar.update(self.task, completed=self.done, description=words)
        elif now - self.spoke >= self.every:
            self.spoke = now
            say(f"{self.what}: {self._count()}  {self.note}".rstrip())

    def _count(self) -> str:
        """How far it is, and how long the rest will take, if that is known."""
        if not self.total:
            return f"{self.done:,}"
        made, seconds = self.done - self.first, time.monotonic() - self.started
        if made <= 0:
            return f"{self.done:,} / {self.total:,}"
        rest = max(0.0, min((self.total - self.done) * seconds / made, self.left()))
        return f"{self.done:,} / {self.total:,}, {duration(rest)} left"


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in `1 line` and `2,000 lines`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
