"""Whether what a comparison asks for fits together, and what an earlier call left in its folder beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from janus_cli import recipe_load
from janus_cli.errors import DataError, UsageError
from janus_cli.files import read_json
from janus_cli.lab.comparing.entry import SPLIT, Entry
from janus_cli.recipe import Recipe
from janus_cli.training import checkpoint


def must_have_averages(recipes: Mapping[str, Recipe], average: int) -> None:
    """Raises UsageError where a system does not keep as many checkpoints as are to be averaged."""
    for name, recipe in recipes.items():
        if average > (kept := recipe.training.keep_last):
            raise UsageError(
                f"--average {average}: {name} keeps its last {kept} checkpoints", f"--set training.keep_last={average}"
            )


def must_go_on(entries: Sequence[Entry], steps: int | None, start: Path | None) -> None:
    """Raises UsageError where trainings that are there cannot become what is asked for now.

    steps: updates of each training, None where minutes decide. start: the weights that all are to begin with.
    """
    for entry in (entry for entry in entries if entry.run.recipe.exists()):
        before = recipe_load.load(str(entry.run.recipe)).training
        if before.schedule != "inverse_sqrt" and before.updates != steps:
            raise UsageError(
                f"{entry.name} was trained for {before.updates:,} updates, and its learning rate "
                f"({before.schedule}) fell to suit these",
                "the same --steps, another --out, or --force to train anew",
            )
    new = [entry for entry in entries if not entry.run.manifest.is_file()]
    wanted = {str(checkpoint.locate(start)[1].resolve())} if start is not None else {None} if new else set()
    began = {entry.origin: entry.name for entry in entries if entry.run.manifest.is_file()}
    if len(wanted | began.keys()) > 1:
        said = "; ".join(f"{name} with {origin or 'fresh ones'}" for origin, name in began.items())
        raise UsageError(
            f"not all would begin with the same weights: {said}", "the same --from, another --out, or --force"
        )


def must_have_split(folder: Path) -> None:
    """Raises DataError where the prepared data, if it is there, has nothing to decode."""
    manifest = folder / "manifest.json"
    if manifest.is_file() and f"{SPLIT}.source.txt" not in read_json(manifest).get("files", {}):
        raise DataError(f"{folder} has no {SPLIT} split, which a comparison decodes", "add it, and `janus preprocess`")
