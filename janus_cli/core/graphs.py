"""Decoding on a GPU without launching each kernel: passes of fixed shapes are recorded once and replayed (CUDA graphs).

A pass of a small batch is hundreds of kernels that take longer to launch than to run. A recording reads and writes
fixed buffers, so sources, texts and caches are padded to a few sizes, and finished rows are still computed. The clock
decides as usual who may attend: padding is never born. Outputs are those of `core/steps.py` up to rounding. Without
a GPU nothing is recorded: the same functions run over the same buffers, which is how tests run them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, PAD
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.search.mask_predict import Written, mask_predict, over_lengths
from janus_cli.core.steps import Draft, Verify, ar_scores, choices, fill_masks, log_probabilities
from janus_cli.core.stream import NEVER, ar_step
from janus_cli.core.writing import NEVER_WRITTEN, Unwritten

MOST_ROWS = 128  # with more, launches matter less, rows that have ended cost more, and each shape keeps much memory
MOST_TOKENS = 12_288  # source tokens, padding included, of all batch shapes together whose recordings are kept
STEP = 8  # tokens: lengths are padded to multiples of it

Function = Callable[..., tuple[Tensor, ...]]


def padded(length: int, most: int) -> int:
    """The length rounded up to one that is recorded."""
    return min(most, -(-length // STEP) * STEP)


class Replay:
    """A function of tensors of fixed shapes, recorded and replayed. Its outputs are valid until the next call."""

    def __init__(self, recordings: Recordings, function: Function) -> None:
        self.stream, self.pool, self.function = recordings.stream, recordings.pool, function
        self.inputs: list[Tensor] = []
        self.again: Callable[[], None] | None = None
        self.outputs: tuple[Tensor, ...] = ()

    def prepare(self, *inputs: Tensor) -> None:
        """Records with inputs of these shapes, unless done already; recording runs the function once."""
        if not self.inputs:
            own = [given.clone() for given in inputs]
            if self.stream is not None:
                self._record(self.stream, own)
            self.inputs = own

    def _record(self, stream: torch.cuda.Stream, inputs: list[Tensor]) -> None:
        now = torch.cuda.current_stream(stream.device)
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            self.function(*inputs)  # allocations of a first call, such as workspaces, must not be recorded
            graph = torch.cuda.CUDAGraph()  # not `with torch.cuda.graph`: that collects garbage first, for each shape
            graph.capture_begin(pool=self.pool)
            try:
                self.outputs = self.function(*inputs)
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()  # or nothing could run on this device any more
                raise
            graph.capture_end()
        now.wait_stream(stream)
        self.again = graph.replay

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.prepare(*inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.again is None:
            return self.function(*self.inputs)
        self.again()
        return self.outputs

    def forget(self) -> None:
        """Frees the recording, and the function: it refers to the owner of this replay and would keep that alive."""
        self.inputs, self.outputs, self.again = [], (), None
        del self.function


class Recordings:
    """All recordings of a model, whose weights must not change; they share memory, as one is replayed at a time."""

    def __init__(self, model: Transformer) -> None:
        self.model, device = model, model.output_weight.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pool = torch.cuda.graph_pool_handle() if self.stream else None
        self.sources: OrderedDict[tuple[int, int], RecordedSource] = OrderedDict()

    def read(self, source: Tensor) -> RecordedSource:
        """Encodes (B, S); returns its recordings, valid until the next source of this shape is read."""
        shape = len(source), padded(source.shape[1], self.model.knobs.max_length)
        recorded = self.sources.pop(shape, None)
        if recorded is None:
            recorded = RecordedSource(self)
            while self.sources and sum(rows * width for rows, width in [*self.sources, shape]) > MOST_TOKENS:
                self.sources.popitem(last=False)[1].forget()
        self.sources[shape] = recorded
        recorded.encode(F.pad(source, (0, shape[1] - source.shape[1]), value=PAD))
        return recorded

    def forget(self) -> None:
        """Frees all recordings."""
        while self.sources:
            self.sources.popitem()[1].forget()


class RecordedSource:
    """An encoded batch of sources of one shape, and the recorded passes that decode it."""

    def __init__(self, recordings: Recordings) -> None:
        self.model, self.recordings = recordings.model, recordings
        self.replays: list[Replay] = []
        self.encode = self.replay(self._encode)  # (B, S) -> nothing; sets `memory`
        self.steps: dict[Hashable, Any] = {}

    def _encode(self, source: Tensor) -> tuple[Tensor, ...]:
        self.memory = self.model.encode(source, source != PAD)
        return ()

    def replay(self, function: Function) -> Replay:
        """A new recording, which is freed with this source."""
        self.replays.append(Replay(self.recordings, function))
        return self.replays[-1]

    def step(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was recorded under this key; `make` records it the first time."""
        if key not in self.steps:
            self.steps[key] = make()
        return self.steps[key]

    def forget(self) -> None:
        """Frees all recordings now; as they refer to each other, Python alone would free them at some later time."""
        for replay in self.replays:
            replay.forget()
        self.replays.clear()
        self.steps.clear()
        del self.encode

    def over_lengths(
        self, tokens: Tensor, prior: Tensor, iters: int, *, never: Unwritten = NEVER_WRITTEN,
        differ: bool = False, **how: Any,
    ) -> Written:  # fmt: skip
        """As `search.over_lengths`, all its passes in one recording; tokens (B * fan, T). never, differ: see
        `fill_masks`."""

        def passes(tokens: Tensor, prior: Tensor) -> Written:
            step = partial(fill_masks, self.model, self.memory, never=never, differ=differ, everywhere=True)
            return over_lengths(partial(step, doubt=True), step, tokens, prior, iters, leaving=False, **how)

        width, room = self._room(tokens)
        replay = self.step(("nar", room, iters, *sorted(how.items()), never, differ), lambda: self.replay(passes))
        rows, scores, *texts, count = replay(F.pad(tokens, (0, room - width), value=PAD), prior)
        written, logps = (each[:, :width].clone() for each in texts)
        return Written(rows.clone(), scores.clone(), written, logps, count.clone())

    def mask_predict(
        self, tokens: Tensor, iters: int, only: Tensor, never: Unwritten = NEVER_WRITTEN
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `search.mask_predict`, all its passes in one recording; tokens (B, T). never: see `fill_masks`."""

        def passes(tokens: Tensor, only: Tensor) -> tuple[Tensor, ...]:
            step = partial(fill_masks, self.model, self.memory, never=never, everywhere=True)
            return mask_predict(step, tokens, iters, only=only, leaving=False)

        width, room = self._room(tokens)
        replay = self.step(("draft", room, iters, never), lambda: self.replay(passes))
        behind = 0, room - width
        written, logps, count = replay(F.pad(tokens, behind, value=PAD), F.pad(only, behind))
        return written[:, :width].clone(), logps[:, :width].clone(), count.clone()

    def _room(self, tokens: Tensor) -> tuple[int, int]:
        """The width of (R, T) tokens, and that of the recording that reads them."""
        return tokens.shape[1], padded(tokens.shape[1], self.model.knobs.max_length - 2)

    def ar_scores(self, tokens: Tensor, side: ARSide, never: Unwritten = NEVER_WRITTEN) -> Tensor:
        """As `steps.ar_scores`, for AR sides that predict EOS: (R, T) -> (R,)."""
        _, room = self._room(tokens)

        def scores(tokens: Tensor) -> tuple[Tensor, ...]:
            return (ar_scores(self.model, self.memory, tokens, side, never),)

        replay = self.step(("scores", room, len(tokens), side, never), lambda: self.replay(scores))
        (mean,) = replay(F.pad(tokens, (0, room - tokens.shape[1]), value=PAD))
        return mean.clone()

    def next_token(
        self, side: ARSide, fan: int, most: Tensor, never: Unwritten = NEVER_WRITTEN, *, best: bool
    ) -> RecordedNext:
        """As `steps.NextToken`, for a search with `fan` rows a sentence. best: it asks for the best token only."""
        room = padded(int(most.max()) + 1, self.model.knobs.max_length)
        key = "next", room, fan, side, never, best
        step: RecordedNext = self.step(key, lambda: RecordedNext(self, side, fan, room, never, best=best))
        step.begin()
        return step

    def verify(self, side: ARSide, most: Tensor, window: int, never: Unwritten = NEVER_WRITTEN) -> RecordedVerify:
        """As `steps.Verify`."""
        longest = self.model.knobs.max_length
        width, room = padded(window, longest), padded(int(most.max()), longest - 2)
        key = "verify", width, room, side, never
        step: RecordedVerify = self.step(key, lambda: RecordedVerify(self, side, width, room, never))
        step.begin()
        return step


class RecordedNext:
    """As `steps.NextToken`: one pass over `fan` rows of each sentence, with its cache.

    The recording computes all rows that a search began with; `rows` are those that the search still has.
    """

    def __init__(
        self, source: RecordedSource, side: ARSide, fan: int, room: int, never: Unwritten, *, best: bool
    ) -> None:
        """best: records the best token of each row, else the log-probabilities of all."""
        self.source, self.side, self.fan, self.never, self.only_best = source, side, fan, never, best
        count = len(source.memory.real) * fan
        self.cache = source.model.new_cache(count, room, fixed=True)
        self.position = torch.zeros(count, dtype=torch.int64, device=source.memory.real.device)
        self.all_rows = torch.arange(count, device=self.position.device)
        self.run = source.replay(self._best if best else self._log_probabilities)

    def begin(self) -> None:
        """Resets the state before the first token of new texts."""
        nowhere = self.all_rows < 0
        self.run.prepare(torch.full_like(self.all_rows, BOS), nowhere if self.only_best else self.all_rows)
        self.position.zero_()  # what an earlier text has left in the cache is born later than what comes
        self.last = torch.full_like(self.all_rows, BOS)
        self.rows = self.all_rows[:: self.fan]  # at first one of each sentence

    def _states(self, last: Tensor) -> Tensor:
        self.cache.at = self.position.clone()
        stream = ar_step(last[:, None], self.position, torch.ones_like(last, dtype=torch.bool)[:, None], self.side)
        states = self.source.model.decode(stream, self.source.memory, self.cache)[:, -1]
        self.position.add_(1)
        return states

    def _best(self, last: Tensor, at_end: Tensor) -> tuple[Tensor, ...]:
        return choices(self.source.model, self._states(last), self.never, at_end)

    def _log_probabilities(self, last: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        self.cache.reorder(order)
        return (log_probabilities(self.source.model, self._states(last), self.never),)

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        """For `greedy`: the best token and its log-probability; each (R,)."""
        if kept is not None:
            self.rows = self.rows[kept]
        ends = (self.all_rows < 0).index_copy(0, self.rows, at_end)
        best, logps = self.run(self.last.index_copy_(0, self.rows, last), ends)
        return best[self.rows], logps[self.rows]

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        """For other searches: (R, V) log-probabilities."""
        order = self.all_rows
        if parents is not None:
            before = self.rows[parents]
            sentences = torch.unique_consecutive(before // self.fan)
            fan = len(before) // len(sentences)
            self.rows = (sentences[:, None] * self.fan + order[:fan]).flatten()
            order = order.index_copy(0, self.rows, before)
        (logps,) = self.run(self.last.index_copy_(0, self.rows, last), order)
        return logps[self.rows]


class RecordedVerify(Verify):
    """As `steps.Verify`."""

    everywhere = True

    def __init__(self, source: RecordedSource, side: ARSide, width: int, room: int, never: Unwritten) -> None:
        """width: of proposals. room: of verified tokens."""
        self.source, self.model, self.side, self.never = source, source.model, side, never
        rows, device = len(source.memory.real), source.memory.real.device
        self.cache = source.model.new_cache(rows, room + width + 2, fixed=True)
        self.all_rows = torch.arange(rows, device=device)
        tokens = torch.full((rows, room), PAD, device=device)
        proposals = torch.full((rows, width), PAD, device=device)
        at_end = torch.zeros((rows, width + 1), dtype=torch.bool, device=device)
        self.blank = [tokens, torch.zeros_like(self.all_rows), proposals, at_end]  # inputs for finished rows
        self.replay = source.replay(self._pass)

    def begin(self) -> None:
        """Resets the state before the first token of new texts."""
        self.memory, self.rows = self.source.memory, self.all_rows
        self.replay.prepare(*self.blank)
        self.cache.birth.fill_(NEVER)

    def _pass(self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor) -> tuple[Tensor, ...]:
        self.cache.at = counts
        return self.run(tokens, counts, proposals, at_end)

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if kept is not None:
            self.rows = self.rows[kept]
        inputs = []
        for blank, given in zip(self.blank, (tokens, counts, proposals, at_end), strict=True):
            wide = given if given.dim() == 1 else F.pad(given, (0, blank.shape[1] - given.shape[1]))  # PAD, False
            inputs.append(blank.index_copy(0, self.rows, wide))
        best, logps = self.replay(*inputs)
        shape = slice(None, at_end.shape[1])
        return best[self.rows, shape], logps[self.rows, shape]


class RecordedDraft(Draft):
    """As `steps.Draft`, for a recorded source."""

    def __init__(self, source: RecordedSource, lengths: Tensor, most: Tensor, options: Decoding) -> None:
        super().__init__(source.model, source.memory, lengths, most, options)
        self.source = source

    def write(self, known: Tensor, asked: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        if len(sentences) < len(self.lengths):
            rows = torch.full((len(self.lengths), known.shape[1]), PAD, device=known.device)
            known = rows.index_copy(0, sentences, known)
            asked = torch.zeros_like(rows, dtype=torch.bool).index_copy(0, sentences, asked)
        written, _, passes = self.source.mask_predict(known, self.options.draft_iters, only=asked, never=self.never)
        return written[sentences], passes[sentences]
