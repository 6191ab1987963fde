"""The mean of several checkpoints, weight by weight (Vaswani 2017, section 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from janus_cli import console, recipe_load
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import EMA, MODEL, OPTIMIZER, Checkpoint, best_folders, optimizer_tensors
from janus_cli.training.validation import best_metric


def average_checkpoints(run: Run, *, last: int | None, best: int | None, force: bool) -> tuple[Path, list[str]]:
    """Average the N last or best checkpoints; by default the last 5. Where there are fewer, warn and take those.

    Writes checkpoints/average-lastN or average-bestN, N being how many there were; returns its folder and the names of
    what went into it. Means are taken in float64 and written in the weights' own type. Tied tables stay one table.

    Raises:
        UsageError: the run has none to average; the average is there already.
        CheckpointError: the checkpoints do not belong together.
    """
    recipe = recipe_load.load(str(run.recipe))
    metric, kept = best_metric(recipe), recipe.training.keep_last
    folders = _steps(run)
    if best:
        chosen, kind = best_folders(run.checkpoints, metric)[:best], "best"
        if not chosen:
            raise UsageError(f"{run.path} has no checkpoint with {metric}", "average the newest, with --last N")
    else:  # older ones than the run keeps are there because they were good
        chosen, kind = folders[-min(last or 5, kept) :], "last"
    asked = best or last or 0
    if len(chosen) < asked:
        why = f"keeps its last {kept}" if last and last > kept else f"has {len(chosen)}"
        console.warn(f"{run.path} {why} checkpoints: averaging {len(chosen)}, not {asked}")
    name = f"average-{kind}{len(chosen)}"
    _must_be_free(run, name, force)
    try:
        return _averaged(run, chosen, name)
    except CheckpointError:
        if all(folder.is_dir() for folder in chosen):
            raise
    console.say("a checkpoint was pruned meanwhile: beginning again with those that are there now")
    return average_checkpoints(run, last=last, best=best, force=force)


def _must_be_free(run: Run, name: str, force: bool) -> None:
    if (run.checkpoints / name).exists() and not force:
        raise UsageError(f"{run.checkpoints / name} exists", "--force makes it anew")


def _steps(run: Run) -> list[Path]:
    folders = list(checkpoint.steps(run.checkpoints))
    if not folders:
        raise CheckpointError(f"{run.path} has no checkpoint", "train it first")
    return folders


def running_mean(run: Run, *, force: bool) -> tuple[Path, list[str]]:
    """The mean of all weights so far that `training.ema` keeps in the last checkpoint, as checkpoints/average-ema.

    Raises:
        UsageError: none is kept, or average-ema is there already.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    name = "average-ema"
    _must_be_free(run, name, force)
    found = checkpoint.verify(_steps(run)[-1])
    if not found.recipe.training.ema:
        raise UsageError(f"{run.path} keeps no mean of its weights", "train with --set training.ema=0.999")
    vocabularies = (found.source_vocabulary, found.target_vocabulary)
    model = checkpoint.build_model(found.recipe, *vocabularies)
    like = optimizer_tensors(model, {}, ema=True)
    kept = checkpoint.tensors(found.folder / OPTIMIZER, like)
    mean = {key: kept[f"{key}.{EMA}"] for key in model.weights()}
    state = {**found.state, "metrics": {}, "averaged": [f"{found.folder.name} (ema)"]}
    return checkpoint.save(run.checkpoints, name, found.recipe, vocabularies, state, mean, None), [found.folder.name]


def _averaged(run: Run, folders: Sequence[Path], name: str) -> tuple[Path, list[str]]:
    found = [checkpoint.verify(folder) for folder in folders]
    first = found[0]
    for other in found[1:]:
        _must_match(first, other)
    like = checkpoint.build_model(first.recipe, first.source_vocabulary, first.target_vocabulary).weights()
    sums = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in like.items()}
    for each in found:
        for key, value in checkpoint.tensors(each.folder / MODEL, like).items():
            sums[key] += value
    mean = {key: (total / len(found)).to(like[key].dtype) for key, total in sums.items()}
    names = [folder.name for folder in folders]
    state = {**found[-1].state, "metrics": {}, "averaged": names}
    vocabularies = (first.source_vocabulary, first.target_vocabulary)
    return checkpoint.save(run.checkpoints, name, first.recipe, vocabularies, state, mean, None), names


def _must_match(first: Checkpoint, other: Checkpoint) -> None:
    for what, a, b in (
        ("model", first.recipe.model, other.recipe.model),
        ("objective", first.recipe.objective.name, other.recipe.objective.name),
        ("source vocabulary", first.source_vocabulary, other.source_vocabulary),
        ("target vocabulary", first.target_vocabulary, other.target_vocabulary),
    ):
        if a != b:
            raise CheckpointError(f"{first.folder.name} and {other.folder.name} differ in their {what}: {a} and {b}")
