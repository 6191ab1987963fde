"""The likeliest tokens without all logits, and exactly those.

The output table is most of what a step reads. In int8 it has a quarter of the size, and says which few tokens may be
the likeliest; of the table itself, only their rows are read. How far a rounded logit may be off is known, and so is
whether the choice is certain. Where it is not, all logits are computed. Without these there are no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import Value
from janus_cli.engines.int8 import Blocks, Rows, levels
from janus_cli.engines.network import HIDDEN, Network

CANDIDATES = 8  # tokens whose logits are exact
LEAST = 1 << 20  # weights of a table that is worth it
SLACK = 1.01  # of the bound, for what float32 rounds


def pays(table: Sequence[int]) -> bool:
    """Whether an output table (V, D) is worth it, and the processor's products in int8 cannot overflow."""
    return table[0] * table[1] >= LEAST and levels() == 127


class Screen:
    """Chooses the likeliest token of each row by few exact logits."""

    def __init__(self, network: Network, never: Unwritten, kernel: Blocks | Rows) -> None:
        self.network, self.never, self.kernel = network, never, kernel

    def __call__(
        self, states: Value, obeying: Callable[[Value], Value], of_all: Callable[[], list[Value]], asked: Value
    ) -> list[Value]:
        """states (N, D) -> the likeliest token of each, the first of equal ones, (N, 1), and 0.0 (N, 1).

        obeying: takes logits (N, V), and hides what must not be written. of_all: computes all logits, and gives the
        same two, or something better than 0.0; used where a choice is not certain, or `asked` (N or 1, 1) for it.
        """
        network, graph = self.network, self.network.graph
        values, places = obeying(self.logits(states, self.never)).top(CANDIDATES)
        rows, bias = network.weight(network.output).gather(places), network.output_bias(self.never)
        exact = graph.op("MatMul", rows, states.unsqueeze(2)).squeeze(2)
        exact = exact + bias.gather(places) if network.knobs.output_bias else exact
        exact = graph.where(values > HIDDEN / 2, exact, values)
        most = exact.over("Max", 1, keep=True)
        best = graph.where(exact.equals(most), places, network.vocabulary).over("Min", 1, keep=True)
        others = values.cut(CANDIDATES - 1, CANDIDATES, 1) + self._error(states)
        doubtful = ((most <= others) | asked).any(0).squeeze(0)
        return graph.branch(doubtful, of_all, lambda: [best, most * 0.0])

    def logits(self, states: Value, never: Unwritten) -> Value:
        """As `Network.logits`, but rounded."""
        table = self.network.output
        return self.kernel(states, table, self.network.shapes[table], self.network.output_bias(never))

    def _error(self, states: Value) -> Value:
        """By how much a rounded logit of these states (N, D) is wrong at most, (N, 1)."""
        graph, bounds = states.graph, states.graph.weight(self.network.output + self.kernel.ends[2], (2,))
        largest, length = graph.op("Abs", states).over("Max", 1, keep=True), states.over("L2", 1, keep=True)
        return graph.op("MatMul", graph.concat(largest, length, axis=1), (bounds * SLACK).unsqueeze(1))
