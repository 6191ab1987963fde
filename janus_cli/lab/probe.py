"""Reads all that a run has for its report, and probes its model on sentences of the validation split: calibration,
lengths, a few traced decodes.

Calibration compares a model's confidence in its likeliest token with how often that is right, on labelled slots. Every
stream of an objective's plan is decoded on its own, teacher-forced. So nothing here depends on the objective, except
for the stream of CMLMC's correction, which the model has to complete first.

    ECE = sum over bins b of  n_b / N  |accuracy_b - confidence_b|       (Guo et al., 2017)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from janus_cli import documents, recipe_load
from janus_cli.core.batch import Batch
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.objectives.correction import corrected
from janus_cli.core.search.mask_predict import predicted_lengths
from janus_cli.core.steps import at_once
from janus_cli.data.batching import UNTRAINED, Lengths, load_batch, noised
from janus_cli.data.filters import with_losses
from janus_cli.data.prepared import missing_split, prepared_file
from janus_cli.data.store import Store, store_files
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Translator, read_model
from janus_cli.engines.engine import Engine
from janus_cli.errors import CheckpointError, JanusError, NonFiniteError
from janus_cli.lab import logbook
from janus_cli.lab.logbook import Curve, Logbook
from janus_cli.lab.plots import Look
from janus_cli.lab.rows import references_of, sentences
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring import inputs
from janus_cli.scoring.judge import judge_of_run
from janus_cli.scoring.scores import References, Score
from janus_cli.training.checkpoint import read_checkpoint, read_state, steps

SPLIT = "valid"
TRACED = 3  # sentences decoded and shown
BINS = 10  # of confidence, equal in width (Guo et al. 2017, figure 1)
SEED = 1  # of the choice of sentences
COLUMNS = 110  # of a trace; narrower screens scroll
Read = TypeVar("Read")


@dataclass(frozen=True)
class Reliability:
    """Calibration of one distribution: number of predictions, and means over them; nats: of -log p(label).

    points: mean confidence, accuracy and share of the predictions, for every non-empty bin of confidence.
    """

    tokens: int
    accuracy: float
    confidence: float
    nats: float
    ece: float
    points: list[tuple[float, float, float]]

    @classmethod
    def of(cls, predictions: Tensor) -> Reliability:
        """predictions: (N, 3) float64: confidence, 1 if right else 0, -log p(label)."""
        if not predictions.isfinite().all():
            raise NonFiniteError("the model computes no probabilities (NaN): its training has diverged")
        confidence, right, nats = predictions.T
        places, total = (confidence * BINS).long().clamp(max=BINS - 1), len(predictions)
        counts, sure, hits = (
            torch.bincount(places, each, BINS).double() for each in (torch.ones_like(right), confidence, right)
        )
        table = zip(counts.tolist(), sure.tolist(), hits.tolist(), strict=True)
        return cls(
            total, float(right.mean()), float(confidence.mean()), float(nats.mean()),
            float((hits - sure).abs().sum()) / total,
            [(each / count, hit / count, count / total) for count, each, hit in table if count],
        )  # fmt: skip


@dataclass(frozen=True)
class TracedSentence:
    """A sentence, counted from 0. decodes: the label of a decoding mode, what it wrote, and the lines of its trace."""

    index: int
    source: str
    reference: str
    decodes: list[tuple[str, str, list[str]]]


@dataclass(frozen=True)
class Probe:
    """What one checkpoint predicted.

    sentences: how many were read, and how many there are. lengths: predicted and real target tokens of each sentence;
    None without a length head.
    """

    checkpoint: str
    step: Any
    sentences: tuple[int, int]
    reliability: dict[str, Reliability]
    lengths: tuple[Lengths, Lengths] | None
    traced: list[TracedSentence]


@dataclass
class RunReport:
    """The data of one run for the page. missing: why recipe, log, manifest, lengths or probe is missing.

    train, valid: curves of the log. lengths: of every source and target of the training split, tokens without EOS.
    decoded: summaries of its decoded splits, each with its `score`, if it has one. damage: what is wrong with its
    checkpoint, if anything.
    """

    label: str
    run: Run
    look: Look
    recipe: Recipe | None = None
    log: Logbook = field(default_factory=Logbook)
    train: dict[str, Curve] = field(default_factory=dict)
    valid: dict[str, Curve] = field(default_factory=dict)
    manifest: dict[str, Any] | None = None
    lengths: tuple[Lengths, Lengths] | None = None
    probe: Probe | None = None
    decoded: Sequence[Mapping[str, Any]] = ()
    missing: dict[str, str] = field(default_factory=dict)
    damage: str = ""


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, or its path if two folders have the same name."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def gather(label: str, run: Run, look: Look, device: torch.device, sentences: int) -> RunReport:
    """Reads all that a run has; its best (or last) checkpoint predicts `sentences` of the validation split."""
    report = RunReport(label, run, look)

    def attempt(name: str, read: Callable[[], Read]) -> Read | None:
        """What `read` returns; None if it fails, and the reason goes into `missing`."""
        try:
            return read()
        except torch.OutOfMemoryError as problem:
            report.missing[name] = str(problem).split("\n")[0]
        except JanusError as problem:
            report.missing[name] = problem.message
            if isinstance(problem, CheckpointError) and any(steps(run.checkpoints)):
                report.damage = problem.message
        except OSError as problem:
            report.missing[name] = f"{problem.filename or run.path}: {problem.strerror}"
        return None

    recipe = report.recipe = attempt("recipe", lambda: recipe_load.load(str(run.recipe)))
    report.log = attempt("log", lambda: logbook.read(run.log)) or report.log
    report.train, report.valid = report.log.curves("train"), report.log.curves("valid")
    report.manifest = attempt("manifest", run.read_manifest)
    files = sorted(run.decoded.glob("*.json"))
    summaries = attempt("decoded", lambda: [documents.read(each, documents.DecodedSplit) for each in files]) or ()
    scores = [attempt(f"score of {each.name}", partial(score_of, run, each)) for each in files]
    report.decoded = [{**each, "score": score} for each, score in zip(summaries, scores, strict=False)]
    if recipe is None or report.manifest is None:
        reason = report.missing["manifest" if recipe else "recipe"]
        report.missing |= {"lengths": reason, "probe": reason}
        return report
    report.lengths = attempt("lengths", lambda: open_store(run, recipe, "train").lengths())
    report.probe = attempt("probe", lambda: read_checkpoint(run.path, None, partial(probe, sentences, device)))
    return report


def score_of(run: Run, summary: Path) -> Score | None:
    """The score of a decoded split by the metric of the run; None without references. summary: its `DecodedSplit`."""
    hypotheses, files = inputs.decoding_of(summary)
    references = [column for each in files for column in inputs.read_references(each)]
    judge = judge_of_run(run, text=[text for column in references for text in column if text])
    return judge.score(inputs.read_hypotheses(hypotheses), references) if references else None


def probe(count: int, device: torch.device, run: Run, folder: Path) -> Probe:
    """Probes the checkpoint in `folder` on `count` sentences of the validation split, the same ones every time."""
    recipe = own_recipe(folder, ())
    store = open_store(run, recipe, SPLIT)
    texts = sentences(run, recipe, SPLIT), references_of(run, recipe, SPLIT)
    model, tokenizers = read_model(run, folder, device)
    usable, size = np.flatnonzero(with_losses(store, recipe.data)), recipe.decoding.batch_sentences
    chosen = usable[sampled(len(usable), count)]
    order = chosen[np.argsort(store.lengths()[0][chosen], kind="stable")]
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    batches = [noised(load_batch(store, some), store, recipe, UNTRAINED) for some in rows]
    return Probe(
        folder.name, read_state(folder).get("step"), (len(chosen), len(usable)),
        reliability(model, recipe, batches),
        predicted(model, batches) if recipe.objective.lengths else None,
        _traced(Engine(model), tokenizers, recipe, texts, spread(order, TRACED)),
    )  # fmt: skip


def open_store(run: Run, recipe: Recipe, split: str) -> Store:
    """A split of the data that a run was trained on. Raises DataError if it is gone or was changed."""
    paths = [prepared_file(run, recipe, name) for name in store_files(split)]
    if paths[0] is None:
        raise missing_split(run, split)
    return Store.open(paths[0].parent, split)


def sampled(count: int, most: int) -> Lengths:
    """Up to `most` of the numbers 0 .. count - 1, in order; the same ones every time."""
    if most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def spread(order: Lengths, count: int) -> list[int]:
    """Up to `count` of these, evenly spread, without the extremes; all different."""
    places = ((np.arange(count) + 1) * len(order) // (count + 1)).tolist() if len(order) else []
    return list(dict.fromkeys(int(order[place]) for place in places))


def reliability(model: Transformer, recipe: Recipe, batches: Iterable[Batch]) -> dict[str, Reliability]:
    """The calibration of each distribution that the objective trains, with its noise drawn as in validation.

    A stream may hold two distributions: its key slots predict one, its query slots the other. Its name then has both
    names, as in `nar_aux`. model: in eval mode, as loaded for decoding.
    """
    objective, device = OBJECTIVES[recipe.objective.name], model.output_weight.device
    found: dict[tuple[str, bool], list[Tensor]] = {}  # by stream, and whether query slots predict
    with torch.inference_mode():
        for batch in batches:
            plan = objective.plan(batch, Draws(recipe.seed, UNTRAINED, batch.ids), recipe.objective).to(device)
            there = batch.to(device)
            memory = model.encode(there.source if plan.source is None else plan.source.tokens, there.source_real)
            streams = dict(plan.streams)
            if "correct" in streams:  # planned with the reference; the model's own guesses take its place
                streams["correct"] = corrected(model, memory, streams["correct"], plan.drafts["guess"])
            for name, planned in streams.items():
                stream = planned.rows(len(there.source))  # R-Drop has every sentence twice
                states = model.decode(stream, memory)  # (B, L, D)
                for query, slots in ((False, slice(0, stream.keys)), (True, slice(stream.keys, None))):
                    labelled = stream.labelled[:, slots]
                    if labelled.any():
                        made = predictions(model, states[:, slots][labelled], stream.labels[:, slots][labelled])
                        found.setdefault((name, query), []).append(made)

    def title(stream: str, query: bool) -> str:
        names = stream.split("_")
        if (stream, not query) not in found:
            return stream
        return names[query] if len(names) == 2 else f"{stream}, {'query' if query else 'key'} slots"

    return {title(*key): Reliability.of(torch.cat(parts)) for key, parts in found.items()}


def predictions(model: Transformer, states: Tensor, labels: Tensor) -> Tensor:
    """states (N, D), labels (N,) -> (N, 3), see `Reliability.of`; a bounded number of logits at a time."""
    parts = []
    for some, gold in zip(states.split(at_once(model)), labels.split(at_once(model)), strict=True):
        logs = model.logits(some).float().log_softmax(1)
        best, token = logs.max(1)
        nats = -logs.gather(1, gold[:, None])[:, 0]
        parts.append(torch.stack([best.double().exp(), (token == gold).double(), nats.double()], 1).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def predicted(model: Transformer, batches: Sequence[Batch]) -> tuple[Lengths, Lengths]:
    """The likeliest target length of each sentence, as decoding takes it, and the real one; tokens without EOS."""
    guesses, real = [], []
    for batch in batches:
        there = batch.to(model.output_weight.device)
        logits = model.length_logits(model.encode(there.source, there.source_real))
        guesses += predicted_lengths(logits, 1, model.knobs.max_length - 2)[0][:, 0].tolist()
        real += batch.target_lengths.tolist()
    return np.array(guesses, np.int64), np.array(real, np.int64)


def _traced(
    generator: Engine, tokenizers: Tokenizers, recipe: Recipe, texts: tuple[list[str], References | None],
    rows: Sequence[int],
) -> list[TracedSentence]:  # fmt: skip
    """These sentences, each decoded autoregressively and non-autoregressively, if the objective has both sides."""
    sources, references = texts
    traced = [TracedSentence(row, sources[row], (references[0][row] if references else "") or "", []) for row in rows]
    single = replace(recipe, decoding=replace(recipe.decoding.one_best, precision="float32", engine="auto"))
    for side in recipe.objective.sides:
        plan = choose(single, {"mode": side})
        translator = Translator(generator, tokenizers, plan, traced=len(rows))
        results = translator.results([sources[row] for row in rows])
        for sentence, result in zip(traced, results, strict=True):
            trace = islice(shown(result, COLUMNS), 1, None)  # the first line repeats the source
            sentence.decodes.append((plan.label, result.text, list(trace)))
    return traced
