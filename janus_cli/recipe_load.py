"""From a recipe's name or file to a checked `Recipe`, and back. Every mistake is named with its place, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from pydantic import ValidationError

from janus_cli import yaml_core
from janus_cli.core.knobs import OBJECTIVES
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
    draft = _read(_find(name_or_path))
    if objective is not None:
        draft.exchange(objective)
    for number, change in enumerate(overrides or ()):
        draft.set(change, number)
    if draft.complete:
        recipe = _validated(draft)
        if recipe and not draft.mistakes:
            return recipe
    raise UsageError(_report(draft), "`janus recipes show demo` prints every key with its default")


def available() -> dict[str, Path]:
    """The shipped recipes by name: inside the wheel, or in `recipes/` of a checkout."""
    here = Path(__file__).resolve().parent
    folder = next((place for place in (here / "recipes", here.parent / "recipes") if place.is_dir()), here)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default filled in; `load` reads it back unchanged."""
    return yaml_core.dump(recipe.plain())


@dataclass(frozen=True, order=True)
class _Place:
    """Where a value comes from; `order` is the line, options come after all lines."""

    order: int
    text: str


@dataclass
class _Draft:
    """The plain values of a recipe before they are checked."""

    file: str
    value: dict[str, Any] = field(default_factory=dict)
    places: dict[yaml_core.Path, _Place] = field(default_factory=dict)
    mistakes: list[tuple[_Place, str, str]] = field(default_factory=list)  # place, dotted key, what is wrong
    unread: set[yaml_core.Path] = field(default_factory=set)  # said already; nothing more is to be said about these
    complete: bool = True

    def wrong(self, place: _Place, path: yaml_core.Path, text: str) -> None:
        self.mistakes.append((place, ".".join(map(str, path)), text))

    def place(self, path: yaml_core.Path) -> _Place:
        """The place of the value, or of the nearest section around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, _Place(0, self.file))

    def forget(self, path: yaml_core.Path) -> None:
        for old in [old for old in self.places if old[: len(path)] == path]:
            del self.places[old]

    def exchange(self, name: str) -> None:
        """Puts the defaults of another objective in the place of the recipe's."""
        place = _Place(2**31, f"--objective {name}")
        if name not in OBJECTIVES:
            self.wrong(place, (), _no_objective(name))
            return
        section = self.value.get("objective", {})
        if not isinstance(section, dict) or section.get("name", _DEFAULT_OBJECTIVE) != name:
            self.forget(("objective",))
            self.value["objective"] = {"name": name}
            self.places[("objective",)] = place

    def set(self, change: str, number: int) -> None:
        """Applies one `KEY=VALUE`."""
        key, equals, text = change.partition("=")
        place = _Place(2**32 + number, f"--set {shorten(change)}")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.wrong(place, (), "expected KEY=VALUE, as in training.updates=500")
            return
        # Only brackets and quotes make YAML out of a value: `--set tokenizer.joiner=@@` means what it says.
        parsed = yaml_core.parse(text) if text[:1] in tuple("[{\"'") else yaml_core.parse_scalar(text)
        for _, below, mistake in parsed.mistakes:
            self.wrong(place, (*path, *below), mistake)
            self.unread.add((*path, *below))
        section = self.value
        for depth, part in enumerate(path[:-1]):
            self.places.setdefault(path[: depth + 1], place)
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        section[path[-1]] = parsed.value
        self.forget(path)
        self.places[path] = place


def _find(name_or_path: str) -> Path:
    shipped = available()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if "/" in name_or_path or path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    raise UsageError(
        f"no recipe named {name_or_path!r}{_guess(name_or_path, shipped)}", _choose(shipped, "or a YAML file")
    )


def _read(path: Path) -> _Draft:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"cannot read the recipe {path}: {reason}", "`janus recipes` lists the shipped ones") from None
    if len(raw) > _LARGEST:
        raise UsageError(f"{path}: larger than {_LARGEST:,} bytes, so no recipe", "name a recipe with --recipe")
    try:
        text = raw.decode()  # a byte order mark is YAML's own business
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 (byte {problem.start + 1})", "save the recipe as UTF-8") from None
    parsed = yaml_core.parse(text)
    draft = _Draft(str(path), unread=parsed.unread, complete=parsed.complete)
    draft.places = {key: _Place(line, f"{path}:{line}") for key, line in parsed.lines.items()}
    for line, key, mistake in parsed.mistakes:
        draft.wrong(_Place(line, f"{path}:{line}"), key, mistake)
    if isinstance(parsed.value, dict):
        draft.value = parsed.value
    elif draft.complete:
        draft.complete = False
        draft.wrong(
            _Place(1, f"{path}:1"), (), f"a recipe is a set of `key: value` lines (got {shorten(parsed.value)})"
        )
    return draft


def _validated(draft: _Draft) -> Recipe | None:
    section = draft.value.get("objective")
    if isinstance(section, dict):
        section.setdefault("name", _DEFAULT_OBJECTIVE)
        _complete(draft, section["name"])
    try:
        # As JSON, because strict JSON validation takes a list for a tuple and 1 for 1.0, and nothing else.
        return CHECKED.validate_json(json.dumps(draft.value))
    except ValidationError as problem:
        for error in problem.errors(include_url=False):
            _add(draft, cast(dict[str, Any], error))
    return None


def _complete(draft: _Draft, objective: object) -> None:
    """What the objective's system sets in other sections, where the recipe says nothing."""
    elsewhere = OBJECTIVES[objective].elsewhere if objective in OBJECTIVES else {}
    for name, values in elsewhere.items():
        section = draft.value.setdefault(name, {})
        if isinstance(section, dict):
            for key, value in values.items():
                section.setdefault(key, value)


def _add(draft: _Draft, error: dict[str, Any]) -> None:
    """Turns one pydantic error into a mistake with a place."""
    path = _path(error["loc"])
    kind, given = error["type"], error["input"]
    got = "" if isinstance(given, dict) else f" (got {shorten(json.dumps(given, ensure_ascii=False))})"
    text = f"{error['msg'].replace('Input should', 'should')}{got}"
    if kind == "unexpected_keyword_argument":
        text = f"unknown key{_known_keys(path, draft.value)}"
    elif kind == "missing":
        text = "is missing"
    elif kind in ("dataclass_type", "dict_type"):
        text = f"should be a section of `key: value` lines{got}"
    elif kind == "tuple_type":
        text = f"should be a list{got}"
    elif kind == "union_tag_invalid":
        path = (*path, "name")
        text = _no_objective(given.get("name"))
    elif kind == "literal_error":
        options = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        text += _guess(str(given), options)
    elif kind == "value_error":
        text = f"{error['ctx']['error']}{got}"
        if not path and (named := re.match(r"[a-z_]+(\.[a-z_]+)+", text)):
            path, text = tuple(named[0].split(".")), text.removeprefix(named[0]).strip()
    if not any(path[: len(known)] == known for known in draft.unread):
        draft.wrong(draft.place(path), path, text)


def _path(location: Iterable[str | int]) -> yaml_core.Path:
    """Pydantic's location without the objective's name, which it puts in as the branch it took."""
    path = list(location)
    if len(path) > 1 and path[0] == "objective" and path[1] in OBJECTIVES:
        del path[1]
    return tuple(path)


def _known_keys(path: yaml_core.Path, value: Any) -> str:
    """What may stand where the unknown key stands."""
    section: type = Recipe
    for part in path[:-1]:
        value = value[part]
        if isinstance(part, str):
            choices = _sections(get_type_hints(section)[part])
            named = [choice for choice in choices if isinstance(value, dict) and _name(choice) == value.get("name")]
            section = (named or choices)[0]
    key, keys = str(path[-1]), _keys(section)
    elsewhere = [
        f"{name}.{key}"
        for name, kind in get_type_hints(Recipe).items()
        if name != path[0] and any(key in _keys(choice) for choice in _sections(kind))
    ]
    guess = _guess(key, keys) or (f", did you mean {elsewhere[0]}?" if elsewhere else ".")
    return f"{guess} Valid here: {', '.join(keys)}"


def _sections(kind: Any) -> list[type]:
    """The sections that a field of this type can hold."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return [kind]
    return [section for part in get_args(kind) for section in _sections(part)]


def _keys(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _name(section: type) -> object:
    return getattr(section, "name", None)


def _no_objective(name: object) -> str:
    return f"no such objective (got {shorten(name)}; {_choose(OBJECTIVES)}){_guess(str(name), OBJECTIVES)}"


def _guess(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _choose(names: Iterable[str], other: str = "") -> str:
    return f"choose from {', '.join(names)}{', ' if other else ''}{other}"


def _report(draft: _Draft) -> str:
    lines = [f"{place.text}: {f'{key}: ' if key else ''}{text}" for place, key, text in sorted(draft.mistakes)]
    if len(lines) == 1:
        return lines[0]
    shown = lines[:_MOST_SHOWN] + ([f"... and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else [])
    return "\n  ".join([f"{len(lines)} mistakes in the recipe", *shown])
