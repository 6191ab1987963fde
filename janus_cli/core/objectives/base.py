"""What an objective is: which slots the decoder reads (`plan`), and the terms of the loss over them (`loss`).

A plan is data only, and says over how many slots each term is averaged. So the training loop can add up the counts of
all ranks and accumulation steps, by which sums are divided, before any forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from janus_cli.core.batch import IGNORE, Batch
from janus_cli.core.knobs import Model
from janus_cli.core.losses import labelled_loss, length_loss
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.steps import choices_at
from janus_cli.core.stream import Stream
from janus_cli.core.writing import Unwritten


class Term(NamedTuple):
    """One named part of a loss. The loop adds weight * total * plan.share(unit)."""

    total: Tensor  # scalar, nats
    unit: str  # a key of Plan.counts
    weight: float


class EncoderInput(NamedTuple):
    """What the encoder reads instead of the source, and its labels; both (B, S)."""

    tokens: Tensor
    labels: Tensor  # the token to predict, IGNORE for none


BACKWARD = 2  # FLOPs per FLOP of the forward pass: each product has two gradients, each as expensive as itself


@dataclass(frozen=True)
class Plan:
    """streams: what the decoder reads, a call for each. counts: how many of each unit this batch has.

    drafts: streams that are decoded first, without gradient; what the model predicts there completes `streams`.
    source: what the encoder reads, None for the source itself. encodings: how often it reads it.
    whole: the counts of the whole update, over ranks and accumulation steps; by default, those of this batch.
    """

    streams: Mapping[str, Stream]
    counts: Mapping[str, int]
    whole: Mapping[str, float] = field(default_factory=dict)
    drafts: Mapping[str, Stream] = field(default_factory=dict)
    source: EncoderInput | None = None
    encodings: int = 1

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        streams, drafts = (
            {name: stream.to(device) for name, stream in each.items()} for each in (self.streams, self.drafts)
        )
        source = self.source and EncoderInput(*(tensor.to(device) for tensor in self.source))
        return replace(self, streams=streams, drafts=drafts, source=source)

    def share(self, unit: str) -> float:
        """The weight of one `unit` in a mean over the whole update."""
        return 1 / max(1.0, self.whole.get(unit, self.counts[unit]))

    def flops(self, knobs: Model, vocabulary: int, source: int) -> int:
        """Multiplications and additions of the matrix products of a training step, from shapes alone.

        That is forward and backward over the streams, a decoder call for each, and forward over each draft. Padding
        counts, because it is computed; softmax, norms, dropout and the optimiser do not.
        vocabulary: size of the target's, also assumed for the encoder's predictions. source: S.
        """
        batch = next(iter(self.streams.values())).tokens.shape[0]
        # The keys and values of the source are made once, and read by every call.
        shared = knobs.decoder_layers * 2 * batch * 2 * source * knobs.width**2
        streams, drafts = (
            sum(decoder_flops(knobs, vocabulary, source, stream) - shared for stream in each.values())
            for each in (self.streams, self.drafts)
        )
        encoding = _layers_flops(knobs, knobs.encoder_layers, batch, source, [source]) + shared
        forward = self.encodings * encoding + streams
        if self.source is not None:
            forward += 2 * int((self.source.labels != IGNORE).sum()) * knobs.width * vocabulary
        return (1 + BACKWARD) * forward + drafts


def decoder_flops(knobs: Model, vocabulary: int, source: int, stream: Stream) -> int:
    """FLOPs of a decoder call, with the keys and values of the source and the logits of labelled slots."""
    batch, slots = stream.tokens.shape
    keys = [stream.keys] * (1 + knobs.causal_attention) + [source]
    logits = 2 * int(stream.labelled.sum()) * knobs.width * vocabulary
    return _layers_flops(knobs, knobs.decoder_layers, batch, slots, keys) + logits


def _layers_flops(knobs: Model, layers: int, batch: int, slots: int, keys: list[int]) -> int:
    """FLOPs of layers over (B, L) slots, each with one attention per entry of `keys`, over that many keys."""
    width = knobs.width
    # Queries and outputs (B, L, D), keys and values (B, K, D), scores (B, H, L, K) and their sums.
    attention = sum(2 * slots * width**2 + 2 * count * width**2 + 2 * slots * count * width for count in keys)
    feedforward = 2 * slots * width * knobs.feedforward
    embedding = 2 * slots * width**2 if knobs.embedding == "concat" else 0
    return 2 * batch * (layers * (attention + feedforward) + embedding)


@dataclass(frozen=True)
class Objective:
    """plan(batch, draws, knobs) -> Plan, without the model; loss(model, batch, plan, knobs) -> {name: Term}.

    terms: the names that `loss` returns. further(knobs) -> those that it also returns with these knobs.
    knobs_at(knobs, step) -> the knobs in force at an update; kl_share(knobs, step) -> the share of their full weights
    that KL terms have then.
    """

    plan: Callable[[Batch, Draws, Any], Plan]
    loss: Callable[[Transformer, Batch, Plan, Any], dict[str, Term]]
    terms: tuple[str, ...]
    further: Callable[[Any], tuple[str, ...]] = lambda knobs: ()
    knobs_at: Callable[[Any, int], Any] = lambda knobs, step: knobs
    kl_share: Callable[[Any, int], float] = lambda knobs, step: 1.0

    def terms_with(self, knobs: object) -> tuple[str, ...]:
        """The names that `loss` returns with these knobs."""
        return (*self.terms, *self.further(knobs))


def count_units(batch: Batch, hidden: Tensor | None = None) -> dict[str, int]:
    """Counts to average terms over: target tokens with EOS, sentences and, given hidden (B, T) bool, hidden tokens."""
    units = {"tokens": int(batch.target_real[:, 1:].sum()), "sentences": len(batch.ids)}
    return units if hidden is None else {**units, "hidden": int(hidden.sum())}


def stream_loss(model: Transformer, memory: Memory, stream: Stream, smoothing: float) -> Tensor:
    """Cross-entropy of a stream's labelled slots, in one decoder call; scalar, in nats."""
    states = model.decode(stream, memory)
    return labelled_loss(stream, states, model.output_weight, smoothing, bias=model.output_bias)


def length_term(model: Transformer, memory: Memory, batch: Batch, weight: float) -> Term:
    """CE_length, a mean over sentences."""
    return Term(length_loss(model.length_logits(memory), batch.target_lengths), "sentences", weight)


def guesses(model: Transformer, memory: Memory, stream: Stream, asked: Tensor, never: Unwritten) -> Tensor:
    """The model's own predictions at the slots `asked` (B, L) bool of a stream, without gradient -> (B, L).

    Autocast caches the weights that it converts, and older versions of torch would reuse those cached here, without
    gradient, in later passes of the same update, which need gradients. So nothing is cached here.
    """
    device = stream.tokens.device.type
    low, on = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.no_grad(), torch.autocast(device, dtype=low, enabled=on, cache_enabled=False):
        return choices_at(model, model.decode(stream, memory), asked, never)[0]
