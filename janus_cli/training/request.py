"""What `janus train` was asked for: which recipe, which folder, and whether these may be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_cli import console, recipe_load, runs
from janus_cli.errors import CheckpointError, DataError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import Run


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus train`."""

    recipe: str | None = None
    objective: str | None = None
    run: Path | None = None
    prepared: Path | None = None
    data_dir: Path | None = None
    resume: bool = False
    start: Path | None = None
    allow_change: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    device: str = "auto"
    seed: int | None = None
    threads: int | None = None
    force: bool = False
    dry_run: bool = False


def recipe_and_run(request: Request) -> tuple[Recipe, Run]:
    """The recipe in force and the run's folder."""
    changes = list(request.changes) + ([f"seed={request.seed}"] if request.seed is not None else [])
    if request.data_dir is not None:
        if not request.data_dir.is_dir():
            raise DataError(f"the data folder {request.data_dir} does not exist", "name another with --data-dir")
        changes.append(f"data.dir={json.dumps(str(request.data_dir), ensure_ascii=False)}")
    if request.resume and (request.recipe is None or request.run is not None):
        run = runs.find_run(request.run)
        if request.run is None:
            console.say(f"resuming {run.path}, the newest run")
        return recipe_load.load(request.recipe or str(run.recipe), changes, request.objective), run
    if request.recipe is None:
        console.say("no --recipe: using the built-in recipe demo")
    recipe = recipe_load.load(request.recipe or "demo", changes, request.objective)
    return recipe, Run(request.run or runs.RUNS / f"{recipe.name}-{recipe.objective.name}")


def must_be_free(request: Request, run: Run) -> None:
    """Whether the run's folder may be used so.

    Raises:
        UsageError: it holds a run and should not, or the other way round, or options exclude each other.
    """
    if request.resume and request.force:
        raise UsageError("--resume and --force exclude each other", "--resume goes on, --force starts anew")
    if request.resume and request.start is not None:
        raise UsageError("--resume and --from exclude each other", "--resume goes on from the run's own checkpoint")
    if request.allow_change and not request.resume:
        raise UsageError("--allow-change needs --resume", "a new run takes any recipe")
    places = (run.checkpoints, run.decoded, run.log)
    theirs = [path for path in places if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if theirs and not run.recipe.exists():
        raise UsageError(f"{run.path} holds {theirs[0].name} but no recipe.yaml: it is no run", "choose another --run")
    if run.recipe.exists() and not (request.resume or request.force):
        raise UsageError(
            f"{run.path} holds a run already",
            f"go on with it: janus train --resume --run {run.path}; start anew: --force; keep both: --run ANOTHER",
        )
    if request.resume and not run.recipe.exists():
        raise UsageError(f"--resume: {run.path} holds no run", "leave out --resume to start it")


def words_of(request: Request, run: Run) -> list[str]:
    """The options that tell `janus preprocess` the recipe in force."""
    words = ["--recipe", request.recipe or (str(run.recipe) if request.resume else "demo")]
    for change in request.changes:  # `preprocess` knows no --objective, so knobs of another one mean nothing there
        words += [] if change.startswith("objective.") else ["--set", change]
    return words + (["--seed", str(request.seed)] if request.seed is not None else [])


def must_agree(before: Recipe, now: Recipe, allowed: tuple[str, ...]) -> None:
    """A resumed run keeps its recipe, but for the knobs that the user names.

    Raises:
        CheckpointError: with every difference.
    """
    old, new = dict(_leaves(before.plain())), dict(_leaves(now.plain()))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    free = (*allowed, "data.dir", "about", "data.notes")
    bad = [key for key in differing if not any(key == each or key.startswith(f"{each}.") for each in free)]
    if bad:
        lines = "\n  ".join(f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} now" for key in bad)
        raise CheckpointError(
            f"the recipe has changed since the run began:\n  {lines}", "allow a change with --allow-change KEY"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
