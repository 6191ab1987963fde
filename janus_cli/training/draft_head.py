"""The file of a draft head, in the folder of the checkpoint whose drafts it was fitted to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from janus_cli.core.draft_head import NEAR, DraftHead
from janus_cli.core.model import Transformer
from janus_cli.errors import CheckpointError
from janus_cli.files import write_atomically
from janus_cli.terminal import command
from janus_cli.training.checkpoint import fingerprint, tensors

FILE = "draft-head.safetensors"
WEIGHTS = "weights"  # the key of the metadata: sha256 of the checkpoint's weights


def write(folder: Path, head: DraftHead) -> Path:
    """Writes the head of the checkpoint in `folder`; returns the file."""
    content = {name: each.contiguous() for name, each in head._asdict().items()}
    write_atomically(folder / FILE, save(content, {WEIGHTS: fingerprint(folder)}))
    return folder / FILE


def read(folder: Path, model: Transformer) -> DraftHead | None:
    """The head of the checkpoint in `folder`, None if it has none.

    Raises:
        CheckpointError: it is damaged, or was fitted to other weights.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    again = f"remove it, or make it again: {command('janus', 'draft-head', '--checkpoint', folder, '--force')}"
    try:
        with safe_open(file, framework="pt") as handle:
            rank = handle.get_slice("before").get_shape()[1]
            weights = (handle.metadata() or {}).get(WEIGHTS)
    except (SafetensorError, OSError, IndexError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", again) from None
    if weights != fingerprint(folder):
        raise CheckpointError(f"{file} was fitted to other weights", again)
    vocabulary, width = model.output_weight.shape
    shapes = (width, rank), (width, rank), (vocabulary,), (NEAR,), (1,)
    like = DraftHead(*(torch.empty(shape) for shape in shapes))
    return DraftHead(**tensors(file, like._asdict()))
