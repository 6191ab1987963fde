"""Checkpoints that are whole or not there.

    step-000123/  model.safetensors · optimizer.safetensors · state.json · recipe.yaml · manifest.json

Written by the protocol of `files.whole_folder`: fill a hidden folder, fsync each file, rename the folder, fsync its
parent; then the link `last` moves. The manifest holds size and sha256 of every other file; a folder without a valid one
is no checkpoint. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_cli import console, recipe_load
from janus_cli.core.model import Transformer
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.errors import CheckpointError, DataError, JanusError, UsageError
from janus_cli.files import MANIFEST, remove_whole, sha256, sync, tidy, whole_folder
from janus_cli.recipe import Recipe
from janus_cli.runs import Run, find_run

FORMAT = 1
MODEL, OPTIMIZER, STATE, RECIPE = "model.safetensors", "optimizer.safetensors", "state.json", "recipe.yaml"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight
EMA = "ema"  # the mean of the weights, which a Trainer keeps beside them
SMALLER_IS_BETTER = ("loss", "ce_", "kl_", "length")  # metrics that begin so
RETRIES = 3  # of reading; each needs a training that saves and prunes meanwhile

Read = TypeVar("Read")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, its recipe, and the training state that goes with the weights."""

    folder: Path
    recipe: Recipe
    source_vocabulary: int
    target_vocabulary: int
    state: Mapping[str, Any]

    @property
    def vocabularies(self) -> tuple[int, int]:
        return self.source_vocabulary, self.target_vocabulary

    def build(self) -> Transformer:
        """A model of its shape, with fresh weights."""
        return build_model(self.recipe, *self.vocabularies)


def build_model(recipe: Recipe, source_vocabulary: int, target_vocabulary: int) -> Transformer:
    """Fresh weights from torch's global generator."""
    objective = OBJECTIVES[recipe.objective.name]
    return Transformer(recipe.model, source_vocabulary, target_vocabulary, length_head=objective.lengths)


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The update that a folder of `steps` was saved after."""
    return int(folder.name.removeprefix("step-"))


def save(
    folder: Path, recipe: Recipe, vocabularies: tuple[int, int], state: Mapping[str, Any],
    weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint by the protocol above; one of the same name stays until the new one is whole.

    Raises:
        CheckpointError: it could not be written (disk full); older checkpoints are untouched.
    """
    try:
        with whole_folder(folder, force=True, is_ours=lambda _: True, what="a checkpoint") as working:
            write(working, recipe, vocabularies, state, weights, optimizer)
    except (OSError, SafetensorError, DataError) as problem:
        needed = sum(t.numel() * t.element_size() for t in (*weights.values(), *(optimizer or {}).values()))
        raise CheckpointError(
            f"{folder} could not be written: {problem}",
            f"a checkpoint needs about {needed:,} bytes; older ones are untouched",
        ) from None


def write(
    folder: Path, recipe: Recipe, vocabularies: tuple[int, int], state: Mapping[str, Any],
    weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write the files of a checkpoint into an empty folder."""
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / MODEL)
    if optimizer is not None:
        save_file({key: value.contiguous() for key, value in optimizer.items()}, folder / OPTIMIZER)
    (folder / RECIPE).write_text(recipe_load.dump(recipe), encoding="utf-8")
    full = {**state, "source_vocabulary": vocabularies[0], "target_vocabulary": vocabularies[1]}
    (folder / STATE).write_text(json.dumps(full, indent=1), encoding="utf-8")
    manifest = {"format": FORMAT, "files": {file.name: _describe(file) for file in sorted(folder.iterdir())}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def optimizer_tensors(
    model: Transformer, state: Mapping[Tensor, Mapping[str, Tensor]], *, ema: bool
) -> dict[str, Tensor]:
    """By weight name, AdamW's moments and the mean of the weights, if any; as if new where no update was made.

    state: of the optimiser, by weight.
    """
    tensors = {}
    for name, weight in model.named_parameters():
        new = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        for key in (*MOMENTS, EMA) if ema else MOMENTS:
            tensors[f"{name}.{key}"] = {**new, EMA: weight, **state.get(weight, {})}[key].detach()
    return tensors


def point(root: Path, link: str, target: Path) -> None:
    """Move the link root/link (`last`, `best`) to a checkpoint, in one step."""
    temporary = root / f".{link}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(root / link)
    sync(root)


def fingerprint(folder: Path) -> str:
    """The sha256 of a checkpoint's weights, as its manifest has it; `verify` is what compares it.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format version.
    """
    return str(_files(folder)[MODEL].get("sha256"))


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each file."""
    manifest = _json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {manifest.get('format')!r}, this janus reads format {FORMAT}",
            "use the janus version that wrote it",
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not {MODEL, STATE, RECIPE} <= files.keys():
        raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not list the checkpoint's files")
    return files


def verify(folder: Path) -> Checkpoint:
    """Check every byte of a checkpoint against its manifest.

    Raises:
        CheckpointError: missing, damaged, foreign, or of another format version; the file is named.
    """
    for name, expected in _files(folder).items():
        file = folder / name
        if Path(name).name != name or file.is_symlink() or not file.is_file():
            raise CheckpointError(f"{file} is missing or not a plain file")
        try:
            intact = _describe(file) == expected
        except FileNotFoundError:  # pruned by a training while it was read
            raise CheckpointError(f"{file} is missing or not a plain file") from None
        if not intact:
            others = f"for other checkpoints see `ls {folder.parent}`"
            raise CheckpointError(f"{file} is damaged: size or sha256 differs from the manifest", others)
    state = _json(folder / STATE)
    try:
        recipe = recipe_load.load(str(folder / RECIPE))
    except UsageError as problem:
        raise CheckpointError(problem.message, "use the janus version that wrote it") from None
    return Checkpoint(folder, recipe, int(state["source_vocabulary"]), int(state["target_vocabulary"]), state)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{file.parent} is not a checkpoint: it has no {file.name}", "see `janus inspect RUN`"
        ) from None
    except ValueError as problem:
        raise CheckpointError(f"{file} is damaged: {problem}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object")
    return value


def tensors(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file whose names, shapes and types must equal `expected`; values must be finite.

    Raises:
        CheckpointError: anything else, also for files that are no safetensors.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            names = set(handle.keys())
            if names != expected.keys():
                missing, extra = sorted(expected.keys() - names), sorted(names - expected.keys())
                raise CheckpointError(
                    f"{file}: missing {missing[:3]}, unexpected {extra[:3]}", "was it made with this recipe?"
                )
            for name, like in expected.items():
                shape = list(handle.get_slice(name).get_shape())
                if shape != list(like.shape):
                    raise CheckpointError(f"{file}: {name} has shape {shape}, the recipe makes it {list(like.shape)}")
        loaded = load_file(file)
    except (SafetensorError, OSError, RuntimeError) as problem:  # torch, where the file is gone by now
        raise CheckpointError(f"{file} is not a readable safetensors file: {problem}") from None
    for name, value in loaded.items():
        if value.dtype != expected[name].dtype:
            raise CheckpointError(f"{file}: {name} has type {value.dtype}, expected {expected[name].dtype}")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{file}: {name} holds values that are not finite")
    return loaded


def load_model(
    folder: Path, device: torch.device | str = "cpu", precision: Literal["float32", "bf16"] = "float32"
) -> Transformer:
    """The model of a checkpoint, in eval mode."""
    # Not on the meta device: drawing weights that are thrown away takes 0.1 s, the imports behind it 1.9 s.
    model = verify(folder).build().to(device)
    model.load_weights(tensors(folder / MODEL, model.weights()))
    return model.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()


def find_checkpoint(run: Path | None, checkpoint: Path | None) -> tuple[Run, Path]:
    """The run and a checkpoint folder, links resolved: the named one, else the run's best, else its last.

    checkpoint: a folder, or the name of one in the run's checkpoints. Without `run`, a folder's own run is taken.

    Raises:
        UsageError: there is no such run, or a checkpoint's run is not known.
        CheckpointError: there is no such checkpoint.
    """
    if checkpoint is not None and run is None and checkpoint.is_dir():
        folder = checkpoint.resolve()
        if all((folder / name).is_file() for name in ("tokenizer.json", MODEL)):  # an exported folder is its own run
            return Run(folder), folder
        if not (own := Run(folder.parent.parent)).recipe.is_file():
            raise UsageError(f"{checkpoint} is not inside a run: its tokenizer is unknown", "name its run with --run")
        return own, folder
    chosen = find_run(run)
    root = chosen.checkpoints
    if run is None:
        console.say(f"no --run: taking {chosen.path}, the newest")
    for place in (root / "best", root / "last") if checkpoint is None else (checkpoint, root / checkpoint):
        if place.is_dir():
            return chosen, place.resolve()
    if checkpoint is None:
        raise CheckpointError(f"{chosen.path} has no checkpoint yet", f"janus train --resume --run {chosen.path}")
    raise CheckpointError(f"there is no checkpoint {checkpoint} in {chosen.path}", f"see `ls {root}`, or name a folder")


def locate(named: Path) -> tuple[Run, Path]:
    """A run and the checkpoint to begin from. named: a run, of which the best is taken, or a checkpoint folder.

    Raises:
        UsageError, CheckpointError: it is neither.
    """
    return find_checkpoint(None, named) if (named / MODEL).is_file() else find_checkpoint(named, None)


def read_checkpoint(run: Path | None, checkpoint: Path | None, read: Callable[[Run, Path], Read]) -> Read:
    """What `read` makes of the run and the folder that `find_checkpoint` finds.

    A training may prune the folder meanwhile, after it moved the links: `read` is then called with their new target.
    It must have read everything when it returns.

    Raises:
        CheckpointError: what was named is there no longer; other errors of `read`.
    """
    found, folder = find_checkpoint(run, checkpoint)
    for _ in range(RETRIES):
        try:
            return read(found, folder)
        except (JanusError, OSError):
            if folder.is_dir():
                raise
            console.say(f"{folder} was pruned meanwhile: looking for another one")
            found, folder = find_checkpoint(found.path, checkpoint)
    return read(found, folder)


def steps(root: Path) -> Iterator[Path]:
    """Checkpoint folders of training steps, oldest first (not verified)."""
    folders = (folder for folder in root.glob("step-*") if folder.is_dir() and folder.name[5:].isdecimal())
    yield from sorted(folders, key=step_of)


def newest_valid(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint; warns of damaged ones. None where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    oldest_problem = ""
    for folder in reversed(list(steps(root))):
        try:
            return verify(folder)
        except CheckpointError as problem:
            oldest_problem = problem.message
            console.warn(f"{problem.message}; trying the checkpoint before it")
    if oldest_problem:
        raise CheckpointError(f"no checkpoint under {root} is whole", oldest_problem)
    return None


def better(metric: str, value: float, than: float | None) -> bool:
    """Whether `value` beats the best so far; a tie does not, and NaN never does."""
    if than is None:
        return value == value
    return value < than if metric.startswith(SMALLER_IS_BETTER) else value > than


def best_folders(root: Path, metric: str) -> list[Path]:
    """Checkpoints of training steps that have this metric, best first; later ones win ties, NaN is left out."""
    smaller, values = better(metric, 0.0, 1.0), list[tuple[float, int, Path]]()
    for folder in steps(root):
        try:
            value = json.loads((folder / STATE).read_bytes()).get("metrics", {}).get(metric)
        except (OSError, ValueError):
            continue  # damaged: whoever reads it as a checkpoint says so
        if isinstance(value, int | float) and value == value:
            values.append((-value if smaller else value, step_of(folder), folder))
    return [folder for *_, folder in sorted(values, reverse=True)]


def prune(root: Path, keep_last: int, best: Collection[Path]) -> None:
    """Remove all checkpoints of training steps but the last ones and the best ones."""
    for folder in list(steps(root))[:-keep_last]:
        if folder not in best:
            remove_whole(folder)


def remove_leftovers(root: Path) -> None:
    """Remove what a killed save or removal left behind; a checkpoint that was being replaced comes back."""
    for left in list(root.glob(".*")):
        if left.is_symlink():  # of `point`
            left.unlink()
        else:
            tidy(root / left.name[1:].rpartition(".")[0])


def set_aside_newer(root: Path, resumed: Checkpoint) -> None:
    """Rename checkpoints newer than the one resumed from.

    They are damaged or of another version, and would count among those that are kept.
    """
    for folder in list(steps(root)):
        if step_of(folder) > step_of(resumed.folder):
            aside = folder.with_name(f"unusable-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            point(root, "last", resumed.folder)
            console.warn(f"{folder} cannot be used: it was renamed to {aside.name}")
