r"""Text, line by line, for every verb that reads it: where lines end, what is refused, what is cleaned.

A line is what stands between b"\n" and nothing else. U+2028, U+0085, \x0b, \x0c, \x1c, a lone \r and NUL are text.
A \r before the \n and a BOM at the start are not.
"""

from __future__ import annotations

import codecs
import gzip
import html
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, cast

from janus_cli import console
from janus_cli.errors import DataError
from janus_cli.files import sha256

BadUtf8 = Literal["stop", "skip", "replace"]
STDIN = Path("-")
BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20  # bytes read at once
LONGEST_LINE = 1 << 22  # bytes; beyond that it is no text with lines, and encoding it would take 100 times as many
READ_OF_A_LINE = 1 << 16  # bytes; far more than a model's positions hold


def name_of(path: Path) -> str:
    """As people read it."""
    return "stdin" if path == STDIN else str(path)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A text file, plain or `.gz`, a pipe, or stdin (`-`), as bytes.

    Raises:
        DataError: it is missing, cannot be read, or is damaged; also while it is read.
    """
    try:
        if path == STDIN:
            yield sys.stdin.buffer
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield cast(BinaryIO, file)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "name a text file, plain or .gz") from None
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        hint = "fetch or compress it again" if path.suffix == ".gz" else "name a text file, plain or .gz"
        raise DataError(f"{name_of(path)} cannot be read: {reason}", hint) from None


def raw_lines(path: Path, longest: int | None = None, *, announce: bool = False) -> Iterator[bytes]:
    """Lines with their line ends, behind the BOM (announce: which is said).

    longest: bounds the memory; of a line of more bytes, longest + 1 come, without a line end.
    """
    with opened(path) as file:
        limit = -1 if longest is None else len(BOM) + longest + 1
        first = file.readline(limit)
        if announce and first.startswith(BOM):
            console.say(f"{name_of(path)}: byte order mark removed")
        start = [first.removeprefix(BOM)] if first else []
        if longest is None:
            yield from chain(start, file)
            return
        for line in chain(start, iter(partial(file.readline, limit), b"")):
            if not line.endswith(b"\n"):
                while (rest := file.readline(longest)) and not rest.endswith(b"\n"):
                    pass
            yield line if len(line) <= longest else line[: longest + 1]


@dataclass
class Lines:
    """The lines of a text as cleaned strings, from the start each time.

    strict: bytes that are not UTF-8, and lines that are too long, raise DataError. Otherwise bad bytes are replaced,
    and of a long line only the start is read; `bad_utf8` and `cut` count these lines.
    """

    path: Path
    clean: Callable[[str], str] = str
    strict: bool = False
    bad_utf8: int = 0
    cut: int = 0

    @property
    def name(self) -> str:
        return name_of(self.path)

    def count(self) -> int | None:
        """How many lines there are; None where only reading them would tell (stdin, pipes, .gz)."""
        if not self.path.is_file() or self.path.suffix == ".gz":
            return None
        count, last = 0, b"\n"
        with suppress(OSError), self.path.open("rb") as file:  # whoever reads the lines hears of it
            while block := file.read(BLOCK):
                count, last = count + block.count(b"\n"), block[-1:]
        return count + (last != b"\n")

    def __iter__(self) -> Iterator[str]:
        """Raises DataError where the text cannot be read, see also `strict`."""
        longest = LONGEST_LINE if self.strict else READ_OF_A_LINE
        for number, raw in enumerate(raw_lines(self.path, longest, announce=True), 1):
            is_cut = len(raw) > longest and not raw.endswith(b"\n")
            line = raw[:longest] if is_cut else raw.removesuffix(b"\n").removesuffix(b"\r")
            if self.strict and is_cut:
                raise _too_long(self.path, number)
            try:
                text = line.decode()
            except UnicodeDecodeError as problem:
                if self.strict:
                    raise _not_utf8(self.path, number, problem.start + 1, problem) from None
                # Where a line was cut, the last character may be half there: that is no mistake of the text.
                text = codecs.getincrementaldecoder("utf-8")("replace").decode(line, final=not is_cut)
                self.bad_utf8 += not line.startswith(text.encode())
            self.cut += is_cut
            yield self.clean(text)


def _too_long(path: Path, number: int) -> DataError:
    return DataError(
        f"{name_of(path)}:{number}: this line is longer than {LONGEST_LINE >> 20} MiB: is this a text file?"
    )


def _not_utf8(path: Path, number: int, column: int, problem: UnicodeDecodeError) -> DataError:
    byte = problem.object[problem.start]
    return DataError(
        f"{name_of(path)}:{number}:{column}: byte 0x{byte:02x} is not UTF-8 ({problem.reason})",
        "convert the text (`iconv -t UTF-8`); `janus preprocess` can also take --bad-utf8 skip or replace",
    )


@dataclass(frozen=True)
class TextFile:
    """A checked text file: its lines, its bytes and sha256 on disk, and its `last_change` before it was read."""

    path: Path
    lines: int
    bytes: int
    sha256: str
    changed: int = 0


def last_change(path: Path) -> int:
    """When contents or inode changed, whichever is later, in nanoseconds: replacement by an older file shows, too."""
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def check(path: Path, bad_utf8: BadUtf8 = "stop") -> TextFile:
    """Reads a whole file, counts its lines, and makes sure that it can be used.

    Raises:
        DataError: unreadable, empty, cut off, without line ends, or not UTF-8 (with `stop`), naming file:line:byte.
    """
    lines = unfinished = 0  # unfinished: bytes of the line that is being read
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if bad_utf8 == "stop" else "ignore")
    with opened(path) as file:
        changed, digest = last_change(path), sha256(path)
        block = file.read(len(BOM))
        if block == BOM:
            console.say(f"{path}: byte order mark removed")
            block = file.read(BLOCK)
        while True:
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as problem:
                before = problem.object[: problem.start]  # some bytes of the block before, and of this one
                earlier = unfinished - (len(problem.object) - len(block)) if b"\n" not in before else 0
                column = earlier + len(before) - before.rfind(b"\n")
                raise _not_utf8(path, lines + before.count(b"\n") + 1, column, problem) from None
            if not block:
                break
            ends = block.count(b"\n")
            unfinished = len(block) - block.rfind(b"\n") - 1 if ends else unfinished + len(block)
            lines += ends
            if unfinished > LONGEST_LINE:
                raise _too_long(path, lines + 1)
            block = file.read(BLOCK)
        size = path.stat().st_size
    lines += unfinished > 0
    if not lines:
        raise DataError(f"{path} is empty")
    return TextFile(path, lines, size, digest, changed)


def cleaner(steps: Sequence[str]) -> Callable[[str], str]:
    """One function that does the recipe's `data.clean` in order; it never makes a line end."""
    functions = [_CLEAN_STEPS[step] for step in steps]

    def clean(line: str) -> str:
        for function in functions:
            line = function(line)
        return line

    return clean


_MARKUP_LINE = re.compile(r"\s*<(?:url|keywords|speaker|talkid|reviewer|translator|doc|/doc)\b")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACES = re.compile(r"\s+")
_CLEAN_STEPS: dict[str, Callable[[str], str]] = {
    # IWSLT's files: lines that only describe the talk become empty, of other lines the tags go.
    "strip_tags": lambda line: "" if _MARKUP_LINE.match(line) else _TAG.sub("", line).strip(),
    "unescape_html": lambda line: html.unescape(line).replace("\n", " "),
    "collapse_spaces": lambda line: _SPACES.sub(" ", line).strip(),
    "lowercase": str.lower,
    "nfc": lambda line: unicodedata.normalize("NFC", line),
}
