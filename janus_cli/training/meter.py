"""Running sums of a training, for its log and its bar."""

from __future__ import annotations

import time
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from janus_cli.core.objectives import Plan, Term
from janus_cli.device import World


class Meter:
    """Running sums since the last log line. rate: FLOP/s of this rank's matrix products, see `product_rate`."""

    def __init__(self, world: World, rate: float) -> None:
        self.world, self.note, self.noted = world, "", 0.0
        self.rate = world.sums({"rate": rate})["rate"]
        self._clear()

    def _clear(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.updates, self.tokens, self.flops, self.norm, self.since = 0, 0.0, 0.0, 0.0, time.perf_counter()

    def add(self, terms: dict[str, Term], plan: Plan, weight: float) -> None:
        """Adds one micro-batch of this rank."""
        for name, term in terms.items():
            self.totals[name] = self.totals.get(name, torch.zeros(())).to(term.total) + weight * term.total.detach()
            self.counts[name] = self.counts.get(name, 0.0) + weight * plan.counts[term.unit]
            self.weights[name] = term.weight

    def end(self, counts: dict[str, float], norm: float) -> None:
        """Ends an update; counts are those of all ranks. norm: of its gradient, not finite where it was skipped."""
        self.updates, self.norm = self.updates + 1, norm if isfinite(norm) else self.norm
        self.tokens, self.flops = self.tokens + counts["tokens"], self.flops + counts["flops"]
        if time.perf_counter() - self.noted < 1.0:
            return  # reading the sums makes a GPU wait
        self.noted = time.perf_counter()
        speed = self.tokens / (self.noted - self.since)
        parts = [f"{name} {float(total) / max(1.0, self.counts[name]):.3f}" for name, total in self.totals.items()]
        self.note = f"{' '.join(parts)}  {speed:,.0f} tokens/s"

    def take(self) -> dict[str, Any]:
        """Means over all ranks since the last call: loss and terms in nats, target tokens/s, gradient norm.

        utilisation: the share of the machine's matrix-product rate that the step's own products come to. Where every
        update was skipped, there are no losses and no norm.
        """
        seconds = time.perf_counter() - self.since
        totals = self.world.sums({name: float(total) for name, total in self.totals.items()})
        counts = self.world.sums(self.counts)
        terms = {name: totals[name] / max(1.0, counts[name]) for name in totals}
        loss = sum(self.weights[name] * value for name, value in terms.items())
        values = {
            **({"loss": loss, "terms": terms, "norm": self.norm} if terms else {}),
            "tokens_per_second": self.tokens / seconds, "seconds_per_update": seconds / max(1, self.updates),
            "utilisation": self.flops / seconds / self.rate,
        }  # fmt: skip
        self._clear()
        return values
