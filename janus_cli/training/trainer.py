"""The training loop: windows of batches -> update -> log, validate, save, stop.

A window is what one update sees: `accumulate` batches on each of `size` ranks. Batches are a function of seed and
epoch, noise of seed, epoch and sentence, dropout of seed, step and rank. So a run that is stopped anywhere and resumed
is, bit for bit, the run that was not stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import islice
from math import cos, inf, isfinite, pi
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from janus_cli import console
from janus_cli.core.batch import Batch
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES, Objective, Plan, Term
from janus_cli.data.batching import Rows, load_batch, noised, rest_of_epoch
from janus_cli.data.prepared import Prepared
from janus_cli.device import SIGNALS, StopSignal
from janus_cli.documents import Position
from janus_cli.errors import NonFiniteError, OutOfMemoryError, Stopped, is_about_memory
from janus_cli.recipe import Recipe, Training
from janus_cli.runs import Run
from janus_cli.scoring.judge import Judge, judge_of
from janus_cli.terminal import command
from janus_cli.training import best, checkpoint
from janus_cli.training.checkpoint import MODEL, OPTIMIZER, Checkpoint
from janus_cli.training.log import Log, Meter
from janus_cli.training.model import EMA, MOMENTS, must_be_finite, optimizer_tensors, read_tensors
from janus_cli.training.optimizer import Shares, optimizer_of
from janus_cli.training.validation import Material, material, scoring_of, validate
from janus_cli.world import World, autocast, product_rate, resolve_precision


class Micro(NamedTuple):
    """A micro-batch and its plan. weight: 0 if it only keeps the ranks in step, else 1."""

    batch: Batch
    plan: Plan
    weight: float


class Window(NamedTuple):
    """What an update sees. micros: this rank's micro-batches. rows: the sentence numbers of all ranks' batches."""

    micros: Sequence[Micro]
    rows: Sequence[Rows]


class Trainer:
    """One training: model, optimiser, data, and its position. `fit` trains; `resume` continues from a checkpoint.

    Several ranks build equal trainers and call the same methods in the same order.
    """

    def __init__(
        self, recipe: Recipe, model: Transformer, prepared: Prepared, world: World, run: Run,
        shares: Shares | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.knobs, self.model, self.prepared = recipe, recipe.training, model, prepared
        self.world, self.run = world, run
        self.shares = shares or Shares.of(model, recipe.training)
        self.optimizer = optimizer_of(model, recipe.training, self.shares)
        self.loss: nn.Module = LossModule(model, OBJECTIVES[recipe.objective.name])
        if world.size > 1:
            self.loss = DistributedDataParallel(self.loss, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.position = Position()
        self.precision = resolve_precision(self.knobs.precision, world.device)
        # These determine how sums are rounded: a run resumed with other values is not bitwise the same.
        self.numerics = {"precision": self.precision, "ranks": world.size, "threads": torch.get_num_threads()}
        self.meter = Meter(world, product_rate(self.precision, world.device))
        self.log = Log(None)
        self.values: list[float] = []  # of the metric, in the validations of this process
        self.metrics: Mapping[str, float] = {}  # of the validation after this update, if there was one
        self.saved: int | None = None  # the update that this process saved last
        self.on_save: Callable[[], None] = lambda: None
        self.stop = StopSignal(world.size)  # received by this rank
        self.signal = 0  # received by any rank; the ranks agree on it in every update

    @cached_property
    def judge(self) -> Judge:
        """The judge of validations, made when it is first needed: a benchmark trains without validation data."""
        return judge_of(self.recipe, self.prepared.manifest)

    @cached_property
    def metric(self) -> str:
        """The number of the validation that decides which checkpoint is best."""
        return best.best_metric(self.recipe, self.judge.metric)

    @cached_property
    def scoring(self) -> dict[str, Any]:
        return scoring_of(self.judge, self.recipe, self.prepared)

    @cached_property
    def material(self) -> Material:
        """What validations read, on the first rank."""
        return material(self.recipe, self.prepared)

    def fit(self) -> None:
        """Train until `training.updates`, `.minutes` or `.patience` is reached; save on the way and at the end.

        Raises:
            NonFiniteError, OutOfMemoryError: see `update` and `validate`; or the weights are not finite any more.
            Stopped: a signal came; the state was saved.
        """
        knobs, position = self.knobs, self.position
        self.model.train()
        with self.stop, console.progress("training", knobs.updates, start=position.step, left=self._time_left) as bar:
            windows, saving, due = self.windows(), False, False
            while True:
                if not (validation_due := position.validation_due):  # due when resumed, before the next update
                    self.update(next(windows))
                    bar.advance(1, self.meter.note)
                step, ended = position.step, position.step >= knobs.updates or self._time_is_up_anywhere()
                validating = validation_due or ended or step % knobs.validate_every == 0
                if not validation_due and (ended or self.signal or step % knobs.log_every == 0):
                    rate = learning_rate(step - 1, knobs)
                    self.log.write("train", step, epoch=position.epoch, lr=rate, **self.meter.take())
                due = (due and not saving) or step % knobs.save_every == 0  # put off while updates are skipped
                saving = validating or bool(self.signal) or (due and not position.bad)
                if saving:
                    self._must_be_finite()
                if validating:
                    bar.advance(0, "validating")
                    with self.meter.paused():
                        self.validate()
                if saving:
                    self.save()
                if self.signal:
                    self.log.write("stopped", step, signal=self.signal)
                    hint = f"resume with: {resume_command(self.run.path, self.world)}"
                    raise Stopped(self.signal, f"stopped after update {step:,}, saved", hint)
                if ended or self._has_converged():
                    self.log.write("done", step, early=self._has_converged())
                    return

    def update(self, window: Window) -> None:
        """One optimiser step; skipped and counted if the gradient is not finite, or not even half batches fit.

        Raises:
            NonFiniteError, OutOfMemoryError: `max_bad_steps` updates in a row were skipped, the last for this reason.
        """
        began, position = perf_counter(), self.position
        rate = learning_rate(position.step, self.knobs)
        for group in self.optimizer.param_groups:
            group["rate"], group["lr"] = rate, rate * group["share"]
        counts = self.world.sums(self._counts(window))
        results: list[tuple[Mapping[str, Term], Micro]] = []
        for parts in (1, 2):
            try:
                results = self.backward(in_parts(window.micros, self.recipe, position.epoch, parts), counts)
                break
            except (RuntimeError, MemoryError) as problem:  # torch.OutOfMemoryError is a RuntimeError
                if not is_about_memory(problem):
                    raise
                if self.world.size > 1:  # a rank cannot repeat a step on its own
                    raise self._too_large() from None
            self.model.zero_grad()
            if self.world.device.type == "cuda":
                torch.cuda.empty_cache()
            if parts == 1:
                console.warn(f"update {position.step + 1} does not fit into memory; trying it again in halves")
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.knobs.clip or inf)) if results else inf
        if isfinite(norm):
            position.bad = 0
            self._step()
            for terms, micro in results:
                self.meter.means.add(terms, micro.plan.counts, micro.weight)
        self.meter.end(counts, norm)
        if not isfinite(norm):
            position.bad += 1
            self._skip(window, "gradient not finite" if results else "out of memory")
        if position.step == 0 or position.flops is not None:
            position.flops = (position.flops or 0.0) + counts["flops"]
        position.step += 1
        position.seconds += perf_counter() - began
        self.signal, self.metrics = _agreed_signal(counts), {}

    def backward(self, micros: Sequence[Micro], counts: Mapping[str, float]) -> list[tuple[Mapping[str, Term], Micro]]:
        """Gradients of the sum of weight * total / count over the terms, by micro-batch; returns the terms.

        counts: of each unit over all ranks and the whole window.
        """
        torch.manual_seed(dropout_seed(self.recipe.seed, self.position.step, self.world.rank))
        self.model.zero_grad()
        knobs = OBJECTIVES[self.recipe.objective.name].knobs_at(self.recipe.objective, self.position.step)
        device, results = self.world.device, list[tuple[Mapping[str, Term], Micro]]()
        for index, micro in enumerate(micros):
            last = index == len(micros) - 1
            with nullcontext() if last or not isinstance(self.loss, DistributedDataParallel) else self.loss.no_sync():
                with autocast(self.precision, device):
                    plan = replace(micro.plan.to(device), whole=counts)
                    terms = self.loss(micro.batch.to(device), plan, knobs)
                shares = [micro.weight * term.weight * term.total * plan.share(term.unit) for term in terms.values()]
                (self.world.size * torch.stack(shares).sum()).backward()  # DDP averages over ranks; we want the sum
            # Without their graph, which would live on beside that of the next micro-batch.
            results.append(({name: term._replace(total=term.total.detach()) for name, term in terms.items()}, micro))
        return results

    def windows(self) -> Iterator[Window]:
        """This rank's share of every update from the position on, epoch after epoch; advances the position.

        An epoch's last window may be short; a rank that gets no batch takes one with weight 0, to stay in step.
        """
        position, store, per_window = self.position, self.prepared.train, self.world.size * self.knobs.accumulate
        while True:
            epoch = self.knobs.batch_tokens, self.recipe.seed, position.epoch, position.read
            batches = islice(rest_of_epoch(store, *epoch), position.batch, None)
            while group := list(islice(batches, per_window)):
                micros: list[Micro] = []
                for place in range(self.world.rank, per_window, self.world.size):
                    rows, weight = (group[place], 1.0) if place < len(group) else (group[0], 0.0)
                    if weight or not micros:
                        batch = noised(load_batch(store, rows), store, self.recipe, position.epoch)
                        micros += micro_batches(batch, weight, self.recipe, position.epoch, self.world.device)
                position.batch += per_window
                yield Window(micros, group)
            position.epoch, position.batch, position.read = position.epoch + 1, 0, []

    def validate(self) -> None:
        """Validate on the first rank, and record whether the model got better.

        A signal interrupts it, and an error ends the training once this update is saved; either way a resumed run
        begins with this validation.

        Raises:
            OutOfMemoryError: it did not fit into memory.
        """
        position, metrics = self.position, dict[str, float]()
        position.validation_due = True
        try:
            if self.world.first:
                metrics = validate(self.model, self.recipe, self.material, self.judge, self.world.device, self.stop)
            signal_here = self.stop.number if self.world.first and not metrics else 0
            value, loss = (metrics[self.metric], metrics["loss"]) if metrics else (0.0, 0.0)
            agreed = self.world.sums({"signal": float(signal_here), "value": value, "loss": loss})
        except BaseException as problem:
            self.save(wait=False)  # hours of updates; other ranks may be waiting at another barrier
            if is_about_memory(problem):
                raise self._validation_too_large() from None
            raise
        if agreed["signal"]:  # the validation was interrupted, and is still due
            self.signal = int(agreed["signal"])
            return
        self.log.write("valid", position.step, scoring=self.scoring, **metrics)
        self.metrics = metrics
        best.note_validation(position, self.metric, agreed["value"], agreed["loss"])
        self.values.append(agreed["value"])
        console.say(best.in_words(position, self.metric, agreed["value"]))
        vocabulary = self.prepared.train.target_vocabulary
        for doubt in filter(None, (best.indifferent(self.metric, self.values), best.diverged(metrics, vocabulary))):
            console.warn(doubt)

    def save(self, *, wait: bool = True) -> None:
        """Save this update on the first rank, once, and wait for the other ranks.

        A checkpoint of the same update from before a resume is replaced.
        """
        position, root = self.position, self.run.checkpoints
        if self.world.first and self.saved != position.step:
            state = {**position.model_dump(by_alias=True), **self.numerics, "metrics": dict(self.metrics)}
            state |= {"scoring": self.scoring, "tokenizer": self.prepared.tokenizer}
            unasked = not self.metrics and not position.validation_due and position.step % self.knobs.save_every
            state |= {"interim": True} if self.signal and unasked else {}
            folder = checkpoint.step_folder(root, position.step)
            vocabularies = self.prepared.train.source_vocabulary, self.prepared.train.target_vocabulary
            again = resume_command(self.run.path, self.world)
            checkpoint.save(folder, self.recipe, vocabularies, state, self.model.weights(), self._moments(), again)
            checkpoint.move_link(root, "last", folder)
            good = checkpoint.step_folder(root, position.best_step)
            if position.best is not None and good.exists():
                checkpoint.move_link(root, "best", good)
            self.saved = position.step
            kept = best.worth_keeping(root, self.metric, self.scoring, self.knobs.keep_best)
            checkpoint.prune(root, self.knobs.keep_last, kept)
            self.on_save()
            self.log.write("saved", position.step)
        if wait:
            self.world.wait()

    def _moments(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.model, self.optimizer.state, ema=self.knobs.ema > 0)

    def _must_be_finite(self) -> None:
        """Raises NonFiniteError, on all ranks alike, if an update made weights or moments overflow."""
        must_be_finite({**self.model.weights(), **self._moments()}, f"update {self.position.step:,} is not saved")

    def resume(self, saved: Checkpoint) -> None:
        """Put weights, moments and position back as they were saved.

        If something else judges from now on, the best of the checkpoints that it has judged is looked for again.

        Raises:
            CheckpointError: a file does not hold what the recipe's model needs.
        """
        ema = saved.recipe.training.ema > 0
        self.model.load_weights(read_tensors(saved.folder / MODEL, self.model.weights()))
        expected = optimizer_tensors(self.model, self.optimizer.state, ema=ema)
        moments = read_tensors(saved.folder / OPTIMIZER, expected)
        for name, weight in self.model.named_parameters():
            if moments[f"{name}.step"]:  # 0 before the first update: the optimiser then creates its own state
                keys = (*MOMENTS, EMA) if ema else MOMENTS
                self.optimizer.state[weight] = {key: moments[f"{name}.{key}"].to(self.world.device) for key in keys}
        self.position = saved.position(self.recipe)
        self._judge_anew(saved)

    def _judge_anew(self, saved: Checkpoint) -> None:
        """Looks for the best checkpoint again if another metric, tokenizer or sample decided up to now."""
        before, position = best.scoring_in(saved.state), self.position
        was = best.label(best.best_metric(saved.recipe, before["metric"]), before)
        now = best.label(self.metric, self.scoring)
        if was == now:
            return
        first = {"value": 0.0, "loss": 0.0, "step": 0.0}
        if self.world.first and (found := best.ranked(self.run.checkpoints, self.metric, self.scoring)):
            folder, metrics = next(iter(found.items()))
            loss, step = metrics.get("loss", 0.0), checkpoint.step_of(folder)
            first = {"value": metrics[self.metric], "loss": loss, "step": step}
        first = self.world.sums(first)  # the ranks must agree on when to stop
        position.best, position.best_loss = (first["value"], first["loss"]) if first["step"] else (None, None)
        position.best_step = int(first["step"])
        stays = "" if first["step"] else "; until it has judged others, the best of them are kept and `best` stays"
        console.say(
            f"checkpoints up to update {position.step:,} were ranked by {was}, from now on {now} decides{stays}"
        )
        position.since_best = 0

    def limits_reached(self) -> list[str]:
        """The knobs whose limit is reached, so that the training has ended."""
        reached = {
            "updates": self.position.step >= self.knobs.updates,
            "minutes": self._time_left() <= 0,
            "patience": self._has_converged(),
        }
        return [f"training.{name}" for name, holds in reached.items() if holds]

    def _time_is_up_anywhere(self) -> bool:
        return bool(self.knobs.minutes) and self.world.sums({"late": float(self._time_left() <= 0)})["late"] > 0

    def _time_left(self) -> float:  # seconds
        return 60 * self.knobs.minutes - self.position.seconds if self.knobs.minutes else inf

    def _has_converged(self) -> bool:
        return 0 < self.knobs.patience <= self.position.since_best

    def _counts(self, window: Window) -> dict[str, float]:
        """This rank's summands for the sums over all ranks: units, FLOPs, and the signal that it has received."""
        counts = {"signals": float(self.stop.number), "stopped": float(self.stop.number > 0), "flops": 0.0}
        vocabulary = self.model.output_weight.shape[0]
        for batch, plan, weight in window.micros:
            counts["flops"] += plan.flops(self.recipe.model, vocabulary, batch.source.shape[1])
            for unit, count in plan.counts.items():
                counts[unit] = counts.get(unit, 0.0) + weight * count
        return counts

    def _step(self) -> None:
        """A step of the optimiser, and of the moving average of the weights.

        Raises:
            OutOfMemoryError: the first step allocates the moments, twice the size of the trained weights, and they do
                not fit. Some weights may have moved by then, so the update is not repeated.
        """
        try:
            self.optimizer.step()
            if self.knobs.ema:
                self._average_weights()
        except (RuntimeError, MemoryError) as problem:
            if not is_about_memory(problem):
                raise
            raise OutOfMemoryError(
                f"update {self.position.step + 1}: no memory for what the optimiser keeps, twice the trained weights",
                "the last checkpoint is untouched; make the model smaller, or free memory",
            ) from None

    @torch.no_grad()
    def _average_weights(self) -> None:
        """Exponential moving average of the weights (Polyak & Juditsky 1992), kept in the optimiser's state.

        The decay is smaller in the first updates, whose weights are still poor.
        """
        weights, step = list[Tensor](self.model.parameters()), self.position.step
        for weight in weights:
            if EMA not in self.optimizer.state[weight]:
                self.optimizer.state[weight][EMA] = weight.detach().clone()
        means = [self.optimizer.state[weight][EMA] for weight in weights]
        torch._foreach_lerp_(means, weights, 1 - min(self.knobs.ema, (1 + step) / (10 + step)))

    def _skip(self, window: Window, why: str) -> None:
        """Report a skipped update; end the training after too many in a row."""
        position = self.position
        sentences = [int(row) for rows in window.rows for row in rows]
        self.log.write("skipped", position.step + 1, why=why, in_a_row=position.bad, sentences=sentences)
        console.warn(f"update {position.step + 1}: {why}; skipped ({position.bad} in a row)")
        if position.bad < self.knobs.max_bad_steps:
            return
        if why == "out of memory":
            raise self._too_large()
        raise NonFiniteError(
            f"{position.bad} updates in a row without a finite gradient, the last at update {position.step + 1}",
            "lower training.learning_rate, set training.clip, or rename the newest checkpoint to resume an earlier one",
        )

    def _too_large(self) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"update {self.position.step + 1} does not fit into memory",
            f"the last checkpoint is untouched; lower training.batch_tokens ({self.knobs.batch_tokens:,})",
        )

    def _validation_too_large(self) -> OutOfMemoryError:
        key, now = "decoding.batch_sentences", self.recipe.decoding.batch_sentences
        if now == 1:
            key, now = "training.batch_tokens", self.knobs.batch_tokens
        smaller = ("--set", f"{key}={now // 2}", "--allow-change", key)
        return OutOfMemoryError(
            f"the validation after update {self.position.step:,} does not fit into memory; the update is saved",
            f"resume with: {resume_command(self.run.path, self.world, *smaller)}",
        )


class LossModule(nn.Module):
    """Model and objective as one module, so that DistributedDataParallel sees one forward."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, plan: Plan, knobs: Any) -> dict[str, Term]:
        return self.objective.loss(self.model, batch, plan, knobs)


def learning_rate(step: int, knobs: Training) -> float:
    """The learning rate of update `step` (from 0): linear warm-up to the peak, then the schedule.

    inverse_sqrt: falls with 1/sqrt(step) (Vaswani 2017). linear, cosine: would reach 0 right after the last update.
    """
    done = step + 1
    if done < knobs.warmup:
        return knobs.learning_rate * done / knobs.warmup
    if knobs.schedule == "inverse_sqrt":
        return knobs.learning_rate * (max(1, knobs.warmup) / done) ** 0.5
    left = min(1.0, max(0.0, (knobs.updates - step) / max(1, knobs.updates - knobs.warmup)))
    return knobs.learning_rate * (left if knobs.schedule == "linear" else 0.5 - 0.5 * cos(pi * left))


def plan_of(batch: Batch, recipe: Recipe, epoch: int) -> Plan:
    """The objective's plan for this batch in this epoch, with its noise drawn."""
    return OBJECTIVES[recipe.objective.name].plan(batch, Draws(recipe.seed, epoch, batch.ids), recipe.objective)


def micro_batches(batch: Batch, weight: float, recipe: Recipe, epoch: int, device: torch.device) -> list[Micro]:
    """A batch as micro-batches: on a CPU of at most about `training.cpu_slots` slots each, elsewhere as a whole."""
    whole, most = Micro(batch, plan_of(batch, recipe, epoch), weight), recipe.training.cpu_slots
    slots = sum(stream.tokens.numel() for stream in whole.plan.streams.values())
    return in_parts([whole], recipe, epoch, -(-slots // most) if device.type == "cpu" and most else 1)


def in_parts(micros: Sequence[Micro], recipe: Recipe, epoch: int, count: int) -> list[Micro]:
    """Each micro-batch split into up to `count` smaller ones; each sentence keeps its noise."""
    if count == 1:
        return list(micros)
    parts: list[Micro] = []
    for batch, _, weight in micros:
        size = -(-len(batch.ids) // count)
        for start in range(0, len(batch.ids), size):
            part = batch.select(slice(start, start + size))
            parts.append(Micro(part, plan_of(part, recipe, epoch), weight))
    return parts


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one update on one rank."""
    return ((seed * 1_000_003 + step) * 1_000_003 + rank) % (1 << 63)


def resume_command(run: Path, world: World, *more: str) -> str:
    """The command that resumes a run, bit for bit unless `more` options change it."""
    launcher = f"  (under the same launcher, in {world.size} processes)" if world.size > 1 else ""
    return command("janus", "train", "--resume", "--run", run, *more) + launcher


def _agreed_signal(counts: Mapping[str, float]) -> int:
    """The signal that any rank has received; SIGTERM if they received different ones, 0 if none."""
    if not counts["stopped"]:
        return 0
    mean = counts["signals"] / counts["stopped"]
    return int(mean) if mean in SIGNALS else signal.SIGTERM
