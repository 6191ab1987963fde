"""The training loop, in one piece: windows of batches -> update -> log, validate, save, stop.

A window is what one update sees: `accumulate` batches on each of `size` ranks. Batches, noise and dropout are pure
functions of (seed, epoch, place in the epoch), so a run that stops anywhere and resumes is, bit for bit, the run that
did not stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from janus_cli import console
from janus_cli.core.model import Transformer
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.batching import epoch_batches, load_batch
from janus_cli.device import StopSignal, World, is_about_memory, product_rate, resolve_precision
from janus_cli.errors import OutOfMemoryError, Stopped
from janus_cli.recipe import Recipe
from janus_cli.training.explain import again
from janus_cli.training.log import Log
from janus_cli.training.meter import Meter
from janus_cli.training.saving import Position, Saver
from janus_cli.training.schedule import learning_rate
from janus_cli.training.update import Micro, Trainee, Window, micros, update
from janus_cli.training.validation import validate

if TYPE_CHECKING:
    from janus_cli.data.prepared import Prepared


def train(
    model: Transformer, optimizer: torch.optim.AdamW, recipe: Recipe, prepared: Prepared, world: World,
    at: Position, saver: Saver, log: Log,
) -> Position:  # fmt: skip
    """Trains until `training.updates` or `.minutes`, an early stop or a signal; saves on the way and at the end.

    Raises:
        NonFiniteError, OutOfMemoryError: see `update`.
        Stopped: a signal came; the state was saved.
    """
    knobs = recipe.training
    trainee: nn.Module = Trainee(model, OBJECTIVES[recipe.objective.name])
    if world.size > 1:
        trainee = DistributedDataParallel(trainee)
    meter = Meter(world, product_rate(resolve_precision(knobs.precision, world.device), world.device))
    model.train()
    with StopSignal() as stop, console.progress("training", knobs.updates, start=at.step) as bar:
        # A validation that was broken off comes first, without an update before it.
        owed = [Window([], [])] if at.owed else []
        for window in chain(owed, windows(recipe, prepared, world, at)):
            number, enough = 0, False
            if window.micros:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(at.step, knobs)
                started = perf_counter()
                number = update(trainee, optimizer, window, recipe, world, at, meter, log, stop.number)
                at.seconds += perf_counter() - started
                bar.advance(1, meter.note)
            late = bool(knobs.minutes and world.sums({"late": float(at.is_late(knobs.minutes))})["late"])
            over = at.step >= knobs.updates or late
            if window.micros and (at.step % knobs.log_every == 0 or over or number):
                log.write("train", at.step, epoch=at.epoch, lr=learning_rate(at.step - 1, knobs), **meter.take())
            if at.owed or at.step % knobs.validate_every == 0 or over:
                with kept(at, saver, model, optimizer, log):
                    signal, enough = examine(model, recipe, prepared, world, at, saver, log, stop)
                number = signal or number
            if over or number or enough or at.step % knobs.save_every == 0 or at.step % knobs.validate_every == 0:
                saver.save(at, model, optimizer)
                log.write("saved", at.step)
            if number:
                log.write("stopped", at.step, signal=number)
                raise Stopped(
                    number,
                    f"stopped after update {at.step:,}, saved",
                    f"go on with: {again(saver.root.parent, world)}",
                )
            if over or enough:
                log.write("done", at.step, early=enough)
                return at
    return at


def examine(
    model: Transformer, recipe: Recipe, prepared: Prepared, world: World, at: Position, saver: Saver, log: Log,
    stop: StopSignal,
) -> tuple[int, bool]:  # fmt: skip
    """Validates, unless a signal comes first: then the run that goes on owes itself the validation.

    Returns the signal, 0 for none, and whether patience is over.
    """
    metrics = validate(model, recipe, prepared, world.device, stop) if world.first else {}
    number = stop.number if world.first and not metrics else 0
    at.owed = number > 0
    if not at.owed and world.first:
        log.write("valid", at.step, **metrics)
        saver.judge(at, metrics)
    told = world.sums({"signal": float(number), "enough": float(saver.patience_is_over(at))})
    at.owed = told["signal"] > 0
    return int(told["signal"]), told["enough"] > 0


@contextmanager
def kept(at: Position, saver: Saver, model: Transformer, optimizer: torch.optim.AdamW, log: Log) -> Iterator[None]:
    """Saves the update if its validation fails, which the run that goes on then owes itself.

    Raises:
        OutOfMemoryError: the validation did not fit into memory; other errors as they come.
    """
    try:
        yield
    except Exception as problem:  # whatever it is, hours of updates are saved before it goes on its way
        at.owed = saver.judged != at.step  # else another rank failed, after it was made
        saver.write(at, model, optimizer)  # other ranks may wait elsewhere
        log.write("saved", at.step)
        if not is_about_memory(problem):
            raise
        key, now = "decoding.batch_sentences", saver.recipe.decoding.batch_sentences
        if now == 1:
            key, now = "training.batch_tokens", saver.recipe.training.batch_tokens
        smaller = ("--set", f"{key}={now // 2}", "--allow-change", key)
        raise OutOfMemoryError(
            f"the validation after update {at.step:,} does not fit into memory; the update is saved",
            f"go on with: {again(saver.root.parent, saver.world, *smaller)}",
        ) from None


def windows(recipe: Recipe, prepared: Prepared, world: World, at: Position) -> Iterator[Window]:
    """This rank's share of every update from position `at` on, epoch after epoch; advances `at`.

    An epoch's last window may be short; ranks without a batch then repeat one with weight 0, so that all stay in step.
    """
    knobs = recipe.training
    per_window = world.size * knobs.accumulate
    while True:
        batches = islice(epoch_batches(prepared.train, knobs.batch_tokens, recipe.seed, at.epoch), at.batch, None)
        while group := list(islice(batches, per_window)):
            mine: list[Micro] = []
            for place in range(world.rank, per_window, world.size):
                rows, weight = (group[place], 1.0) if place < len(group) else (group[0], 0.0)
                if weight or not mine:
                    batch = load_batch(prepared.train, rows)
                    mine += micros(batch, weight, recipe, at.epoch, world.device)
            at.batch += per_window
            yield Window(mine, group)
        at.epoch, at.batch = at.epoch + 1, 0
