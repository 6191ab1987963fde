"""Decoding by ONNX Runtime where that is faster and can do what is asked, else by torch: the same texts either way.

At batch 1 most of torch's time goes between its calls; a search that is one graph has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from janus_cli.engines.left_to_right import Side
from janus_cli.engines.network import HIDDEN
from janus_cli.engines.session import Search, Session, written
from janus_cli.engines.speculative import of_head

Arrays = dict[str, NDArray[Any]]
MOST_SESSIONS = 16


class Engine:
    """Generates as `Generator` does. The model's weights must not change."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self._torch: Generator | None = None
        self._sessions: dict[Search, Session] = {}
        self._weights: Arrays = {}

    @property
    def by_torch(self) -> Generator:
        if self._torch is None:
            self._torch = Generator(self.model)
        return self._torch

    def name(self, mode: Mode, options: Decoding, side: ARSide | None) -> str:
        """onnx or torch, whichever decodes so."""
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
        if trace or self.name(mode, options, side) == "torch" or not len(source):
            return self.by_torch(source, mode, options, side, trace)
        with torch.inference_mode():
            if mode == "spec":
                return [[output] for output in self._spec(source, options, side)]
            return self._ar(source, options, side) if mode == "ar" else self._nar(source, options, side)

    def _ar(self, source: Tensor, options: Decoding, side: ARSide | None) -> list[list[Output]]:
        limits = length_limit((source != PAD).sum(1) - 1, self.model.knobs.max_length, options)
        session = self._session("ar", options, side, len(source))
        found = session(source=source.numpy(), limits=limits.numpy())
        if options.beam == 1:
            return [[each] for each in _greedy(found, limits.tolist(), options)]
        return list(_beams(found, limits.tolist(), options.nbest))

    def _spec(self, source: Tensor, options: Decoding, side: ARSide | None) -> Iterator[Output]:
        """One sentence at a time, because each accepts another number of tokens."""
        session, longest = self._session("spec", options, side, 1), self.model.knobs.max_length
        sizes = (source != PAD).sum(1)
        limits = length_limit(sizes - 1, longest, options).tolist()
        for row, size, limit in zip(source.numpy(), sizes.tolist(), limits, strict=True):
            alone = row[None, : max(1, size)]
            found = session(source=alone, limits=np.array([limit]))
            passes, tokens, logps = int(found["passes"]), found["tokens"].tolist(), found["logps"].tolist()
            if EOS in tokens[: limit - 1]:
                size = tokens.index(EOS) + 1
                score = sum(logps[:size]) / size**options.length_penalty
                yield Output(tokens[: size - 1], logps[:size], score, passes)
            else:  # what is written at the limit is greedy's business
                ((output,),) = self._ar(torch.from_numpy(alone), replace(options, beam=1), side)
                yield replace(output, passes=output.passes + passes)

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
                self._weights = {name: weight.numpy() for name, weight in all_weights(self.model).items()}
            shapes = {name: weight.shape for name, weight in self._weights.items()}
            graph = written(self.model.knobs, shapes, search, never_written(options))
            if len(self._sessions) == MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # each holds a copy of the weights as it needs them
            self._sessions[search] = Session(graph, self._weights, search.threads)
        return self._sessions[search]


def all_weights(model: Transformer) -> dict[str, Tensor]:
    """Weights and position tables by name, and those of the draft head."""
    named = {name: each.detach() for part in (model.named_parameters(), model.named_buffers()) for name, each in part}
    return named | of_head(model.draft_head, model.output_weight.detach()) if model.draft_head else named


UNKNOWN = {  # options that graphs do not know
    "ar": ("temperature", "diversity", "no_repeat_ngram", "min_length", "first_token"),
    "spec": ("first_token",),
    "nar": ("remove_repeats", "no_repeat_ngram", "avoid_repeats", "rewrite_repeats"),
}


def without_graph(mode: Mode, options: Decoding, side: ARSide | None, device: str, *, lengths: bool) -> str:
    """Why a search is not done by a graph; empty if it is. device: its type. lengths: of a length head."""
    if options.engine == "torch":
        return "decoding.engine is torch"
    if device != "cpu" or options.precision != "float32":
        return "graphs run on a CPU in float32"
    if mode not in UNKNOWN or (mode != "ar" and not lengths):
        return "no graph for it"
    if mode == "spec" and (options.redraft != "nar" or options.draft_iters > 1):
        return "no graph for other drafts than one NAR pass"
    if side not in ("content", "query") and (mode != "nar" or options.rerank == "ar"):
        return "no graph for this AR side"
    return next((f"no graph for {name}" for name in UNKNOWN[mode] if getattr(options, name)), "")


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
