"""`janus recipes`: lists the shipped recipes, shows one with every default filled in, explains the knobs."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from janus_cli.commands import options
from janus_cli.core.knob import SOURCES, Knob, knobs
from janus_cli.core.knobs import OBJECTIVES


def recipes(
    action: Annotated[Literal["list", "show", "explain"], typer.Argument(help="What to do.")] = "list",
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="Which recipe to show, by default demo. With explain: which knobs or sections, by default all.",
        ),
    ] = None,
    changes: options.Set = None,
    objective: options.Objective = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="explain: print Markdown tables.")] = False,
) -> None:
    """A recipe is a YAML file with the knobs of a run; save one that is shown, and change it to make your own.

    Examples:
      janus recipes
      janus recipes show iwslt14
      janus recipes show multi30k --objective ar --set training.updates=5000 > mine.yaml
      janus train --recipe mine.yaml
      janus recipes explain training.learning_rate training.warmup
      janus recipes explain objective --objective janus
    """
    from janus_cli import console, recipe_load
    from janus_cli.errors import UsageError

    if action == "explain":
        if changes:
            raise UsageError("`janus recipes explain` takes no changes", "to see a recipe: `janus recipes show NAME`")
        text = explain(names or (), objective, markdown=markdown)
        if markdown:
            console.data(text)
        else:
            console.out(*text.removesuffix("\n").split("\n"))
        return
    if markdown:
        raise UsageError("--markdown goes with `janus recipes explain`", "leave it out")
    if action == "show":
        if not names:
            console.say("no recipe named: showing demo")
        name, *more = names or ["demo"]
        if more:
            raise UsageError(f"`janus recipes show` takes one recipe (got {name} and {', '.join(more)})", "name one")
        console.data(recipe_load.dump(recipe_load.load(name, changes, objective)))
        return
    if names or changes or objective:
        raise UsageError(
            "`janus recipes list` takes no name and no changes", "to see one recipe: `janus recipes show NAME`"
        )
    shipped = [recipe_load.load(each) for each in recipe_load.available()]
    width = max(len(recipe.name) for recipe in shipped)
    for recipe in shipped:
        pair = f"{recipe.data.source}-{recipe.data.target}"
        console.out(f"{recipe.name:<{width}}  {pair:<7}  {recipe.about}")
    console.say("show one with `janus recipes show NAME`; what a knob does: `janus recipes explain KEY`")


def explain(keys: Sequence[str] = (), objective: str | None = None, *, markdown: bool = False) -> str:
    """Every knob, or those under `keys`, with default, possible values, meaning and source.

    Raises UsageError if there is none under a key. objective: leaves out what belongs to other objectives.
    """
    from janus_cli.errors import UsageError
    from janus_cli.recipe import sections
    from janus_cli.recipe_load import guess, no_objective

    if objective not in (None, *OBJECTIVES):
        raise UsageError(no_objective(objective), "`janus recipes explain objective` prints all of them")
    known, tables, missing = set[str](), [], list(keys)
    for place, section in sections():
        own = section.name if place == "objective" else ""
        if own and objective not in (None, own):
            continue
        rows = _rows(place, section)
        known |= {place, *(row[0] for row in rows)} - {""}
        missing = [key for key in missing if not any(_under(key, row) for row in rows)]
        rows = [row for row in rows if not keys or any(_under(key, row) for key in keys)]
        title = f"{place}, name: {own}" if own else place or "recipe"
        tables += [(_markdown if markdown else _plain)(title, " ".join(section.__doc__.split()), rows)] * bool(rows)
    for key in missing:
        raise UsageError(
            f"no knob named {key}{guess(key, sorted(known))}", "`janus recipes explain` prints all of them"
        )
    shown = "\n".join(tables)
    sources = [f"{mark} {work}\n" for mark, work in SOURCES.items() if mark in shown]
    if markdown:
        title = "# Every knob of a recipe\n\nWritten by `janus recipes explain --markdown`.\n\n"
        return f"{title}{shown}\n## Sources\n\n" + "".join(f"* {source}" for source in sources)
    return shown + "".join(["\n", *sources] if sources else [])


_Row = tuple[str, str, str, str, str]  # key, default, values, meaning, source


def _under(key: str, row: _Row) -> bool:
    return f"{row[0]}.".startswith(f"{key}.")


def _rows(place: str, section: Any) -> list[_Row]:
    kinds = get_type_hints(section)
    defaults = {field.name: field.default for field in fields(section)}
    rows = []
    for name, knob in knobs(section).items():
        modes = ", ".join(dict.fromkeys(way.split()[0] for way in knob.modes))
        about = f"{knob.about} (mode {modes})" if modes else knob.about
        values = " or ".join(_values(kinds[name], knob))
        rows.append((f"{place}.{name}".strip("."), _default(defaults[name]), values, about, knob.source))
    return rows


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    if is_dataclass(value):
        set_here = {field.name: getattr(value, field.name) for field in fields(value)}
        return ", ".join(f"{name}: {each}" for name, each in set_here.items() if each != getattr(type(value), name))
    return value if isinstance(value, str) and value else json.dumps(value)


def _values(kind: Any, knob: Knob) -> list[str]:
    """The possible values of a field of this type, in words."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return list(parts)
    if get_origin(kind) is tuple:
        return [f"list of {', '.join(_values(parts[0], knob))}"]
    if parts:
        return [words for part in parts for words in _values(part, knob)]
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", NoneType: "null"}
    limits = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = " and ".join(f"{limits[name]} {_number(bound)}" for name, bound in knob.bounds.items())
    numeric = kind in (int, float) and bounds
    return [words.get(kind, "section") + (f", {bounds}" if numeric else "")]


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) < 10**20 else f"{bound:g}"


def _plain(title: str, about: str, rows: list[_Row]) -> str:
    lines = [title, textwrap.indent(textwrap.fill(about, 98), "  ")]
    for key, default, values, meaning, source in rows:
        text = f"{meaning}. Source: {source}." if source else f"{meaning}."
        lines += ["", f"  {key}: {default}  ({values})", textwrap.indent(textwrap.fill(text, 94), " " * 6)]
    return "\n".join(lines) + "\n"


def _markdown(title: str, about: str, rows: list[_Row]) -> str:
    head = f"## {title}\n\n{about}\n\n| knob | default | values | meaning | source |\n|---|---|---|---|---|\n"
    return head + "".join(f"| `{key}` | {' | '.join(cells)} |\n" for key, *cells in rows)
