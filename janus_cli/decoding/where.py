"""A checkpoint that a training may prune while it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from janus_cli import console
from janus_cli.errors import JanusError
from janus_cli.runs import Run
from janus_cli.training.checkpoint import find_checkpoint

Read = TypeVar("Read")
RETRIES = 3  # each needs a training that saves and prunes while one checkpoint is read


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
