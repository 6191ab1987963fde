"""What a command line names: a run, a checkpoint of it, a split of its data, and where a decoded split is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from janus_cli import console, runs
from janus_cli.decoding.lines import Reader
from janus_cli.errors import DataError, JanusError
from janus_cli.files import read_json, sha256
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training.checkpoint import find_checkpoint

Read = TypeVar("Read")
RETRIES = 3  # each needs a training that saves and prunes while one checkpoint is read


@dataclass(frozen=True)
class Place:
    """Where a decoded split is kept: `stem`.txt, .jsonl and .json in `folder`. target: its reference, if it has one."""

    folder: Path
    stem: str
    split: str
    target: Path | None

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}.{suffix}"


def checkpoint_name(run: Run, folder: Path) -> str:
    """What names this checkpoint beside --run."""
    return folder.name if folder.parent == run.checkpoints.resolve() else str(folder)


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


def find_split(run: Run, recipe: Recipe, split: str, label: str) -> tuple[Reader, Place]:
    """The source text of a split, and the place where what `label` makes of it is kept.

    Raises:
        DataError: the data has no such split, or its text is gone or was changed.
    """
    manifest = read_json(run.manifest)
    source, target = (prepared_file(manifest, recipe, f"{split}.{side}.txt") for side in ("source", "target"))
    if source is None:
        raise DataError(f"the data of {run.path} has no {split} split", "name a text with --input FILE")
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", f"{split}.{label}")
    return Reader(source), Place(run.decoded, stem, split, target)


def prepared_file(manifest: Mapping[str, Any], recipe: Recipe, name: str) -> Path | None:
    """A file of the prepared data that the run was trained with, unchanged; None where there was none.

    Raises:
        DataError: it is gone or was changed.
    """
    known = manifest.get("files", {}).get(name)
    if known is None:
        return None
    recorded = Path(manifest.get("prepared", ""))
    path = (recorded if (recorded / name).is_file() else runs.prepared_dir(recipe)) / name
    if not path.is_file():
        raise DataError(f"the data of this run is gone: there is no {path}", "name a text with --input FILE")
    if sha256(path) != known.get("sha256"):
        raise DataError(f"{path} was changed since the run began", "prepare the same text again, or use --input FILE")
    return path
