"""The systems of a comparison: objectives as they are, and variants of them with some knobs changed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from janus_cli import recipe_load
from janus_cli.core.knobs import OBJECTIVES
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.recipe_load import Basis

UPDATES = "training.updates="


@dataclass(frozen=True)
class System:
    """An objective, and changes of the recipe (KEY=VALUE) for this system alone."""

    name: str
    objective: str
    changes: tuple[str, ...] = ()

    @property
    def has_budget(self) -> bool:
        """Whether it has a number of updates of its own, instead of that of all systems."""
        return any(change.startswith(UPDATES) for change in self.changes)

    def recipe(self, base: str, changes: Sequence[str], basis: Basis | None = None) -> Recipe:
        """The recipe of this system. changes: those for all systems. basis: of what `--from` names.

        Raises UsageError with the mistakes in it.
        """
        return recipe_load.load(base, [*changes, *self.changes], self.objective, basis)


def asked(objectives: Sequence[str], variants: Sequence[str]) -> list[System]:
    """The systems in the order in which they are named; UsageError for unknown objectives, or one name given twice."""
    systems = [System(name, name) for name in objectives] + [_variant(text) for text in variants]
    for system in systems:
        if system.objective not in OBJECTIVES:
            raise UsageError(f"no such objective: {system.objective}", f"choose from {', '.join(OBJECTIVES)}")
    names = [system.name.casefold() for system in systems]  # of folders: case tells them apart on some machines only
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two systems are called {twice[0]}", "give each variant a name of its own")
    return systems


def _variant(text: str) -> System:
    name, colon, rest = text.partition(":")
    try:
        objective, *changes = shlex.split(rest)
    except ValueError:  # nothing after the colon, or an unclosed quote
        objective, changes = "", []
    name = name.strip()
    if not (colon and objective and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*", name)):
        raise UsageError(
            f"--variant {text!r} is not NAME: OBJECTIVE KEY=VALUE …",
            "as in --variant 'glance: janus objective.glance=0.3'",
        )
    if budget := [change for change in changes if change.startswith("training.minutes")]:
        raise UsageError(f"--variant {name}: {budget[0]}: minutes are the same for all", "see --minutes")
    return System(name, objective, tuple(changes))
