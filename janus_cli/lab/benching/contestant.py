"""One row of the table: something that turns lines into lines, timed from the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import Plan
from janus_cli.decoding.translate import Translator


@dataclass(frozen=True)
class Decoded:
    """What became of some lines, in order.

    sizes: tokens of each output, EOS not counted. passes: decoder passes, summed over the lines; None: not known.
    seconds: what it took where that was measured in another process; None: whoever asked measures it.
    """

    texts: list[str]
    sizes: list[int]
    passes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Contestant:
    """A way to decode.

    translate: lines and the batch size -> what became of them, from text to text.
    note: what a reader of the table must know. comparable: whether the texts are worth a score.
    """

    label: str
    mode: str
    translate: Callable[[Sequence[str], int], Decoded]
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    comparable: bool = True


def own(label: str, plan: Plan, model: Transformer, tokenizers: Tokenizers) -> Contestant:
    """A mode of janus itself, through the same `Translator` that `janus decode` uses."""
    translators: dict[int, Translator] = {}

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        if batch not in translators:
            options = replace(plan.options, batch_sentences=batch)
            translators[batch] = Translator(model, tokenizers, replace(plan, options=options))
        found = [result for window in translators[batch].windows(lines) for result in window]
        best = [result.outputs[0] for result in found]
        return Decoded(
            [result.texts[0] for result in found],
            [len(output.tokens) for output in best],
            sum(output.passes for output in best),
        )

    options = {name: value for name, value in plan.used.items() if name not in ("batch_sentences", "nbest")}
    return Contestant(label, plan.mode, translate, options)
