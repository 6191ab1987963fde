"""The exported folder: what may be replaced, and where its weights came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.recipe import Recipe

PROVENANCE, README = "provenance.json", "README.txt"


@dataclass(frozen=True)
class Source:
    """What is exported: a checkpoint's model and everything that is needed to use it.

    run: the folder that the tokenizers' files are in. state: the training state beside the weights.
    """

    recipe: Recipe
    model: Transformer
    tokenizers: Tokenizers
    run: Path
    state: Mapping[str, Any]
    provenance: Mapping[str, Any]


def is_export(folder: Path) -> bool:
    return (folder / PROVENANCE).is_file()


def origin(source: Source) -> str:
    """Where the weights came from, in words; for the README of a folder."""
    about = source.provenance
    averaged = f" (the mean of {', '.join(about['averaged'])})" if "averaged" in about else ""
    return (
        f"Run {about['run']}, checkpoint {about['checkpoint']}{averaged}, training step {about['step']}.\n"
        f"Objective: {about['objective']}. sha256 of the checkpoint's weights:\n  {about['sha256']}\n"
        f"Written by janus-cli {about['janus']}. The same in {PROVENANCE}, for programs."
    )


def cleaning(source: Source) -> str:
    """A sentence on what happened to the text before it was tokenised."""
    if not source.recipe.data.clean:
        return "Text goes into the tokenizer as it is."
    return f"The training text was cleaned in these steps, so do the same first: {', '.join(source.recipe.data.clean)}."
