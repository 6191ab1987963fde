"""What text loses in a tokenizer: tokens that it does not know, and target lines that do not come back from their ids.

No model can write a reference that does not come back. Counted when data is prepared, kept in its manifest, shown there
and by `janus inspect` and `janus report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from janus_cli import console
from janus_cli.core.symbols import UNK
from janus_cli.data.corpus import Split
from janus_cli.data.tokenizer import Tokenizers, join
from janus_cli.recipe import Tokenizer

SAMPLED = 2000  # training lines that are tried at least, evenly over the text; of the other splits all are
MUCH = 0.01  # a larger share is worth a warning
CAUSES = {  # why a line does not come back as it was
    "unknown": "target lines with unknown tokens",
    "normalisation": "target lines with characters that are replaced",
    "spaces": "target lines of which only spaces change",
}


class Loss(NamedTuple):
    """What is lost. cause: a key of CAUSES. share: of the whole."""

    cause: str
    share: float
    words: str


def step(split: Split) -> int:
    """One in how many target lines of a split is encoded and decoded again."""
    return max(1, split.lines // SAMPLED) if split.name == "train" else 1


def round_trip(
    tokenizers: Tokenizers, split: Split, lines: Sequence[str], rows: Sequence[Sequence[int]], bad: set[int]
) -> Counter[str]:
    """The number of target lines that are tried, and of those that come back changed from their ids, `rows`, by cause.

    bad: lines that were not UTF-8, which are not tried.
    """
    tried = [number for number in range(0, len(lines), step(split)) if lines[number] and number not in bad]
    found = Counter({"lines": len(tried), **dict.fromkeys(CAUSES, 0)})
    for number, back in zip(tried, tokenizers.target.decode([rows[number] for number in tried]), strict=True):
        line = lines[number]
        if line.strip() and back != (wanted := join(line, tokenizers.joiner)):  # empty pairs are dropped
            spaces = "spaces" if back.split() == wanted.split() else "normalisation"
            found["unknown" if UNK in rows[number] else spaces] += 1
    return found


def losses(split: Mapping[str, Any]) -> list[Loss]:
    """What a split loses; empty if nothing, or if nobody has counted. split: its part of a manifest, old or new."""
    tried = split.get("round_trip", {})
    unknown = split.get("unknown", {})
    found = [
        ("unknown", f"unknown {side} tokens", unknown.get(side, 0), tokens.get("sum", 0), "")
        for side, tokens in split.get("tokens", {}).items()
    ]
    found += [
        (cause, CAUSES[cause], tried[cause], tried["lines"], " sampled" * tried["sampled"]) for cause in CAUSES if tried
    ]
    return [
        Loss(cause, count / whole, f"{what}: {count:,} of {whole:,}{sampled} ({count / whole:.2%})")
        for cause, what, count, whole, sampled in found
        if count and whole
    ]


def in_words(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The losses of each split where they were counted. manifest: of prepared data, or of a run."""
    counted = {name: losses(split) for name, split in manifest.get("splits", {}).items() if "unknown" in split}
    return {name: "; ".join(loss.words for loss in lost) or "nothing" for name, lost in counted.items()}


def tell(splits: Mapping[str, Mapping[str, Any]], knobs: Tokenizer) -> None:
    """Says what each split loses, a warning where it is much, and then once for all of them what helps."""
    hints = dict[str, str]()  # by cause
    for name, split in splits.items():
        found = losses(split)
        words = f"{name}: {'; '.join(loss.words for loss in found)}"
        if much := [loss for loss in found if loss.share > MUCH]:
            console.warn(words)
        elif found:
            console.say(words)
        hints |= {loss.cause: f"{loss.words.partition(':')[0]}: {_advice(loss.cause, knobs)}" for loss in much}
    for hint in hints.values():
        console.hint(hint)


def _advice(cause: str, knobs: Tokenizer) -> str:
    if cause != "unknown" and knobs.kind == "hf":
        return "no output can equal them: such is the tokenizer of the model"
    if cause == "normalisation":
        other = f": --set tokenizer.normalisation=identity (now {knobs.normalisation})"
        return "no output can equal them" + other * (knobs.normalisation != "identity")
    if cause == "spaces":
        keep = "--set tokenizer.keep_spaces=true --set tokenizer.normalisation=identity"
        return f"tabs, leading and repeated spaces are lost; where they matter, as in code: {keep}"
    if knobs.reuse is not None:
        return (
            f"the tokenizer of {knobs.reuse} was not made for this text. Weights of a run (--from) know no other one: "
            "a pre-training with --set tokenizer.byte_fallback=true knows all text; without --from, leave out "
            "tokenizer.reuse"
        )
    if knobs.kind == "words":
        return f"raise tokenizer.vocabulary (now {knobs.vocabulary:,}), or --set tokenizer.kind=sentencepiece"
    coverage = f", or raise tokenizer.character_coverage (now {knobs.character_coverage:g})"
    return "--set tokenizer.byte_fallback=true" + coverage * (knobs.character_coverage < 1)
