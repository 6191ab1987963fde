"""YAML as people expect it: the core schema of YAML 1.2 and nothing else.

`1e-4` is a number; `no`, `on`, `12:30` and `2020-01-01` are text; a key stands once. Aliases, anchors and tags are
mistakes. PyYAML scans and composes the text (as 1.1 has it: no tab behind a colon, U+0085 and U+2028 end a line);
values are made here, each with the line it stands on, and all mistakes are collected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]  # ("model", "width"), ("data", "downloads", 0, "url")

_DEPTH = 20
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")  # no file name and no UTF-8 text can hold these
_PLAIN = "plain"  # tag of a scalar without quotes
_SCHEMA: list[tuple[str, Callable[[str], Any]]] = [  # every other plain scalar is text
    (r"~|null|Null|NULL|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text[0] in "tT"),
    (r"[-+]?[0-9]{1,78}", int),
    (r"0o[0-7]{1,77}|0x[0-9a-fA-F]{1,77}", lambda text: int(text, 0)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
]


@dataclass
class Parsed:
    """One document: plain values, the line of each path, and what was wrong (line, path, text)."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[tuple[int, Path, str]] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)  # paths whose value could not be taken; None stands there
    complete: bool = False  # False: the text is no YAML from some line on, and `value` holds nothing

    def wrong(self, line: int, path: Path, text: str, *, unread: bool = False) -> None:
        self.mistakes.append((line, path, text))
        if unread:
            self.unread.add(path)

    def usable(self, value: Any, text: str, line: int, path: Path) -> Any:
        """The scalar, or None where it cannot be used."""
        if isinstance(value, str) and (bad := _UNUSABLE.search(value)):
            self.wrong(line, path, f"character U+{ord(bad[0]):04X} is not allowed", unread=True)
            return None
        if isinstance(value, int) and abs(value) >= 2**63:
            self.wrong(line, path, f"too large a number (got {shorten(text)})", unread=True)
            return None
        return value


def scalar(text: str) -> Any:
    """An unquoted scalar under the core schema: None, bool, int, float or the text itself."""
    return next((make(text) for pattern, make in _SCHEMA if re.fullmatch(pattern, text)), text)


def parse_scalar(text: str) -> Parsed:
    """Reads the whole text as one unquoted scalar, whatever its first character."""
    parsed = Parsed(complete=True)
    parsed.value = parsed.usable(scalar(text), text, 1, ())
    return parsed


def parse(text: str) -> Parsed:
    """Reads one document; never raises on bad text."""
    parsed = Parsed()
    try:
        _Loader(text, parsed).read()
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        parsed.wrong(line, (), f"character U+{problem.character:04X} is not allowed in YAML")
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        parsed.wrong(mark.line + 1 if mark else 1, (), f"not YAML: {problem.problem or problem.context}")
    return parsed


class _Loader(yaml.SafeLoader):
    """Makes values out of PyYAML's nodes. refused: what each node had that YAML allows and a recipe does not."""

    def __init__(self, text: str, parsed: Parsed) -> None:
        super().__init__(text)
        self.yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}
        self.parsed = parsed
        self.events: Any = self  # whose methods for events have no types
        self.refused: dict[yaml.Node, list[str]] = {}
        self.depth = 0

    def read(self) -> None:
        """Fills `parsed` from the first document; a second one is a mistake."""
        try:
            root = self.get_node() if self.check_node() else None
            if root is not None:
                self.parsed.value = self.value(root, ())
            if self.check_node():
                line = self.events.peek_event().start_mark.line + 1
                self.parsed.wrong(line, (), "a second document (`---`) is not allowed")
        except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF"
            raise yaml.MarkedYAMLError(problem="an escape names no character", problem_mark=self.get_mark()) from None
        self.parsed.complete = True

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Takes aliases, anchors and tags off the nodes, and limits their depth."""
        event = self.events.peek_event()
        if self.depth > _DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_DEPTH} levels", problem_mark=event.start_mark)
        if self.check_event(yaml.AliasEvent):
            self.events.get_event()
            node: yaml.Node | None = yaml.ScalarNode(_PLAIN, "", event.start_mark, event.end_mark)
            mistakes = [f"aliases are not allowed, write the value out (got *{event.anchor})"]
        else:
            mistakes = [f"anchors are not allowed (got &{event.anchor})"] if event.anchor is not None else []
            mistakes += [f"tags are not allowed (got {event.tag})"] if event.tag is not None else []
            event.anchor = event.tag = None
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
        if mistakes and node is not None:
            self.refused[node] = mistakes
        return node

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The plain value of a node."""
        line = node.start_mark.line + 1
        self.parsed.lines.setdefault(path, line)
        for mistake in self.refused.get(node, ()):
            self.parsed.wrong(line, path, mistake, unread=not mistake.startswith("anchors"))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        return self.parsed.usable(scalar(node.value) if node.tag == _PLAIN else node.value, node.value, line, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, key.value
            if not isinstance(key, yaml.ScalarNode):
                self.value(key, (*path, "?"))
                self.value(value, (*path, "?"))
                self.parsed.wrong(line, (*path, "?"), "a key must be text")
                continue
            text = isinstance(scalar(name), str) or key.tag != _PLAIN
            for mistake in self.refused.get(key, [] if text else [f"a key must be plain text (got {shorten(name)})"]):
                self.parsed.wrong(line, path, mistake)
            here = (*path, name)
            if name in items:
                self.parsed.wrong(line, here, f"stands here again, first in line {self.parsed.lines[here]}")
                self.value(value, here)
                continue
            self.parsed.lines[here] = line
            items[name] = self.value(value, here)
        return items


def shorten(value: object) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        plain = isinstance(scalar(data), str)  # PyYAML quotes by YAML 1.1, which takes 1e-4 for text
        style = "|" if "\n" in data else None if plain else "'"
        if any(character in data for character in "\r\x85\u2028\u2029"):
            style = '"'  # the only style that escapes what YAML takes for the end of a line
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(value: Any) -> str:
    """Plain values as YAML that `parse` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
