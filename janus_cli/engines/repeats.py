"""Equal neighbours in text whose tokens are written together: core/search/repeats.py in a graph, but for n-grams."""

from __future__ import annotations

import numpy as np

from janus_cli.core.symbols import PAD
from janus_cli.engines.graph import Value


def less_certain(tokens: Value, logps: Value) -> Value:
    """Of equal neighbours the less certain, the first of a tie stays. tokens, logps (R, T) -> (R, T) bool."""
    graph, size = tokens.graph, tokens.size(1)
    last = size - 1
    equal = tokens.cut(1, size, 1).equals(tokens.cut(0, last, 1)) & ~tokens.cut(1, size, 1).equals(PAD)
    first = logps.cut(0, last, 1) < logps.cut(1, size, 1)
    none = graph.value([[False]], bool).expand(tokens.size(0), 1)
    return graph.concat(equal & first, none, axis=1) | graph.concat(none, equal & ~first, axis=1)


def without(tokens: Value, logps: Value) -> tuple[Value, Value, Value]:
    """Drops tokens that equal the one before them, and closes the gaps: tokens, logps (R, T), and lengths (R, 1)."""
    graph, size = tokens.graph, tokens.size(1)
    none = graph.value([[False]], bool).expand(tokens.size(0), 1)
    again = graph.concat(none, tokens.cut(1, size, 1).equals(tokens.cut(0, size - 1, 1)), axis=1)
    again = again & ~tokens.equals(PAD)
    order = (graph.range(size) + again.to(np.int64) * size).top(size, largest=False)[1]
    tokens, logps = graph.where(again, PAD, tokens).pick(order), graph.where(again, 0.0, logps).pick(order)
    return tokens, logps, (~tokens.equals(PAD)).to(np.int64).over("Sum", 1, keep=True)
