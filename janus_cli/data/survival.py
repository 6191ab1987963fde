"""What text loses in a tokenizer: tokens that it does not know, and target lines that do not come back from their ids.

No model can write a reference that does not come back. Counted when data is prepared, kept in its manifest, shown there
and by `janus inspect` and `janus report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from janus_cli import console
from janus_cli.core.symbols import UNK
from janus_cli.data import corpus
from janus_cli.data.lines import TextFile
from janus_cli.data.tokenizer import Tokenizers, join
from janus_cli.errors import DataError
from janus_cli.recipe import Tokenizer

SAMPLED = 2000  # training lines that are tried, evenly over the text; of the other splits all are
MUCH = 0.01  # a larger share is worth a warning
CAUSES = {  # why a line does not come back as it was
    "unknown": "target lines with unknown tokens",
    "normalisation": "target lines with characters that are replaced",
    "spaces": "target lines of which only spaces change",
}


@dataclass(frozen=True)
class Loss:
    """What is lost, and how many of how many. cause: a key of CAUSES."""

    cause: str
    what: str
    count: int
    whole: int
    sampled: bool = False

    def __str__(self) -> str:
        sampled = " sampled" * self.sampled
        return f"{self.what}: {self.count:,} of {self.whole:,}{sampled} ({self.count / self.whole:.2%})"


def round_trip(tokenizers: Tokenizers, target: TextFile, clean: Callable[[str], str], *, every: bool) -> dict[str, int]:
    """Encodes and decodes target lines: the number of lines, and of those that come back changed, by cause.

    every: try all lines, not only SAMPLED of them. Empty lines and lines that are not UTF-8 are not tried.
    """
    found: Counter[str] = Counter({"lines": 0, **dict.fromkeys(CAUSES, 0)})
    lines = corpus.sample(target, target.lines if every else SAMPLED, clean)
    while chunk := list(islice(lines, corpus.CHUNK_LINES)):
        found["lines"] += len(chunk)
        rows = tokenizers.target.encode(chunk)
        for line, row, back in zip(chunk, rows, tokenizers.target.decode(rows), strict=True):
            if back != (wanted := join(line, tokenizers.joiner)):
                spaces = "spaces" if back.split() == wanted.split() else "normalisation"
                found["unknown" if UNK in row else spaces] += 1
    return {**found, "sampled": target.lines > SAMPLED and not every}


def losses(split: Mapping[str, Any]) -> list[Loss]:
    """What a split loses; empty if nothing, or if nobody has counted. split: its part of a manifest, old or new."""
    tokens, tried = split.get("unknown", {}), split.get("round_trip", {})
    found = [
        Loss("unknown", f"unknown {side} tokens", count, split["tokens"][side]["sum"]) for side, count in tokens.items()
    ]
    found += [Loss(cause, CAUSES[cause], tried[cause], tried["lines"], tried["sampled"]) for cause in CAUSES if tried]
    return [loss for loss in found if loss.count]


def in_words(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The losses of each split where they were counted. manifest: of prepared data, or of a run.

    Raises DataError if it is damaged.
    """
    try:
        counted = {name: losses(split) for name, split in manifest.get("splits", {}).items() if "unknown" in split}
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"the manifest is damaged: {problem!r}") from None
    return {name: "; ".join(map(str, lost)) or "nothing" for name, lost in counted.items()}


def tell(name: str, split: Mapping[str, Any], knobs: Tokenizer) -> None:
    """Says what a split loses; a warning, with the knob that helps, where it is much."""
    for loss in losses(split):
        if loss.count > MUCH * loss.whole:
            console.warn(f"{name}: {loss}; {_advice(loss.cause, knobs)}")
        else:
            console.say(f"{name}: {loss}")


def _advice(cause: str, knobs: Tokenizer) -> str:
    if cause == "normalisation":
        other = f": --set tokenizer.normalisation=identity (now {knobs.normalisation})"
        return "no output can equal them" + other * (knobs.normalisation != "identity")
    if cause == "spaces":
        keep = "--set tokenizer.keep_spaces=true --set tokenizer.normalisation=identity"
        return f"tabs, leading and repeated spaces are lost; where they matter, as in code: {keep}"
    if knobs.reuse is not None:
        return f"the tokenizer of {knobs.reuse} was not made for this text: leave out tokenizer.reuse"
    if knobs.kind == "words":
        return f"raise tokenizer.vocabulary (now {knobs.vocabulary:,}), or --set tokenizer.kind=sentencepiece"
    coverage = f", or raise tokenizer.character_coverage (now {knobs.character_coverage:g})"
    return "--set tokenizer.byte_fallback=true" + coverage * (knobs.character_coverage < 1)
