"""Times training steps of several objectives and precisions against each other, in turns, in one process.

    python benchmarks/train_speed.py --recipe multi30k --prepared data/multi30k.de-en --objective ar --objective janus

Prints for each: seconds a step, target tokens/s, the share of this machine's matrix-product rate that the step's own
products come to, and which part of the time went into making batches and noise. Medians over the turns.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from janus_cli import recipe_file
from janus_cli.benching.measure import Spread, rotated
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.errors import JanusError
from janus_cli.text.prepare import open_prepared
from janus_cli.training.checkpoint import build_model
from janus_cli.training.distributed import keep_freed_memory, start_world
from janus_cli.training.log import Log
from janus_cli.training.loop import windows
from janus_cli.training.meter import Meter
from janus_cli.training.precision import product_rate
from janus_cli.training.saving import Position
from janus_cli.training.update import Micro, Trainee, make_optimizer, update

STEPS_A_TURN = 3


@dataclass
class Training:
    """One objective in one precision, ready to step, and what its steps took."""

    objective: str
    precision: Literal["float32", "bf16"]
    arguments: argparse.Namespace
    seconds: list[float] = field(default_factory=list)
    loading: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        objective, precision = self.objective, self.precision
        changes = [*self.arguments.changes, f"training.precision={precision}"]
        self.recipe = recipe_file.load(self.arguments.recipe, changes, objective)
        prepared = open_prepared(self.recipe, self.arguments.prepared)
        self.world, self.at = start_world(self.arguments.device), Position()
        torch.manual_seed(self.recipe.seed)
        sizes = prepared.train.source_vocabulary, prepared.train.target_vocabulary
        model = build_model(self.recipe, *sizes).to(self.world.device).train()
        self.trainee = Trainee(model, OBJECTIVES[objective])
        self.optimizer = make_optimizer(model, self.recipe.training)
        self.meter = Meter(self.world, product_rate(precision, self.world.device))
        self.batches: Iterator[list[Micro]] = windows(self.recipe, prepared, self.world, self.at)

    def turn(self, steps: int) -> None:
        """So many steps; the sums of all of them."""
        self.meter.take()
        started, loading = time.perf_counter(), 0.0
        for _ in range(steps):
            before = time.perf_counter()
            window = next(self.batches)
            loading += time.perf_counter() - before
            update(self.trainee, self.optimizer, window, self.recipe, self.world, self.at, self.meter, Log(None), 0)
        taken, values = time.perf_counter() - started, self.meter.take()
        self.seconds.append(taken / steps)
        self.loading.append(loading / taken)
        self.tokens.append(values["tokens_per_second"])
        self.utilisation.append(values["utilisation"])

    def forget(self) -> None:
        """The turns so far do not count."""
        for values in (self.seconds, self.loading, self.tokens, self.utilisation):
            values.clear()

    def summary(self) -> str:
        """One line."""
        seconds, tokens = Spread.of(self.seconds), Spread.of(self.tokens)
        return (
            f"{self.objective:6} {self.precision:8} {seconds.median:.3f} ({seconds.lowest:.3f}-{seconds.highest:.3f}) "
            f"s a step, {tokens.median:,.0f} target tokens/s, utilisation {Spread.of(self.utilisation).median:.0%}, "
            f"batches and noise {Spread.of(self.loading).median:.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="multi30k")
    parser.add_argument("--prepared", type=Path, default=Path("data/multi30k.de-en"))
    parser.add_argument("--objective", action="append", dest="objectives", choices=sorted(OBJECTIVES))
    parser.add_argument("--precision", action="append", dest="precisions", choices=("float32", "bf16"))
    parser.add_argument("--set", action="append", dest="changes", default=[], metavar="KEY=VALUE")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    trainings = [
        Training(objective, precision, arguments)
        for objective in arguments.objectives or ["ar", "janus"]
        for precision in arguments.precisions or ["float32", "bf16"]
    ]
    for training in trainings:
        training.turn(2)  # to warm up
        training.forget()
    for number in range(arguments.turns):
        for training in rotated(trainings, number):
            training.turn(STEPS_A_TURN)
    lines = [f"{arguments.threads} threads, {arguments.turns} turns of {STEPS_A_TURN} steps; median (lowest-highest)"]
    lines += [training.summary() for training in trainings]
    lines.append(f"peak memory of all together: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main()
    except JanusError as problem:
        sys.exit(f"error: {problem.message}\nhint: {problem.hint}")
