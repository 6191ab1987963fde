"""Everything a page shows of one run, gathered; and for what is not there, why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from janus_cli import recipe_load
from janus_cli.data.batching import Lengths
from janus_cli.decoding.where import read_checkpoint
from janus_cli.errors import DataError, JanusError
from janus_cli.files import read_json
from janus_cli.lab.reporting import logbook
from janus_cli.lab.reporting.logbook import Logbook
from janus_cli.lab.reporting.probe import Probe, open_store, probe
from janus_cli.recipe import Recipe
from janus_cli.runs import Run

Found = TypeVar("Found")


@dataclass
class Findings:
    """One run. missing: for each of recipe, log, manifest, lengths and probe that is None, the reason.

    lengths: of every source and every target of the training split, tokens without EOS.
    """

    label: str
    run: Run
    recipe: Recipe | None = None
    log: Logbook | None = None
    manifest: dict[str, Any] | None = None
    lengths: tuple[Lengths, Lengths] | None = None
    probe: Probe | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, read: Callable[[], Found]) -> Found | None:
        """What `read` gives; where it cannot, None, and the reason is kept."""
        try:
            return read()
        except torch.OutOfMemoryError as problem:
            self.missing[name] = str(problem).split("\n")[0]
        except JanusError as problem:
            self.missing[name] = problem.message
        except OSError as problem:
            self.missing[name] = f"{problem.filename or self.run.path}: {problem.strerror}"
        return None


def gather(label: str, run: Run, device: torch.device, sentences: int) -> Findings:
    """Reads all that there is of a run; its newest best (or last) checkpoint predicts `sentences` of validation."""
    found = Findings(label, run)
    found.recipe = found.take("recipe", lambda: recipe_load.load(str(run.recipe)))
    found.log = found.take("log", lambda: logbook.read(run.log))
    found.manifest = found.take("manifest", partial(_manifest, run))
    recipe = found.recipe
    if recipe is None or found.manifest is None:
        why = found.missing["manifest" if recipe else "recipe"]
        found.missing |= {"lengths": why, "probe": why}
        return found
    found.lengths = found.take("lengths", lambda: open_store(run, recipe, "train").lengths())
    found.probe = found.take("probe", lambda: read_checkpoint(run.path, None, partial(probe, sentences, device)))
    return found


def _manifest(run: Run) -> dict[str, Any]:
    """The manifest of a run's data; whoever opens the data relies on these two."""
    manifest = read_json(run.manifest)
    files = manifest.get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    if not isinstance(manifest.get("prepared"), str) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{run.manifest} is damaged: it does not say where the data is or what belongs to it")
    return manifest


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, or its path where two folders have the same name."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def splits(manifest: Mapping[str, Any]) -> list[list[str]]:
    """A row a split and side: pairs read and kept, what was dropped, and how many tokens they have.

    Raises:
        DataError: the manifest has another shape.
    """
    rows = []
    try:
        for name, split in manifest["splits"].items():
            dropped = ", ".join(f"{reason} {count:,}" for reason, count in split["dropped"].items()) or "none"
            for side, tokens in split["tokens"].items():
                numbers = (tokens[key] for key in ("sum", "mean", "p50", "p95", "max"))
                rows.append([
                    f"{name}, {side}", f"{split['in']:,}", f"{split['kept']:,}", dropped,
                    *(f"{number:,.1f}" if isinstance(number, float) else f"{number:,}" for number in numbers),
                ])  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"the manifest is damaged: {problem!r}") from None
    return rows
