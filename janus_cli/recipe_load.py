"""From a recipe's name or file to a checked `Recipe`, and back. Every mistake is named with its place, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from pydantic import ValidationError

from janus_cli import yaml_core
from janus_cli.core.knobs import OBJECTIVES, Decoding
from janus_cli.errors import UsageError
from janus_cli.recipe import CHECKED, Recipe
from janus_cli.yaml_core import shorten

_LARGEST = 1_000_000  # bytes
_MOST_SHOWN = 40  # mistakes
_DEFAULT_OBJECTIVE = Recipe.objective.name


def load(name_or_path: str, overrides: Sequence[str] | None = None, objective: str | None = None) -> Recipe:
    """A recipe by shipped name or by file, with the command line's changes.

    Args:
        name_or_path: a name of `available()`, or a YAML file.
        overrides: `KEY=VALUE` as given to `--set`, applied last, in this order.
        objective: name of the objective whose defaults replace the recipe's objective section, unless the recipe
            already has this objective. What its system sets in other sections (`ObjectiveKnobs.elsewhere`) holds where
            the recipe and the changes say nothing.

    Raises:
        UsageError: no such recipe, or mistakes in it; the message lists them all as `file:line: key: what is wrong`.
    """
    draft = _Draft(_find(name_or_path))
    if objective is not None:
        draft.exchange(objective)
    for number, change in enumerate(overrides or ()):
        draft.set(change, number)
    recipe = draft.checked()
    if recipe is None:
        raise UsageError(draft.report(), "`janus recipes show demo` prints every key with its default")
    return recipe


def change_decoding(recipe: Recipe, options: Mapping[str, Any]) -> Decoding:
    """The recipe's decoding section with other values.

    Raises:
        UsageError: no such option, or a value that it cannot have.
    """
    for name in options:
        if name not in (known := _keys(Decoding)):
            raise UsageError(f"decoding has no option {name}{guess(name, known)}", f"options: {', '.join(known)}")
    changed = recipe.plain()
    changed["decoding"] |= options
    try:
        return CHECKED.validate_json(json.dumps(changed, default=repr)).decoding
    except ValidationError as problem:
        error = problem.errors(include_url=False)[0]
        message = error["msg"].replace("Input should", "should")
        raise UsageError(f"{'.'.join(map(str, error['loc']))}: {message} (got {shorten(error['input'])})") from None


def available() -> dict[str, Path]:
    """The shipped recipes by name: inside the wheel, or in `recipes/` of a checkout."""
    here = Path(__file__).resolve().parent
    folder = next((place for place in (here / "recipes", here.parent / "recipes") if place.is_dir()), here)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default filled in; `load` reads it back unchanged."""
    return yaml_core.dump(recipe.plain())


def sections(kind: Any) -> list[type]:
    """The sections that a field of this type can hold."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return [kind]
    return [section for part in get_args(kind) for section in sections(part)]


def guess(word: str, known: Iterable[str]) -> str:
    """What was probably meant, to stand behind a message; empty if nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _find(name_or_path: str) -> Path:
    shipped = available()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if "/" in name_or_path or path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    raise UsageError(
        f"no recipe named {name_or_path!r}{guess(name_or_path, shipped)}",
        f"choose from {', '.join(shipped)}, or a YAML file",
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"cannot read the recipe {path}: {reason}", "`janus recipes` lists the shipped ones") from None
    if len(raw) > _LARGEST:
        raise UsageError(f"{path}: larger than {_LARGEST:,} bytes, so no recipe", "name a recipe with --recipe")
    try:
        return raw.decode()  # a byte order mark is YAML's own business
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 (byte {problem.start + 1})", "save the recipe as UTF-8") from None


class _Place(NamedTuple):
    """Where a value comes from. order: the line; options come after all lines."""

    order: int
    text: str


class _Draft:
    """The plain values of a recipe before they are checked, where each comes from, and what is wrong with them."""

    def __init__(self, file: Path) -> None:
        parsed = yaml_core.parse(_text(file))
        self.file, self.value, self.complete = file, parsed.value, parsed.complete
        self.places = {path: self.at(line) for path, line in parsed.lines.items()}
        self.mistakes = [(self.at(line), ".".join(map(str, path)), text) for line, path, text in parsed.mistakes]
        self.unread = parsed.unread  # paths about which nothing more is to be said
        if not isinstance(self.value, dict):
            if self.complete:
                self.wrong(self.at(1), f"a recipe is a set of `key: value` lines (got {shorten(self.value)})")
            self.value, self.complete = {}, False

    def at(self, line: int) -> _Place:
        return _Place(line, f"{self.file}:{line}")

    def wrong(self, place: _Place, text: str, path: yaml_core.Path = ()) -> None:
        self.mistakes.append((place, ".".join(map(str, path)), text))

    def put(self, path: yaml_core.Path, value: Any, place: _Place) -> None:
        """Replaces a value or a section, and makes the sections around it."""
        section = self.value
        for depth, part in enumerate(path[:-1], 1):
            self.places.setdefault(path[:depth], place)
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        section[path[-1]] = value
        self.places = {old: known for old, known in self.places.items() if old[: len(path)] != path} | {path: place}

    def exchange(self, name: str) -> None:
        """Puts the defaults of another objective in the place of the recipe's."""
        place = _Place(2**31, f"--objective {name}")
        section = self.value.get("objective", {})
        if name not in OBJECTIVES:
            self.wrong(place, no_objective(name))
        elif not isinstance(section, dict) or section.get("name", _DEFAULT_OBJECTIVE) != name:
            self.put(("objective",), {"name": name}, place)

    def set(self, change: str, number: int) -> None:
        """Applies one `KEY=VALUE`."""
        key, equals, text = change.partition("=")
        place = _Place(2**32 + number, f"--set {shorten(change)}")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.wrong(place, "expected KEY=VALUE, as in training.updates=500")
            return
        # Only brackets and quotes make YAML out of a value: `--set tokenizer.joiner=@@` means what it says.
        parsed = yaml_core.parse(text) if text[:1] in tuple("[{\"'") else yaml_core.parse_scalar(text)
        for _, below, mistake in parsed.mistakes:
            self.wrong(place, mistake, (*path, *below))
            self.unread.add((*path, *below))
        self.put(path, parsed.value, place)

    def checked(self) -> Recipe | None:
        """The recipe; None where there are mistakes."""
        if not self.complete:
            return None
        section = self.value.get("objective")
        if isinstance(section, dict):
            self.fill_in(section.setdefault("name", _DEFAULT_OBJECTIVE))
        try:
            # As JSON, because strict JSON validation takes a list for a tuple and 1 for 1.0, and nothing else.
            recipe = CHECKED.validate_json(json.dumps(self.value))
        except ValidationError as problem:
            for error in problem.errors(include_url=False):
                self.refuse(error["type"], error["loc"], error["msg"], error["input"], error.get("ctx", {}))
            return None
        return None if self.mistakes else recipe

    def fill_in(self, objective: Any) -> None:
        """Sets what the objective's system sets in other sections, where the recipe says nothing."""
        elsewhere = OBJECTIVES[objective].elsewhere if objective in tuple(OBJECTIVES) else {}
        for name, values in elsewhere.items():
            section = self.value.setdefault(name, {})
            if isinstance(section, dict):
                self.value[name] = values | section

    def refuse(self, kind: str, path: yaml_core.Path, message: str, given: Any, context: dict[str, Any]) -> None:
        """Turns one of pydantic's errors into a mistake with a place."""
        if len(path) > 1 and path[0] == "objective":  # pydantic puts in the objective's name, as the branch it took
            path = (path[0], *path[2:])
        got = "" if isinstance(given, dict) else f" (got {shorten(json.dumps(given, ensure_ascii=False))})"
        text = f"{message.replace('Input should', 'should')}{got}"
        if kind == "unexpected_keyword_argument":
            text = f"unknown key{self.known_keys(path)}"
        elif kind == "missing":
            text = "is missing"
        elif kind in ("dataclass_type", "dict_type"):
            text = f"should be a section of `key: value` lines{got}"
        elif kind == "tuple_type":
            text = f"should be a list{got}"
        elif kind == "union_tag_invalid":
            path, text = (*path, "name"), no_objective(given["name"])
        elif kind == "literal_error":
            text += guess(str(given), re.findall(r"'([^']*)'", context["expected"]))
        elif kind == "value_error":
            text = f"{context['error']}{got}"
            if not path and (named := re.match(r"[a-z_]+(\.[a-z_]+)+", text)):
                path, text = tuple(named[0].split(".")), text.removeprefix(named[0]).strip()
        if not any(path[: len(unread)] == unread for unread in self.unread):
            around = [path[:depth] for depth in range(len(path), -1, -1) if path[:depth] in self.places]
            self.wrong(self.places[around[0]] if around else _Place(0, str(self.file)), text, path)

    def known_keys(self, path: yaml_core.Path) -> str:
        """What may stand where the unknown key stands."""
        section: type = Recipe
        for part in path[:-1]:
            if part == "objective":
                section = OBJECTIVES[self.value["objective"]["name"]]
            elif isinstance(part, str):
                section = sections(get_type_hints(section)[part])[0]
        key, known = str(path[-1]), _keys(section)
        elsewhere = [
            f"{name}.{key}"
            for name, kind in get_type_hints(Recipe).items()
            if name != path[0] and any(key in _keys(other) for other in sections(kind))
        ]
        meant = guess(key, known) or (f", did you mean {elsewhere[0]}?" if elsewhere else ".")
        return f"{meant} Valid here: {', '.join(known)}"

    def report(self) -> str:
        """All mistakes in the order of their places."""
        lines = [f"{place.text}: {f'{key}: ' if key else ''}{text}" for place, key, text in sorted(self.mistakes)]
        if len(lines) == 1:
            return lines[0]
        more = [f"... and {len(lines) - _MOST_SHOWN} more"] * (len(lines) > _MOST_SHOWN)
        return "\n  ".join([f"{len(lines)} mistakes in the recipe", *lines[:_MOST_SHOWN], *more])


def _keys(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def no_objective(name: object) -> str:
    return f"no such objective (got {shorten(name)}; choose from {', '.join(OBJECTIVES)}){guess(str(name), OBJECTIVES)}"
