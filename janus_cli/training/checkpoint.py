"""Checkpoints: written atomically, verified before use.

    step-000123/  model.safetensors · optimizer.safetensors · state.json · recipe.yaml · manifest.json

The files go into a hidden folder and are synced; then the folder gets its name (`files.whole_folder`), and the link
`last` moves. The manifest has size and sha256 of every other file. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import ml_dtypes  # noqa: F401  # numpy then knows bfloat16
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from janus_cli import console, documents, recipe_load
from janus_cli.core.shapes import shapes
from janus_cli.core.weights import Weights
from janus_cli.data.tokenizer import Tokenizers, load_tokenizers
from janus_cli.errors import (
    FULL,
    CheckpointError,
    DataError,
    JanusError,
    UsageError,
    check_machine,
    from_system,
)
from janus_cli.files import MANIFEST, Busy, like, remove_whole, sha256, sweep, temporary, whole_folder
from janus_cli.recipe import Recipe
from janus_cli.runs import LINKS, Run, find_run
from janus_cli.system import followed, make_link, sync
from janus_cli.terminal import command
from janus_cli.training import size

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MODEL, OPTIMIZER, STATE, RECIPE = "model.safetensors", "optimizer.safetensors", "state.json", "recipe.yaml"
KINDS = ("F32", "BF16")  # of stored values
PATIENCE = 60.0  # seconds that `save` waits for another process that writes the same checkpoint
RETRIES = 3  # of a reader, if a training prunes the checkpoint meanwhile

Read = TypeVar("Read")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. vocabularies: the sizes of source and target. state: what state.json holds."""

    folder: Path
    recipe: Recipe
    vocabularies: tuple[int, int]
    state: Mapping[str, Any]

    def position(self, recipe: Recipe) -> documents.Position:
        """Where a training with this recipe continues. What other batches have read of the epoch is noted."""
        found = documents.Position.model_validate(self.state)
        before, now = ((each.training.batch_tokens, each.seed) for each in (self.recipe, recipe))
        if before != now and found.batch:
            found.read, found.batch = [*found.read, (*before, found.batch)], 0
        return found


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The update after which a checkpoint folder was saved."""
    return int(folder.name.removeprefix("step-"))


def save(
    folder: Path, recipe: Recipe, vocabularies: tuple[int, int], state: Mapping[str, Any],
    weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor] | None = None, again: str = "the same command",
) -> None:  # fmt: skip
    """Write a checkpoint as described above; one of the same name stays until the new one is whole.

    Call `must_be_finite` first. again: what to do once there is space on a full disk, for the hint.

    Raises:
        JanusError: the disk is full. Older checkpoints are untouched, here as below.
        CheckpointError: another process is writing it, or the system refuses for another reason.
    """
    try:
        with whole_folder(
            folder, force=True, is_ours=lambda _: True, what="a checkpoint", patience=PATIENCE
        ) as working:
            write(working, recipe, vocabularies, state, weights, optimizer)
    except Busy as problem:
        raise CheckpointError(
            f"{folder} could not be written: {problem.holder} has been writing it for {PATIENCE:g} seconds",
            "older checkpoints are untouched; end that process, or wait for it",
        ) from None
    except OSError as problem:
        failed, kept = f"{folder} could not be written: {problem.strerror}", "older checkpoints are untouched"
        if problem.errno in FULL and (told := from_system(problem)):
            needed = sum(t.numel() * t.element_size() for t in (*weights.values(), *(optimizer or {}).values()))
            first = told.hint.removesuffix(" and run it again")
            hint = f"{kept}; {first}, a checkpoint needs about {needed:,} bytes; then: {again}"
            raise JanusError(failed, hint) from None
        check_machine(problem)
        raise CheckpointError(failed, kept) from None


def write(
    folder: Path, recipe: Recipe, vocabularies: tuple[int, int], state: Mapping[str, Any],
    weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write the files of a checkpoint into a folder; the manifest also names what lies there already."""
    _write_tensors(weights, folder / MODEL)
    if optimizer is not None:
        _write_tensors(optimizer, folder / OPTIMIZER)
    (folder / RECIPE).write_text(recipe_load.dump(recipe), encoding="utf-8")
    for file in (folder / MODEL, folder / OPTIMIZER):
        like(folder / RECIPE, file)
    full = {**state, "source_vocabulary": vocabularies[0], "target_vocabulary": vocabularies[1]}
    (folder / STATE).write_text(json.dumps(full, indent=1), encoding="utf-8")
    manifest = {"format": FORMAT, "files": {file.name: _describe(file) for file in sorted(folder.iterdir())}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises OSError if it cannot: safetensors itself says only in words what the system said."""
    from safetensors.torch import save_file  # whoever has tensors has imported torch

    try:
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    except SafetensorError as problem:
        if not (found := re.search(r"os error (\d+)", str(problem))):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from None


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def move_link(root: Path, link: str, target: Path) -> None:
    """Move the link root/link (`last`, `best`) to a checkpoint, atomically.

    Where it is a folder, because the run was copied and links were followed, the folder is replaced.
    """
    place, new = root / link, temporary(root / link)
    make_link(new, target.name)
    if place.is_dir() and not place.is_symlink():
        remove_whole(place)
    new.replace(place)
    sync(root)


def fingerprint(folder: Path) -> str:
    """The sha256 of a checkpoint's weights, as its manifest has it (see `verify`).

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format version.
    """
    return str(_files(folder)[MODEL].get("sha256"))


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entry for each file."""
    if not (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}", "see `janus inspect RUN`")
    manifest = documents.read(folder / MANIFEST, documents.CheckpointManifest, CheckpointError)
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {manifest['format']}, this janus reads format {FORMAT}",
            "use the janus version that wrote it",
        )
    files: dict[str, dict[str, Any]] = manifest["files"]
    if not {MODEL, STATE, RECIPE} <= files.keys():
        raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not list the checkpoint's files")
    return files


def verify(folder: Path) -> Checkpoint:
    """Check every byte of a checkpoint against its manifest.

    Raises:
        CheckpointError: missing, damaged, foreign, or of another format version; the file is named.
    """
    files = _files(folder)
    for name, expected in files.items():
        file = folder / name
        try:
            if Path(name).name != name or file.is_symlink() or not file.is_file():
                raise FileNotFoundError
            intact = _describe(file) == expected
        except FileNotFoundError:  # also if a training prunes it at this moment
            raise CheckpointError(f"{file} is missing or not a plain file", _others(folder)) from None
        if not intact:
            hint = _others(folder)
            if Run(folder).is_export:
                hint = "rename or remove the folder; then export again, or name pretrained:NAME again if it is a copy"
            raise CheckpointError(f"{file} is damaged: size or sha256 differs from the manifest", hint)
    state = read_state(folder, CheckpointError)
    recipe = recipe_load.load_written(folder / RECIPE)
    saved = Checkpoint(folder, recipe, (state["source_vocabulary"], state["target_vocabulary"]), state)
    _must_fit_its_file(saved, files[MODEL]["bytes"])
    return saved


def _others(folder: Path) -> str:
    return f"name another one with --checkpoint, see `{command('ls', folder.parent)}`; `train --resume` skips this"


def read_state(folder: Path, error: type[JanusError] = DataError) -> dict[str, Any]:
    """A checkpoint's state.json, not compared with its manifest; raises `error` if it is missing or damaged."""
    return documents.read(folder / STATE, documents.State, error)


def _must_fit_its_file(saved: Checkpoint, has: int) -> None:
    """Raises CheckpointError if recipe and state describe a model larger than its file of `has` bytes: it is never
    built."""
    file, model, lengths = saved.folder / MODEL, saved.recipe.model, saved.recipe.objective.lengths
    least = size.WEIGHT // 2 * size.parts(model, saved.vocabularies, lengths=lengths).total()
    if has < least:  # an export may hold bfloat16
        raise CheckpointError(
            f"{file} is damaged: it has {has:,} bytes, and {RECIPE} and {STATE} describe a model of over {least:,}"
        )


@contextmanager
def opened(file: Path, framework: Literal["numpy", "pt"], error: type[JanusError] = CheckpointError) -> Iterator[Any]:
    """A safetensors file; raises `error` if it cannot be read, also in the block."""
    try:
        with safe_open(file, framework=framework) as handle:
            yield handle
    except (SafetensorError, OSError, RuntimeError) as problem:
        check_machine(problem, f"to load {file}")
        raise error(f"{file} is not a readable safetensors file: {problem}") from None


def read_arrays(
    file: Path, expected: Mapping[str, Sequence[int]] | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Read a safetensors file whose names and shapes must equal `expected`, if given; values must be finite.

    An export may hold bfloat16, and is widened to float32.

    Raises:
        CheckpointError: they do not, or the file is not safetensors.
    """
    with opened(file, "numpy") as handle:
        names = set(handle.keys())
        if expected is None:
            expected = {name: handle.get_slice(name).get_shape() for name in sorted(names)}
        if names != expected.keys():
            missing, extra = sorted(expected.keys() - names), sorted(names - expected.keys())
            raise CheckpointError(
                f"{file}: missing {missing[:3]}, unexpected {extra[:3]}", "was it made with this recipe?"
            )
        for name, like in expected.items():
            stored = handle.get_slice(name)
            shape, kind = stored.get_shape(), stored.get_dtype()
            if shape != list(like):
                raise CheckpointError(f"{file}: {name} has shape {shape}, the recipe makes it {list(like)}")
            if kind not in KINDS:
                raise CheckpointError(f"{file}: {name} has type {kind}, expected {' or '.join(KINDS)}")
            value = handle.get_tensor(name).astype(np.float32, copy=False)
            if not np.isfinite(value).all():
                raise CheckpointError(f"{file}: {name} holds values that are not finite")
            yield name, value


def read_weights(folder: Path) -> Weights:
    """The weights of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or not what its recipe says.
        OutOfMemoryError: the machine cannot hold them.
    """
    saved = verify(folder)
    model, vocabularies = saved.recipe.model, saved.vocabularies
    lengths = saved.recipe.objective.lengths
    size.must_fit(model, vocabularies, lengths=lengths)
    expected = shapes(model, vocabularies, lengths=lengths)
    return Weights(model, vocabularies, dict(read_arrays(folder / MODEL, expected)))


def tokenizers_of(run: Run, state: Mapping[str, Any] | None = None) -> Tokenizers:
    """The tokenizers of a run, which must be those that it began with.

    state: of a checkpoint that was trained with them.

    Raises:
        CheckpointError: a file is missing, damaged or was changed, or the checkpoint was trained with another one.
    """
    if run.manifest.is_file():  # earlier exports have none
        run.read_manifest()
    try:
        tokenizers = load_tokenizers(run.path)
    except DataError as problem:
        raise CheckpointError(problem.message, "copy it back from the data that the run was trained on") from None
    trained_with = (state or {}).get("tokenizer", {})  # earlier versions did not note it
    for name in tokenizers.files:
        if name in trained_with and trained_with[name] != sha256(run.path / name):
            raise CheckpointError(
                f"{run.path / name} is not the tokenizer that the checkpoint was trained with",
                "name its run with --run",
            )
    return tokenizers


def find_checkpoint(run: Path | None, checkpoint: Path | None) -> tuple[Run, Path]:
    """The run and a checkpoint folder, links resolved: the named one, else the run's best, else its last.

    checkpoint: a folder, or a name among the run's checkpoints. Without `run`, it is the run that the folder lies in.
    An export has one checkpoint, its own folder.

    Raises:
        UsageError: there is no such run, or a checkpoint's run is not known.
        CheckpointError: there is no such checkpoint.
    """
    if checkpoint is not None:
        checkpoint = followed(checkpoint)
    if checkpoint is not None and run is None and checkpoint.is_dir():
        folder = checkpoint.resolve()
        if Run(folder).is_export:
            return Run(folder), folder
        if not (own := Run(folder.parent.parent)).recipe.is_file():
            raise UsageError(f"{checkpoint} is not inside a run: its tokenizer is unknown", "name its run with --run")
        return own, folder
    chosen = find_run(run)
    root = chosen.checkpoints
    if run is None:
        console.say(f"no --run: taking {chosen.path}, the newest")
    if chosen.is_export and str(checkpoint or "best") in LINKS:
        return chosen, chosen.path.resolve()
    for place in (root / "best", root / "last") if checkpoint is None else (checkpoint, root / checkpoint):
        if followed(place).is_dir():
            if checkpoint is None and place.name != "best" and _is_link(root / "best"):
                console.warn(
                    f"{root / 'best'} leads to a checkpoint that is gone: taking {followed(place).resolve().name}"
                )
            return chosen, followed(place).resolve()
    if str(checkpoint or "best") in LINKS and (kept := _without_links(root, str(checkpoint or "best"))):
        console.say(f"{root} has lost its links: taking {kept.name}")
        return chosen, kept
    if checkpoint is None:
        raise CheckpointError(
            f"{chosen.path} has no checkpoint yet",
            "if it is training, wait for its first one; else "
            + command("janus", "train", "--resume", "--run", chosen.path),
        )
    raise chosen.lacks(checkpoint)


def _is_link(path: Path) -> bool:
    return path.is_symlink() or followed(path) != path


def _without_links(root: Path, link: str) -> Path | None:
    """What a link pointed to before the run was copied without its links: the newest checkpoint, or the best it knows.

    None if there are no checkpoints, or there is a link and only the other one is missing.
    """
    saved = newest_valid(root) if not followed(root / "last").is_dir() else None
    if saved is None:
        return None
    best = step_folder(root, saved.state.get("best_step", 0))
    return (best if link == "best" and best.is_dir() else saved.folder).resolve()


def find_start(named: Path) -> tuple[Run, Path]:
    """A run and the checkpoint to start from. named: a run, whose best checkpoint is taken, or a checkpoint folder.

    Raises:
        UsageError, CheckpointError: it is neither.
    """
    named = followed(named)
    return find_checkpoint(None, named) if (named / MODEL).is_file() else find_checkpoint(named, None)


def read_checkpoint(run: Path | None, checkpoint: Path | None, read: Callable[[Run, Path], Read]) -> Read:
    """Call `read`, which must not read lazily, with the run and the folder that `find_checkpoint` finds.

    If a training prunes that folder meanwhile, `read` is called again with what the links point to by then.

    Raises:
        CheckpointError: what was named is gone; other errors of `read`.
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


def steps(root: Path) -> list[Path]:
    """Checkpoint folders of training steps, oldest first (not verified)."""
    folders = [folder for folder in root.glob("step-*") if folder.is_dir() and folder.name[5:].isdecimal()]
    return sorted(folders, key=step_of)


def newest_valid(root: Path) -> Checkpoint | None:
    """The newest intact checkpoint; warns of others. None if there are no checkpoints.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
    """
    message = ""
    for folder in reversed(steps(root)):
        try:
            return verify(folder)
        except CheckpointError as problem:
            message = problem.message
            console.warn(f"{message}; trying the checkpoint before it")
    if message:
        raise CheckpointError(f"no checkpoint under {root} is whole", message)
    return None


def is_interim(folder: Path) -> bool:
    """Whether a checkpoint was saved only because the training was stopped there: without that, there is none."""
    with suppress(DataError):
        return bool(read_state(folder).get("interim"))
    return False


def prune(root: Path, keep_last: int, best: Collection[Path]) -> None:
    """Remove all checkpoints of training steps but the last ones, the best ones, and what `best` points to.

    Checkpoints that only a stop has made do not push others out. They are removed once there is a newer one, so that
    `janus average` takes what it would without them. Until then the newest two stay: one may be damaged.
    """
    folders, linked = steps(root), followed(root / "best").resolve().name
    interim = list(filter(is_interim, folders))
    for folder in interim[:-2] if folders[-1] in interim else interim:
        remove_whole(folder)
    for folder in [folder for folder in folders if folder not in interim][:-keep_last]:
        if folder not in best and folder.name != linked:
            remove_whole(folder)


def remove_leftovers(root: Path) -> None:
    """Remove what killed saves and removals left behind; a checkpoint that was being replaced comes back.

    Call it with the run's lock held: then nobody is saving checkpoints of training steps, on whatever machine.
    """
    for lock in root.glob(".step-*.lock*"):
        lock.unlink()
    sweep(root, "step-")


def set_aside_newer(root: Path, resumed: Checkpoint) -> None:
    """Rename checkpoints newer than the resumed one: they are damaged, but would count in `prune`."""
    for folder in steps(root):
        if step_of(folder) > step_of(resumed.folder):
            aside = folder.with_name(f"unusable-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            move_link(root, "last", resumed.folder)
            console.warn(f"{folder} cannot be used: it was renamed to {aside.name}")
