"""YAML as people expect it: the core schema of YAML 1.2 and nothing else.

`1e-4` is a number; `no`, `12:30` and `2020-01-01` are text; repeated keys, aliases, anchors and tags are mistakes.
PyYAML parses the text by YAML 1.1 (no tab after a colon, U+0085 and U+2028 end a line); its events become values here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import yaml

Path = tuple[str | int, ...]  # ("model", "width"), ("data", "downloads", 0, "url")

DEPTH = 20
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")  # no file name and no UTF-8 text can hold these
_SCHEMA: list[tuple[str, Callable[[str], Any]]] = [  # every other plain scalar is text
    (r"~|null|Null|NULL|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text[0] in "tT"),
    (r"[-+]?[0-9]{1,78}", int),
    (r"0o[0-7]{1,77}|0x[0-9a-fA-F]{1,77}", lambda text: int(text, 0)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
]


def scalar(text: str) -> Any:
    """An unquoted scalar under the core schema: None, bool, int, float or the text itself."""
    return next((make(text) for pattern, make in _SCHEMA if re.fullmatch(pattern, text)), text)


class Document:
    """One YAML document as plain values; errors in the text are collected in `mistakes`, none is raised.

    lines: the line of each path. mistakes: line, path and what is wrong; a path that ends in "?" is that of a key.
    unread: paths whose value could not be read, so that nothing more is to be checked there.
    complete: False if the text is not YAML from some line on; then there is no `value`.
    """

    def __init__(self, text: str, *, plain: bool = False) -> None:
        """plain: the whole text is one unquoted scalar, whatever its first character."""
        self.value: Any = None
        self.lines: dict[Path, int] = {}
        self.mistakes: list[tuple[int, Path, str]] = []
        self.unread: set[Path] = set()
        self.complete = plain
        if plain:
            self.value = self._usable(scalar(text), 1, ())
        else:
            self._parse(text)

    def wrong(self, line: int, path: Path, mistake: str, *, unread: bool = False) -> None:
        self.mistakes.append((line, path, mistake))
        if unread:
            self.unread.add(path)

    def _parse(self, text: str) -> None:
        loader: Any = None  # its event methods are untyped
        try:
            loader = yaml.SafeLoader(text)
            self.events: Iterator[Any] = iter(loader.get_event, None)
            next(self.events)  # the stream's start
            if isinstance(next(self.events), yaml.DocumentStartEvent):
                self.value = self._value(next(self.events), ())
                next(self.events)  # the document's end
                event = next(self.events)
                if not isinstance(event, yaml.StreamEndEvent):
                    self.wrong(event.start_mark.line + 1, (), "a second document (`---`) is not allowed")
            self.complete = True
        except yaml.reader.ReaderError as problem:
            line = text.count("\n", 0, problem.position) + 1
            self.wrong(line, (), f"character U+{problem.character:04X} is not allowed in YAML")
        except yaml.MarkedYAMLError as problem:
            mark = problem.problem_mark or problem.context_mark
            self.wrong(mark.line + 1 if mark else 1, (), f"not YAML: {problem.problem or problem.context}")
        except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF"
            self.wrong(loader.get_mark().line + 1, (), "not YAML: an escape names no character")

    def _value(self, event: Any, path: Path) -> Any:
        """The value that begins with this event."""
        line = event.start_mark.line + 1
        self.lines.setdefault(path, line)
        if len(path) > DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEPTH} levels", problem_mark=event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.wrong(line, path, f"aliases are not allowed, write the value out (got *{event.anchor})", unread=True)
            return None
        if event.anchor is not None:
            self.wrong(line, path, f"anchors are not allowed (got &{event.anchor})")
        if event.tag is not None:
            self.wrong(line, path, f"tags are not allowed (got {event.tag})", unread=True)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0]  # neither quotes nor a tag
            return self._usable(scalar(event.value) if plain else event.value, line, path)
        inside = takewhile(lambda event: not isinstance(event, yaml.CollectionEndEvent), self.events)
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, (*path, number)) for number, item in enumerate(inside)]
        return self._mapping(inside, path)

    def _mapping(self, keys: Iterator[Any], path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in keys:
            line = event.start_mark.line + 1
            key = self._value(event, (*path, "?"))
            here = (*path, key if isinstance(key, str) else "?")
            if not isinstance(key, str):
                self.wrong(line, path, f"a key must be plain text (got {shorten(getattr(event, 'value', key))})")
            elif key in items:
                self.wrong(line, here, f"stands here again, first in line {self.lines[here]}")
            self.lines.setdefault(here, line)
            value = self._value(next(self.events), here)
            if isinstance(key, str):
                items.setdefault(key, value)
        return items

    def _usable(self, value: Any, line: int, path: Path) -> Any:
        """The scalar, or None if it cannot be used."""
        if isinstance(value, str) and (bad := _UNUSABLE.search(value)):
            self.wrong(line, path, f"character U+{ord(bad[0]):04X} is not allowed", unread=True)
        elif isinstance(value, int) and abs(value) >= 2**63:
            self.wrong(line, path, f"too large a number (got {shorten(value)})", unread=True)
        else:
            return value
        return None


def shorten(value: object) -> str:
    """A value as shown in messages, cut to 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        plain = isinstance(scalar(data), str)  # PyYAML quotes by YAML 1.1, in which 1e-4 is text
        style = "|" if "\n" in data else None if plain else "'"
        if any(character in data for character in "\r\x85\u2028\u2029"):
            style = '"'  # the only style that escapes line ends of YAML
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(value: Any) -> str:
    """Plain values as YAML that `Document` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
