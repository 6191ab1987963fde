"""How sure a model is of its likeliest token, and how often that is right: reliability on labelled slots.

Every stream of an objective's plan is decoded on its own, teacher-forced, as `stream.join` keeps streams apart in
training; the slots that have a label predict it. So nothing here knows an objective, except for the stream of a
correction, which the model has to complete first.

    ECE = sum over bins b of  n_b / N  |accuracy_b - confidence_b|       (Guo et al., 2017)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_cli.core.batch import Batch
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.objectives.correction import corrected
from janus_cli.core.steps import at_once
from janus_cli.recipe import Recipe


@dataclass(frozen=True)
class Reliability:
    """Of the predictions of one distribution: their number, and means over them; nats: of -log p(label).

    ece: expected calibration error. points: mean confidence, accuracy and share of the predictions, of every bin of
    confidence that has some.
    """

    tokens: int
    accuracy: float
    confidence: float
    nats: float
    ece: float
    points: list[tuple[float, float, float]]

    @classmethod
    def of(cls, predictions: Tensor, bins: int) -> Reliability:
        """predictions: (N, 3) float64, of each its confidence, 1 where right, -log p(label). bins: equally wide."""
        confidence, right, nats = predictions.T
        places = (confidence * bins).long().clamp(max=bins - 1)
        counts, sure, hits = (
            torch.bincount(places, each, bins).double() for each in (torch.ones_like(right), confidence, right)
        )
        total = len(predictions)
        table = zip(counts.tolist(), sure.tolist(), hits.tolist(), strict=True)
        return cls(
            total, float(right.mean()), float(confidence.mean()), float(nats.mean()),
            float((hits - sure).abs().sum()) / total,
            [(each / count, hit / count, count / total) for count, each, hit in table if count],
        )  # fmt: skip


def reliability(model: Transformer, recipe: Recipe, batches: Iterable[Batch], bins: int) -> dict[str, Reliability]:
    """That of every distribution which the recipe's objective trains, under its own noise, as validation draws it.

    A stream may hold two distributions: slots that others see predict one, query slots the other. Its name then names
    both, as `nar_aux` does. model: in eval mode, as loaded for decoding.
    """
    objective, device = OBJECTIVES[recipe.objective.name], model.output_weight.device
    found: dict[tuple[str, bool], list[Tensor]] = {}  # by stream, and whether query slots predict
    with torch.inference_mode():
        for batch in batches:
            plan = objective.plan(batch, Draws(recipe.seed, -1, batch.ids), recipe.objective).to(device)
            there = batch.to(device)
            memory = model.encode(there.source if plan.source is None else plan.source.tokens, there.source_real)
            streams = dict(plan.streams)
            if "correct" in streams:  # planned with the reference; the model's own guesses take its place
                streams["correct"] = corrected(model, memory, streams["correct"], plan.drafts["guess"])
            for name, stream in streams.items():
                states = model.decode(stream, memory)  # (B, L, D)
                for query, slots in ((False, slice(0, stream.keys)), (True, slice(stream.keys, None))):
                    labelled = stream.labelled[:, slots]
                    if labelled.any():
                        made = predictions(model, states[:, slots][labelled], stream.labels[:, slots][labelled])
                        found.setdefault((name, query), []).append(made)
    return {
        _name(name, query, (name, not query) in found): Reliability.of(torch.cat(parts), bins)
        for (name, query), parts in found.items()
    }


def predictions(model: Transformer, states: Tensor, labels: Tensor) -> Tensor:
    """states (N, D), labels (N,) -> (N, 3), see `Reliability.of`; a bounded number of logits at a time."""
    parts = []
    for some, gold in zip(states.split(at_once(model)), labels.split(at_once(model)), strict=True):
        logs = model.logits(some).float().log_softmax(1)
        best, token = logs.max(1)
        nats = -logs.gather(1, gold[:, None])[:, 0]
        parts.append(torch.stack([best.double().exp(), (token == gold).double(), nats.double()], 1).cpu())
    return torch.cat(parts)


def _name(stream: str, query: bool, both: bool) -> str:
    """both: whether the stream's other slots predict, too."""
    names = stream.split("_")
    if not both:
        return stream
    return names[query] if len(names) == 2 else f"{stream}, {'query' if query else 'key'} slots"
