"""Decoding on a GPU without launching each kernel: passes of fixed shapes are recorded once and replayed (CUDA graphs).

A pass of a small batch is hundreds of kernels that take longer to launch than to run. A recording reads and writes
buffers that stay where they are, so sources, texts and caches are padded to a few sizes, and rows that have ended go on
being computed. Who attends is decided by the clock as ever: what is padded is never born. Texts are those of the other
steps up to rounding. Without a GPU nothing is recorded: the same functions run over the same buffers, as tests do it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import IGNORE, MASK, PAD
from janus_cli.core.knobs import ARSide
from janus_cli.core.search import mask_predict
from janus_cli.core.steps import AllTokens, at_once, log_probabilities
from janus_cli.core.stream import ar_stream as training_stream
from janus_cli.core.stream import framed

if TYPE_CHECKING:
    from janus_cli.core.model import Transformer
    from janus_cli.core.search.mask_predict import Update

MOST_ROWS = 128  # with more, launches matter less, rows that have ended cost more, and each shape keeps much memory
KEPT = 12_288  # source tokens, padding included, of all shapes of batches together, whose recordings are kept
STEP = 8  # tokens: lengths are padded to multiples of it

Function = Callable[..., tuple[Tensor, ...]]


def padded(length: int, most: int) -> int:
    """The length that a recording has for this one."""
    return min(most, -(-length // STEP) * STEP)


class Recorder:
    """Where the recordings of one device lie: they share their memory, because one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pool = torch.cuda.graph_pool_handle() if self.stream else None

    def record(self, function: Function, inputs: list[Tensor]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """How to run the function once more over the same inputs, and where its outputs will lie."""
        if self.stream is None:
            raise RuntimeError("only a GPU can record")
        now = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            function(*inputs)  # what a first call makes, such as room for matrix products, is no part of a recording
            graph = torch.cuda.CUDAGraph()  # not `with torch.cuda.graph`: that collects garbage first, for each shape
            graph.capture_begin(pool=self.pool)
            try:
                outputs = function(*inputs)
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()  # or nothing could run on this device any more
                raise
            graph.capture_end()
        now.wait_stream(self.stream)
        return graph.replay, outputs


class Replay:
    """A function of tensors of fixed shapes. What it returns holds until it is called again."""

    def __init__(self, recorder: Recorder, function: Function) -> None:
        self.recorder, self.function = recorder, function
        self.inputs: list[Tensor] = []
        self.again: Callable[[], None] | None = None
        self.outputs: tuple[Tensor, ...] = ()

    def prepare(self, *inputs: Tensor) -> None:
        """Makes the recording, if it is not made yet, with inputs like these: runs the function once."""
        if not self.inputs:
            own = [given.clone() for given in inputs]
            if self.recorder.stream is not None:
                self.again, self.outputs = self.recorder.record(self.function, own)
            self.inputs = own

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.prepare(*inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.again is None:
            return self.function(*self.inputs)
        self.again()
        return self.outputs

    def forget(self) -> None:
        """Frees the recording; the function, which mostly belongs to what holds this, would keep it alive."""
        self.inputs, self.outputs, self.again = [], (), None
        del self.function


class Recordings:
    """Of a model whose weights do not change any more."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.recorder = Recorder(model.output_weight.device)
        self.sources: OrderedDict[tuple[int, int], Source] = OrderedDict()

    def read(self, source: Tensor) -> Source:
        """Encodes (B, S) and returns what decodes it; it holds until the next source of its shape is read."""
        size = len(source), padded(source.shape[1], self.model.knobs.max_length)
        found = self.sources.pop(size, None)
        if found is None:
            found = Source(self.model, self.recorder)
            while self.sources and sum(rows * width for rows, width in [*self.sources, size]) > KEPT:
                self.sources.popitem(last=False)[1].forget()
        self.sources[size] = found
        found.encode(F.pad(source, (0, size[1] - source.shape[1]), value=PAD))
        return found

    def forget(self) -> None:
        """Frees all recordings."""
        while self.sources:
            self.sources.popitem()[1].forget()


class Source:
    """A batch of sources of one shape, encoded, and all that was recorded of how to decode it."""

    def __init__(self, model: Transformer, recorder: Recorder) -> None:
        self.model, self.recorder = model, recorder
        self.replays: list[Replay] = []
        self.encode = self.replay(self._encode)  # (B, S) -> nothing, but `memory` is then that of it
        self.recordings: dict[Hashable, Any] = {}

    def _encode(self, source: Tensor) -> tuple[Tensor, ...]:
        self.memory = self.model.encode(source, source != PAD)
        return ()

    def replay(self, function: Function) -> Replay:
        """A new one that ends with this source."""
        self.replays.append(Replay(self.recorder, function))
        return self.replays[-1]

    def known(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for this key, or is now."""
        if key not in self.recordings:
            self.recordings[key] = make()
        return self.recordings[key]

    def forget(self) -> None:
        """Frees all that was recorded at once: as they refer to each other, Python alone would do it at some time."""
        for replay in self.replays:
            replay.forget()
        self.replays.clear()
        self.recordings.clear()
        del self.encode

    def mask_predict(
        self, tokens: Tensor, iters: int, update: Update = "hidden", fan: int = 1, only: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `decoders.mask_predict`, all its passes in one go; tokens (B * fan, T)."""
        room = padded(tokens.shape[1], self.model.knobs.max_length - 2)

        def passes(tokens: Tensor, only: Tensor) -> tuple[Tensor, ...]:
            step = AllTokens(self.model, self.memory, everywhere=True)
            return mask_predict(step, tokens, iters, update=update, fan=fan, only=only, leaving=False)

        replay = self.known(("nar", room, iters, update, fan), lambda: self.replay(passes))
        wider = 0, room - tokens.shape[1]
        only = tokens == MASK if only is None else only
        written, logps, count = replay(F.pad(tokens, wider, value=PAD), F.pad(only, wider))
        return written[:, : tokens.shape[1]].clone(), logps[:, : tokens.shape[1]].clone(), count.clone()

    def ar_scores(self, tokens: Tensor, ar_stream: ARSide) -> Tensor:
        """As `generate.ar_scores`: (R, T) -> (R,)."""
        room = padded(tokens.shape[1], self.model.knobs.max_length - 2)

        def scores(tokens: Tensor) -> tuple[Tensor, ...]:
            stream = training_stream(framed(tokens), ar_stream)
            asking = slice(-tokens.shape[1] - 1, None)  # of the slots, those that predict
            states, labels = self.model.decode(stream, self.memory)[:, asking], stream.labels[:, asking]
            count = at_once(self.model)
            found = [
                log_probabilities(self.model, some).gather(1, gold.clamp(min=0)[:, None])[:, 0]
                for some, gold in zip(states.flatten(0, 1).split(count), labels.flatten().split(count), strict=True)
            ]
            real = labels != IGNORE
            return (torch.where(real, torch.cat(found).view(real.shape), 0.0).sum(1) / real.sum(1),)

        replay = self.known(("scores", room, len(tokens), ar_stream), lambda: self.replay(scores))
        (found,) = replay(F.pad(tokens, (0, room - tokens.shape[1]), value=PAD))
        return found.clone()
