"""Lines -> results: sorts lines by length into batches, decodes them, and puts the results back in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from janus_cli.core.batch import EOS, pad
from janus_cli.core.generate import generate
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.plan import Plan
from janus_cli.device import is_about_memory
from janus_cli.errors import OutOfMemoryError

# Lines are sorted within windows of so many batches: memory is bounded, and so is what a stop loses.
WINDOW_BATCHES = 16
NOTHING = Output([], [], 0.0, 0)


@dataclass(frozen=True)
class Result:
    """One input line, from 0, and what became of it, best hypothesis first. An empty line gives an empty text."""

    index: int
    source: str
    outputs: list[Output]
    texts: list[str]


@dataclass
class Timing:
    """What decoding took. seconds: of each batch, from its start to its end."""

    seconds: list[float] = field(default_factory=list)
    sentences: int = 0
    tokens: int = 0
    passes: int = 0

    def latency(self) -> tuple[float, float]:
        """Mean and 95th percentile (nearest rank) over batches, in seconds."""
        if not self.seconds:
            return 0.0, 0.0
        return float(np.mean(self.seconds)), float(np.percentile(self.seconds, 95, method="inverted_cdf"))


class Translator:
    """A model with its tokenizers and a plan.

    traced: the first so many lines keep every pass of mask-predict. truncated: lines longer than the model reads.
    advance: called with a number of lines when these are decoded, for a bar.
    """

    def __init__(self, model: Transformer, tokenizers: Tokenizers, plan: Plan, traced: int = 0) -> None:
        self.model, self.tokenizers, self.plan, self.traced = model, tokenizers, plan, traced
        self.device = model.output_weight.device
        self.longest = model.knobs.max_length - 1  # EOS
        self.timing = Timing()
        self.truncated = 0
        self.advance: Callable[[int], None] = lambda count: None

    def windows(self, lines: Iterable[str], first: int = 0) -> Iterator[list[Result]]:
        """The results of all lines in order, some at a time; one at a time where a batch is one sentence.

        first: the number of the first line.
        """
        size = self.plan.options.batch_sentences
        numbered = enumerate(lines, first)
        while window := list(islice(numbered, size * WINDOW_BATCHES if size > 1 else 1)):
            yield self._window(window[0][0], [line for _, line in window])

    def _window(self, first: int, lines: Sequence[str]) -> list[Result]:
        ids = self.tokenizers.source.encode(lines)
        self.truncated += sum(len(row) > self.longest for row in ids)
        ids = [row[: self.longest] for row in ids]
        outputs = [[NOTHING]] * len(lines)
        order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row]))
        size = self.plan.options.batch_sentences
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            trace = any(first + row < self.traced for row in rows)
            for row, found in zip(rows, self._batch([ids[row] for row in rows], trace), strict=True):
                outputs[row] = found
            self.advance(len(rows))
        self.advance(len(lines) - len(order))
        texts = iter(self.tokenizers.target.decode([output.tokens for found in outputs for output in found]))
        self.timing.sentences += len(lines)
        self.timing.tokens += sum(len(found[0].tokens) for found in outputs)
        self.timing.passes += sum(found[0].passes for found in outputs)
        return [
            Result(first + row, line, found, list(islice(texts, len(found))))
            for row, (line, found) in enumerate(zip(lines, outputs, strict=True))
        ]

    def _batch(self, ids: list[list[int]], trace: bool) -> list[list[Output]]:
        started = time.perf_counter()
        plan = self.plan
        try:
            source = pad([[*row, EOS] for row in ids]).to(self.device)
            found = generate(self.model, source, plan.mode, plan.options, plan.ar_stream, trace)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not is_about_memory(problem):
                raise
            raise OutOfMemoryError(
                f"a batch of {len(ids)} sentences does not fit into memory: {problem}".split("\n")[0],
                f"--batch-sentences {max(1, len(ids) // 2)}",
            ) from None
        self.timing.seconds.append(time.perf_counter() - started)
        return found
