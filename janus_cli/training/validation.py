"""Validation: every loss term on all pairs that fit its limits, scores of AR and NAR on sentences from all over."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from janus_cli.core.batch import EOS, UNK, pad
from janus_cli.core.generate import generate
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.batching import epoch_batches, load_batch
from janus_cli.data.filters import with_losses
from janus_cli.data.prepared import Prepared
from janus_cli.device import StopSignal, World
from janus_cli.recipe import Recipe
from janus_cli.scoring.judge import Judge
from janus_cli.scoring.references import prepared_references
from janus_cli.training.log import Means

SEED = 1  # of the choice of sentences: the same for all runs, so that their scores can be compared


def sample(size: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. size - 1, in order: one drawn from each of as many equal parts."""
    if most >= size:
        return list(range(size))
    draw = random.Random(SEED)
    edges = [part * size // most for part in range(most + 1)]
    return [draw.randrange(first, end) for first, end in pairwise(edges)]


def scoring_of(judge: Judge, recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    """What scores of a validation can be compared by: the judge, and how many sentences, if not all, are decoded."""
    count = recipe.training.valid_sentences
    return {**judge.plain, **({"sentences": count} if count < len(prepared.valid) else {})}


def validate(
    model: Transformer, recipe: Recipe, prepared: Prepared, judge: Judge, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    """Terms in nats per unit, without label smoothing and with the same noise every time; as METRIC_ar the score of
    greedy AR, as METRIC_nar that of mask-predict with the recipe's iterations and a length beam of 1, and as METRIC
    the mean of these sides.
    `unk_SIDE` and `limited_SIDE`: the share of outputs that contain <unk>, and of those that the limit has shaped.

    Stops at a signal, between batches, and then returns nothing.
    """
    metrics = _terms(model, recipe, prepared, device, stop)
    sides = OBJECTIVES[recipe.objective.name].sides
    rows = sample(len(prepared.valid), recipe.training.valid_sentences)
    sources = [prepared.valid.pair(row)[0][: recipe.reads].tolist() for row in rows]  # cut, as `janus decode` does
    options = replace(recipe.decoding.one_best, beam=1, length_beam=1, rerank="none")
    order = sorted((place for place, ids in enumerate(sources) if ids), key=lambda place: len(sources[place]))
    decoded: dict[str, list[list[int]]] = {side: [[]] * len(rows) for side in sides}
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
    references, target = prepared_references(prepared.folder, "valid", rows), prepared.tokenizers.target
    scores = {side: judge.score(target.decode(ids), references).value for side, ids in decoded.items()}
    return {
        **metrics, **{name: count / len(rows) for name, count in odd.items()},
        **{f"{judge.metric}_{side}": value for side, value in scores.items()},
        judge.metric: fmean(scores.values()),
    }  # fmt: skip


@torch.no_grad()
def _terms(
    model: Transformer, recipe: Recipe, prepared: Prepared, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    objective, means = OBJECTIVES[recipe.objective.name], Means()
    knobs = replace(recipe.objective, label_smoothing=0.0)
    store = prepared.valid.only(with_losses(prepared.valid, recipe.data))
    model.eval()
    for rows in epoch_batches(store, recipe.training.batch_tokens, 0, 0):
        if stop.number:
            break
        batch = load_batch(store, rows)
        plan = objective.plan(batch, Draws(recipe.seed, -1, batch.ids), knobs)
        terms = objective.loss(model, batch.to(device), plan.to(device), knobs)
        means.add({name: term._replace(total=term.total.double()) for name, term in terms.items()}, plan.counts)
    model.train()
    loss, metrics = means.over(World(0, 1, device))
    return {"loss": loss, **metrics}
