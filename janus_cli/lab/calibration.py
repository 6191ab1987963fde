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
        best, token = logs.max(1)
        confidence = best.double().exp().cpu()
        bins = (confidence * len(self.counts)).long().clamp(max=len(self.counts) - 1)
        self.counts.index_add_(0, bins, torch.ones_like(confidence))
        self.confidence.index_add_(0, bins, confidence)
        self.right.index_add_(0, bins, (token == labels).double().cpu())
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
        bins = zip(self.counts.tolist(), self.confidence.tolist(), self.right.tolist(), strict=True)
        return [(sure / count, right / count, count / self.tokens) for count, sure, right in bins if count]


def reliability(model: Transformer, recipe: Recipe, batches: Iterable[Batch], bins: int) -> dict[str, Reliability]:
    """That of every distribution which the recipe's objective trains, under its own noise, as validation draws it.

    A stream may hold two distributions: slots that others see predict one, query slots the other. Its name then names
    both, as `nar_aux` does. model: in eval mode, as loaded for decoding.
    """
    objective, device = OBJECTIVES[recipe.objective.name], model.output_weight.device
    sums: dict[tuple[str, bool], Reliability] = {}  # by stream, and whether query slots predict
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
                        into = sums.setdefault((name, query), Reliability.empty(bins))
                        _add(into, model, states[:, slots][labelled], stream.labels[:, slots][labelled])
    return {_name(name, query, (name, not query) in sums): each for (name, query), each in sums.items()}


def _add(sums: Reliability, model: Transformer, states: Tensor, labels: Tensor) -> None:
    """states: (N, D). labels: (N,). A bounded number of logits at a time."""
    size = at_once(model)
    for start in range(0, len(labels), size):
        logits = model.logits(states[start : start + size]).float()
        sums.add(logits.log_softmax(1), labels[start : start + size])


def _name(stream: str, query: bool, both: bool) -> str:
    """both: whether the stream's other slots predict, too."""
    names = stream.split("_")
    if not both:
        return stream
    return names[query] if len(names) == 2 else f"{stream}, {'query' if query else 'key'} slots"
