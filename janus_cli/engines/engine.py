"""Decoding by ONNX Runtime where that is faster and can do what is asked, else by torch: the same texts either way.

At batch 1 most of torch's time goes between its calls; a search that is one graph has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
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

    def name(self, mode: Mode, options: Decoding, side: ARSide | None) -> str:
        """onnx or torch, whichever decodes so. Raises UsageError: neither can."""
        lengths, weight = self.model.length_table is not None, self.model.output_weight
        why = without_graph(mode, options, side, weight.device.type, lengths=lengths)
        return "torch" if why or weight.dtype != torch.float32 else "onnx"

    def forget(self) -> None:
        """Frees what torch has recorded on a GPU."""
        if self._torch is not None:
            self._torch.forget()

    def __call__(
        self, source: Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False
    ) -> list[list[Output]]:
        """As `Generator`."""
        if trace and options.precision == "int8":
            raise UsageError("a trace is of torch, which has no int8", "leave out --trace or --precision int8")
        if trace or self.name(mode, options, side) == "torch" or not len(source):
            return self.by_torch(source, mode, options, side, trace)
        search = self._ar if mode == "ar" else self._nar
        with torch.inference_mode():
            parts = source.split(self._at_once(mode, options, source.shape[1]))
            return [found for part in parts for found in search(_trimmed(part), options, side)]

    def _at_once(self, mode: Mode, options: Decoding, width: int) -> int:
        """How many sentences are fastest together: few, whose logits stay in a CPU's cache."""
        if mode == "ar":
            return max(1, ROWS_AT_ONCE // options.beam)
        return max(1, LOGITS_AT_ONCE // (options.length_beam * width * len(self.model.output_weight)))

    def _ar(self, source: Tensor, options: Decoding, side: ARSide | None) -> list[list[Output]]:
        limits = length_limit((source != PAD).sum(1) - 1, self.model.knobs.max_length, options)
        session = self._session("ar", options, side, len(source))
        found = session(source=source.numpy(), limits=limits.numpy())
        if options.beam == 1:
            return [[each] for each in _greedy(found, limits.tolist(), options)]
        return list(_beams(found, limits.tolist(), options.nbest))

    def _nar(self, source: Tensor, options: Decoding, side: ARSide | None) -> list[list[Output]]:
        session = self._session("nar", options, side if options.rerank == "ar" else None, len(source))
        found = session(source=source.numpy(), most=np.array(options.iters))
        if options.rerank != "ar" and not (options.rerank == "none" and options.kept):
            found["scores"] = found["logps"].sum(1) / found["lengths"]
        return list(_candidates(found, options.nbest))

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
    """Weights and position tables by name."""
    return {name: each.detach() for part in (model.named_parameters(), model.named_buffers()) for name, each in part}


def _greedy(found: Arrays, limits: Sequence[int], options: Decoding) -> Iterator[Output]:
    """Outputs of tokens and logps, (T, B) each."""
    for tokens, logps, most in zip(found["tokens"].T.tolist(), found["logps"].T.tolist(), limits, strict=True):
        size = tokens.index(EOS) + 1
        logps = logps[:size]
        limited = size >= most and (options.free_end or logps[-1] <= log(0.5))
        yield Output(tokens[: size - 1], logps, sum(logps) / size**options.length_penalty, size, limited=limited)


def _beams(found: Arrays, limits: Sequence[int], nbest: int) -> Iterator[list[Output]]:
    """The best hypotheses of each sentence, from the ends that `Beam.search` found, back along the slots."""
    place, sentence, rank = (found["ended"] > HIDDEN / 2).nonzero()
    ends: list[list[tuple[float, int, int]]] = [[] for _ in limits]
    for t, b, r in zip(place.tolist(), sentence.tolist(), rank.tolist(), strict=True):
        ends[b].append((float(found["ended"][t, b, r]), t, r))
    for b, (some, count, most) in enumerate(zip(ends, found["passes"].tolist(), limits, strict=True)):
        best = sorted(some, key=lambda end: -end[0])[:nbest]
        outputs = []
        for score, t, r in best:
            slot, sums, tokens = found["ended_slots"][t, b, r], [found["ended_sums"][t, b, r]], []
            for u in range(t - 1, -1, -1):
                tokens.append(int(found["tokens"][u, b, slot]))
                sums.append(found["sums"][u, b, slot])
                slot = found["slots"][u, b, slot]
            logps = np.diff([0.0, *reversed(sums)]).tolist()
            outputs.append(Output(tokens[::-1], logps, score, count, limited=count >= most))
        yield outputs


def _candidates(found: Arrays, nbest: int) -> Iterator[list[Output]]:
    """The best rows of each sentence."""
    passes = found["passes"].tolist()
    fan = len(found["tokens"]) // len(passes)
    order = np.argsort(-found["scores"].reshape(-1, fan), axis=1, kind="stable")[:, :nbest].tolist()
    tokens, logps, scores, lengths = (found[name].tolist() for name in ("tokens", "logps", "scores", "lengths"))
    for b, best in enumerate(order):
        rows = [b * fan + candidate for candidate in best]
        yield [Output(tokens[r][: lengths[r]], logps[r][: lengths[r]], scores[r], passes[b]) for r in rows]
