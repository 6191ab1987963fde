"""Validation: every loss term on all pairs that fit its limits, scores of AR and NAR on sentences from all over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from janus_cli.core.batch import EOS, UNK, pad
from janus_cli.core.generate import generate
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.batching import UNTRAINED, epoch_batches, load_batch, noised
from janus_cli.data.filters import with_losses
from janus_cli.data.lines import Lines
from janus_cli.data.prepared import Prepared
from janus_cli.data.references import prepared_references
from janus_cli.data.store import Store
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.device import StopSignal
from janus_cli.recipe import Recipe
from janus_cli.runs import text_name
from janus_cli.scoring import glge
from janus_cli.scoring.judge import Judge
from janus_cli.scoring.report import Output
from janus_cli.scoring.scores import Hypotheses, References
from janus_cli.training.log import Means
from janus_cli.world import World

SEED = 1  # of the choice of sentences: the same for all runs, so that their scores can be compared


def sample(size: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. size - 1, in order: one drawn from each of as many equal parts."""
    if most >= size:
        return list(range(size))
    draw = random.Random(SEED)
    edges = [part * size // most for part in range(most + 1)]
    return [draw.randrange(first, end) for first, end in pairwise(edges)]


def scoring_of(judge: Judge, recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """What two validations must share to be comparable: the judge, a task, and how many sentences, if not all."""
    count, task = recipe.training.valid_sentences, recipe.scoring.task
    return {
        **judge.plain,
        **({"task": task} if task else {}),
        **({"sentences": count} if count < len(prepared.valid) else {}),
    }


class Material(NamedTuple):
    """What validations read. with_losses: the pairs that have losses. sources, references: of what is decoded.

    task: see `scoring.task`. lines: the text of the sources, if the task pools the references of equal ones.
    """

    with_losses: Store
    sources: list[list[int]]
    references: list[list[str | None]]
    target: Tokenizer
    task: str | None
    lines: Output | None

    def score(self, outputs: Sequence[list[int]], judge: Judge) -> float:
        """The score of the decoded ids, by the same functions as `janus score`."""
        texts: Hypotheses = self.target.decode(outputs)
        references: References = self.references
        if self.task:
            named = [Output("outputs", texts)], [("valid", self.references)]
            ((_, texts),), ((_, references),) = glge.as_task(self.task, *named, self.lines)
        return judge.score(texts, references).value


def material(recipe: Recipe, prepared: Prepared) -> Material:
    """What validations read of the valid split; to be read once, for all validations of a training."""
    valid, rows = prepared.valid, sample(len(prepared.valid), recipe.training.valid_sentences)
    batch = noised(load_batch(valid, np.array(rows)), valid, recipe, UNTRAINED)
    lengths = (batch.source_real.sum(1) - 1).clamp(max=recipe.reads).tolist()  # cut, as `janus decode` does
    sources = [ids[:length] for ids, length in zip(batch.source.tolist(), lengths, strict=True)]
    references = prepared_references(prepared.folder, "valid", rows)
    task, lines = recipe.scoring.task, None
    if task and glge.TASKS[task].source:
        name = text_name("valid", "source")
        texts = list(Lines(prepared.folder / name))
        lines = Output(name, [texts[row] for row in rows])
    with_loss = valid.only(with_losses(valid, recipe.data))
    return Material(with_loss, sources, references, prepared.tokenizers.target, task, lines)


def validate(
    model: Transformer, recipe: Recipe, material: Material, judge: Judge, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    """Terms in nats per unit, without label smoothing and with the same noise every time; as METRIC_ar the score of
    greedy AR, as METRIC_nar that of mask-predict with the recipe's iterations and a length beam of 1, and as METRIC
    the mean of these sides.
    `unk_SIDE` and `limited_SIDE`: the share of outputs that contain <unk>, and of those that the limit may have cut.

    Stops at a signal, between batches, and then returns nothing.
    """
    metrics, sources = _terms(model, recipe, material.with_losses, device, stop), material.sources
    sides = recipe.objective.sides
    options = replace(recipe.decoding.one_best, beam=1, length_beam=1, rerank="none")
    order = sorted((place for place, ids in enumerate(sources) if ids), key=lambda place: len(sources[place]))
    decoded: dict[str, list[list[int]]] = {side: [[]] * len(sources) for side in sides}
    odd = {f"{what}_{side}": 0 for side in sides for what in ("unk", "limited")}
    for start in range(0, len(order), recipe.decoding.batch_sentences):
        if stop.number:
            return {}
        some = order[start : start + recipe.decoding.batch_sentences]
        source = pad([[*sources[place], EOS] for place in some]).to(device)
        for side in sides:
            how = options if side == "ar" else replace(options, min_length=0)  # which only ar reads
            outputs = generate(model, source, side, how, recipe.ar_stream)
            for place, (best, *_) in zip(some, outputs, strict=True):
                decoded[side][place] = best.tokens
                odd[f"unk_{side}"] += UNK in best.tokens
                odd[f"limited_{side}"] += best.limited
    scores = {side: material.score(ids, judge) for side, ids in decoded.items()}
    return {
        **metrics, **{name: count / len(sources) for name, count in odd.items()},
        **{f"{judge.metric}_{side}": value for side, value in scores.items()},
        judge.metric: fmean(scores.values()),
    }  # fmt: skip


@torch.no_grad()
def _terms(
    model: Transformer, recipe: Recipe, store: Store, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    objective, means = OBJECTIVES[recipe.objective.name], Means()
    knobs = replace(recipe.objective, label_smoothing=0.0)
    model.eval()
    for rows in epoch_batches(store, recipe.training.batch_tokens, 0, 0):
        if stop.number:
            break
        batch = noised(load_batch(store, rows), store, recipe, UNTRAINED)
        plan = objective.plan(batch, Draws(recipe.seed, UNTRAINED, batch.ids), knobs)
        terms = objective.loss(model, batch.to(device), plan.to(device), knobs)
        means.add({name: term._replace(total=term.total.double()) for name, term in terms.items()}, plan.counts)
    model.train()
    loss, metrics = means.over(World(0, 1, device))
    return {"loss": loss, **metrics}
