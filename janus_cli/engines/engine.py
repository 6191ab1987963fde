"""Decoding by ONNX Runtime where that is faster and can do what is asked, else by torch: the same texts either way.

At batch 1 most of torch's time goes between its calls; a search that is one graph has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.generate import Generator, Mode, length_limit
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.core.steps import never_written
from janus_cli.engines.choice import without_graph
from janus_cli.engines.int8 import Quantized
from janus_cli.engines.left_to_right import Side
from janus_cli.engines.network import HIDDEN
from janus_cli.engines.session import Search, Session, written
from janus_cli.engines.speculative import of_head
from janus_cli.errors import UsageError

Arrays = dict[str, NDArray[Any]]
MOST_SESSIONS = 16
ROWS_AT_ONCE, LOGITS_AT_ONCE = 48, 1 << 21  # of a step; of the first pass over all lengths


class Engine:
    """Generates as `Generator` does. The model's weights must not change."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self._torch: Generator | None = None
        self._sessions: dict[Search, Session] = {}
        self._weights = Quantized()

    @property
    def by_torch(self) -> Generator:
        if self._torch is None:
            self._torch = Generator(self.model)
        return self._torch

    def name(self, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False) -> str:
        """onnx or torch, whichever decodes so. Raises UsageError: neither can."""
        lengths, weight = self.model.length_table is not None, self.model.output_weight
        if weight.dtype != torch.float32:
            options = replace(options, precision="bf16") if options.precision == "float32" else options
            if options.precision == "int8":
                raise UsageError("the model was loaded in bf16, and int8 needs float32", "load it with precision int8")
        why = without_graph(mode, options, side, weight.device.type, lengths=lengths, trace=trace)
        return "torch" if why else "onnx"

    def forget(self) -> None:
        """Frees what torch has recorded on a GPU."""
        if self._torch is not None:
            self._torch.forget()

    def __call__(
        self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False
    ) -> list[list[Output]]:
        """As `Generator`."""
        if self.name(mode, options, side, trace) == "torch" or not len(source):
            return self.by_torch(source, mode, options, side, trace)
        with torch.inference_mode():
            if mode == "spec":
                return [[output] for output in self._spec(source, options, side)]
            used = side if mode == "ar" or options.rerank == "ar" else None
            parts = source.tensor_split(-(-len(source) // self._fastest(source.shape[1], mode, options)))
            return [found for part in parts for found in self._found(_trimmed(part), mode, options, used)]

    def at_once(self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None) -> int:
        """How many sentences of a batch are decoded together: in a graph as many as are fastest.

        These are few, so that their logits stay in a CPU's cache.
        """
        if self.name(mode, options, side) == "torch":
            return len(source)
        return min(len(source), self._fastest(source.shape[1], mode, options))

    def _fastest(self, width: int, mode: Mode, options: Decoding) -> int:
        if mode == "spec":
            return 1
        if mode == "ar":
            return max(1, ROWS_AT_ONCE // options.beam)
        return max(1, LOGITS_AT_ONCE // (options.length_beam * width * len(self.model.output_weight)))

    def _found(self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None) -> Iterator[list[Output]]:
        return _outputs(self._session(mode, options, side, len(source))(source=source.numpy()))

    def _spec(self, source: Tensor, options: Decoding, side: ARSide | None) -> Iterator[Output]:
        """One sentence at a time, because each accepts another number of tokens."""
        session, longest = self._session("spec", options, side, 1), self.model.knobs.max_length
        for row in source.split(1):
            alone = _trimmed(row)
            limit = int(length_limit((alone != PAD).sum(1) - 1, longest, options))
            found = session(source=alone.numpy(), limits=np.array([limit]))
            passes, tokens, logps = int(found["passes"]), found["tokens"].tolist(), found["logps"].tolist()
            if EOS in tokens[: limit - 1]:
                size = tokens.index(EOS) + 1
                score = sum(logps[:size]) / size**options.length_penalty
                yield Output(tokens[: size - 1], logps[:size], score, passes)
            else:  # what is written at the limit is greedy's business
                ((output,),) = self._found(alone, "ar", replace(options, beam=1, nbest=1), side)
                yield replace(output, passes=output.passes + passes)

    def _session(self, mode: Mode, options: Decoding, side: ARSide | None, count: int) -> Session:
        """A search's session, made when it is first asked for."""
        search = Search(mode, cast("Side | None", side), options, count > 1, torch.get_num_threads())
        if search not in self._sessions:
            if not self._weights:
                self._weights.update((name, weight.numpy()) for name, weight in all_weights(self.model).items())
            shapes = {name: weight.shape for name, weight in self._weights.items()}
            graph = written(self.model.knobs, shapes, search, never_written(options))
            if len(self._sessions) == MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # each holds a copy of the weights as it needs them
            self._sessions[search] = Session(graph, self._weights, search.threads)
        return self._sessions[search]


def _trimmed(source: Tensor) -> Tensor:
    """Without columns of PAD alone: the graph of a single sentence knows no padding."""
    return source[:, : max(1, int((source != PAD).sum(1).max()))]


def all_weights(model: Transformer) -> dict[str, Tensor]:
    """Weights and position tables by name, and those of the draft head."""
    named = {name: each.detach() for part in (model.named_parameters(), model.named_buffers()) for name, each in part}
    return named | of_head(model.draft_head, model.output_weight.detach()) if model.draft_head else named


def _outputs(found: Arrays) -> Iterator[list[Output]]:
    """The hypotheses of each sentence (see `left_to_right.Results`), best first."""
    limited = found.get("limited")
    end = 0 if limited is None else 1  # left to right, the EOS has a log-probability
    for b, passes in enumerate(found["passes"].tolist()):
        tokens, logps, sizes, scores = (found[name][b].tolist() for name in ("tokens", "logps", "lengths", "scores"))
        cut = [False] * len(sizes) if limited is None else limited[b].tolist()
        yield [
            Output(tokens[n][:size], logps[n][: size + end], score, passes, limited=cut[n])
            for n, (size, score) in enumerate(zip(sizes, scores, strict=True))
            if score > HIDDEN / 2  # else there are fewer
        ]
