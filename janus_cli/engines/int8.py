"""Products in int8: each row of inputs has scales of its own, so that neighbours change no more than rounding does.

Attention, norms, embeddings and softmax stay in float32. There are two kernels: `Blocks` is faster for the one row of
each sentence that an autoregressive step has, `Rows` for all others.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from janus_cli.engines.graph import RUNTIME, Graph, Value

MOST = 127  # of rounded weights
TINY = 1e-20  # the scale of a row of zeros
BLOCK = 128  # inputs that share a scale in `Blocks`, or 16 to 64 if there are fewer
SLACK = 1.01
SLICE = 512  # rows
# Behind a weight's name: rounded, its scales, and the bounds of its products' errors.
ROWS, BLOCKS = (".int8", ".scales", ".bounds"), (".blocks", ".block_scales", ".block_bounds")


class Quantized(dict[str, NDArray[Any]]):
    """Weights by name, also rounded, which is done when they are first asked for."""

    def __missing__(self, name: str) -> NDArray[Any]:
        plain = name.rpartition(".")[0]
        for suffixes, round_, back in ((ROWS, by_rows, from_rows), (BLOCKS, by_blocks, from_blocks)):
            rounded, scales, bounds = (plain + each for each in suffixes)
            if name == bounds:
                self[bounds] = bounds_of(self[plain], partial(back, self[rounded], self[scales]))
                return self[name]
            if name in (rounded, scales):
                self[rounded], self[scales] = round_(self[plain])
                return self[name]
        raise KeyError(name)


def slices(rows: int) -> Iterator[slice]:
    """Of so many rows, as many at a time as stay in a cache."""
    return (slice(start, start + SLICE) for start in range(0, rows, SLICE))


def by_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (E, D) -> rounded (D, E), and the scale of each of its columns (E,)."""
    rounded, scales = np.empty(weight.shape, np.int8), np.empty(len(weight), np.float32)
    for part in slices(len(weight)):
        scales[part] = np.maximum(np.abs(weight[part]).max(1), np.float32(TINY)) / np.float32(MOST)
        rounded[part] = np.rint(weight[part] / scales[part, None])
    return np.ascontiguousarray(rounded.T), scales


def from_rows(rounded: NDArray[np.int8], scales: NDArray[np.float32], part: slice) -> NDArray[np.float32]:
    """What `by_rows` made of some rows of a weight, (…, D)."""
    return rounded[:, part].T * scales[part, None]


def by_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight (E, D) -> rounded around 128 (E, D / block, block), and the scale of each block (E * D / block,)."""
    size = block(weight.shape[1])
    count = -(-weight.shape[1] // size)
    rounded, scales = np.empty((len(weight), count, size), np.uint8), np.empty((len(weight), count), np.float32)
    for part in slices(len(weight)):
        rows = np.pad(weight[part], ((0, 0), (0, -weight.shape[1] % size))).reshape(-1, count, size)
        scales[part] = np.maximum(np.abs(rows).max(2), np.float32(TINY)) / np.float32(MOST)
        rounded[part] = np.rint(rows / scales[part, :, None]) + 128
    return rounded, scales.reshape(-1)


def from_blocks(rounded: NDArray[np.uint8], scales: NDArray[np.float32], part: slice) -> NDArray[np.float32]:
    """What `by_blocks` made of some rows of a weight, (…, D), with zeros up to the next block."""
    scales = scales.reshape(len(rounded), -1, 1)[part]
    return ((rounded[part] - np.float32(128)) * scales).reshape(len(scales), -1)


def bounds_of(weight: NDArray[np.float32], rounded: Callable[[slice], NDArray[np.float32]]) -> NDArray[np.float32]:
    """(2, 1): a product of x and a weight (E, D), both `rounded`, is wrong by no more than the first of these times the
    largest of x, plus the second times the Euclidean length of x.

    With e for what rounding changes, w'x' - wx = w' e(x) + e(w) x. Each is at most the product of both lengths, and
    each of e(x) at most half a step. SLACK is for what float32 rounds.
    """
    width, length, lost = weight.shape[1], 0.0, 0.0
    for part in slices(len(weight)):
        rows = rounded(part)
        length = max(length, np.linalg.norm(rows, axis=1).max())
        lost = max(lost, np.linalg.norm(rows[:, :width] - weight[part], axis=1).max())
    return np.array([[length * np.sqrt(width) / (2 * levels())], [lost]], np.float32) * np.float32(SLACK)


def block(width: int) -> int:
    """Inputs that share a scale, of so many."""
    return next((size for size in (16, 32, 64) if width <= size), BLOCK)


@cache
def levels() -> int:
    """The largest rounded input. Processors without VNNI add two products in 16 bits, where inputs of 8 overflow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        flags = ""
    return 127 if "vnni" in flags or platform.machine() in ("aarch64", "arm64") else 63


class Rows:
    """x W' + b in a graph: a scale for each row of x, which is rounded when it is there."""

    suffixes = ROWS

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._rounded: dict[str, tuple[Value, Value]] = {}

    def __call__(self, x: Value, name: str, shape: Sequence[int], bias: Value) -> Value:
        """x (N, D), the name and shape (E, D) of the weight, bias (E,) -> (N, E)."""
        graph = self.graph
        if x.name not in self._rounded:  # queries, keys and values have one input
            self._rounded[x.name] = self._round(x)
        rounded, largest = self._rounded[x.name]
        weight, scales = graph.weight(name + ROWS[0], shape[::-1], np.int8), graph.weight(name + ROWS[1], shape[:1])
        scale, middle = graph.floats(1 / levels()), graph.value(levels() + 1, np.uint8)
        given = rounded, weight, scale, scales, middle
        y = graph.op("MatMulIntegerToFloat", *given, result=np.float32, domain=RUNTIME)
        return y * largest + bias

    def _round(self, x: Value) -> tuple[Value, Value]:
        """(N, D) -> uint8 around `levels() + 1`, and the largest of each row (N, 1)."""
        graph = self.graph
        largest = graph.op("Max", graph.op("Abs", x).over("Max", 1, keep=True), graph.floats([TINY]))
        scale, middle = graph.floats(1 / levels()), graph.value(levels() + 1, np.uint8)
        return graph.op("QuantizeLinear", x / largest, scale, middle, result=np.uint8), largest


class Blocks:
    """x W' + b in a graph as one node: a scale for each block of each row of x."""

    suffixes = BLOCKS

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, x: Value, name: str, shape: Sequence[int], bias: Value) -> Value:
        """As `Rows`."""
        graph, size = self.graph, block(shape[1])
        count = -(-shape[1] // size)
        rounded = graph.weight(name + BLOCKS[0], (shape[0], count, size), np.uint8)
        return graph.op(
            "MatMulNBits", x, rounded, graph.weight(name + BLOCKS[1], (shape[0] * count,)), None, None, bias,
            domain=RUNTIME, K=shape[1], N=shape[0], bits=8, block_size=size, accuracy_level=4,
        )  # fmt: skip
