"""What is exported, and the README that goes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.recipe import CHECKED, Recipe

PROVENANCE, README = "provenance.json", "README.txt"
# Knobs that say where something is on the machine that trained.
PLACES = (("data", "dir"), ("data", "files"), ("tokenizer", "reuse"), ("objective", "dictionary"))
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Source:
    """A checkpoint's model and everything that is needed to use it.

    run: the folder with the tokenizers' files. state: the checkpoint's state.json. provenance: origin of the weights.
    texts: files of the split that goes with them.
    """

    recipe: Recipe
    model: Transformer
    tokenizers: Tokenizers
    run: Path
    state: Mapping[str, Any]
    provenance: Mapping[str, Any]
    texts: Sequence[Path] = ()

    def readme(self, template: str, **values: object) -> bytes:
        """A template, filled in with these values, the origin of the weights, and how the text was cleaned."""
        about, steps = self.provenance, ", ".join(self.recipe.data.clean)
        averaged = f" (the mean of {', '.join(about['averaged'])})" if "averaged" in about else ""
        origin = (
            f"Run {about['run']}, checkpoint {about['checkpoint']}{averaged}, training step {about['step']}.\n"
            f"Objective: {about['objective']}. sha256 of the checkpoint's weights:\n  {about['sha256']}\n"
            f"Written by janus-cli {about['janus']}. The same in {PROVENANCE}, for programs."
        )
        cleaning = f"The training text was cleaned in these steps, so do the same first: {steps}."
        if not steps:
            cleaning = "Text goes into the tokenizer as it is."
        return fill(template, origin=origin, cleaning=cleaning, **values).encode(errors="backslashreplace")


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the paths of this machine, which mean nothing on another one and may tell too much."""
    plain = recipe.plain()
    for section, key in PLACES:
        plain[section].pop(key, None)
    return CHECKED.validate_json(json.dumps(plain))


def fill(template: str, **values: object) -> str:
    """A text of `templates/` with each $name replaced."""
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)
