"""A model's weights as they are stored: names, shapes, values. Torch is imported only when they become a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, sin
from typing import TYPE_CHECKING, Any

from janus_cli.core.knobs import Model, Precision

if TYPE_CHECKING:
    import torch

    from janus_cli.core.model import Transformer

Shapes = dict[str, tuple[int, ...]]

# Of a draft head (`draft_head.py`):
CANDIDATES = 4  # likeliest tokens of a place
NEAR = 4  # places where the next token is sought: that of the last one, and those after it
DISTANCES = (-1.0, 0.0, -1.0, -2.0)  # nats, for these places, without a head


@dataclass(frozen=True)
class Weights:
    """knobs and vocabularies (source, target) of a model; its weights by name, and those of its draft head, if any.

    Both are arrays of numpy in float32.
    """

    knobs: Model
    vocabularies: tuple[int, int]
    arrays: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the vocabularies, as the tables have them."""
        target = self.arrays["target_table.weight"]
        return len(self.arrays.get("source_table.weight", target)), len(target)

    @property
    def output(self) -> Any:
        """(V, D), the output table."""
        return self.arrays.get("output_table.weight", self.arrays["target_table.weight"])

    def model(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Transformer:
        """A model with copies of them, in eval mode."""
        import torch

        from janus_cli.core.draft_head import DraftHead
        from janus_cli.core.model import Transformer

        # Not on the meta device: drawing weights that are overwritten takes 0.1 s, the meta device's imports 1.9 s.
        model = Transformer(self.knobs, *self.vocabularies, length_head="length_table" in self.arrays)
        model.load_weights({name: torch.from_numpy(each) for name, each in self.arrays.items()})
        if self.head:
            model.draft_head = DraftHead(**{name: torch.from_numpy(each) for name, each in self.head.items()})
        return model.to(device, torch.bfloat16 if precision == "bf16" else torch.float32).eval()


def shapes(knobs: Model, vocabularies: tuple[int, int], *, lengths: bool) -> Shapes:
    """The names and shapes of `Transformer.weights()`. lengths: whether there is a length head."""
    width, (source, target) = knobs.width, vocabularies
    found: Shapes = {"target_table.weight": (target, width)}
    if knobs.tie != "all":
        found["source_table.weight"] = source, width
    if knobs.tie == "none":
        found["output_table.weight"] = target, width
    if knobs.output_bias:
        found["output_bias"] = (target,)
    if lengths:
        found["length_table"] = knobs.max_length, width
    for side in ("source", "target"):
        if knobs.positions == "learned":
            found[f"{side}_positions"] = knobs.max_length, width
        if knobs.embedding == "concat":
            found |= _linear(f"{side}_map", 2 * width, width)
        if knobs.embedding_norm:
            found |= _norm(f"{side}_norm", width)
    decoder = ("attention", "causal", "cross") if knobs.causal_attention else ("attention", "cross")
    for stack, count, attentions in (
        ("encoder", knobs.encoder_layers, ("attention",)),
        ("decoder", knobs.decoder_layers, decoder),
    ):
        for index in range(count):
            found |= _layer(f"{stack}.{index}", knobs, attentions)
        if knobs.norm == "pre":
            found |= _norm(f"{stack}_norm", width)
    return found


def _layer(name: str, knobs: Model, attentions: tuple[str, ...]) -> Shapes:
    found, width = Shapes(), knobs.width
    for each in (f"{name}.{attention}" for attention in attentions):
        found |= _linear(f"{each}.query", width, width) | _linear(f"{each}.key_value", width, 2 * width)
        found |= _linear(f"{each}.out", width, width) | _norm(f"{each}_norm", width)
    found |= _linear(f"{name}.feedforward.up", width, knobs.feedforward)
    found |= _linear(f"{name}.feedforward.down", knobs.feedforward, width)
    return found | _norm(f"{name}.feedforward_norm", width)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def marian_positions(count: int, width: int) -> list[list[float]]:
    """(count, D) position vectors: sines in the first half, cosines in the second, of the rates of the paper
    (Vaswani 2017, section 3.5), 10000 ** (-2 i / D)."""
    rates = [10_000 ** (2 * index / width) for index in range((width + 1) // 2)]
    angles = ([place / rate for rate in rates] for place in range(count))
    return [[*map(sin, row), *map(cos, row)][:width] for row in angles]


def head_shapes(width: int, vocabulary: int, rank: int) -> Shapes:
    """Of a draft head."""
    return {
        "before": (width, rank), "after": (width, rank), "bias": (vocabulary,), "distances": (NEAR,), "scale": (1,),
    }  # fmt: skip
