"""The training loop, in one piece: windows of batches -> update -> log, validate, save, stop.

A window is what one update sees: `accumulate` batches on each of `size` ranks. Batches, noise and dropout are pure
functions of (seed, epoch, place in the epoch), so a run that stops anywhere and resumes is, bit for bit, the run that
did not stop.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from janus_cli import console
from janus_cli.core import flops
from janus_cli.core.batch import Batch
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES, Objective, Plan, Term
from janus_cli.core.transformer import Transformer
from janus_cli.errors import NonFiniteError, Stopped
from janus_cli.recipe import Recipe, Training
from janus_cli.text.batching import epoch_batches, load_batch
from janus_cli.training.distributed import World
from janus_cli.training.log import Log
from janus_cli.training.precision import autocast, chosen, product_rate
from janus_cli.training.saving import Position, Saver
from janus_cli.training.schedule import learning_rate
from janus_cli.training.signals import StopSignal
from janus_cli.training.validation import validate

if TYPE_CHECKING:
    from janus_cli.text.prepare import Prepared

Micro = tuple[Batch, Plan, float]  # weight 0 for a batch that only keeps the ranks in step


class Trainee(nn.Module):
    """Model and objective as one module, so that DistributedDataParallel sees one forward."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, plan: Plan, knobs: Any) -> dict[str, Term]:
        return self.objective.loss(self.model, batch, plan, knobs)


def model_of(trainee: nn.Module) -> Transformer:
    """The model inside, whether or not DistributedDataParallel is around it."""
    inner = trainee.module if isinstance(trainee, DistributedDataParallel) else trainee
    assert isinstance(inner, Trainee)
    return inner.model


def make_optimizer(model: nn.Module, knobs: Training) -> torch.optim.AdamW:
    """Adam with decoupled weight decay."""
    betas = (knobs.beta1, knobs.beta2)
    return torch.optim.AdamW(
        model.parameters(),
        lr=knobs.learning_rate,
        betas=betas,
        eps=knobs.epsilon,
        weight_decay=knobs.weight_decay,
        fused=True,
    )


def train(
    model: Transformer, optimizer: torch.optim.AdamW, recipe: Recipe, prepared: Prepared, world: World,
    at: Position, saver: Saver, log: Log,
) -> Position:  # fmt: skip
    """Trains until `training.updates`, an early stop or a signal; saves on the way and at the end.

    Raises:
        NonFiniteError: `max_bad_steps` updates in a row had no finite gradient.
        Stopped: a signal came; the state was saved.
    """
    knobs = recipe.training
    trainee: nn.Module = Trainee(model, OBJECTIVES[recipe.objective.name])
    if world.size > 1:
        trainee = DistributedDataParallel(trainee)
    meter = Meter(world, product_rate(chosen(knobs, world.device), world.device))
    model.train()
    with StopSignal() as stop, console.progress("training", knobs.updates, start=at.step) as bar:
        for window in windows(recipe, prepared, world, at):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(at.step, knobs)
            number = update(trainee, optimizer, window, recipe, world, at, meter, log, stop.number)
            bar.advance(1, meter.note)
            over = at.step == knobs.updates or bool(number)
            if at.step % knobs.log_every == 0 or over:
                log.write("train", at.step, epoch=at.epoch, lr=learning_rate(at.step - 1, knobs), **meter.take())
            if at.step % knobs.validate_every == 0 or (over and not number):
                metrics = validate(model, recipe, prepared, world.device) if world.first else {}
                log.write("valid", at.step, **metrics)
                saver.judge(at, metrics)
                world.wait()
            enough = bool(world.sums({"enough": float(saver.patience_is_over(at))})["enough"])
            if over or enough or at.step % knobs.save_every == 0 or at.step % knobs.validate_every == 0:
                saver.save(at, model, optimizer)
                log.write("saved", at.step)
            if number:
                log.write("stopped", at.step, signal=number)
                raise Stopped(
                    number,
                    f"stopped after update {at.step:,}, saved",
                    f"go on with: janus train --resume --run {saver.root.parent}",
                )
            if over or enough:
                log.write("done", at.step, early=enough)
                return at
    return at


def update(
    trainee: nn.Module, optimizer: torch.optim.AdamW, window: list[Micro], recipe: Recipe, world: World,
    at: Position, meter: Meter, log: Log, stop_number: int,
) -> int:  # fmt: skip
    """One step of the optimiser: sum of weight * total / count, counts over all ranks and the whole window.

    Returns the number of a signal that any rank has received, 0 for none.
    """
    knobs = recipe.objective.at(at.step)
    torch.manual_seed(dropout_seed(recipe.seed, at.step, world.rank))
    here, vocabulary = {"stop": float(stop_number), "flops": 0.0}, model_of(trainee).output_weight.shape[0]
    for batch, plan, weight in window:
        here["flops"] += flops.step(recipe.model, vocabulary, batch.source.shape[1], plan.streams.values())
        for unit, count in plan.counts.items():
            here[unit] = here.get(unit, 0.0) + weight * count
    counts = world.sums(here)
    optimizer.zero_grad(set_to_none=True)
    done: list[tuple[dict[str, Term], Plan, float]] = []
    for index, (batch, plan, weight) in enumerate(window):
        last = index == len(window) - 1
        quiet = nullcontext() if last or not isinstance(trainee, DistributedDataParallel) else trainee.no_sync()
        with quiet:
            with autocast(recipe.training, world.device):
                plan = plan.to(world.device).part_of(counts)
                terms = trainee(batch.to(world.device), plan, knobs)
            parts = [weight * term.weight * term.total * plan.share(term.unit) for term in terms.values()]
            (world.size * torch.stack(parts).sum()).backward()  # DDP averages over ranks; we want the sum
        done.append((terms, plan, weight))
    norm = nn.utils.clip_grad_norm_(trainee.parameters(), recipe.training.clip or float("inf"))
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
        for each in done:
            meter.add(*each)
    meter.end(counts, float(norm) if finite else 0.0)
    at.bad = 0 if finite else at.bad + 1
    if not finite:
        ids = [int(i) for batch, _, _ in window for i in batch.ids]
        log.write("skipped", at.step, why="gradient not finite", in_a_row=at.bad, sentences=ids)
        console.warn(f"update {at.step + 1}: the gradient is not finite; skipped ({at.bad} in a row)")
        if at.bad >= recipe.training.max_bad_steps:
            raise NonFiniteError(
                f"{at.bad} updates in a row without a finite gradient, the last at update {at.step + 1}",
                "the last good checkpoint is untouched; lower training.learning_rate or set training.clip",
            )
    at.step += 1
    return (stop_number or signal.SIGTERM) if counts["stop"] else 0


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one update on one rank."""
    return ((seed * 1_000_003 + step) * 1_000_003 + rank) % (1 << 63)


def windows(recipe: Recipe, prepared: Prepared, world: World, at: Position) -> Iterator[list[Micro]]:
    """This rank's share of every update from position `at` on, epoch after epoch; advances `at`.

    An epoch's last window may be short; ranks without a batch then repeat one with weight 0, so that all stay in step.
    """
    knobs = recipe.training
    source, target = prepared.train.lengths()
    objective = OBJECTIVES[recipe.objective.name]
    per_window = world.size * knobs.accumulate
    while True:
        batches = epoch_batches(source, target, knobs.batch_tokens, recipe.seed, at.epoch)
        starts = range(at.batch, len(batches), per_window)
        for start in starts:
            window: list[Micro] = []
            for place in range(start + world.rank, start + per_window, world.size):
                rows, weight = (batches[place], 1.0) if place < len(batches) else (batches[start], 0.0)
                if weight or not window:
                    window.append(_micro(prepared, rows, weight, objective, recipe, at))
            at.batch = start + per_window
            yield window
        at.epoch, at.batch = at.epoch + 1, 0


def _micro(
    prepared: Prepared, rows: np.ndarray, weight: float, objective: Objective, recipe: Recipe, at: Position
) -> Micro:
    batch = load_batch(prepared.train, rows)
    return batch, objective.plan(batch, Draws(recipe.seed, at.epoch, batch.ids), recipe.objective), weight


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
        """Ends an update; counts are those of all ranks."""
        self.updates, self.norm = self.updates + 1, norm
        self.tokens, self.flops = self.tokens + counts["tokens"], self.flops + counts["flops"]
        if time.perf_counter() - self.noted < 1.0:
            return  # reading the sums makes a GPU wait
        self.noted = time.perf_counter()
        speed = self.tokens / (self.noted - self.since)
        parts = [f"{name} {float(total) / max(1.0, self.counts[name]):.3f}" for name, total in self.totals.items()]
        self.note = f"{' '.join(parts)}  {speed:,.0f} tokens/s"

    def take(self) -> dict[str, Any]:
        """Means over all ranks since the last call: loss and terms in nats, target tokens/s, gradient norm.

        utilisation: the share of the machine's matrix-product rate that the step's own products come to.
        """
        seconds = time.perf_counter() - self.since
        totals = self.world.sums({name: float(total) for name, total in self.totals.items()})
        counts = self.world.sums(self.counts)
        terms = {name: totals[name] / max(1.0, counts[name]) for name in totals}
        loss = sum(self.weights[name] * value for name, value in terms.items())
        values = {
            "loss": loss, "terms": terms, "norm": self.norm, "tokens_per_second": self.tokens / seconds,
            "seconds_per_update": seconds / max(1, self.updates), "utilisation": self.flops / seconds / self.rate,
        }  # fmt: skip
        self._clear()
        return values
