"""How much arithmetic a training step is: multiplications and additions of its matrix products, from shapes alone.

Padding counts, because it is computed; softmax, norms, dropout and the optimiser do not: they are no matrix products.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from janus_cli.core.stream import Stream

if TYPE_CHECKING:
    from janus_cli.recipe import Model

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
    encoder = attention(knobs, rows, source, source) + feedforward(knobs, rows * source)
    decoder = (
        attention(knobs, rows, slots, keys) + attention(knobs, rows, slots, source) + feedforward(knobs, rows * slots)
    )
    output = 2 * asked * knobs.width * vocabulary
    return knobs.encoder_layers * encoder + knobs.decoder_layers * decoder + output


def step(knobs: Model, vocabulary: int, source: int, streams: Iterable[Stream]) -> int:
    """FLOPs of a step, forward and backward, over streams that share one decoder call; source: S."""
    parts = list(streams)
    rows = parts[0].tokens.shape[0]
    slots, keys = sum(part.tokens.shape[1] for part in parts), sum(part.keys for part in parts)
    asked = sum(int(part.labelled.sum()) for part in parts)
    return (1 + BACKWARD) * forward(knobs, vocabulary, rows, source, slots, keys, asked)
