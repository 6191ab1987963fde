"""The likeliest token of each row, from rounded logits and few exact ones.

The output table is most of what a step reads. In int8 it has a quarter of the size, and says which tokens may be the
likeliest; of the table itself, only the rows of these are read. No other token is rounded higher than the last of them,
so its exact logit is at most that, plus what rounding can do. If that could still be the highest, all logits are
computed. Without all logits there are no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import Value
from janus_cli.engines.int8 import Blocks, Rows, levels
from janus_cli.engines.network import IMPOSSIBLE, Network

EXACT = 8  # candidates of a row: more take longer, fewer leave more steps in doubt
LEAST = 1 << 20  # weights of a table; in smaller ones the check costs what it saves


def pays(table: Sequence[int]) -> bool:
    """Whether an output table (V, D) is large enough, and int8 as exact on this processor as `bounds_of` needs it."""
    return table[0] * table[1] >= LEAST and levels() == 127


class Screen:
    """Chooses the token that all logits of `network` would, up to rounding in float32."""

    def __init__(self, network: Network, never: Unwritten, kernel: type[Blocks | Rows]) -> None:
        self.network, self.never, self.kernel = network, never, kernel(network.graph)

    def __call__(self, states: Value, obeying: Callable[[Value], Value]) -> Value:
        """states (N, D) -> tokens (N, 1). obeying: takes logits (N, V), and rules out what must not be written."""
        network, graph = self.network, self.network.graph
        rounded, candidates = obeying(self.logits(states, self.never)).top(EXACT)
        rows, bias = network.weight(network.output).gather(candidates), network.output_bias(self.never)
        exact = graph.op("MatMul", rows, states.unsqueeze(2)).squeeze(2) + bias.gather(candidates)
        exact = graph.where(rounded > IMPOSSIBLE / 2, exact, rounded)  # what is impossible stays so
        best = exact.over("Max", 1, keep=True)
        found = graph.where(exact.equals(best), candidates, network.vocabulary).over("Min", 1, keep=True)
        others = rounded.cut(EXACT - 1, EXACT, 1) + self._error(states)  # no other token has a higher logit than this
        doubtful = (~(best > others)).any(0).squeeze(0)

        def by_all_logits() -> list[Value]:
            return [network.best(obeying(network.logits(states, self.never)))]

        return graph.branch(doubtful, by_all_logits, lambda: [found])[0]

    def logits(self, states: Value, never: Unwritten) -> Value:
        """As `Network.logits`, but rounded."""
        table = self.network.output
        return self.kernel(states, table, self.network.shapes[table], self.network.output_bias(never))

    def _error(self, states: Value) -> Value:
        """By how much a rounded logit of these states (N, D) is wrong at most, (N, 1); see `bounds_of`."""
        graph, bounds = states.graph, states.graph.weight(self.network.output + self.kernel.suffixes[-1], (2, 1))
        largest, length = graph.op("Abs", states).over("Max", 1, keep=True), states.over("L2", 1, keep=True)
        return graph.op("MatMul", graph.concat(largest, length, axis=1), bounds)
