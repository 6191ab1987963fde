"""Words for a terminal: control characters escaped, stand-ins for what its encoding lacks, commands quoted.

Cheap to import: `janus --help` reads it.
"""

import codecs
import io
import re
import shlex
import sys
from pathlib import Path

# Control characters; those that end a line or turn the direction of text; the bytes of a name that are no text.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_STAND_INS = {"…": "...", "→": "->", "×": "x", "–": "-", "—": "-", "·": ".", "≤": "<=", "≥": ">=", "’": "'"}
_ERRORS = "janus.stand-ins"  # name of the error handler


def visible(text: str) -> str:
    r"""The text with what would move the cursor, colour the screen or hide other text as `\x1b`, `\n`, `\u202e`."""
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _stand_ins(problem: UnicodeError) -> tuple[str, int]:
    """For `codecs.register_error`: ASCII in place of what an encoding lacks."""
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    lacking = problem.object[problem.start : problem.end]
    return "".join(_STAND_INS.get(each, ascii(each)[1:-1]) for each in lacking), problem.end


codecs.register_error(_ERRORS, _stand_ins)


def fit_streams() -> None:
    """From now on, stdout and stderr take any text, whatever their encoding (ASCII, Latin-1, a Windows code page)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def fitting(text: str) -> str:
    """The text as stdout can show it; for libraries that write past `fit_streams`."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, _ERRORS).decode(encoding)


def command(*words: object) -> str:
    """A command to copy into a shell: words are quoted, and a `Path` is never taken for an option."""
    return " ".join(quoted(f"./{word}" if _looks_like_an_option(word) else str(word)) for word in words)


def _looks_like_an_option(word: object) -> bool:
    return isinstance(word, Path) and str(word).startswith("-") and str(word) != "-"


def quoted(word: str) -> str:
    r"""One word as a shell reads it; if it cannot be shown, as bash and zsh read it: `$'a\x0ab'`."""
    if not _UNSEEN.search(word):
        return shlex.quote(word)
    inner = _UNSEEN.sub(_for_a_shell, word.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{inner}'"


def _for_a_shell(found: re.Match[str]) -> str:
    code = ord(found[0])  # U+DC80 to U+DCFF are the bytes 0x80 to 0xff of a name
    return f"\\x{code % 256:02x}" if code < 0x80 or code >= 0xDC80 else f"\\u{code:04x}"
