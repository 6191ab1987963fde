"""Products in int8: each row of the inputs and each output of a weight has a scale of its own.

So a text never depends on its neighbours in a batch. Attention, norms, embeddings and softmax stay in float32.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from janus_cli.engines.graph import RUNTIME, Graph, Value

WEIGHT, SCALES = ".int8", ".scales"  # behind the name of the weight
MOST = 127  # of weights


@cache
def levels() -> int:
    """The largest rounded input. Processors without VNNI add two products in 16 bits, where inputs of 8 overflow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        flags = ""
    return 127 if "vnni" in flags or platform.machine() in ("aarch64", "arm64") else 63


class Quantized(dict[str, NDArray[Any]]):
    """Weights by name, also in int8, made when they are first asked for."""

    def __missing__(self, name: str) -> NDArray[Any]:
        plain = name.removesuffix(WEIGHT).removesuffix(SCALES)
        if plain == name:
            raise KeyError(name)
        self[plain + WEIGHT], self[plain + SCALES] = quantize(self[plain])
        return self[name]


def quantize(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (E, D) -> rounded (D, E), and what each of its columns is multiplied by (E,)."""
    scales = np.maximum(np.abs(weight).max(1), np.float32(1e-20)) / np.float32(MOST)
    return np.ascontiguousarray(np.rint(weight / scales[:, None]).astype(np.int8).T), scales


class Products:
    """x W' + b in a graph, with W rounded to int8 and the rows of x rounded when they are there."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._rounded: dict[str, tuple[Value, Value]] = {}

    def __call__(self, x: Value, name: str, shape: Sequence[int], bias: Value | None) -> Value:
        """x (N, D), the name and shape (E, D) of the weight, bias (E,) -> (N, E)."""
        graph = self.graph
        if x.name not in self._rounded:  # queries, keys and values have one input
            self._rounded[x.name] = self._round(x)
        rounded, scale = self._rounded[x.name]
        weight = graph.weight(name + WEIGHT, shape[::-1], np.int8)
        y = graph.op(
            "MatMulIntegerToFloat", rounded, weight, graph.floats(1.0), graph.weight(name + SCALES, shape[:1]),
            graph.value(levels() + 1, np.uint8), result=np.float32, domain=RUNTIME,
        ) * scale  # fmt: skip
        return y if bias is None else y + bias

    def _round(self, x: Value) -> tuple[Value, Value]:
        """(N, D) -> uint8 around `levels() + 1`, and the scale of each row (N, 1)."""
        graph, most = self.graph, levels()
        largest = graph.op("Abs", x).over("Max", 1, keep=True)
        scale = graph.op("Max", largest * (1 / most), graph.floats([1e-20]))  # a row of zeros has none
        middle = graph.value(most + 1, np.uint8)
        return graph.op("QuantizeLinear", x / scale, graph.floats(1.0), middle, result=np.uint8), scale
