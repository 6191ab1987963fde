"""What a resumed training takes from its run, what may differ, and what the difference does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isclose

from janus_cli import recipe_load
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.recipe import OUTSIDE_WEIGHTS, Recipe, Training
from janus_cli.runs import Run
from janus_cli.terminal import command
from janus_cli.training import limits
from janus_cli.training.checkpoint import Checkpoint
from janus_cli.training.log import flat
from janus_cli.training.trainer import learning_rate

MOST = 9  # changed knobs that a warning lists
SCHEDULE = ("updates", "learning_rate", "schedule", "warmup")  # knobs that the rate depends on
# What judges may change: checkpoints that something else judged are then left out of the ranking.
TOLD = ("training.learning_rate", "training.schedule", "training.warmup")  # by the rate's jump
ONLY_HOW_LONG = ("training.updates", "training.minutes", "training.patience")
FREE = ("data.dir", "data.files", "about", "data.notes", "scoring", "training.best_metric")


def continued(now: Recipe, run: Run, allowed: Sequence[str], named: str | None = None) -> Recipe:
    """The recipe of a resumed run, with its limits of outputs.

    allowed: knobs or sections that may differ. named: the recipe given on the command line, if any, for the hint.

    Raises:
        UsageError: what is allowed is no knob.
        CheckpointError: other knobs than those allowed differ from the run's, all are named; or the model does.
    """
    before = recipe_load.load(str(run.recipe))
    now = limits.kept(now, before)
    _must_be_allowed(now, before, run, allowed, named)
    return now


def _must_be_allowed(now: Recipe, before: Recipe, run: Run, allowed: Sequence[str], named: str | None) -> None:
    """Refuses changes of the recipe; see `continued`."""
    old, new = dict(flat(before.plain(), ".")), dict(flat(now.plain(), "."))
    keys = sorted(old.keys() | new.keys())
    for key in allowed:
        if not any(_within(each, [key]) for each in keys):
            meant = recipe_load.guess(key, keys)
            raise UsageError(f"--allow-change {key}: no such knob{meant}", "`janus recipes explain` prints all of them")
    changed = [key for key in keys if old.get(key) != new.get(key) and not _within(key, FREE)]
    leave_out = f"leave out --recipe {named}, as the run has a recipe of its own" if named else "leave this out"
    if model := [key for key in changed if _within(key, ["model"]) and key not in OUTSIDE_WEIGHTS]:
        were = ", ".join(f"{key} {old[key]}, not {new[key]}" for key in model)
        raise CheckpointError(
            f"{run.path} was trained with {were}: its weights do not fit another model",
            f"{leave_out}; or train a new run: no --resume, and --run ANOTHER",
        )
    changed = [key for key in changed if not _within(key, allowed)]
    if "objective.name" in changed:
        options = ("--recipe", run.recipe, "--objective", now.objective.name, "--from", run.path, "--run", "ANOTHER")
        raise CheckpointError(
            f"{run.path} was trained with objective {before.objective.name}, not {now.objective.name}",
            f"{leave_out}; or start a new run from its weights: {command('janus', 'train', *options)}",
        )
    if changed:
        lines = "".join(f"\n  {key}: {old.get(key)!r} in the run, {new.get(key)!r} now" for key in changed)
        allow = " ".join(f"--allow-change {key}" for key in changed)
        raise CheckpointError(
            f"the recipe has changed since the run began:{lines}", f"{leave_out}; or accept it: {allow}"
        )


def _within(key: str, places: Iterable[str]) -> bool:
    """Whether a knob is one of these, or in one of these sections."""
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def consequences(saved: Checkpoint, recipe: Recipe, numerics: Mapping[str, object]) -> Iterator[str]:
    """Warnings about what differs from before this checkpoint: knobs (also if recipe.yaml was edited), rounding,
    learning rate."""
    step = saved.state["step"]
    old, new = dict(flat(saved.recipe.plain(), ".")), dict(flat(recipe.plain(), "."))
    keys = (key for key in sorted(old.keys() | new.keys()) if not _within(key, (*FREE, *TOLD, *ONLY_HOW_LONG)))
    if changed := [key for key in keys if old.get(key) != new.get(key)]:
        told = "; ".join(f"{key} {old.get(key)}, now {new.get(key)}" for key in changed[:MOST])
        more = f"; and {len(changed) - MOST} more" if len(changed) > MOST else ""
        yield f"the recipe is not that of the checkpoint of update {step:,}: {told}{more}"
    for name, now in numerics.items():
        if (before := saved.state.get(name, now)) != now:
            yield f"up to update {step:,} this run had {name} {before}, now it has {name} {now}"
    if told := jump(step, saved.recipe.training, recipe.training):
        yield told


def jump(step: int, before: Training, now: Training) -> str:
    """What changed knobs do to the rate of the first update after `step` updates, in words; empty if nothing.

    A cosine that ended at almost 0 starts high again if it gets more updates.
    """
    rate, planned = learning_rate(step, now), learning_rate(step, before)
    if isclose(rate, planned, rel_tol=0.01):
        return ""
    pairs = [(key, getattr(before, key), getattr(now, key)) for key in SCHEDULE]
    changed = [f"training.{key} {old}, now {new}" for key, old, new in pairs if old != new]
    last = f"{learning_rate(step - 1, before):.3g} in update {step:,}, " if step else ""
    return f"the learning rate jumps: {last}{rate:.3g} in update {step + 1:,} ({'; '.join(changed)})"
