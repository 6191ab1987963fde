"""What lies where: prepared data under `data/`, runs under `runs/`.

data/<name>.<source>-<target>/   manifest.json · tokenizer files · SPLIT.*.npy · {valid,test}.{source,target}.txt
data/<name>-distilled.…/         the same, with a teacher's training targets
runs/<name>/                     run.txt · recipe.yaml · manifest.json · tokenizer files · lexicon.json · log.jsonl
                                 checkpoints/step-000123/ · checkpoints/last, best (links)
                                 decode/<split>.<mode>.txt, .jsonl, .json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe

PREPARED = Path("data")
RUNS = Path("runs")


def prepared_dir(recipe: Recipe) -> Path:
    """Where `janus preprocess` puts the ids of this recipe when no folder is named."""
    return PREPARED / f"{recipe.name}.{recipe.data.source}-{recipe.data.target}"


def distilled_dir(recipe: Recipe) -> Path:
    """Where `janus distill` puts the ids of this recipe's data with a teacher's targets when no folder is named."""
    return PREPARED / f"{recipe.name}-distilled.{recipe.data.source}-{recipe.data.target}"


def teacher(manifest: Mapping[str, Any]) -> str | None:
    """Who wrote the training targets of prepared data, for people; None where they are those of the text.

    manifest: of prepared data, or of a run.
    """
    found = manifest.get("distilled")
    if not found:
        return None
    lines = sum(file["lines"] for file in found.get("sources", ()))
    more = f", {lines:,} more sources" if lines else ""
    if "surest" in found:
        more = f", the surest {100 * found['surest']:g} % of {lines:,} more sources"
    return f"{found['run']}, checkpoint {found['checkpoint']}, beam {found['options']['beam']}{more}"


def origin(manifest: Mapping[str, Any]) -> str | None:
    """The checkpoint whose weights a run began with, for people; None where it began afresh. manifest: of the run."""
    found = manifest.get("from")
    return str(found["checkpoint"]) if found else None


@dataclass(frozen=True)
class Run:
    """The files of one training run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """The prepared data's manifest, copied when the run began."""
        return self.path / "manifest.json"

    @property
    def lexicon(self) -> Path:
        """Translations of tokens, where the objective switches words."""
        return self.path / "lexicon.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def decoded(self) -> Path:
        return self.path / "decode"


def find_run(path: Path | None, root: Path = RUNS) -> Run:
    """The named run, or the one under `root` that was written to last.

    Raises:
        UsageError: there is no such run.
    """
    if path is not None:
        for folder in (path, root / path):
            if (folder / "recipe.yaml").is_file():
                return Run(folder)
        raise UsageError(f"{path} is no run: it has no recipe.yaml", f"runs are folders under {root}/; see `ls {root}`")
    found = [folder for folder in root.glob("*") if (folder / "recipe.yaml").is_file()]
    if not found:
        raise UsageError(f"no run under {root}/", "train one with `janus train`, or name one with --run")
    return Run(max(found, key=_last_written))


def _last_written(folder: Path) -> float:
    files = [folder / "recipe.yaml", folder / "log.jsonl"]
    return max(file.stat().st_mtime for file in files if file.exists())
