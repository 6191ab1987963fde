r"""Lines to decode, from a file or stdin. A line is what stands between b"\n" and nothing else; none is ever lost."""

from __future__ import annotations

import codecs
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from janus_cli import console
from janus_cli.data.corpus import BOM
from janus_cli.errors import DataError

STDIN = Path("-")
# Bytes of a line that are read; the rest is passed over. Far more than a model's positions hold.
LINE_BYTES = 1 << 16
COUNT_BYTES = 1 << 20


@dataclass
class Reader:
    """Yields each line as cleaned text; counts what had to be mended.

    clean: applied to each line. cut: lines of which only the start was read.
    """

    path: Path
    clean: Callable[[str], str] = str
    bad_utf8: int = 0
    cut: int = 0

    @property
    def name(self) -> str:
        """As people read it."""
        return "stdin" if self.path == STDIN else str(self.path)

    def count(self) -> int | None:
        """How many lines there are; None where only reading them would tell (stdin, pipes, .gz)."""
        if not self.path.is_file() or self.path.suffix == ".gz":
            return None
        count, last = 0, b"\n"
        with suppress(OSError), self.path.open("rb") as file:  # whoever reads the lines hears of it
            while block := file.read(COUNT_BYTES):
                count, last = count + block.count(b"\n"), block[-1:]
        return count + (last != b"\n")

    def __iter__(self) -> Iterator[str]:
        """The lines from the start.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            with ExitStack() as stack:
                file = sys.stdin.buffer if self.path == STDIN else stack.enter_context(_open(self.path))
                for number, (line, whole) in enumerate(_bounded(file)):
                    yield self._text(line, whole, first=number == 0)
        except (OSError, EOFError, zlib.error) as problem:
            reason = getattr(problem, "strerror", None) or problem
            raise DataError(f"{self.name} cannot be read: {reason}") from None

    def _text(self, line: bytes, whole: bool, *, first: bool) -> str:
        if first and line.startswith(BOM):
            console.say(f"{self.name}: byte order mark removed")
            line = line[len(BOM) :]
        line = line.removesuffix(b"\n").removesuffix(b"\r") if whole else line
        self.cut += not whole
        # Where a line was cut, the last character may be half there: that is no mistake of the text.
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(line, final=whole)
        self.bad_utf8 += not line.startswith(text.encode())
        return self.clean(text)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _bounded(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Each line with its line end, and whether it is whole; of longer ones the first LINE_BYTES."""
    while line := file.readline(LINE_BYTES + 1):
        whole = len(line) <= LINE_BYTES or line.endswith(b"\n")
        yield line if whole else line[:LINE_BYTES], whole
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LINE_BYTES)
