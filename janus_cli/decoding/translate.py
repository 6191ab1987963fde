"""Lines -> results: sorts lines by length into batches, decodes them, and puts the results back in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from janus_cli.core.batch import EOS, pad
from janus_cli.core.generate import Generator
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.data.tokenizer import Tokenizer, Tokenizers, load_tokenizers
from janus_cli.decoding.modes import Plan
from janus_cli.device import is_about_memory
from janus_cli.errors import CheckpointError, OutOfMemoryError
from janus_cli.runs import Run
from janus_cli.training.checkpoint import load_model

# Lines are sorted within windows of so many batches: memory is bounded, and so is what a stop loses.
WINDOW_BATCHES = 16
NOTHING = Output([], [], 0.0, 0)
DIGITS = 6  # of scores and log-probabilities that are written


@dataclass(frozen=True)
class Result:
    """One input line, from 0, and what became of it, best hypothesis first. An empty line gives an empty text."""

    index: int
    source: str
    outputs: list[Output]
    texts: list[str]
    tokenizer: Tokenizer = field(repr=False)

    @property
    def nbest(self) -> list[Result]:
        """A result of its own for each hypothesis, best first."""
        pairs = zip(self.outputs, self.texts, strict=True)
        return [replace(self, outputs=[output], texts=[text]) for output, text in pairs]

    def record(self, *, full: bool, traced: bool = False) -> dict[str, Any]:
        """index, source, the fields of the best hypothesis, and, where there are several, all of them as `nbest`.

        full: with tokens, ids, log-probabilities, length and passes; else text and score. traced: with each pass.
        """
        hypotheses = [hypothesis._fields(full, traced) for hypothesis in self.nbest]
        more = {"nbest": hypotheses} if len(hypotheses) > 1 else {}
        return {"index": self.index, "source": self.source, **hypotheses[0], **more}

    def _fields(self, full: bool, traced: bool) -> dict[str, Any]:
        output, pieces = self.outputs[0], self.tokenizer.pieces
        fields: dict[str, Any] = {"hypothesis": self.texts[0], "score": round(output.score, DIGITS)}
        if full:
            fields |= {
                "tokens": pieces(output.tokens), "ids": output.tokens, "logps": _rounded(output.logps),
                "length": output.length, "passes": output.passes,
            }  # fmt: skip
        if full and traced and output.trace:
            fields["trace"] = [
                {
                    "iteration": number, "tokens": pieces(iteration.tokens), "logp": _rounded(iteration.logps),
                    "hidden": iteration.hidden,
                }
                for number, iteration in enumerate(output.trace, 1)
            ]  # fmt: skip
        return fields


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def plain(record: dict[str, Any], nbest: int = 1) -> bytes:
    """A record's line of text; with `nbest` > 1 a line `index<TAB>score<TAB>text` for each hypothesis."""
    if nbest == 1:
        return f"{record['hypothesis']}\n".encode()
    return "".join(
        f"{record['index']}\t{each['score']:.{DIGITS}f}\t{each['hypothesis']}\n"
        for each in record.get("nbest", [record])
    ).encode()


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

    def __init__(self, generator: Generator, tokenizers: Tokenizers, plan: Plan, traced: int = 0) -> None:
        self.generator, self.tokenizers, self.plan, self.traced = generator, tokenizers, plan, traced
        self.device = generator.model.output_weight.device
        self.longest = generator.model.knobs.max_length - 1  # EOS
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
            Result(first + row, line, found, list(islice(texts, len(found))), self.tokenizers.target)
            for row, (line, found) in enumerate(zip(lines, outputs, strict=True))
        ]

    def _batch(self, ids: list[list[int]], trace: bool) -> list[list[Output]]:
        started = time.perf_counter()
        plan = self.plan
        try:
            source = pad([[*row, EOS] for row in ids]).to(self.device)
            found = self.generator(source, plan.mode, plan.options, plan.ar_stream, trace)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not is_about_memory(problem):
                raise
            raise OutOfMemoryError(
                f"a batch of {len(ids)} sentences does not fit into memory: {problem}".split("\n")[0],
                f"--batch-sentences {max(1, len(ids) // 2)}",
            ) from None
        self.timing.seconds.append(time.perf_counter() - started)
        return found


def read_model(
    run: Run, folder: Path, device: torch.device | str = "cpu", precision: Literal["float32", "bf16"] = "float32"
) -> tuple[Transformer, Tokenizers]:
    """A checkpoint's model and the tokenizers of its run.

    Raises:
        CheckpointError: they do not belong together, or the checkpoint is damaged.
    """
    model, tokenizers = load_model(folder, device, precision), load_tokenizers(run.path)
    sizes = model.source_table.num_embeddings, model.target_table.num_embeddings
    if sizes != (tokenizers.source.size, tokenizers.target.size):
        raise CheckpointError(f"{folder} was not trained with the tokenizer in {run.path}", "name its run with --run")
    return model, tokenizers
