r"""Text, line by line, for every verb that reads it: what ends a line, what is refused, and cleaning.

Only b"\n" ends a line. U+2028, U+0085, \x0b, \x0c, \x1c, a lone \r and NUL are text; a \r before the \n and a BOM at
the start are not.
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
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, Self, cast

from janus_cli import console
from janus_cli.data.stored import digest, disk_size, last_change
from janus_cli.errors import DataError, check_machine
from janus_cli.terminal import command

BadUtf8 = Literal["stop", "skip", "replace"]
STDIN = Path("-")
BOM = b"\xef\xbb\xbf"
UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
GZIP = b"\x1f\x8b"  # how gzipped data begins, and no text in UTF-8
NO_TEXT = {  # how other files begin that are given as text by mistake
    b"%PDF-1.": "a PDF", b"PK\x03\x04": "a ZIP archive, as are .docx, .xlsx and .odt", b"\x7fELF": "a program",
    b"\x89PNG\r": "an image", b"SQLite format 3\0": "a database",
}  # fmt: skip
PACKED = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bzip2"}  # how what these wrote begins
AS_TEXT = "name a file of plain text in UTF-8; programs for such files can write one"
BLOCK = 1 << 20  # bytes read at once
LONGEST_LINE = 1 << 22  # bytes; anything longer is not text in lines, and encoding it would take 100 times its memory
READ_OF_A_LINE = 1 << 16  # bytes read of a line unless strict; far more than a model's positions hold
ENDLESS_LINE = 1 << 30  # bytes; where even the start of a line is not read


def name_of(path: Path) -> str:
    """The name of an input in messages: `stdin` for `-`."""
    return "stdin" if path == STDIN else str(path)


def is_stream(path: Path) -> bool:
    """Whether it can be read only once: stdin, a pipe, a device."""
    return path == STDIN or (path.exists() and not (path.is_file() or path.is_dir()))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises DataError if what is done in it with a file fails."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "name a text file, plain or .gz") from None
    except (OSError, EOFError, zlib.error) as problem:
        check_machine(problem, f"to read {name_of(path)}")
        reason = getattr(problem, "strerror", None) or problem
        damaged = isinstance(problem, EOFError | zlib.error | gzip.BadGzipFile)
        hint = "fetch or compress it again" if damaged else "name a text file, plain or .gz"
        raise DataError(f"{name_of(path)} cannot be read: {reason}", hint) from None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A text file, plain or gzipped, a pipe, or stdin (`-`), as bytes; raises DataError if reading fails."""
    with explained(path):
        if path == STDIN:
            yield sys.stdin.buffer
            return
        if path.is_fifo():
            console.say(f"{path} is a pipe: waiting until something is written to it")
        with path.open("rb") as raw:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw) if is_gzipped(raw) else raw)


def is_gzipped(file: BufferedReader) -> bool:
    """Whether a file at its start holds gzipped data, whatever its name; the position stays."""
    return file.peek(len(GZIP)).startswith(GZIP)


def suffix_of(path: Path) -> str:
    """The suffix in lower case, `.gz` aside: `.tsv` for X.TSV.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def must_be_text(name: str, start: bytes) -> None:
    """Raises DataError for well-known files that are no text; for UTF-16, with a mark or without, where letters of
    ASCII have a NUL beside them; and for what has as many NULs elsewhere."""
    start = start[: 1 << 12]
    if kind := next((kind for magic, kind in NO_TEXT.items() if start.startswith(magic)), ""):
        raise DataError(f"{name} is no text: it is {kind}", AS_TEXT)
    if packer := next((packer for magic, packer in PACKED.items() if start.startswith(magic)), ""):
        raise DataError(
            f"{name} is compressed by {packer}", f"unpack it first: `{command(packer, '-dc', 'FILE')} > NEW`"
        )
    marked, even, odd = start.startswith(UTF16), start[::2].count(0), start[1::2].count(0)
    many = even + odd > max(1, len(start) // 3)
    if many and not marked and 4 * min(even, odd) > max(even, odd):
        raise DataError(f"{name} is no text: {even + odd:,} of its first {len(start):,} bytes are 0", AS_TEXT)
    if marked or many or (start.endswith(b"\0\n") and _looks_wide(start)):
        raise _wide(name, "UTF-16" if marked else "UTF-16LE" if odd > even else "UTF-16BE")


def _looks_wide(line: bytes) -> bool:
    """Whether a line has as many control characters as UTF-16 of a script without ASCII has."""
    return 3 * sum(byte < 32 and byte not in b"\0\n\r" for byte in line) > len(line)


def _wide(name: str, kind: str) -> DataError:
    convert = command("iconv", "-f", kind, "-t", "UTF-8", name)
    return DataError(f"{name} is UTF-16, not UTF-8", f"convert it: `{convert} > NEW`")


def raw_lines(path: Path) -> Iterator[bytes]:
    """Lines of a checked file, with their line ends, without the BOM."""
    with opened(path) as file:
        yield file.readline().removeprefix(BOM)
        yield from file


@dataclass
class Lines:
    """The lines of any text as cleaned strings, from the start each time, in bounded memory.

    strict: bytes that are not UTF-8, and lines that are too long, raise DataError. Otherwise bad bytes are replaced,
    and of a long line only the start is read; `bad_utf8` and `cut` count these lines.
    keep_bytes: strict, but bad bytes stay, as surrogates (PEP 383). quiet: says nothing of a byte order mark.
    """

    path: Path
    clean: Callable[[str], str] = str
    strict: bool = False
    keep_bytes: bool = False
    quiet: bool = False
    bad_utf8: int = 0
    cut: int = 0

    @property
    def name(self) -> str:
        return name_of(self.path)

    def count(self) -> int | None:
        """The number of lines; None if it would take consuming or unpacking them (stdin, pipes, gzipped text)."""
        if not self.path.is_file():
            return None
        count, last = 0, b"\n"
        with suppress(OSError), self.path.open("rb") as file:  # reported when the lines are read
            if is_gzipped(file):
                return None
            while block := file.read(BLOCK):
                count, last = count + block.count(b"\n"), block[-1:]
        return count + (last != b"\n")

    def __iter__(self) -> Iterator[str]:
        """Raises DataError if the text cannot be read, see also `strict`."""
        longest, number, wide = LONGEST_LINE if self.strict else READ_OF_A_LINE, 0, False
        with opened(self.path) as file:
            while line := file.readline(len(BOM) + longest + 1):
                number += 1
                if number == 1:
                    wide = _looks_wide(line[: 1 << 12])
                if not line.endswith(b"\n"):
                    self._skip_rest(file, number)
                if number == 1 and not (line := self._without_bom(line)):
                    return
                if number == 2 and wide and line.startswith(b"\0"):  # the rest of the first line's end
                    raise _wide(self.name, "UTF-16LE")
                line = line.removesuffix(b"\n")
                is_cut = len(line) > longest
                yield self.clean(self._decoded(line[:longest] if is_cut else line.removesuffix(b"\r"), number, is_cut))

    def _skip_rest(self, file: BinaryIO, number: int) -> None:
        """Reads up to the end of a long line, of which the start was read."""
        skipped = 0
        while (rest := file.readline(BLOCK)) and not rest.endswith(b"\n"):
            skipped += len(rest)
            if self.strict or skipped > ENDLESS_LINE:
                raise self._too_long(number)

    def _without_bom(self, start: bytes) -> bytes:
        if start.startswith(GZIP):
            raise DataError(
                f"{self.name} is compressed", f"decompress it first, as in `{command('gunzip', '-c', self.path)}`"
            )
        must_be_text(self.name, start)
        returns = start.rstrip(b"\r").count(b"\r")
        if returns > 1 and not start.endswith(b"\n") and len(start) < READ_OF_A_LINE and not self.quiet:
            console.warn(
                f"{self.name} is one line with {returns:,} carriage returns inside, as old Macs ended lines: "
                "`tr '\\r' '\\n'` makes lines of them"
            )
        if start.startswith(BOM) and not self.quiet:
            console.say(f"{self.name}: byte order mark removed")
        return start.removeprefix(BOM)

    def _decoded(self, line: bytes, number: int, is_cut: bool) -> str:
        if self.strict and is_cut:
            raise self._too_long(number)
        self.cut += is_cut
        try:
            return line.decode(errors="surrogateescape" if self.keep_bytes else "strict")
        except UnicodeDecodeError as problem:
            if self.strict:
                byte, reason = line[problem.start], problem.reason
                raise DataError(
                    f"{self.name}:{number}:{problem.start + 1}: byte 0x{byte:02x} is not UTF-8 ({reason})",
                    "convert it (`iconv -f ENCODING -t UTF-8`); or `janus preprocess --bad-utf8 skip` or `replace`",
                ) from None
            # If a line was cut, its last character may be incomplete: that is no mistake of the text.
            text = codecs.getincrementaldecoder("utf-8")("replace").decode(line, final=not is_cut)
            self.bad_utf8 += not line.startswith(text.encode())
            return text

    def _too_long(self, number: int) -> DataError:
        limit = f"{LONGEST_LINE >> 20} MiB"
        return DataError(f"{self.name}:{number}: this line is longer than {limit}: is this a text file?")


@dataclass(frozen=True)
class TextFile:
    """A checked text: its lines, the bytes and sha256 of its file on disk, and its `last_change` before it was read.

    plain: the file with its lines, if `path` itself is a table or a data set; column: which one it is.
    """

    path: Path
    lines: int
    bytes: int
    sha256: str
    changed: int = 0
    plain: Path | None = None
    column: str = ""

    @classmethod
    def unread(cls, path: Path) -> Self:
        """A text before it is read. Raises DataError if it is not there, or its digest cannot be taken."""
        with explained(path):
            changed = last_change(path)
            return cls(path, 0, disk_size(path), digest(path), changed)

    def read(self, lines: int, column: str = "", plain: Path | None = None) -> Self:
        """The same, once it was found to have so many lines. Raises DataError if it has none."""
        if not lines:
            raise DataError(f"{self.path} is empty")
        return replace(self, lines=lines, column=column, plain=plain)

    @property
    def text(self) -> Path:
        """The file with its lines."""
        return self.plain or self.path

    @property
    def identity(self) -> str:
        """What stands for the text in fingerprints."""
        return f"{self.sha256} {self.column}".strip()


def must_be_stored(path: Path) -> None:
    """Raises DataError for what can be read only once."""
    if is_stream(path):
        raise DataError(f"{name_of(path)} is a pipe or a device", "name a file: it is read several times")


def check(text: Lines) -> TextFile:
    """Reads a whole text once, counts its lines, and checks that it can be used.

    Raises:
        DataError: it is empty, can be read only once, or reading it fails, see `Lines`.
    """
    must_be_stored(text.path)
    unread = TextFile.unread(text.path)
    return unread.read(sum(1 for _ in text))


def cleaner(steps: Sequence[str]) -> Callable[[str], str]:
    """The steps of the recipe's `data.clean` as one function, whose results never contain a line end."""
    functions = [_CLEAN_STEPS[step] for step in steps]

    def clean(line: str) -> str:
        for function in functions:
            line = function(line)
        return line

    return clean


SENTENCE_MARK = "¶"  # a single token in BART's vocabulary, and hardly ever in text
_MARKUP_LINE = re.compile(r"\s*<(?:url|keywords|speaker|talkid|reviewer|translator|doc|/doc)\b")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACES = re.compile(r"\s+")
_CLEAN_STEPS: dict[str, Callable[[str], str]] = {
    # IWSLT's files: lines that only describe the talk become empty, from others the tags are removed.
    "strip_tags": lambda line: "" if _MARKUP_LINE.match(line) else _TAG.sub("", line).strip(),
    "unescape_html": lambda line: html.unescape(line).replace("\n", " "),
    "collapse_spaces": lambda line: _SPACES.sub(" ", line).strip(),
    "lowercase": str.lower,
    "nfc": lambda line: unicodedata.normalize("NFC", line),
    "remove_spaces": lambda line: _SPACES.sub("", line),
    # GLGE's summaries. <S_SEP> is several tokens in every tokenizer, and no_repeat_ngram forbids these twice.
    "mark_sentences": lambda line: line.replace("<S_SEP>", SENTENCE_MARK),
}
