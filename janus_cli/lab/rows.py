"""The rows of a bench or a comparison: decoding modes by label, which of them a run can do, and what they decode."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from janus_cli.data.lines import Lines
from janus_cli.decoding.modes import Plan, choose
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import Run, find_split

MODES = ("ar", "nar", "semi", "spec")
NUMBER = "[1-9][0-9]*"
USUAL = (
    "ar.beam1", "ar.beam5",
    *(f"nar{iters}.lb{width}" for iters in (1, 4, 10) for width in ("1", "5", "5.rerank")),
    "nar.eos", "semi2", "semi4", "spec", "spec.redraft-ar", "spec.redraft-joint",
)  # fmt: skip
LABELS: dict[str, dict[str, Any]] = {  # how rows are named, and what their names say beside numbers
    rf"ar\.beam(?P<beam>{NUMBER})": {"mode": "ar"},
    rf"nar(?P<iters>{NUMBER})\.lb(?P<length_beam>{NUMBER})": {"mode": "nar", "rerank": "none"},
    rf"nar(?P<iters>{NUMBER})\.lb(?P<length_beam>{NUMBER})\.rerank": {"mode": "nar", "rerank": "ar"},
    r"nar\.eos": {"mode": "nar"},  # without lengths: one pass, up to EOS
    rf"semi(?P<block>{NUMBER})": {"mode": "semi"},
    r"spec": {"mode": "spec", "redraft": "nar"},
    r"spec\.redraft-ar": {"mode": "spec", "redraft": "ar"},
    r"spec\.redraft-joint": {"mode": "spec", "redraft": "joint"},
}


class Selection(NamedTuple):
    """The plan of each row, by label, in the order of the table; and the rows left out, with the reason."""

    plans: dict[str, Plan]
    left_out: dict[str, str]


def known(names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Label and decoding options of the usual rows, and of those among `names` that are labels with other numbers.

    Labels are those of `Plan.label`, but for options that no row has, which the recipe sets for all of them.
    """
    rows = {}
    for name in (*USUAL, *names):
        for pattern, options in LABELS.items():
            if match := re.fullmatch(pattern, name):
                rows[name] = options | {knob: int(number) for knob, number in match.groupdict().items()}
    return rows


def matching(names: Sequence[str]) -> set[str]:
    """The labels that these names stand for; see `select`.

    Raises:
        UsageError: a name fits no row.
    """
    rows, labels = known(names), set[str]()
    for name in names:
        found = [
            label for label, options in rows.items()
            if name in (label, options["mode"]) or (name not in rows and label.startswith(f"{name}."))
        ]  # fmt: skip
        if not found:
            close = difflib.get_close_matches(name, [*MODES, *rows], n=1)
            raise UsageError(
                f"--mode {name}: there is no such row" + (f"; did you mean {close[0]}?" if close else ""),
                f"rows: {', '.join([*MODES, *rows])}, or one with other numbers, as ar.beam4, nar6.lb3.rerank or semi7",
            )
        labels.update(found)
    return labels


def select(recipe: Recipe, names: Sequence[str]) -> Selection:
    """The rows of a run with this recipe; its decoding section fills in what a row does not say.

    names: a mode (ar, nar, spec), a label, with any numbers, or the start of labels up to a dot (nar4); none means
    every usual row.

    Raises:
        UsageError: a name fits no row, or the run can do none of those named.
    """
    rows = known(names)
    asked = matching(names) if names else set(rows)
    single = replace(recipe, decoding=replace(recipe.decoding, nbest=1))
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for label in (label for label in rows if label in asked):
        try:
            plan = choose(single, rows[label])
        except UsageError as problem:
            left_out[label] = problem.message
            continue
        if label == "nar.eos" and plan.lengths:
            left_out[label] = "this run predicts lengths and refines what it wrote: see the rows nar1, nar4, …"
        else:
            plans[label] = plan
    if not plans:
        raise UsageError(
            f"this run can do none of {', '.join(left_out)}: {next(iter(left_out.values()))}",
            "leave --mode out to measure every row that it can",
        )
    return Selection(plans, left_out)


def sentences(run: Run, recipe: Recipe, split: str) -> tuple[list[str], list[str] | None]:
    """The lines of a split of the run's data, and their references; None where it has none.

    Raises:
        DataError: the data has no such split, or its text is gone or was changed.
    """
    source, reference = find_split(run, recipe, split)
    return list(Lines(source)), None if reference is None else list(Lines(reference))
