"""What is exported, and the README that goes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from janus_cli.core.model import Transformer
from janus_cli.core.symbols import NAMES, SPECIAL, UNK
from janus_cli.data.tokenizer import INDEX, Tokenizers
from janus_cli.documents import TokenizerIndex, read
from janus_cli.errors import UsageError
from janus_cli.recipe import CHECKED, Recipe
from janus_cli.runs import PROVENANCE

README = "README.txt"
# Values of model knobs that decoders of other programs require.
ORDINARY: dict[str, Any] = {"causal_attention": False, "embedding": "sum"}
# Knobs that say where something is on the machine that trained.
PLACES = (("data", "dir"), ("data", "files"), ("tokenizer", "reuse"), ("objective", "dictionary"))
# The steps of `data.clean` as lines of a program: what they import, and what they do.
STEPS = {
    "strip_tags": (
        "import re\n",
        r"""line = "" if re.match(r"\s*<(?:url|keywords|speaker|talkid|reviewer|translator|doc|/doc)\b", line) else line
    line = re.sub(r"</?[A-Za-z][^<>]*>", "", line).strip()""",
    ),
    "unescape_html": ("import html\n", r'line = html.unescape(line).replace("\n", " ")'),
    "collapse_spaces": ("import re\n", r'line = re.sub(r"\s+", " ", line).strip()'),
    "lowercase": ("", "line = line.lower()"),
    "nfc": ("import unicodedata\n", 'line = unicodedata.normalize("NFC", line)'),
    "remove_spaces": ("import re\n", r'line = re.sub(r"\s+", "", line)'),
    "mark_sentences": ("", 'line = line.replace("<S_SEP>", "¶")'),
}
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
        cleaning = f"The training text was cleaned in these steps, and so is what the model is to read: {steps}."
        if not steps:
            cleaning = "Text goes into the tokenizer as it is."
        return fill(template, origin=origin, cleaning=cleaning, **values).encode(errors="backslashreplace")


def must_be_ordinary(recipe: Recipe, program: str) -> None:
    """Raises UsageError for models whose decoder a program like CTranslate2 or transformers does not have."""
    name, side = recipe.objective.name, recipe.ar_stream
    if side is None:
        raise UsageError(
            f"this model was trained with objective {name}: it has no left-to-right side, and {program} no other",
            "use --format safetensors, or train with --objective janus or ar",
        )
    if side != "content":
        raise UsageError(
            f"this model was trained with objective {name}, ar_stream {side}: slots of their own predict the next "
            f"token, which the decoder of {program} does not have",
            "use --format safetensors, or train with --objective janus or ar, whose ar_stream is content by default",
        )
    for knob, usual in ORDINARY.items():
        if (value := getattr(recipe.model, knob)) != usual:
            raise UsageError(
                f"this model was trained with model.{knob} {str(value).lower()}: {program} has no such decoder",
                f"use --format safetensors, or train with --set model.{knob}={str(usual).lower()}",
            )


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the paths of this machine, which mean nothing on another one and may tell too much."""
    plain = recipe.plain()
    for section, key in PLACES:
        plain[section].pop(key, None)
    return CHECKED.validate_json(json.dumps(plain))


def cleaning_program(steps: Sequence[str]) -> tuple[str, str]:
    """A function `clean` of a line, as text: what it imports, and itself; both empty if there is nothing to clean."""
    if not steps:
        return "", ""
    imports = "".join(sorted({STEPS[step][0] for step in steps}))
    body = "".join(f"    {STEPS[step][1]}\n" for step in steps)
    return imports, f"\n\ndef clean(line):\n{body}    return line\n\n"


def tokenizer_program(folder: Path) -> str:
    """The functions `encode` and `decode` of the tokenizers in a folder, as text."""
    about = read(folder / INDEX, TokenizerIndex)
    files, joiner = about["files"], about.get("joiner", "")
    joined = f'f"{{line}} ".replace({joiner + " "!r}, "").rstrip(" ")' if joiner else "line"
    return fill(
        f"{about['kind']}_program.txt",
        source=repr(files["source"]), target=repr(files["target"]), first=SPECIAL, names=list(NAMES), unk=UNK,
        joined=joined,
    ).rstrip()  # fmt: skip


def fill(template: str, **values: object) -> str:
    """A text of `templates/` with each $name replaced."""
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)
