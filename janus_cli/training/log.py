"""The log of a training: log.jsonl always, TensorBoard if asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from os import SEEK_END
from pathlib import Path
from typing import Any

from torch import Tensor

from janus_cli import console
from janus_cli.core.objectives import Term
from janus_cli.world import World


class Log:
    """Appends one JSON object a line. A full disk costs a warning, not the training."""

    def __init__(self, path: Path | None, tensorboard: Path | None = None) -> None:
        """path None logs nothing (ranks other than the first)."""
        self.path, self.broken = path, False
        self.board: Any = None
        if tensorboard is not None and path is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(tensorboard))

    def write(self, kind: str, step: int, **values: Any) -> None:
        """kind: start, train, valid, skipped, saved, resumed, stopped or done."""
        if self.path is None:
            return
        line = json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
        try:
            with self.path.open("ab+") as file:
                if file.tell() and file.seek(-1, SEEK_END) and file.read() != b"\n":
                    file.write(b"\n")  # a power cut or a full disk has left half a line
                file.write(f"{line}\n".encode())
        except OSError as problem:
            if not self.broken:
                console.warn(f"{self.path} cannot be written ({problem.strerror}); training continues without a log")
            self.broken = True
        try:
            for name, value in flat(values, "/") if self.board is not None else ():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{name}", value, step)  # raises errors of its writing thread
        except OSError as problem:
            console.warn(f"TensorBoard's folder cannot be written ({problem.strerror}); training continues without it")
            self.board = None

    def close(self) -> None:
        if self.board is not None:
            with suppress(OSError):
                self.board.close()


def flat(values: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The items of nested mappings, keys joined."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, separator, f"{prefix}{name}{separator}")
        else:
            yield prefix + name, value


class Means:
    """The mean of each loss term over micro-batches, in nats per unit."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.weights: dict[str, float] = {}

    def add(self, terms: Mapping[str, Term], counts: Mapping[str, int], weight: float = 1.0) -> None:
        """counts: of each unit in this micro-batch."""
        for name, term in terms.items():
            self.totals[name] = self.totals.get(name, 0.0) + weight * term.total.detach()
            self.counts[name] = self.counts.get(name, 0.0) + weight * counts[term.unit]
            self.weights[name] = term.weight

    def over(self, world: World) -> tuple[float, dict[str, float]]:
        """The loss and the mean of each term, over all ranks; the loss is the weighted sum of these means."""
        totals = world.sums({name: float(total) for name, total in self.totals.items()})
        counts = world.sums(self.counts)
        terms = {name: totals[name] / max(1.0, counts[name]) for name in totals}
        return sum(self.weights[name] * value for name, value in terms.items()), terms


class Meter:
    """Loss and speed since the last log line. rate: FLOP/s of this rank's matrix products (`device.product_rate`)."""

    def __init__(self, world: World, rate: float) -> None:
        self.world, self.note, self.noted = world, "", 0.0
        self.rate = world.sums({"rate": rate})["rate"]
        self._clear()

    def _clear(self) -> None:
        self.means = Means()
        self.updates, self.tokens, self.flops, self.norm, self.since = 0, 0.0, 0.0, 0.0, time.perf_counter()

    def end(self, counts: Mapping[str, float], norm: float) -> None:
        """End an update. counts: over all ranks. norm: of its gradient, not finite if the update was skipped."""
        self.updates, self.norm = self.updates + 1, norm if isfinite(norm) else self.norm
        self.tokens, self.flops = self.tokens + counts["tokens"], self.flops + counts["flops"]
        if time.perf_counter() - self.noted < 1.0:
            return  # reading the sums waits for the GPU
        self.noted = time.perf_counter()
        speed = self.tokens / (self.noted - self.since)
        _, terms = self.means.over(World(0, 1, self.world.device))
        self.note = f"{' '.join(f'{name} {mean:.3f}' for name, mean in terms.items())}  {speed:,.0f} tokens/s"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count: the speed is that of updates."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def take(self) -> dict[str, Any]:
        """The values of a log line: means over all ranks since the last call, target tokens/s, last gradient norm.

        utilisation: FLOP/s of the updates' matrix products, as a share of what the machine can do. Losses and norm are
        left out if every update was skipped.
        """
        seconds = time.perf_counter() - self.since
        loss, terms = self.means.over(self.world)
        values = {
            **({"loss": loss, "terms": terms, "norm": self.norm} if terms else {}),
            "tokens_per_second": self.tokens / seconds, "seconds_per_update": seconds / max(1, self.updates),
            "utilisation": self.flops / seconds / self.rate,
        }  # fmt: skip
        self._clear()
        return values
