"""Who is timed by `train_speed.py`, each in a process of its own: our objectives, and Hugging Face in a bare loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
import torch.nn.functional as F

from janus_cli.core.batch import BOS, EOS, PAD, Batch
from janus_cli.data.batching import epoch_batches, load_batch
from janus_cli.data.store import Store
from janus_cli.device import keep_few_shapes, keep_freed_memory
from janus_cli.errors import JanusError, require
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.system import peak_bytes
from janus_cli.training.model import build_model
from janus_cli.training.optimizer import make_optimizer
from janus_cli.training.trainer import Trainer
from janus_cli.world import autocast, start_world

HUGGING_FACE: Final = "transformers"
SMOOTHING = 0.1  # of the peer's cross-entropy


@dataclass(frozen=True)
class Entry:
    """Who takes part. who: an objective of the recipe, or `HUGGING_FACE`. store: the training pairs."""

    who: str
    recipe: Recipe
    store: Path
    device: str

    @property
    def label(self) -> str:
        return f"{self.who} {self.recipe.training.precision}"


@dataclass(frozen=True)
class Turn:
    """What some steps took. loading: the share of the time in which batches and noise were made; peak: bytes so far.

    utilisation: the share of the machine's matrix-product rate that the products came to; None: not counted.
    """

    seconds_a_step: float
    tokens_a_second: float
    loading: float
    peak: int
    utilisation: float | None = None


class Ours:
    """An objective, as `janus train` trains it."""

    def __init__(self, entry: Entry, store: Store) -> None:
        keep_freed_memory()
        keep_few_shapes()
        world = start_world(entry.device)
        torch.manual_seed(entry.recipe.seed)
        sizes = store.source_vocabulary, store.target_vocabulary
        model = build_model(entry.recipe, *sizes).to(world.device).train()
        self.parameters = sum(weight.numel() for weight in model.parameters())
        prepared: Any = SimpleNamespace(train=store)  # all that is asked of it
        self.trainer = Trainer(entry.recipe, model, prepared, world, Run(Path("unused")))
        self.windows = self.trainer.windows()

    def turn(self, steps: int) -> Turn:
        trainer = self.trainer
        trainer.meter.take()
        began, loading, done = time.perf_counter(), 0.0, 0
        for _ in range(steps):
            before = time.perf_counter()
            window = next(self.windows)
            loading += time.perf_counter() - before
            trainer.update(window)
            done += trainer.position.bad == 0
        if done < steps:
            raise JanusError(f"{steps - done} of {steps} updates were skipped", "lower training.learning_rate")
        values = trainer.meter.take()
        taken = time.perf_counter() - began
        return Turn(
            taken / steps, values["tokens_per_second"], loading / taken, _peak(trainer.world.device),
            values["utilisation"],
        )  # fmt: skip


def marian(recipe: Recipe, source_vocabulary: int, target_vocabulary: int) -> Any:
    """A Marian model of the recipe's shape and dropout with random weights: nothing is downloaded.

    Its norm is post and its positions are sinusoidal, whatever the recipe says.
    """
    transformers, knobs = require("transformers", "peers"), recipe.model
    config = transformers.MarianConfig(
        vocab_size=source_vocabulary, decoder_vocab_size=target_vocabulary,
        share_encoder_decoder_embeddings=knobs.tie == "all", tie_word_embeddings=knobs.tie != "none",
        d_model=knobs.width, encoder_layers=knobs.encoder_layers, decoder_layers=knobs.decoder_layers,
        encoder_attention_heads=knobs.heads, decoder_attention_heads=knobs.heads,
        encoder_ffn_dim=knobs.feedforward, decoder_ffn_dim=knobs.feedforward, dropout=knobs.dropout,
        attention_dropout=knobs.attention_dropout, activation_dropout=knobs.activation_dropout,
        max_position_embeddings=knobs.max_length, activation_function=knobs.activation,
        scale_embedding=knobs.embedding_scale, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        decoder_start_token_id=BOS, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    return transformers.MarianMTModel(config)


class Marian:
    """transformers' MarianMTModel of the same shape in the loop that a user would write: the same batches, no plan."""

    def __init__(self, entry: Entry, store: Store) -> None:
        self.recipe, self.store, self.device = entry.recipe, store, start_world(entry.device).device
        model = marian(self.recipe, store.source_vocabulary, store.target_vocabulary)
        self.model = model.to(self.device).train()
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.optimizer = make_optimizer(self.model.parameters(), self.recipe.training)
        self.batches = self._batches()

    def _batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            for rows in epoch_batches(self.store, self.recipe.training.batch_tokens, self.recipe.seed, epoch):
                yield load_batch(self.store, rows)
            epoch += 1

    def turn(self, steps: int) -> Turn:
        began, loading, tokens = time.perf_counter(), 0.0, 0
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(self.batches)
            loading += time.perf_counter() - before
            tokens += int(batch.target_real[:, 1:].sum())
            self.step(batch.to(self.device))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        taken = time.perf_counter() - began
        return Turn(taken / steps, tokens / taken, loading / taken, _peak(self.device))

    def step(self, batch: Batch) -> float:
        """One update; the loss, nats a token."""
        self.optimizer.zero_grad()
        labels = batch.target[:, 1:]
        with autocast(self.recipe.training.precision, self.device):
            logits = self.model(
                input_ids=batch.source, attention_mask=batch.source_real.long(), decoder_input_ids=batch.target[:, :-1],
                use_cache=False,
            ).logits  # fmt: skip
            loss = F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING
            )  # (B, L, V) -> (B*L, V)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()


_running: Ours | Marian


def begin(entry: Entry) -> int:
    """Builds it in this process, which has room for one; its number of weights.

    Raises:
        DataError: the training pairs cannot be read.
        UsageError: there is no such device, or transformers is not installed.
    """
    global _running
    made: Callable[[Entry, Store], Ours | Marian] = Marian if entry.who == HUGGING_FACE else Ours
    _running = made(entry, Store.open(entry.store, "train"))
    return _running.parameters


def turn(steps: int) -> Turn:
    """So many steps of what `begin` built."""
    return _running.turn(steps)
