"""From a recipe's name or file to a checked `Recipe`, and back. Every mistake is named with its place, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from janus_cli import yaml_core
from janus_cli.core.knob import knobs
from janus_cli.core.knobs import OBJECTIVES, Decoding
from janus_cli.errors import CheckpointError, UsageError, check_machine
from janus_cli.recipe import CHECKED, OUTSIDE_WEIGHTS, Recipe, sections
from janus_cli.yaml_core import shorten

_LARGEST = 1_000_000  # bytes
_MOST_SHOWN = 40  # mistakes
_OPTIONS = 2**31  # line number of the first option: options come after all lines of a file
_DEFAULT_OBJECTIVE = Recipe.objective.name
_REASONS = {  # for some of pydantic's types of errors
    "missing": "is missing",
    "dataclass_type": "should be a section of `key: value` lines",
    "dict_type": "should be a section of `key: value` lines",
    "tuple_type": "should be a list",
}


@dataclass(frozen=True)
class Basis:
    """A run whose model section and tokenizer a recipe takes over, because its weights fit no others.

    recipe: its file. tokenizer: the folder that `tokenizer.reuse` then names; None: it stays as in that file. label:
    the option that asks for it.
    """

    recipe: Path
    tokenizer: Path | None
    label: str


def load(
    name_or_path: str, overrides: Sequence[str] | None = None, objective: str | None = None, basis: Basis | None = None
) -> Recipe:
    """A shipped recipe (a name of `available()`) or a YAML file, with the command line's changes.

    overrides: `KEY=VALUE` as given to `--set`, applied last, in this order. objective: unless the recipe has this
    objective, its defaults replace the recipe's objective section. Knobs of other sections that neither the recipe nor
    the changes set take the objective's own defaults (`ObjectiveKnobs.elsewhere`). basis: takes the place of the
    recipe's tokenizer and of its model section, but for dropout and the like (`OUTSIDE_WEIGHTS`), what an option sets,
    and what the objective needs.

    Raises:
        UsageError: no such recipe, or mistakes in it; the message lists them all as `file:line: key: what is wrong`.
        CheckpointError: the recipe of the basis has mistakes.
    """
    draft = _Draft(_find(name_or_path))
    draft.basis = basis
    if objective is not None:
        draft.exchange(objective)
    for change in overrides or ():
        draft.set(change)
    return draft.checked()


def load_written(file: Path) -> Recipe:
    """A recipe that janus wrote; raises CheckpointError if it has mistakes."""
    try:
        return load(str(file))
    except UsageError as problem:
        raise CheckpointError(problem.message, "use the janus version that wrote it") from None


def change_decoding(recipe: Recipe, options: Mapping[str, Any]) -> Decoding:
    """The recipe's decoding section with these values; raises UsageError for one that it cannot have."""
    changed = recipe.plain()
    changed["decoding"] |= options
    try:
        return CHECKED.validate_json(json.dumps(changed, default=repr)).decoding
    except ValidationError as problem:
        path, reason = _explained(problem.errors(include_url=False)[0])
        hint = f"see `janus recipes explain {_explained_as(path) or path[0]}`"
        raise UsageError(f"{_key(path)}: {reason}", hint) from None


def shipped(folder: str) -> Path:
    """A folder that comes with janus: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    return here / folder if (here / folder).is_dir() else here.parent / folder


def available() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {file.stem: file for file in sorted(shipped("recipes").glob("*.yaml"))}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default filled in; `load` reads it back unchanged."""
    return yaml_core.dump(recipe.plain())


def guess(word: str, known: Iterable[str]) -> str:
    """`, did you mean …?` for the end of a message; empty if nothing is close. `learning_rate` and `lr` are, of
    `training.learning_rate`."""
    names, (section, _, key) = list(known), word.rpartition(".")
    close = [each for each in names if _stands_for(key, each.rpartition(".")[2])]
    close.sort(key=lambda each: each.rpartition(".")[0] != section)
    longer = [each for each in names if len(word) > 2 and each.startswith(word)]
    close = close or difflib.get_close_matches(word, names, n=1) or longer
    return f", did you mean {close[0]}?" if close else ""


def _stands_for(word: str, name: str) -> bool:
    """Whether a word is the name, or its initials."""
    return word == name or (len(word) > 1 and word == "".join(part[:1] for part in name.split("_")))


def no_objective(name: object) -> str:
    return f"no such objective (got {shorten(name)}; choose from {', '.join(OBJECTIVES)}){guess(str(name), OBJECTIVES)}"


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
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UsageError(
                f"{path} is a pipe or a device, and a recipe is read more than once", "save the recipe in a file first"
            )
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except (OSError, ValueError) as problem:
        check_machine(problem)
        reason = getattr(problem, "strerror", problem)
        raise UsageError(f"cannot read the recipe {path}: {reason}", "`janus recipes` lists the shipped ones") from None
    if len(raw) > _LARGEST:
        raise UsageError(f"{path}: larger than {_LARGEST:,} bytes, so no recipe", "name a recipe with --recipe")
    try:
        return raw.decode()  # a byte order mark is YAML's own business
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 (byte {problem.start + 1})", "save the recipe as UTF-8") from None


class _Draft(yaml_core.Document):
    """A recipe before it is checked. Each option of the command line counts as one more line after the file's."""

    def __init__(self, file: Path) -> None:
        super().__init__(_text(file))
        self.file = file
        self.options: list[str] = []
        self.basis: Basis | None = None
        if not isinstance(self.value, dict):
            if self.complete:
                self.wrong(1, (), f"a recipe is a set of `key: value` lines (got {shorten(self.value)})")
            self.value, self.complete = {}, False

    def line_of(self, option: str) -> int:
        self.options.append(option)
        return _OPTIONS + len(self.options) - 1

    def put(self, path: yaml_core.Path, value: Any, line: int) -> None:
        """Sets a value or a section, and creates the sections that contain it."""
        section = self.value
        for depth, part in enumerate(path[:-1], 1):
            if not isinstance(section.get(part), dict):
                section[part] = {}
                self.lines[path[:depth]] = line
            section = section[part]
        section[path[-1]] = value
        self.lines[path] = line

    def exchange(self, name: str) -> None:
        """Replaces the recipe's objective section by the defaults of another objective."""
        line = self.line_of(f"--objective {name}")
        section = self.value.get("objective", {})
        if name not in OBJECTIVES:
            self.wrong(line, (), no_objective(name))
        elif not isinstance(section, dict) or section.get("name", _DEFAULT_OBJECTIVE) != name:
            self.put(("objective",), {"name": name}, line)

    def set(self, change: str) -> None:
        """Applies one `KEY=VALUE`."""
        line = self.line_of(f"--set {shorten(change)}")
        key, equals, text = change.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.wrong(line, (), "expected KEY=VALUE, as in training.updates=500")
            return
        if len(path) > yaml_core.DEPTH:
            self.wrong(line, (), f"nested deeper than {yaml_core.DEPTH} levels")
            return
        # A value is YAML only if it begins with a bracket or quote, so `--set tokenizer.joiner=@@` needs no quotes.
        given = yaml_core.Document(text, plain=not text.startswith(("[", "{", '"', "'")))
        for _, below, mistake in given.mistakes:
            self.wrong(line, (*path, *below), mistake, unread=True)
        self.put(path, given.value, line)

    def checked(self) -> Recipe:
        """The recipe; a UsageError lists all mistakes if there are any."""
        if self.complete:
            self.fill_in()
            try:
                # As JSON, because strict JSON validation takes a list for a tuple and 1 for 1.0, and nothing else.
                recipe = CHECKED.validate_json(json.dumps(self.value))
                if not self.mistakes:
                    return recipe
            except ValidationError as problem:
                for error in problem.errors(include_url=False):
                    path, reason = _explained(error)
                    if any(path[: len(unread)] == unread for unread in self.unread):
                        continue
                    # A section that an option replaced has that option's line, not the lines of its old keys.
                    places = [path[:depth] for depth in range(len(path) + 1)]
                    if error["type"] == "value_error":  # knobs that do not fit together: an option's is to blame
                        words = re.findall(r"[a-z_.]+", reason)
                        below, options = f"{_key(path)}.", [each for each in self.lines if self.lines[each] >= _OPTIONS]
                        places += [each for each in options if _key(each).removeprefix(below) in words]
                    self.wrong(max(self.lines.get(each, 0) for each in places), path, reason)
        known = self.file.stem if self.file in available().values() else "demo"
        hint = f"`janus recipes show {known}` prints every key with its value"
        keys = (_explained_as(path) for _, path, _ in sorted(self.mistakes, key=itemgetter(0)))
        if key := next(filter(None, keys), ""):
            hint = f"`janus recipes explain {key}` says what it may be"
        raise UsageError(self.report(), hint)

    def fill_in(self) -> None:
        """Sets what an objective (`elsewhere`) or a task changes in other knobs, where the recipe sets nothing; puts
        what the basis has in place of what the recipe has."""
        needed: dict[str, Container[str]] = {}
        data = self.value.get("data")
        if isinstance(data, dict):
            if data.get("task") == "generation":
                data.setdefault("max_ratio", None)
            if data.get("task") == "denoising" and isinstance(training := self.value.setdefault("training", {}), dict):
                training.setdefault("best_metric", "loss")
        objective = self.value.get("objective")
        if isinstance(objective, dict):
            name = str(objective.setdefault("name", _DEFAULT_OBJECTIVE))
            elsewhere = OBJECTIVES[name].elsewhere if name in OBJECTIVES else {}
            for place, values in elsewhere.items():
                section = self.value.setdefault(place, {})
                if isinstance(section, dict):
                    needed[place] = {knob for knob, value in values.items() if section.get(knob, value) == value}
                    self.value[place] = values | section
        if self.basis is not None:
            self.take_over(self.basis, needed.get("model", ()))

    def take_over(self, basis: Basis, needed: Container[str]) -> None:
        """Replaces the model section and the tokenizer, see `load`. needed: knobs that the objective set."""
        own = load_written(basis.recipe).plain()
        line = self.line_of(basis.label)
        if basis.tokenizer is not None:
            own["tokenizer"]["reuse"] = str(basis.tokenizer)
        for key, value in own["model"].items():
            if f"model.{key}" not in OUTSIDE_WEIGHTS and key not in needed and not self._is_option("model", key):
                self.put(("model", key), value, line)
        given = self.value.get("tokenizer")
        for key, value in own["tokenizer"].items():
            if not self._is_option("tokenizer", key):
                self.put(("tokenizer", key), value, line)
            elif key != "reuse" and isinstance(given, dict) and (asked := given[key]) != value:
                reason = f"its weights need its tokenizer, of {key} {shorten(value)} (got {shorten(asked)})"
                self.wrong(line, ("tokenizer", key), reason)

    def _is_option(self, section: str, key: str) -> bool:
        """Whether an option set this knob of a section, or the section as a whole."""
        inside = self.value.get(section)
        lines = [self.lines.get(path, 0) for path in ((section,), (section, key))]
        return max(lines) >= _OPTIONS and (not isinstance(inside, dict) or key in inside)

    def report(self) -> str:
        """All mistakes in the order of their places."""
        lines = []
        for line, key, mistake in sorted((line, _key(path), mistake) for line, path, mistake in self.mistakes):
            place = f"{self.file}:{line}" if line < _OPTIONS else self.options[line - _OPTIONS]
            lines.append(": ".join(filter(None, (place, key, mistake))))
        if len(lines) == 1:
            return lines[0]
        more = [f"... and {len(lines) - _MOST_SHOWN} more"] * (len(lines) > _MOST_SHOWN)
        return "\n  ".join([f"{len(lines)} mistakes in the recipe", *lines[:_MOST_SHOWN], *more])


def _key(path: yaml_core.Path) -> str:
    return ".".join(map(str, path))


def _explained_as(path: yaml_core.Path) -> str:
    """The knob with this path, or that holds it; empty if there is none."""
    known = {f"{place}.{name}".strip(".") for place, section in sections() for name in knobs(section)}
    keys = [re.sub(r"\d+", "0", _key(path[:depth])) for depth in range(len(path), 0, -1)]
    return next((key for key in keys if key in known), "")


def _explained(error: Any) -> tuple[yaml_core.Path, str]:
    """One of pydantic's errors as the path of the knob and what is wrong with it."""
    kind, path, given = error["type"], error["loc"], error["input"]
    objective = None
    if len(path) > 1 and path[0] == "objective":  # pydantic inserts the objective's name, the branch of the union
        objective, path = path[1], (path[0], *path[2:])
    reason = _REASONS.get(kind) or error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not isinstance(given, dict):
        reason += f" (got {shorten(json.dumps(given, ensure_ascii=False))})"
    if kind == "unexpected_keyword_argument":
        reason = f"unknown key{_known_keys(path, objective)}"
    elif kind == "union_tag_invalid":
        path, reason = (*path, "name"), no_objective(given["name"])
    elif kind == "literal_error":
        reason += guess(str(given), re.findall(r"'([^']*)'", error["msg"]))
    elif not path and (named := re.match(r"[a-z_]+(\.[a-z_]+)+", reason)):  # two sections do not fit together
        path, reason = tuple(named[0].split(".")), reason.removeprefix(named[0]).strip()
    return path, reason


def _known_keys(path: yaml_core.Path, objective: object) -> str:
    """A guess at what the unknown key was meant to be, and the keys that are valid in its place."""
    *around, key = ("0" if isinstance(part, int) else part for part in path)
    known, elsewhere = [], []
    for place, section in sections():
        keys = [field.name for field in dataclasses.fields(section)]
        if place != ".".join(around):
            elsewhere += [f"{place}.{name}".strip(".") for name in keys if _stands_for(key, name)]
        elif getattr(section, "name", objective) == objective:
            known = keys
    meant = guess(key, known) or (f", did you mean {elsewhere[0]}?" if elsewhere else ".")
    return f"{meant} Valid here: {', '.join(known)}"
