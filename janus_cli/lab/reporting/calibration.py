"""How sure a model is of its best token, and how often it is right: reliability on labelled slots, teacher-forced.

Every stream of an objective's plan is decoded on its own, as `stream.join` keeps streams apart in training; the slots
that have a label predict, and the label says whether they were right. So this knows no objective, but for the stream
of a correction, which the model has to complete first.

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


@dataclass
class Reliability:
    """Sums over the predictions of one distribution, by bins of confidence that are equal in width.

    counts, confidence, right: (bins,) float64. nats: sum of -log p(label).
    """

    counts: Tensor
    confidence: Tensor
    right: Tensor
    nats: float = 0.0

    @classmethod
    def empty(cls, bins: int) -> Reliability:
        counts, confidence, right = torch.zeros(3, bins, dtype=torch.float64)
        return cls(counts, confidence, right)

    def add(self, logs: Tensor, labels: Tensor) -> None:
        """logs: (N, V) log-probabilities. labels: (N,)."""
        best, word = logs.max(1)
        sure = best.double().exp().cpu()
        right = (word == labels).double().cpu()
        bins = len(self.counts)
        place = (sure * bins).long().clamp(max=bins - 1)
        self.counts.index_add_(0, place, torch.ones_like(sure))
        self.confidence.index_add_(0, place, sure)
        self.right.index_add_(0, place, right)
        self.nats -= float(logs.gather(1, labels[:, None]).double().sum())

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(self.right.sum()) / max(1, self.tokens)

    @property
    def mean_confidence(self) -> float:
        return float(self.confidence.sum()) / max(1, self.tokens)

    @property
    def mean_nats(self) -> float:
        return self.nats / max(1, self.tokens)

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        return float((self.right - self.confidence).abs().sum()) / max(1, self.tokens)

    @property
    def points(self) -> list[tuple[float, float, float]]:
        """Mean confidence, accuracy and share of the predictions, of every bin that has some."""
        rows = zip(self.counts.tolist(), self.confidence.tolist(), self.right.tolist(), strict=True)
        return [(sure / count, right / count, count / self.tokens) for count, sure, right in rows if count]


def reliability(model: Transformer, recipe: Recipe, batches: Iterable[Batch], bins: int) -> dict[str, Reliability]:
    """Of every distribution that the recipe's objective trains, under its own noise, as validation draws it.

    A stream may hold two distributions: slots that others see predict one, query slots the other. Its name is then
    that of both, as `nar_aux` is. model: in eval mode, as it comes from `decoding.where.load`.
    """
    objective, device = OBJECTIVES[recipe.objective.name], model.output_weight.device
    found: dict[tuple[str, bool], Reliability] = {}
    with torch.inference_mode():
        for batch in batches:
            plan = objective.plan(batch, Draws(recipe.seed, -1, batch.ids), recipe.objective).to(device)
            there = batch.to(device)
            memory = model.encode(there.source if plan.source is None else plan.source.tokens, there.source_real)
            streams = dict(plan.streams)
            if "correct" in streams:  # as planned, it holds the answers: the model's own words take their places
                streams["correct"] = corrected(model, memory, streams["correct"], plan.drafts["guess"])
            for name, stream in streams.items():
                states = model.decode(stream, memory)  # (B, L, D)
                for query, part in ((False, slice(0, stream.keys)), (True, slice(stream.keys, None))):
                    asked = stream.labelled[:, part]
                    sums = found.setdefault((name, query), Reliability.empty(bins))
                    _add(sums, model, states[:, part][asked], stream.labels[:, part][asked])
    return _named({key: sums for key, sums in found.items() if sums.tokens})


def _add(sums: Reliability, model: Transformer, states: Tensor, labels: Tensor) -> None:
    """states (N, D), labels (N,); a bounded number of logits at a time."""
    size = at_once(model)
    for start in range(0, len(labels), size):
        logits = model.logits(states[start : start + size]).float()
        sums.add(logits.log_softmax(1), labels[start : start + size])


def _named(found: dict[tuple[str, bool], Reliability]) -> dict[str, Reliability]:
    names: dict[str, Reliability] = {}
    for (name, query), sums in found.items():
        parts = name.split("_")
        if (name, not query) not in found:
            names[name] = sums
        elif len(parts) == 2:
            names[parts[query]] = sums
        else:
            names[f"{name}, {'query' if query else 'key'} slots"] = sums
    return names
