"""How good the model is now: every term on the whole validation split, BLEU both ways on a bounded sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from janus_cli.core.generate import generate
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.batching import epoch_batches, load_batch
from janus_cli.device import StopSignal
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.scoring.metrics import corpus_bleu

if TYPE_CHECKING:
    from janus_cli.core.search import Output
    from janus_cli.data.prepared import Prepared


def best_metric(recipe: Recipe) -> str:
    """The name of the number that decides which checkpoint is best.

    Raises:
        UsageError: training.best_metric is not a number that this objective's validation gives.
    """
    objective, chosen = OBJECTIVES[recipe.objective.name], recipe.training.best_metric
    names = [*(f"bleu_{side}" for side in objective.sides), "bleu", "loss", *objective.terms_with(recipe.objective)]
    if chosen != "auto" and chosen not in names:
        raise UsageError(
            f"training.best_metric {chosen} is not a validation metric of objective {recipe.objective.name}",
            f"choose one of {', '.join(names)}",
        )
    return names[0] if chosen == "auto" else chosen


def validate(
    model: Transformer, recipe: Recipe, prepared: Prepared, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    """Terms in nats per unit, without label smoothing and with the same noise every time; BLEU of greedy AR and of
    mask-predict with the recipe's iterations and a length beam of 1, and as `bleu` the mean of these sides.

    Looks between batches whether a signal came, and then returns nothing.
    """
    metrics = _terms(model, recipe, prepared, device, stop)
    objective = OBJECTIVES[recipe.objective.name]
    rows = np.arange(min(recipe.training.valid_sentences, len(prepared.valid)))
    lines = (prepared.folder / "valid.target.txt").read_bytes().split(b"\n")[: len(rows)]
    references = [line.decode() for line in lines]
    options = replace(recipe.decoding, beam=1, nbest=1, length_beam=1, rerank="none")
    ar_stream = recipe.ar_stream
    source_lengths = prepared.valid.lengths(0, len(rows))[0]
    order = np.argsort(source_lengths, kind="stable")
    decoded: dict[str, list[list[int]]] = {side: [[]] * len(rows) for side in objective.sides}
    for start in range(0, len(order), recipe.decoding.batch_sentences):
        if stop.number:
            return {}
        some = order[start : start + recipe.decoding.batch_sentences]
        source = load_batch(prepared.valid, some).source.to(device)
        for side in objective.sides:
            _place(decoded[side], some.tolist(), generate(model, source, side, options, ar_stream))
    for name, ids in decoded.items():
        metrics[f"bleu_{name}"] = corpus_bleu(prepared.tokenizers.target.decode(ids), [references])
    return {**metrics, "bleu": fmean(metrics[f"bleu_{side}"] for side in objective.sides)}


def _place(into: list[list[int]], rows: Sequence[int], outputs: list[list[Output]]) -> None:
    for row, best in zip(rows, outputs, strict=True):
        into[row] = best[0].tokens


@torch.no_grad()
def _terms(
    model: Transformer, recipe: Recipe, prepared: Prepared, device: torch.device, stop: StopSignal
) -> dict[str, float]:
    objective = OBJECTIVES[recipe.objective.name]
    knobs = replace(recipe.objective, label_smoothing=0.0)
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    weights: dict[str, float] = {}
    model.eval()
    for rows in epoch_batches(prepared.valid, recipe.training.batch_tokens, 0, 0):
        if stop.number:
            break
        batch = load_batch(prepared.valid, rows)
        plan = objective.plan(batch, Draws(recipe.seed, -1, batch.ids), knobs)
        for name, term in objective.loss(model, batch.to(device), plan.to(device), knobs).items():
            totals[name] = totals.get(name, 0.0) + float(term.total)
            counts[name] = counts.get(name, 0.0) + plan.counts[term.unit]
            weights[name] = term.weight
    model.train()
    metrics = {name: totals[name] / max(1.0, counts[name]) for name in totals}
    return {"loss": sum(weights[name] * value for name, value in metrics.items()), **metrics}
