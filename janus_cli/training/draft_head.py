"""The file of a draft head, in the folder of the checkpoint whose drafts it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from janus_cli.core.shapes import head_shapes
from janus_cli.core.weights import Weights
from janus_cli.errors import CheckpointError
from janus_cli.files import write_atomically
from janus_cli.runs import Run
from janus_cli.terminal import command
from janus_cli.training.checkpoint import fingerprint, read_arrays

FILE = "draft-head.safetensors"
WEIGHTS = "weights"  # the key of the metadata: sha256 of the checkpoint's weights


def write(folder: Path, head: Mapping[str, NDArray[Any]]) -> Path:
    """Writes the head of the checkpoint in `folder`, by name as in `DraftHead`; returns the file."""
    write_atomically(folder / FILE, save({**head}, {WEIGHTS: fingerprint(folder)}))
    return folder / FILE


def made_by(run: Run, folder: Path, *more: str) -> str:
    """The command that makes the head of a checkpoint, named as its run is. more: words behind it."""
    return command("janus", "draft-head", "--run", run.path, "--checkpoint", run.name_of(folder), *more)


def read(run: Run, folder: Path, weights: Weights) -> dict[str, NDArray[Any]]:
    """The head of the run's checkpoint in `folder`, which has these weights; empty if it has none.

    Raises:
        CheckpointError: it is damaged, or was fitted to other weights.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    again = f"remove it, or make it again: {made_by(run, folder, '--force')}"
    shown = run.shown(file)
    try:
        with safe_open(file, framework="numpy") as handle:
            rank = handle.get_slice("before").get_shape()[1]
            fitted_to = (handle.metadata() or {}).get(WEIGHTS)
    except (SafetensorError, OSError, IndexError) as problem:
        raise CheckpointError(f"{shown} is damaged: {problem}", again) from None
    if fitted_to != fingerprint(folder):
        raise CheckpointError(f"{shown} was fitted to other weights", again)
    vocabulary, width = weights.output.shape
    return dict(read_arrays(file, head_shapes(width, vocabulary, rank)))
