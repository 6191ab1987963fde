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
from janus_cli.terminal import command
from janus_cli.training.checkpoint import fingerprint, read_arrays

FILE = "draft-head.safetensors"
WEIGHTS = "weights"  # the key of the metadata: sha256 of the checkpoint's weights


def write(folder: Path, head: Mapping[str, NDArray[Any]]) -> Path:
    """Writes the head of the checkpoint in `folder`, by name as in `DraftHead`; returns the file."""
    write_atomically(folder / FILE, save({**head}, {WEIGHTS: fingerprint(folder)}))
    return folder / FILE


def read(folder: Path, weights: Weights) -> dict[str, NDArray[Any]]:
    """The head of the checkpoint in `folder`, which has these weights; empty if it has none.

    Raises:
        CheckpointError: it is damaged, or was fitted to other weights.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    again = f"remove it, or make it again: {command('janus', 'draft-head', '--checkpoint', folder, '--force')}"
    try:
        with safe_open(file, framework="numpy") as handle:
            rank = handle.get_slice("before").get_shape()[1]
            fitted_to = (handle.metadata() or {}).get(WEIGHTS)
    except (SafetensorError, OSError, IndexError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", again) from None
    if fitted_to != fingerprint(folder):
        raise CheckpointError(f"{file} was fitted to other weights", again)
    vocabulary, width = weights.output.shape
    return dict(read_arrays(file, head_shapes(width, vocabulary, rank)))
