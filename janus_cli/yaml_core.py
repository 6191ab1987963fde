"""YAML as people expect it: the core schema of YAML 1.2 and nothing else.

`1e-4` is a number; `no`, `on`, `12:30` and `2020-01-01` are text; a key stands once. Aliases, anchors and tags are
mistakes. PyYAML scans the text (as 1.1 has it: no tab behind a colon, U+0085 and U+2028 end a line); values are made
here, each with the line it stands on, and all mistakes are collected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]  # ("model", "width"), ("data", "downloads", 0, "url")

_DEPTH = 20
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")  # no file name and no UTF-8 text can hold these


@dataclass
class Parsed:
    """One document: plain values, the line of each path, and what was wrong (line, path, text)."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[tuple[int, Path, str]] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)  # paths whose value could not be taken; None stands there
    complete: bool = False  # False: the text is no YAML from some line on, and `value` holds nothing


def scalar(text: str) -> Any:
    """An unquoted scalar under the core schema: None, bool, int, float or the text itself."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text) and len(text) < 80:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if found := _INFINITE.fullmatch(text):
        return float("nan") if found[3] else float(found[1] + "inf")
    return text


def parse_scalar(text: str) -> Parsed:
    """Reads the whole text as one unquoted scalar, whatever its first character."""
    builder = _Builder("")
    builder.parsed.value = builder.checked(scalar(text), text, ())
    builder.parsed.complete = True
    return builder.parsed


def parse(text: str) -> Parsed:
    """Reads one document; never raises on bad text."""
    builder = _Builder(text)
    try:
        builder.document()
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        builder.wrong(line, (), f"character U+{problem.character:04X} is not allowed in YAML")
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        builder.wrong(mark.line + 1 if mark else 1, (), f"not YAML: {problem.problem or problem.context}")
    except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF"
        builder.wrong(builder.line, (), "not YAML: an escape names no character")
    except _TooDeep:
        builder.wrong(builder.line, (), f"nested deeper than {_DEPTH} levels")
    return builder.parsed


class _TooDeep(Exception):
    pass


class _Builder:
    """Makes values out of PyYAML's events."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.parsed = Parsed()
        self.line = 1

    def wrong(self, line: int, path: Path, text: str) -> None:
        self.parsed.mistakes.append((line, path, text))

    def unread(self, line: int, path: Path, text: str) -> None:
        self.wrong(line, path, text)
        self.parsed.unread.add(path)

    def next(self) -> yaml.Event:
        event = next(self.events)
        self.line = event.start_mark.line + 1 if event.start_mark else self.line
        return event

    def document(self) -> None:
        """Fills `parsed` from the first document; a second one is a mistake."""
        value = None
        documents = 0
        while not isinstance(event := self.next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.wrong(self.line, (), "a second document (`---`) is not allowed")
                    break
                value = self.node(self.next(), ())
        self.parsed.value, self.parsed.complete = value, True

    def node(self, event: yaml.Event, path: Path) -> Any:
        line = self.line
        self.parsed.lines.setdefault(path, line)
        if len(path) > _DEPTH:
            raise _TooDeep
        if isinstance(event, yaml.AliasEvent):
            self.unread(line, path, f"aliases are not allowed, write the value out (got *{event.anchor})")
            return None
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self.wrong(line, path, f"anchors are not allowed (got &{event.anchor})")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.unread(line, path, f"tags are not allowed (got {tag})")
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        assert isinstance(event, yaml.ScalarEvent)
        return self.checked(_value(event), event.value, path)

    def checked(self, value: Any, text: str, path: Path) -> Any:
        if isinstance(value, str) and (found := _UNUSABLE.search(value)):
            self.unread(self.line, path, f"character U+{ord(found[0]):04X} is not allowed")
            return None
        if isinstance(value, int) and abs(value) >= 2**63:
            self.unread(self.line, path, f"too large a number (got {shorten(text)})")
            return None
        return value

    def sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items))))
        return items

    def mapping(self, path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            line = self.line
            if not isinstance(event, yaml.ScalarEvent):
                self.node(event, (*path, "?"))
                self.node(self.next(), (*path, "?"))
                self.wrong(line, (*path, "?"), "a key must be text")
                continue
            key = event.value
            if event.tag is not None or event.anchor is not None or not isinstance(_value(event), str):
                self.wrong(line, path, f"a key must be plain text (got {shorten(key)})")
            here = (*path, key)
            if key in items:
                self.wrong(line, here, f"stands here again, first in line {self.parsed.lines[here]}")
                self.node(self.next(), here)
                continue
            self.parsed.lines[here] = line
            items[key] = self.node(self.next(), here)
        return items


def _value(event: yaml.ScalarEvent) -> Any:
    return scalar(event.value) if event.implicit[0] else event.value


def shorten(value: object) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(scalar(text), str)  # PyYAML quotes by YAML 1.1, which takes 1e-4 for text
    style = "|" if "\n" in text else None if plain else "'"
    if any(character in text for character in "\r\x85\u2028\u2029"):
        style = '"'  # the only style that escapes what YAML takes for the end of a line
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    """Plain values as YAML that `parse` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
