"""Decoding by ONNX Runtime where that is faster and can do what is asked, else by torch: the same texts either way.

At batch 1 most of torch's time goes between its calls; a search that is one graph has none. Torch, which takes a second
to import, is imported only when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from math import nan
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from janus_cli.core.knobs import ARSide, Decoding, Mode
from janus_cli.core.search import Output, different
from janus_cli.core.shapes import marian_positions
from janus_cli.core.symbols import PAD
from janus_cli.core.weights import Weights
from janus_cli.core.writing import never_written
from janus_cli.engines.choice import without_graph
from janus_cli.engines.int8 import Quantized
from janus_cli.engines.network import IMPOSSIBLE
from janus_cli.engines.screen import pays
from janus_cli.engines.session import Search, Session, side_of, written
from janus_cli.engines.speculative import of_head
from janus_cli.errors import UsageError
from janus_cli.system import threads

if TYPE_CHECKING:
    from torch import Tensor

    from janus_cli.core.generate import Generator
    from janus_cli.core.model import Transformer

Arrays = dict[str, NDArray[Any]]
Ids = NDArray[np.int64]
MOST_SESSIONS = 16
ROWS_AT_ONCE, LOGITS_AT_ONCE = 48, 1 << 21  # of a step; of the first pass over all lengths


class Engine:
    """Generates as `Generator` does. The model's weights must not change.

    model: of torch; or weights, of which one is made when torch has to search. setting_up: seconds spent on sessions.
    Several threads may call it.
    """

    def __init__(self, model: Transformer | Weights) -> None:
        if isinstance(model, Weights) and model.knobs.positions == "sinusoidal":  # which are as torch computes them
            model = model.model()
        self._given = model
        self._torch: Generator | None = None
        self._sessions: dict[Search, Session] = {}  # the one that was used last at the end
        self._lock = Lock()
        self._weights = Quantized()
        self.setting_up = 0.0

    @property
    def model(self) -> Transformer:
        """The model in torch."""
        if isinstance(self._given, Weights):
            self._given = self._given.model()
        return self._given

    @property
    def by_torch(self) -> Generator:
        if self._torch is None:
            from janus_cli.core.generate import Generator

            self._torch = Generator(self.model)
        return self._torch

    def name(self, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False) -> str:
        """onnx or torch, whichever decodes so. Raises UsageError: neither can."""
        given, device = self._given, "cpu"
        if isinstance(given, Weights):
            lengths = "length_table" in given.arrays
        else:
            lengths, device = given.length_table is not None, given.output_weight.device.type
            if given.output_weight.dtype.itemsize != 4:
                options = replace(options, precision="bf16") if options.precision == "float32" else options
                if options.precision == "int8":
                    raise UsageError(
                        "the model was loaded in bf16, and int8 needs float32", "load it with precision int8"
                    )
        why = without_graph(mode, options, side, device, lengths=lengths, trace=trace)
        return "torch" if why else "onnx"

    @property
    def in_bf16(self) -> bool:
        """Whether the weights were loaded so."""
        return not isinstance(self._given, Weights) and self._given.output_weight.dtype.itemsize != 4

    def forget(self) -> None:
        """Frees what torch has recorded on a GPU."""
        if self._torch is not None:
            self._torch.forget()

    def __call__(
        self, source: Ids | Tensor, mode: Mode, options: Decoding, side: ARSide | None, trace: bool = False,
        scores: bool = True,
    ) -> list[list[Output]]:  # fmt: skip
        """As `Generator`, which takes tensors only.

        scores: without them, which are then NaN, and without log-probabilities, `ar` and `spec` may be faster.
        """
        if self.name(mode, options, side, trace) == "torch" or not len(source):
            return self.by_torch(self.tensor(source), mode, options, side, trace)
        ids = np.asarray(source)
        parts = np.array_split(ids, -(-len(ids) // self._fastest(ids.shape[1], mode, options)))
        return [found for part in parts for found in self._found(_trimmed(part), mode, options, side, scores)]

    def tensor(self, source: Ids | Tensor) -> Tensor:
        """The same ids where the model is."""
        import torch

        return torch.as_tensor(source, device=self.model.output_weight.device)

    def at_once(self, source: Ids | Tensor, mode: Mode, options: Decoding, side: ARSide | None) -> int:
        """How many sentences of a batch are decoded together: in a graph as many as are fastest.

        These are few, so that their logits stay in a CPU's cache.
        """
        if self.name(mode, options, side) == "torch":
            return len(source)
        return min(len(source), self._fastest(source.shape[1], mode, options))

    def _fastest(self, width: int, mode: Mode, options: Decoding) -> int:
        if mode == "spec":  # because each sentence accepts another number of tokens
            return 1
        if mode == "ar":
            return max(1, ROWS_AT_ONCE // options.beam)
        return max(1, LOGITS_AT_ONCE // (options.length_beam * width * self._table[0]))

    @property
    def _table(self) -> tuple[int, ...]:
        """The shape of the output table, (V, D)."""
        given = self._given
        return tuple((given.output if isinstance(given, Weights) else given.output_weight).shape)

    def _found(
        self, source: Ids, mode: Mode, options: Decoding, side: ARSide | None, scores: bool
    ) -> Iterator[list[Output]]:
        screened = not scores and len(source) == 1 and self._screens(mode, options)
        search = Search(mode, side_of(mode, options, side), _built_in(options), len(source) > 1, threads(), screened)
        more = {"iters": np.array(options.iters)} if mode == "nar" else {}
        found = self._session(search)(source=source, **more)
        return (different(each, options.nbest) for each in _outputs(found))

    def _screens(self, mode: Mode, options: Decoding) -> bool:
        """Whether tokens are chosen by `Screen`, if no score is asked for."""
        greedy = mode == "spec" or (mode == "ar" and options.beam == 1)
        return greedy and options.precision == "float32" and pays(self._table)

    def _session(self, search: Search) -> Session:
        """A search's session, made when it is first asked for."""
        with self._lock:
            session = self._sessions.pop(search, None) or self._made(search)
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # each holds a copy of the weights as it needs them
            self._sessions[search] = session
        return session

    def _made(self, search: Search) -> Session:
        begun = perf_counter()
        if not self._weights:
            self._weights.update(all_weights(self._given))
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        graph = written(self._given.knobs, shapes, search, never_written(search.options))
        made = Session(graph, self._weights, search.threads)
        self.setting_up += perf_counter() - begun
        return made


@lru_cache
def _built_in(options: Decoding) -> Decoding:
    """Those options that a graph is made of; the others have one value for all graphs. `iters` is an input."""
    usual = Decoding()
    return replace(options, **{name: getattr(usual, name) for name in ("iters", "batch_sentences", "engine", "seed")})


def _trimmed(source: Ids) -> Ids:
    """Without columns of PAD alone: the graph of a single sentence knows no padding."""
    return source[:, : max(1, int((source != PAD).sum(1).max()))]


def all_weights(model: Transformer | Weights) -> Arrays:
    """Weights and position tables by name, and those of the draft head."""
    if isinstance(model, Weights):
        named, head, table = dict(model.arrays), model.head, model.output
        if model.knobs.positions == "marian":
            positions = np.array(marian_positions(model.knobs.max_length, model.knobs.width), np.float32)
            named |= dict.fromkeys(("source_positions", "target_positions"), positions)
    else:
        parts = model.named_parameters(), model.named_buffers()
        named = {name: each.detach().float().numpy() for part in parts for name, each in part}
        head = {name: each.numpy() for name, each in model.draft_head._asdict().items()} if model.draft_head else {}
        table = model.output_weight.detach().float().numpy()
    return named | of_head(head, table) if head else named


def _outputs(found: Arrays) -> Iterator[list[Output]]:
    """The hypotheses of each sentence (see `left_to_right.Results`), best first."""
    limited = found.get("limited")
    end = 0 if limited is None else 1  # left to right, the EOS has a log-probability
    for b, passes in enumerate(found["passes"].tolist()):
        tokens, sizes = found["tokens"][b].tolist(), found["lengths"][b].tolist()
        cut = [False] * len(sizes) if limited is None else limited[b].tolist()
        if "scores" not in found:
            yield [Output(tokens[0][: sizes[0]], [], nan, passes, limited=cut[0])]
            continue
        logps, scores = found["logps"][b].tolist(), found["scores"][b].tolist()
        yield [
            Output(tokens[n][:size], logps[n][: size + end], score, passes, limited=cut[n])
            for n, (size, score) in enumerate(zip(sizes, scores, strict=True))
            if score > IMPOSSIBLE / 2  # else there are fewer
        ]
