"""The Python API: a Translator turns texts into results, in batches of about equal length, and keeps their order."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from janus_cli.console import counted
from janus_cli.core.knobs import Precision
from janus_cli.core.search import Iteration, Output
from janus_cli.core.symbols import EOS, UNK, padded
from janus_cli.core.weights import Weights
from janus_cli.core.writing import most_tokens
from janus_cli.data.lines import cleaner
from janus_cli.data.tokenizer import Tokenizer, Tokenizers
from janus_cli.decoding.modes import Plan, choose, modes, must_be_ids, own_recipe
from janus_cli.device import keep_freed_memory, name_device
from janus_cli.engines.engine import Engine, Ids
from janus_cli.errors import (
    CheckpointError,
    DataError,
    NonFiniteError,
    OutOfMemoryError,
    UsageError,
    check_machine,
    from_system,
    is_about_memory,
)
from janus_cli.runs import Run
from janus_cli.training import draft_head
from janus_cli.training.checkpoint import read_checkpoint, read_state, read_weights, tokenizers_of

if TYPE_CHECKING:
    import torch

    from janus_cli.core.model import Transformer
    from janus_cli.decoding.likelihood import Score

# Lines are sorted by length within windows of this many batches, which bounds memory and what an interruption loses.
WINDOW_BATCHES = 16
EMPTY = Output([], [], 0.0, 0)
DIGITS = 6  # decimals of scores and log-probabilities in output files


class Pieces(dict[int, str]):
    """The pieces of some ids, instead of their tokenizer."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self[index] for index in ids]


@dataclass(frozen=True)
class Result:
    """One input text and its hypotheses, best first; an empty text gives an empty hypothesis. index: from 0.

    read, unknown, cut: the source's tokens that the model read, those of them that its tokenizer does not know, and
    those beyond what it can read.
    """

    index: int
    source: str
    outputs: list[Output]
    texts: list[str]
    tokenizer: Tokenizer | Pieces = field(repr=False, compare=False)
    read: int = 0
    unknown: int = 0
    cut: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled has the pieces of its own ids, not the tokenizer, which is large."""
        rows = [row for each in self.outputs for row in (each.tokens, *(passed.tokens for passed in each.trace))]
        used = sorted({index for row in rows for index in row})
        return {**vars(self), "tokenizer": Pieces(zip(used, self.tokenizer.pieces(used), strict=True))}

    @property
    def text(self) -> str:
        return self.texts[0]

    @property
    def tokens(self) -> list[str]:
        """The pieces of the best hypothesis, without </s>."""
        return self.tokenizer.pieces(self.outputs[0].tokens)

    @property
    def score(self) -> float:
        """What hypotheses are ranked by, as docs/decoding.md says of each mode; for `ar` and `spec` log-probability /
        length ** length_penalty."""
        return self.outputs[0].score

    @property
    def logps(self) -> list[float]:
        """The log-probability of each token in nats; left to right, then that of </s>."""
        return self.outputs[0].logps

    @property
    def passes(self) -> int:
        """Decoder passes."""
        return self.outputs[0].passes

    @property
    def trace(self) -> tuple[Iteration, ...]:
        """Each pass of mask-predict, if asked for: its tokens (ids), their logps, which are hidden again, and
        which of these because they repeat."""
        return self.outputs[0].trace

    @property
    def nbest(self) -> list[Result]:
        """Each hypothesis as a `Result` of its own, best first."""
        pairs = zip(self.outputs, self.texts, strict=True)
        return [replace(self, outputs=[output], texts=[text]) for output, text in pairs]

    def record(self, *, full: bool, traced: bool = False) -> dict[str, Any]:
        """index, source, the fields of the best hypothesis, and, if there are several, all of them as `nbest`.

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
                    **({"repeated": iteration.repeated} if any(iteration.repeated) else {}),
                }
                for number, iteration in enumerate(output.trace, 1)
            ]  # fmt: skip
        return fields


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def as_text(record: dict[str, Any], nbest: int = 1) -> bytes:
    """A record as plain text: the best hypothesis; with `nbest` > 1, `index<TAB>score<TAB>text` for each."""
    if nbest == 1:
        return f"{record['hypothesis']}\n".encode()
    return "".join(
        f"{record['index']}\t{each['score']:.{DIGITS}f}\t{each['hypothesis']}\n"
        for each in record.get("nbest", [record])
    ).encode()


@dataclass
class Timing:
    """Cost of decoding: wall-clock seconds of each batch, setting up aside, and totals of sentences, tokens and passes.

    counts: what is worth a word at the end (`notes.tell`). Source tokens that were `read`, and those of them that are
    `unknown` to the tokenizer; the others count lines. cut: the source was cut. unk: the best output has an <unk>.
    limit: it may be cut by the length limit (`Output.limited`); max_length: of these, where the model's positions were
    that limit. long: its length was predicted, and is above the limit. fewer: there are fewer hypotheses than `nbest`.
    """

    seconds: list[float] = field(default_factory=list)
    sentences: int = 0
    tokens: int = 0
    passes: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def latency(self) -> tuple[float, float]:
        """Mean and 95th percentile (nearest rank) over batches, in seconds."""
        if not self.seconds:
            return 0.0, 0.0
        return float(np.mean(self.seconds)), float(np.percentile(self.seconds, 95, method="inverted_cdf"))


class Translator:
    """A model with its tokenizers and its default decoding options.

    traced: the number of first lines that keep every pass of mask-predict. longest: tokens that it reads of a line, the
    rest is cut. scores: whether they are asked for (see `translate`). advance: called with the number of lines in each
    decoded batch, for a progress bar.
    """

    def __init__(
        self, generator: Engine, tokenizers: Tokenizers, plan: Plan, traced: int = 0, *, scores: bool = True
    ) -> None:
        must_be_ids(plan.options, tokenizers.target.size)
        self.generator, self.tokenizers, self.plan, self.traced = generator, tokenizers, plan, traced
        self.scores = scores
        self.longest = plan.recipe.reads
        self.timing = Timing()
        self.limiting = plan.limiting
        self._chosen: tuple[dict[str, Any] | None, Plan] = None, plan
        self.advance: Callable[[int], None] = lambda count: None

    def translate(
        self, texts: Iterable[str], *, trace: bool = False, scores: bool = True, **options: Any
    ) -> list[Result]:
        """A result for each text, in order.

        trace: keep every pass of mask-predict. scores: without, `score` is NaN and `logps` empty, and single texts may
        be searched for faster, greedily and by `spec`. options: of the recipe's decoding section, as `janus decode`
        takes them: mode, beam, iters, length_beam, nbest and so on.

        Raises:
            UsageError: an element is no text; no such option, a value out of bounds, or options that contradict each
                other or the model.
            OutOfMemoryError: a batch does not fit into memory.
        """
        return list(self.translate_lazily(texts, trace=trace, scores=scores, **options))

    def translate_lazily(
        self, texts: Iterable[str], *, trace: bool = False, scores: bool = True, **options: Any
    ) -> Generator[Result]:
        """`translate` for endless input: reads and decodes a window at a time. Options are checked at once."""
        read = checked(texts, "text")
        chosen = self._chosen  # once, as other threads may replace it
        if options != chosen[0]:  # checking them costs a sentence some time
            self._must_have(options.get("precision"))
            self._chosen = chosen = deepcopy(options), choose(self.plan.recipe, options)
        plan = chosen[1]
        fresh = Translator(self.generator, self.tokenizers, plan, sys.maxsize if trace else 0, scores=scores)
        cleaned = map(cleaner(plan.recipe.data.clean), read)
        return fresh.results(cleaned)

    def _must_have(self, precision: str | None) -> None:
        """Raises UsageError for a precision that the weights were not loaded for."""
        loaded = "bf16" if self.generator.in_bf16 else "float32"
        if precision in ("float32", "bf16") and precision != loaded:
            raise UsageError(f"the model was loaded in {loaded}", f"load it with precision {precision}")

    def __reduce__(self) -> Any:
        raise UsageError("a Translator cannot be pickled or copied", "load the run in each process")

    def results(self, lines: Iterable[str]) -> Generator[Result]:
        """The result of each line, in order; see `windows`."""
        return (result for window in self.windows(lines) for result in window)

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, hidden: Sequence[Collection[int]] | None = None
    ) -> list[Score]:
        """The probability of each target, given its source; that of <unk>, too, whatever `decoding.unk` says.

        With int8, which searches alone have, in float32.

        hidden: for each pair, the positions, from 0, of the target tokens that P_NAR and P_AUX predict; by default all.
        The other tokens are observed.

        Raises:
            UsageError: an element is no text, there are not as many targets as sources, or a target does not have such
                positions.
            DataError: a target has more tokens than the model has positions.
            OutOfMemoryError: a batch does not fit into memory.
        """
        from janus_cli.decoding import likelihood  # in torch

        clean = cleaner(self.plan.recipe.data.clean)
        source_ids, target_ids = (
            tokenizer.encode([clean(text) for text in checked(texts, what)])
            for what, tokenizer, texts in (
                ("source", self.tokenizers.source, sources),
                ("target", self.tokenizers.target, targets),
            )
        )
        chosen = [range(len(ids)) for ids in target_ids] if hidden is None else hidden
        room = self.plan.recipe.model.max_length - 2  # BOS and EOS
        if not len(source_ids) == len(target_ids) == len(chosen):
            hidden_too = "" if hidden is None else f", hidden places for {len(chosen):,}"
            raise UsageError(
                f"{counted(len(source_ids), 'source')}, {counted(len(target_ids), 'target')}{hidden_too}",
                "give one target for each source" + ", and its hidden places" * bool(hidden_too),
            )
        for index, (ids, places) in enumerate(zip(target_ids, chosen, strict=True)):
            if len(ids) > room:
                raise DataError(f"target {index} has {len(ids):,} tokens: the model has {room:,} positions")
            if any(not 0 <= place < len(ids) for place in places):
                raise UsageError(
                    f"hidden tokens of target {index}: it has {counted(len(ids), 'token')}, counted from 0"
                )
        model = self.generator.model
        scores: dict[int, Score] = {}
        for batch in self._batches(target_ids, range(len(target_ids))):
            rows = [target_ids[index] for index in batch]
            with _fitting(partial(len, batch)):
                source = self.generator.tensor(_padded([source_ids[index][: self.longest] for index in batch]))
                found = likelihood.token_logps_of(model, self.plan, source, rows, [chosen[i] for i in batch])
            for index, ids, logps in zip(batch, rows, found, strict=True):
                cut = max(0, len(source_ids[index]) - self.longest)
                scores[index] = likelihood.Score(self.tokenizers.target.pieces(ids), logps, cut)
        return [scores[index] for index in range(len(target_ids))]

    def windows(self, lines: Iterable[str], first: int = 0) -> Iterator[list[Result]]:
        """The results of all lines in order, a window of batches at a time; with batches of one, line by line.

        first: the index of the first line.
        """
        size = self.plan.options.batch_sentences
        remaining = iter(lines)
        while window := list(islice(remaining, size * WINDOW_BATCHES if size > 1 else 1)):
            yield self._window(first, window)
            first += len(window)

    def _window(self, first: int, lines: Sequence[str]) -> list[Result]:
        ids = self.tokenizers.source.encode(lines)
        sizes, ids = [len(row) for row in ids], [row[: self.longest] for row in ids]
        outputs = [[EMPTY]] * len(lines)
        written = [index for index, row in enumerate(ids) if row]
        self.advance(len(lines) - len(written))
        for batch in self._batches(ids, written):
            started = time.perf_counter() - self.generator.setting_up
            source, trace = _padded([ids[index] for index in batch]), first + min(batch) < self.traced
            how = self.plan.mode, self.plan.options, self.plan.recipe.ar_stream
            with _fitting(partial(self.generator.at_once, source, *how)):
                found = self.generator(source, *how, trace, self.scores or trace)
            _must_be_numbers(found)
            if not self.scores and not trace:  # also where the search computed them
                found = [[replace(output, logps=[], score=nan) for output in each] for each in found]
            self.timing.seconds.append(time.perf_counter() - self.generator.setting_up - started)
            for index, each in zip(batch, found, strict=True):
                outputs[index] = each
            self.advance(len(batch))
        texts = iter(self.tokenizers.target.decode([output.tokens for each in outputs for output in each]))
        self.timing.sentences += len(lines)
        self.timing.tokens += sum(len(best.tokens) for best, *_ in outputs)
        self.timing.passes += sum(best.passes for best, *_ in outputs)
        self.timing.counts.update(self._counted(ids, outputs))
        results = [
            Result(
                index, line, each, list(islice(texts, len(each))), self.tokenizers.target,
                read=len(row), unknown=row.count(UNK), cut=size - len(row),
            )
            for index, (line, each, row, size) in enumerate(zip(lines, outputs, ids, sizes, strict=True), first)
        ]  # fmt: skip
        for result in results:
            self.timing.counts.update(read=result.read, unknown=result.unknown, cut=int(result.cut > 0))
        return results

    def _counted(self, ids: Sequence[Sequence[int]], outputs: Sequence[Sequence[Output]]) -> Iterator[str]:
        """The `Timing.counts` of these sources, which are not empty where there is an output. Each name once a line."""
        plan, longest = self.plan, self.plan.recipe.model.max_length
        limits = most_tokens(np.array([*map(len, ids)], np.float32), longest, self.limiting).tolist()
        for source, limit, (best, *others) in zip(ids, limits, outputs, strict=True):
            if UNK in best.tokens:
                yield "unk"
            if best.limited:
                yield "limit"
                if limit == longest - 1:
                    yield "max_length"
            if len(best.tokens) >= limit:
                yield "long"
            if source and 1 + len(others) < plan.options.nbest:
                yield "fewer"

    def _batches(self, rows: Sequence[Sequence[int]], chosen: Iterable[int]) -> Iterator[list[int]]:
        """The indices of the chosen rows, in batches of about equal length."""
        order, size = sorted(chosen, key=lambda index: len(rows[index])), self.plan.options.batch_sentences
        return (order[start : start + size] for start in range(0, len(order), size))


def _padded(rows: Sequence[Sequence[int]]) -> Ids:
    """(B, S) sources: tokens, EOS, PAD."""
    return np.array(padded([[*row, EOS] for row in rows]), np.int64)


def checked(texts: Iterable[str], what: str) -> Iterator[str]:
    """The texts, each checked when it is read. what: a noun for one of them, for the message.

    Raises:
        UsageError: at once, if this is one text or no iterable; later, if an element is no text or no valid Unicode.
    """

    def check(index: int, text: object) -> str:
        if not isinstance(text, str):
            raise UsageError(f"{what} {index} is {_kind(text)}, not a text (str)", "give one text for each element")
        try:
            text.encode()
        except UnicodeEncodeError as problem:
            where = f"{what} {index} has half of a surrogate pair at character {problem.start}"
            raise UsageError(f"{where}, which is no Unicode text", "decode it with errors='replace'") from None
        return text

    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UsageError(f"the {what}s are {_kind(texts)}, not several texts", "give a list of texts: [text]")
    return map(check, count(), texts)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


@contextmanager
def _fitting(together: Callable[[], int]) -> Iterator[None]:
    """Turns running out of memory inside into an OutOfMemoryError that says how to lower the batch size.

    together: the number of sentences that were decoded at once.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as problem:  # torch.OutOfMemoryError is a RuntimeError
        if not is_about_memory(problem):
            raise
        sentences = together()
        raise OutOfMemoryError(
            f"a batch of {counted(sentences, 'sentence')} does not fit into memory: {problem}".split("\n")[0],
            f"--batch-sentences {sentences // 2}" if sentences > 1 else "a smaller --beam or --length-beam",
        ) from None


def load(
    run: str | Path | None = None, *, checkpoint: str | Path | None = None, device: str = "auto",
    precision: Precision | None = None,
) -> Translator:  # fmt: skip
    """A trained model, ready to translate. From now on, this process keeps memory that it has freed: the next batch
    needs it again.

    Args:
        run: a folder, also an exported one, its name under runs/, or pretrained:NAME; by default the newest run.
        checkpoint: best, last, step-000500, or a folder; by default best, else last.
        device: auto, cpu, cuda or cuda:N.
        precision: of weights and states; by default the recipe's. int8: of products while text is searched for.

    Raises:
        UsageError: there is no such run or device, or it may not be read.
        CheckpointError: there is no such checkpoint, or it is damaged.
        OutOfMemoryError, JanusError: it does not fit into memory; another failure of the system.
    """
    for name, given in (("run", run), ("checkpoint", checkpoint)):
        if not isinstance(given, str | Path | None):
            raise UsageError(f"the {name} is {_kind(given)}, not a name or a folder (str, Path)", "load('runs/NAME')")
    chosen = name_device(device)
    keep_freed_memory()
    changes = [f"decoding.precision={precision}"] if precision else []

    def read(found: Run, folder: Path) -> Translator:
        recipe = own_recipe(folder, changes)
        return read_translator(found, folder, choose(recipe, {}), chosen, head="spec" in modes(recipe))

    try:
        return read_checkpoint(Path(run) if run else None, Path(checkpoint) if checkpoint else None, read)
    except (OSError, MemoryError) as problem:
        check_machine(problem)
        raise (from_system(problem) if isinstance(problem, OSError) else None) or problem from None


def _must_be_numbers(found: Sequence[Sequence[Output]]) -> None:
    """Raises NonFiniteError if a search found nothing, or scores that are not numbers."""
    if any(not outputs or (outputs[0].logps and isnan(outputs[0].score)) for outputs in found):
        hint = "decode an earlier checkpoint (--checkpoint), or train again with a lower training.learning_rate"
        raise NonFiniteError("the model computes no probabilities (NaN): its training has diverged", hint)


def read_translator(
    run: Run, folder: Path, plan: Plan, device: str, trace: bool = False, *, head: bool = False
) -> Translator:
    """A translator with a checkpoint's model that decodes as planned. Torch is not imported if it can do without.

    head: read the draft head, if there is one, even if the plan has no use for it.

    Raises CheckpointError: see `read_model`.
    """
    weights, tokenizers = read_stored(run, folder, head=head or plan.drafts)
    by_torch = plan.without_graph(device.partition(":")[0], trace=trace)
    model = weights.model(device, plan.options.precision) if by_torch else weights
    return Translator(Engine(model), tokenizers, plan)


def read_model(
    run: Run, folder: Path, device: torch.device | str = "cpu", precision: Precision = "float32", *, head: bool = False,
) -> tuple[Transformer, Tokenizers]:  # fmt: skip
    """A checkpoint's model and the tokenizers of its run. head: whether the model gets its draft head, if there is one.

    Raises:
        CheckpointError: they do not belong together, or the checkpoint or the head is damaged.
    """
    weights, tokenizers = read_stored(run, folder, head=head)
    return weights.model(device, precision), tokenizers


def read_stored(run: Run, folder: Path, *, head: bool) -> tuple[Weights, Tokenizers]:
    """As `read_model`, without torch."""
    tokenizers = tokenizers_of(run, read_state(folder, CheckpointError))
    weights = read_weights(folder)
    if weights.vocabularies != (tokenizers.source.size, tokenizers.target.size):
        raise CheckpointError(f"{folder} was not trained with the tokenizer in {run.path}", "name its run with --run")
    return replace(weights, head=draft_head.read(run, folder, weights) if head else {}), tokenizers
