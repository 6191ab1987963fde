"""How much arithmetic a training step is: multiplications and additions of its matrix products, from shapes alone.

Padding counts, because it is computed; softmax, norms, dropout and the optimiser do not: they are no matrix products.
"""

from __future__ import annotations

from janus_cli.core.batch import IGNORE
from janus_cli.core.knobs import Model
from janus_cli.core.objectives import Plan
from janus_cli.core.stream import Stream

BACKWARD = 2  # each product of the forward pass has two gradients, each as large as itself


def attention(knobs: Model, rows: int, queries: int, keys: int) -> int:
    """FLOPs of queries and outputs (B, L, D), keys and values (B, K, D), scores (B, H, L, K) and their sums."""
    width = knobs.width
    return 2 * rows * (2 * queries * width**2 + 2 * keys * width**2 + 2 * queries * keys * width)


def feedforward(knobs: Model, slots: int) -> int:
    """FLOPs of both linear maps over so many slots."""
    return 2 * slots * 2 * knobs.width * knobs.feedforward


def forward(knobs: Model, vocabulary: int, rows: int, source: int, slots: int, keys: int, asked: int) -> int:
    """FLOPs of one forward pass.

    rows: B. source: S. slots, keys: L and K of the decoder call. asked: states that become logits, in all rows.
    """
    return encoder(knobs, rows, source) + decoder(knobs, vocabulary, rows, source, slots, keys, asked)


def encoder(knobs: Model, rows: int, source: int) -> int:
    """FLOPs of encoding, without what the decoder makes of the states."""
    layer = attention(knobs, rows, source, source) + feedforward(knobs, rows * source)
    return knobs.encoder_layers * layer + embedding(knobs, rows * source)


def decoder(knobs: Model, vocabulary: int, rows: int, source: int, slots: int, keys: int, asked: int) -> int:
    """FLOPs of a decoder call, with the keys and values of the source and the logits."""
    itself = (1 + knobs.causal_attention) * attention(knobs, rows, slots, keys)
    layer = itself + attention(knobs, rows, slots, source) + feedforward(knobs, rows * slots)
    return knobs.decoder_layers * layer + embedding(knobs, rows * slots) + output(knobs, vocabulary, asked)


def embedding(knobs: Model, slots: int) -> int:
    """FLOPs of the linear map over tokens and positions, where there is one."""
    return 2 * slots * 2 * knobs.width**2 if knobs.embedding == "concat" else 0


def output(knobs: Model, vocabulary: int, asked: int) -> int:
    """FLOPs of turning so many states into logits."""
    return 2 * asked * knobs.width * vocabulary


def step(knobs: Model, vocabulary: int, source: int, plan: Plan) -> int:
    """FLOPs of a step: forward and backward over the streams, a decoder call for each, forward over each draft.

    vocabulary: the target's; what an encoder predicts is counted with it too. source: S.
    """
    rows = next(iter(plan.streams.values())).tokens.shape[0]
    # The keys and values of the source are made once, and read by every call.
    shared = knobs.decoder_layers * 2 * rows * 2 * source * knobs.width**2

    def call(part: Stream) -> int:
        asked = int(part.labelled.sum())
        return decoder(knobs, vocabulary, rows, source, part.tokens.shape[1], part.keys, asked) - shared

    forth = encoder(knobs, rows, source) + shared + sum(map(call, plan.streams.values()))
    if plan.source is not None:
        forth += output(knobs, vocabulary, int((plan.source.labels != IGNORE).sum()))
    return (1 + BACKWARD) * forth + sum(map(call, plan.drafts.values()))
