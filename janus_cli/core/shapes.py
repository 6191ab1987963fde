"""Names and shapes of a model's weights, and whatever else about a model needs no torch, which is not imported here."""

from __future__ import annotations

from math import cos, sin

from janus_cli.core.knobs import Model

Shapes = dict[str, tuple[int, ...]]

LONGEST = 16  # tokens of a draft that a pass verifies, at most: each costs a slot

# Of a draft head (`draft_head.py`):
CANDIDATES = 4  # likeliest tokens of a place
NEAR = 4  # places where the next token is sought: that of the last one, and those after it
DISTANCES = (-1.0, 0.0, -1.0, -2.0)  # nats, for these places, without a head


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


def part_of(name: str, model: Model) -> tuple[str, int]:
    """The part of a model that a weight belongs to (see `training.freeze`), and how far it lies below the output."""
    part, _, rest = name.partition(".")
    layers = {"encoder": model.encoder_layers, "decoder": model.decoder_layers}
    if part in layers:
        return part, layers[part] - int(rest.partition(".")[0])
    if name.startswith(("source_", "target_")):
        return "embeddings", max(layers.values()) + 1
    return part.removesuffix("_norm"), 0


def marian_positions(count: int, width: int) -> list[list[float]]:
    """(count, D) position vectors: sines in the first half, cosines in the second, of the rates of the paper
    (Vaswani 2017, section 3.5), 10000 ** (-2 i / D)."""
    rates = [10_000 ** (2 * index / width) for index in range((width + 1) // 2)]
    angles = ([place / rate for rate in rates] for place in range(count))
    return [[*map(sin, row), *map(cos, row)][:width] for row in angles]


def head_shapes(width: int, vocabulary: int, rank: int) -> Shapes:
    """The names and shapes of a draft head's weights."""
    return {
        "before": (width, rank), "after": (width, rank), "bias": (vocabulary,), "distances": (NEAR,), "scale": (1,),
    }  # fmt: skip
