"""Where a training stands, when it saves, what it keeps, and how it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from janus_cli import console
from janus_cli.core.model import Transformer
from janus_cli.device import World, resolve_precision
from janus_cli.files import read_json
from janus_cli.recipe import Recipe
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import OPTIMIZER, REPLACED, STATE, Checkpoint
from janus_cli.training.validation import best_metric, better

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight
EMA = "ema"  # what `update.follow` keeps beside them


@dataclass
class Position:
    """step: updates done. epoch, batch: where the next update's data starts. bad: non-finite updates in a row.

    best, best_step: the best validation so far. since_best: validations since then. seconds: spent in updates.
    owed: the validation of this update is still to be made, because a signal came into it or it failed.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    bad: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    owed: bool = False

    def is_late(self, minutes: float) -> bool:
        """Whether `training.minutes` are over; 0 never are."""
        return 0 < 60 * minutes <= self.seconds


class Saver:
    """Writes checkpoints (first rank only), moves `last` and `best`, prunes what the recipe does not keep."""

    def __init__(self, root: Path, recipe: Recipe, vocabularies: tuple[int, int], world: World) -> None:
        self.root, self.recipe, self.vocabularies, self.world = root, recipe, vocabularies, world
        self.after: Callable[[], None] = lambda: None  # called when a checkpoint is there
        self.metric = best_metric(recipe)
        self.metrics: Mapping[str, float] = {}
        self.judged = 0  # the update that `metrics` belong to
        self.saved: int | None = None  # the update saved last by this process

    def judge(self, at: Position, metrics: Mapping[str, float]) -> None:
        """Notes a validation."""
        if not self.world.first:
            return
        self.metrics, self.judged = metrics, at.step
        if better(self.metric, metrics[self.metric], at.best):
            at.best, at.best_step, at.since_best = metrics[self.metric], at.step, 0
        else:
            at.since_best += 1

    def go_on(self, found: Checkpoint | None, at: Position) -> None:
        """Where another metric than in `found` decides, the best so far is that of the checkpoints that are there."""
        if found is None or best_metric(found.recipe) == self.metric:
            return
        at.best, at.best_step, at.since_best = None, 0, 0
        if self.world.first and (best := best_folders(self.root, self.metric)):
            at.best = read_json(best[0] / STATE)["metrics"][self.metric]
            at.best_step = checkpoint.step_of(best[0])

    def patience_is_over(self, at: Position) -> bool:
        """Whether training should stop early."""
        patience = self.recipe.training.patience
        return bool(patience) and at.since_best >= patience

    def ended(self, at: Position) -> list[str]:
        """The knobs that say that the training is over."""
        knobs = self.recipe.training
        reasons = {
            "updates": at.step >= knobs.updates,
            "minutes": at.is_late(knobs.minutes),
            "patience": self.patience_is_over(at),
        }
        return [f"training.{name}" for name, holds in reasons.items() if holds]

    def save(self, at: Position, model: Transformer, optimizer: torch.optim.AdamW) -> None:
        """Saves this update, once, and waits for the other ranks."""
        self.write(at, model, optimizer)
        self.world.wait()

    def write(self, at: Position, model: Transformer, optimizer: torch.optim.AdamW) -> None:
        """Saves this update, once. A checkpoint of the same update, left from before a resume, is replaced."""
        if self.world.first and self.saved != at.step:
            state: dict[str, Any] = {**asdict(at), **circumstances(self.recipe, self.world)}
            state["metrics"] = dict(self.metrics) if self.judged == at.step else {}
            name = checkpoint.step_folder(self.root, at.step).name
            moments = optimizer_tensors(model, optimizer, self.recipe)
            folder = checkpoint.save(self.root, name, self.recipe, self.vocabularies, state, model.weights(), moments)
            checkpoint.point(self.root, "last", folder)
            best = checkpoint.step_folder(self.root, at.best_step)
            if at.best is not None and best.exists():
                checkpoint.point(self.root, "best", best)
            self.saved = at.step
            self._prune(at)
            self.after()

    def _prune(self, at: Position) -> None:
        folders = list(checkpoint.steps(self.root))
        keep = set(folders[-self.recipe.training.keep_last :]) | {checkpoint.step_folder(self.root, at.best_step)}
        keep |= set(best_folders(self.root, self.metric)[: self.recipe.training.keep_best])
        for folder in folders:
            if folder not in keep:
                # A reader must never find half a checkpoint: it loses its name before it loses its files.
                doomed = folder.rename(folder.with_name(f".{folder.name}.gone"))
                shutil.rmtree(doomed, ignore_errors=True)


def circumstances(recipe: Recipe, world: World) -> dict[str, Any]:
    """What the bits of an update depend on besides recipe and data."""
    precision = resolve_precision(recipe.training.precision, world.device)
    return {"precision": precision, "ranks": world.size, "threads": torch.get_num_threads()}


def best_folders(root: Path, metric: str) -> list[Path]:
    """Checkpoints that have this metric, best first; later ones win ties, NaN is left out."""
    found: list[tuple[float, Path]] = []
    for folder in checkpoint.steps(root):
        try:
            value = json.loads((folder / STATE).read_text(encoding="utf-8")).get("metrics", {}).get(metric)
        except (OSError, ValueError):
            continue  # damaged: whoever reads it as a checkpoint says so
        if isinstance(value, int | float) and value == value:
            found.append((float(value), folder))
    smaller = better(metric, 0.0, 1.0)
    found.sort(key=lambda pair: (-pair[0] if smaller else pair[0], checkpoint.step_of(pair[1])), reverse=True)
    return [folder for _, folder in found]


def remove_leftovers(root: Path) -> None:
    """What a save or a removal that was killed left behind; a checkpoint that was being replaced comes back."""
    for old in root.glob(f".*{REPLACED}"):
        final = root / old.name[1:].rsplit(".", 3)[0]
        shutil.rmtree(old) if final.exists() else old.rename(final)
    for name in (".*.tmp", ".*.gone"):
        for left in root.glob(name):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def set_aside(root: Path, found: Checkpoint) -> None:
    """Takes the name of a checkpoint from those behind the one that is gone on from: they are damaged or of another
    version, and would count among those that are kept."""
    for folder in list(checkpoint.steps(root)):
        if checkpoint.step_of(folder) > checkpoint.step_of(found.folder):
            aside = folder.with_name(f"unusable-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            checkpoint.point(root, "last", found.folder)
            console.warn(f"{folder} cannot be used: it is called {aside.name} now")


def optimizer_tensors(model: Transformer, optimizer: torch.optim.AdamW, recipe: Recipe) -> dict[str, torch.Tensor]:
    """By weight name, AdamW's moments, zeros where no update has been made, and the mean of the weights, if any."""
    tensors = {}
    for name, weight in model.named_parameters():
        state = optimizer.state.get(weight, {})
        for kept in _kept(recipe):
            found = state[kept] if kept in state else _without_updates(kept, weight)
            tensors[f"{name}.{kept}"] = found.detach()
    return tensors


def _without_updates(kept: str, weight: torch.Tensor) -> torch.Tensor:
    if kept == EMA:
        return weight
    return torch.tensor(0.0) if kept == "step" else torch.zeros_like(weight)


def _kept(recipe: Recipe) -> tuple[str, ...]:
    return (*MOMENTS, EMA) if recipe.training.ema else MOMENTS


def resume(found: Checkpoint, model: Transformer, optimizer: torch.optim.AdamW, device: torch.device) -> Position:
    """Puts weights, moments and position back as they were.

    Raises:
        CheckpointError: a file does not hold what the recipe's model needs.
    """
    model.load_weights(checkpoint.tensors(found.folder / checkpoint.MODEL, model.weights()))
    tensors = checkpoint.tensors(found.folder / OPTIMIZER, optimizer_tensors(model, optimizer, found.recipe))
    for name, weight in model.named_parameters():
        if tensors[f"{name}.step"]:  # else AdamW and the mean of the weights begin with the next update
            optimizer.state[weight] = {kept: tensors[f"{name}.{kept}"].to(device) for kept in _kept(found.recipe)}
    # A checkpoint of an earlier version has no `seconds` or `owed`.
    return Position(**{key: found.state[key] for key in Position.__dataclass_fields__ if key in found.state})
