"""Validation: every loss term on all pairs that fit its limits, BLEU of AR and NAR on the split's first sentences."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import numpy as np
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
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.scoring.metrics import corpus_bleu
from janus_cli.training.log import Means


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
    `unk_SIDE` and `limited_SIDE`: the share of outputs that contain <unk>, and of those that the limit has shaped.

    Stops at a signal, between batches, and then returns nothing.
    """
    metrics = _terms(model, recipe, prepared, device, stop)
    objective = OBJECTIVES[recipe.objective.name]
    rows = np.arange(min(recipe.training.valid_sentences, len(prepared.valid)))
    lines = (prepared.folder / "valid.target.txt").read_bytes().split(b"\n")[: len(rows)]
    references = [line.decode() for line in lines]
    options = replace(recipe.decoding.one_best, beam=1, length_beam=1, rerank="none")
    sources = [prepared.valid.pair(row)[0][: recipe.reads].tolist() for row in rows.tolist()]
    order = sorted((row for row in rows.tolist() if sources[row]), key=lambda row: len(sources[row]))
    decoded: dict[str, list[list[int]]] = {side: [[]] * len(rows) for side in objective.sides}
    odd = {f"{what}_{side}": 0 for side in objective.sides for what in ("unk", "limited")}
    for start in range(0, len(order), recipe.decoding.batch_sentences):
        if stop.number:
            return {}
        some = order[start : start + recipe.decoding.batch_sentences]
        source = pad([[*sources[row], EOS] for row in some]).to(device)
        for side in objective.sides:
            outputs = generate(model, source, side, options, recipe.ar_stream)
            for row, (best, *_) in zip(some, outputs, strict=True):
                decoded[side][row] = best.tokens
                odd[f"unk_{side}"] += UNK in best.tokens
                odd[f"limited_{side}"] += best.limited
    for name, ids in decoded.items():
        metrics[f"bleu_{name}"] = corpus_bleu(prepared.tokenizers.target.decode(ids), [references])
    metrics |= {name: count / len(rows) for name, count in odd.items()}
    return {**metrics, "bleu": fmean(metrics[f"bleu_{side}"] for side in objective.sides)}


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
