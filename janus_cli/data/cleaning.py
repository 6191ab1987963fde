"""What `data.clean` does to a line."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence

_MARKUP_LINE = re.compile(r"\s*<(?:url|keywords|speaker|talkid|reviewer|translator|doc|/doc)\b")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACES = re.compile(r"\s+")


def cleaner(steps: Sequence[str]) -> Callable[[str], str]:
    """One function that does the recipe's `data.clean` in order; it never makes a line end."""
    functions = [_STEPS[step] for step in steps]

    def clean(line: str) -> str:
        for function in functions:
            line = function(line)
        return line

    return clean


def _strip_tags(line: str) -> str:
    """IWSLT's files: lines that only describe the talk become empty, of other lines the tags go."""
    return "" if _MARKUP_LINE.match(line) else _TAG.sub("", line).strip()


def _unescape(line: str) -> str:
    return html.unescape(line).replace("\n", " ")


def _collapse(line: str) -> str:
    return _SPACES.sub(" ", line).strip()


_STEPS: dict[str, Callable[[str], str]] = {
    "strip_tags": _strip_tags,
    "unescape_html": _unescape,
    "collapse_spaces": _collapse,
    "lowercase": str.lower,
    "nfc": lambda line: unicodedata.normalize("NFC", line),
}
