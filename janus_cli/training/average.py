"""The mean of several checkpoints, weight by weight (Vaswani 2017, section 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from janus_cli import console, recipe_load
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.files import sweep
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.best import best_metric, label, newest_scoring, ranked
from janus_cli.training.checkpoint import MODEL, OPTIMIZER, Checkpoint
from janus_cli.training.model import EMA, build_model, must_be_finite, optimizer_tensors, read_tensors


def average_checkpoints(run: Run, *, last: int | None, best: int | None, force: bool) -> tuple[Path, list[str]]:
    """Average the N last or best checkpoints; by default the last 5. If there are fewer, warn and take those.

    Writes checkpoints/average-lastN or average-bestN, N being how many were averaged; returns its folder and their
    names. Means are taken in float64 and written in the weights' own type. Tied tables stay one table.

    Raises:
        UsageError: the run has none to average; the average exists already.
        CheckpointError: the checkpoints do not belong together.
    """
    recipe = recipe_load.load(str(run.recipe))
    kept = recipe.training.keep_last
    if best:
        scoring = newest_scoring(run.checkpoints)
        try:
            metric = best_metric(recipe, scoring["metric"])
        except UsageError:  # a metric that the training was resumed with
            awaited = f"no checkpoint of {run.path} was validated by {recipe.training.best_metric} yet"
            raise UsageError(awaited, "average the newest, with --last N") from None
        chosen, kind = list(ranked(run.checkpoints, metric, scoring))[:best], "best"
        console.say(f"best by {label(metric, scoring)}")
        if best > (most := max(1, recipe.training.keep_best)):
            told = f"{run.path} keeps its best {most} (training.keep_best) and its last {kept}"
            console.warn(f"{told}: checkpoints better than some of these may be gone")
        if not chosen:
            raise UsageError(f"{run.path} has no checkpoint with {metric}", "average the newest, with --last N")
    else:  # older ones were kept only because they are among the best
        every = _steps(run)
        regular = [folder for folder in every if not checkpoint.is_interim(folder)]  # not by a stop
        chosen, kind = (regular or every)[-min(last or 5, kept) :], "last"
    asked = best or last or 0
    if len(chosen) < asked:
        why = f"keeps its last {kept}" if last and last > kept else f"has {len(chosen)}"
        console.warn(f"{run.path} {why} checkpoints: averaging {len(chosen)}, not {asked}")
    out = _free_folder(run, f"average-{kind}{len(chosen)}", force)
    try:
        mean, saved = _mean(chosen)
    except CheckpointError:
        if all(folder.is_dir() for folder in chosen):
            raise
        console.say("a checkpoint was pruned meanwhile: starting over with the present ones")
        return average_checkpoints(run, last=last, best=best, force=force)
    return _save(out, saved, mean, [folder.name for folder in chosen])


def _mean(folders: list[Path]) -> tuple[dict[str, Tensor], Checkpoint]:
    """The mean of checkpoints that belong together, and the last of them, but with the recipe of the first."""
    saved = [checkpoint.verify(folder) for folder in folders]
    first, expected = saved[0], build_model(saved[0].recipe, *saved[0].vocabularies).weights()
    sums = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in expected.items()}
    for each in saved:
        for what, a, b in (
            ("model", first.recipe.model, each.recipe.model),
            ("objective", first.recipe.objective.name, each.recipe.objective.name),
            ("vocabularies", first.vocabularies, each.vocabularies),
        ):
            if a != b:
                raise CheckpointError(f"{first.folder.name} and {each.folder.name} differ in their {what}: {a} and {b}")
        for key, value in read_tensors(each.folder / MODEL, expected).items():
            sums[key] += value
    mean = {key: (total / len(saved)).to(expected[key].dtype) for key, total in sums.items()}
    return mean, replace(saved[-1], recipe=first.recipe)


def running_mean(run: Run, *, force: bool) -> tuple[Path, list[str]]:
    """Write the moving average that `training.ema` keeps in the last checkpoint as checkpoints/average-ema.

    Raises:
        UsageError: none is kept, or average-ema exists already.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    out = _free_folder(run, "average-ema", force)
    saved = checkpoint.verify(_steps(run)[-1])
    if not saved.recipe.training.ema:
        raise UsageError(f"{run.path} keeps no mean of its weights", "train with --set training.ema=0.999")
    model = build_model(saved.recipe, *saved.vocabularies)
    tensors = read_tensors(saved.folder / OPTIMIZER, optimizer_tensors(model, {}, ema=True))
    mean = {key: tensors[f"{key}.{EMA}"] for key in model.weights()}
    return _save(out, saved, mean, [saved.folder.name], " (ema)")


def _save(
    out: Path, saved: Checkpoint, mean: Mapping[str, Tensor], names: list[str], kind: str = ""
) -> tuple[Path, list[str]]:
    state = {**saved.state, "metrics": {}, "averaged": [name + kind for name in names]}
    must_be_finite(mean, f"{out.name} is not saved")
    checkpoint.save(out, saved.recipe, saved.vocabularies, state, mean)
    return out, names


def _free_folder(run: Run, name: str, force: bool) -> Path:
    sweep(run.checkpoints, "average-")  # those of training steps are the training's business
    if (run.checkpoints / name).exists() and not force:
        raise UsageError(
            f"{run.checkpoints / name} exists", f"decode it with --checkpoint {name}, or replace it with --force"
        )
    return run.checkpoints / name


def _steps(run: Run) -> list[Path]:
    folders = checkpoint.steps(run.checkpoints)
    if not folders:
        raise CheckpointError(f"{run.path} has no checkpoint", "train it first")
    return folders
