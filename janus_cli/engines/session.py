"""Writes the graph of a search, and runs it with ONNX Runtime. Torch is not needed here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from janus_cli.core.knobs import Decoding, Model
from janus_cli.core.writing import Unwritten
from janus_cli.engines.graph import Graph
from janus_cli.engines.left_to_right import Beam, Side, greedy, screened_greedy
from janus_cli.engines.network import Network
from janus_cli.engines.refining import MaskPredict
from janus_cli.engines.speculative import Speculative


class Search(NamedTuple):
    """What decides the graph of a search, and how it runs. side: of AR, or of the AR that reranks, if any.

    padded: whether there are several sentences. screened: whether tokens are chosen by `Screen`, without scores.
    """

    mode: str
    side: Side | None
    options: Decoding
    padded: bool
    threads: int
    screened: bool = False


def side_of(mode: str, options: Decoding, side: Any) -> Any:
    """The AR side that a search needs, if any."""
    return side if mode != "nar" or options.rerank == "ar" else None


def runtime() -> Any:
    """The package onnxruntime, with the telemetry of its official builds turned off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime


class Session:
    """A graph that is ready to run. weights: arrays by name, which it reads where they are."""

    def __init__(self, graph: Graph, weights: Mapping[str, NDArray[Any]], threads: int) -> None:
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False  # sizes change from step to step
        options.log_severity_level = 4  # errors are raised
        # Threads wait for the next node awake, but not for long: on a busy machine waiting takes cores from the others.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        names = list(graph.weights)
        self._weights = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
        options.add_external_initializers(names, self._weights)
        self._session = onnxruntime.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])
        self._outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, **given: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outputs by name. Raises MemoryError: they do not fit."""
        try:
            found = self._session.run(None, given)
        except Exception as problem:  # the library has nothing narrower for this
            if "Failed to allocate memory" in str(problem) or "bad_alloc" in str(problem):
                raise MemoryError("ONNX Runtime could not allocate it") from problem
            raise
        return dict(zip(self._outputs, found, strict=True))


def written(model: Model, shapes: Mapping[str, Sequence[int]], search: Search, never: Unwritten) -> Graph:
    """The graph of a search. shapes: of all weights and position tables."""
    graph, options = Graph(), search.options
    network = Network(graph, model, shapes, int8=options.precision == "int8")
    source = graph.input("source", np.int64, [1 if search.mode == "spec" else "B", "S"])
    if search.mode == "nar":
        most = graph.input("iters", np.int64, [], options.iters)
        graph.outputs = MaskPredict(network, options, never).search(source, most, search.side, padded=search.padded)
        return graph
    assert search.side is not None
    if search.mode == "spec":
        graph.outputs = Speculative(network, options, search.side, never, screened=search.screened).search(source)
    elif search.screened:
        graph.outputs = screened_greedy(network, options, source, search.side, never)
    else:
        find = partial(greedy, network, options) if options.beam == 1 else Beam(network, options).search
        graph.outputs = find(source, search.side, never, padded=search.padded)
    return graph
