"""One update: gradients of a window of batches, over all ranks, and a step of the optimiser, or a reason why not."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from janus_cli import console
from janus_cli.core import flops
from janus_cli.core.batch import Batch
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES, Objective, Plan, Term
from janus_cli.data.batching import Rows
from janus_cli.device import SIGNALS, World, autocast, is_about_memory
from janus_cli.errors import NonFiniteError, OutOfMemoryError
from janus_cli.recipe import Recipe, Training
from janus_cli.training.log import Log
from janus_cli.training.meter import Meter
from janus_cli.training.saving import EMA, Position

Micro = tuple[Batch, Plan, float]  # weight 0 for a batch that only keeps the ranks in step
Done = tuple[dict[str, Term], Plan, float]


class Window(NamedTuple):
    """What an update sees. micros: this rank's batches. rows: the sentence numbers of all ranks' batches."""

    micros: list[Micro]
    rows: Sequence[Rows]


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


def update(
    trainee: nn.Module, optimizer: torch.optim.AdamW, window: Window, recipe: Recipe, world: World,
    at: Position, meter: Meter, log: Log, stop_number: int,
) -> int:  # fmt: skip
    """One step of the optimiser: sum of weight * total / count, counts over all ranks and the whole window.

    An update without a finite gradient, or that does not fit into memory even in halves, is skipped and counted.
    Returns the number of a signal that any rank has received, 0 for none.

    Raises:
        NonFiniteError, OutOfMemoryError: `max_bad_steps` updates in a row were skipped, the last for this reason.
    """
    here = {"signals": float(stop_number), "stopped": float(stop_number > 0), "flops": 0.0}
    vocabulary = model_of(trainee).output_weight.shape[0]
    for batch, plan, weight in window.micros:
        here["flops"] += flops.step(recipe.model, vocabulary, batch.source.shape[1], plan)
        for unit, count in plan.counts.items():
            here[unit] = here.get(unit, 0.0) + weight * count
    counts = world.sums(here)
    done = _gradients_that_fit(trainee, window.micros, recipe, world, at, counts)
    norm = float(nn.utils.clip_grad_norm_(trainee.parameters(), recipe.training.clip or inf)) if done else inf
    fine = isfinite(norm)
    if fine:
        _step(optimizer, recipe, at)
        for each in done:
            meter.add(*each)
    meter.end(counts, norm)
    at.bad = 0 if fine else at.bad + 1
    if not fine:
        _skip(window, recipe, at, log, "gradient not finite" if done else "out of memory")
    at.step += 1
    return stop_number or _signal_of_others(counts)


def _step(optimizer: torch.optim.AdamW, recipe: Recipe, at: Position) -> None:
    """A step of the optimiser; in the first one it takes memory of its own, twice the weights'.

    Raises:
        OutOfMemoryError: there is not so much. Some weights may have moved already, so this update is not tried again.
    """
    try:
        optimizer.step()
        if recipe.training.ema:
            follow(optimizer, recipe.training.ema, at.step)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
        if not is_about_memory(problem):
            raise
        raise OutOfMemoryError(
            f"update {at.step + 1}: no memory for what the optimiser keeps, twice the weights",
            "the last checkpoint is untouched; make the model smaller, or free memory",
        ) from None


@torch.no_grad()
def follow(optimizer: torch.optim.AdamW, decay: float, step: int) -> None:
    """An exponential mean of the weights (Polyak & Juditsky 1992), kept in the optimiser's state as `saving.EMA`.

    step: updates before this one. In the first ones, whose weights are far off, it forgets faster.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for state, weight in ((optimizer.state[weight], weight) for weight in weights):
        if EMA not in state:
            state[EMA] = weight.detach().clone()
    means = [optimizer.state[weight][EMA] for weight in weights]
    torch._foreach_lerp_(means, weights, 1 - min(decay, (1 + step) / (10 + step)))


def _signal_of_others(counts: Mapping[str, float]) -> int:
    """The signal that other ranks have received; SIGTERM where they received different ones, 0 for none."""
    if not counts["stopped"]:
        return 0
    mean = counts["signals"] / counts["stopped"]
    return int(mean) if mean in SIGNALS else signal.SIGTERM


def _gradients_that_fit(
    trainee: nn.Module, window: list[Micro], recipe: Recipe, world: World, at: Position, counts: Mapping[str, float]
) -> list[Done]:
    """Gradients of the window; where it does not fit into memory, those of its halves; where these do not, none.

    Raises:
        OutOfMemoryError: several ranks, which cannot start a step over on their own.
    """
    for parts in (window, None):
        torch.manual_seed(dropout_seed(recipe.seed, at.step, world.rank))
        trainee.zero_grad(set_to_none=True)
        try:
            return _gradients(trainee, parts or in_parts(window, recipe, at.epoch, 2), recipe, world, at, counts)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not is_about_memory(problem):
                raise
            if world.size > 1:
                raise OutOfMemoryError(*_too_large(at, recipe)) from None
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
        if parts:
            console.warn(f"update {at.step + 1} does not fit into memory; once more in halves")
    trainee.zero_grad(set_to_none=True)
    return []


def _gradients(
    trainee: nn.Module, window: list[Micro], recipe: Recipe, world: World, at: Position, counts: Mapping[str, float]
) -> list[Done]:
    knobs = recipe.objective.at(at.step)
    done: list[Done] = []
    for index, (batch, plan, weight) in enumerate(window):
        last = index == len(window) - 1
        quiet = nullcontext() if last or not isinstance(trainee, DistributedDataParallel) else trainee.no_sync()
        with quiet:
            with autocast(recipe.training.precision, world.device):
                plan = plan.to(world.device).part_of(counts)
                terms = trainee(batch.to(world.device), plan, knobs)
            parts = [weight * term.weight * term.total * plan.share(term.unit) for term in terms.values()]
            (world.size * torch.stack(parts).sum()).backward()  # DDP averages over ranks; we want the sum
        done.append((terms, plan, weight))
    return done


def micros(batch: Batch, weight: float, recipe: Recipe, epoch: int, device: torch.device) -> list[Micro]:
    """A batch as an update takes it: on a CPU in parts of at most about `training.cpu_slots` slots, or one sentence."""
    whole = (batch, planned(batch, recipe, epoch), weight)
    slots, most = sum(stream.tokens.numel() for stream in whole[1].streams.values()), recipe.training.cpu_slots
    if device.type != "cpu" or not most or slots <= most:
        return [whole]
    return in_parts([whole], recipe, epoch, -(-slots // most))


def in_parts(window: list[Micro], recipe: Recipe, epoch: int, count: int) -> list[Micro]:
    """The same sentences with the same noise in up to `count` times as many batches."""
    parts: list[Micro] = []
    for batch, _, weight in window:
        size = -(-len(batch.ids) // count)
        for start in range(0, len(batch.ids), max(1, size)):
            part = batch.select(slice(start, start + size))
            parts.append((part, planned(part, recipe, epoch), weight))
    return parts


def planned(batch: Batch, recipe: Recipe, epoch: int) -> Plan:
    """What the recipe's objective reads of this batch in this epoch."""
    return OBJECTIVES[recipe.objective.name].plan(batch, Draws(recipe.seed, epoch, batch.ids), recipe.objective)


def _too_large(at: Position, recipe: Recipe) -> tuple[str, str]:
    words = f"update {at.step + 1} does not fit into memory"
    return words, f"the last checkpoint is untouched; lower training.batch_tokens ({recipe.training.batch_tokens:,})"


def _skip(window: Window, recipe: Recipe, at: Position, log: Log, why: str) -> None:
    """Says so; ends the training when too many in a row were skipped."""
    ids = [int(row) for rows in window.rows for row in rows]
    log.write("skipped", at.step, why=why, in_a_row=at.bad, sentences=ids)
    console.warn(f"update {at.step + 1}: {why}; skipped ({at.bad} in a row)")
    if at.bad < recipe.training.max_bad_steps:
        return
    if why == "out of memory":
        raise OutOfMemoryError(*_too_large(at, recipe))
    raise NonFiniteError(
        f"{at.bad} updates in a row without a finite gradient, the last at update {at.step + 1}",
        "the last good checkpoint is untouched; lower training.learning_rate or set training.clip",
    )


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one update on one rank."""
    return ((seed * 1_000_003 + step) * 1_000_003 + rank) % (1 << 63)
