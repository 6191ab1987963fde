"""What the decoders need of a model, as callables over streams; `core/generate.py` puts them together."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, MASK, PAD
from janus_cli.core.knobs import ARSide
from janus_cli.core.largest import argmax
from janus_cli.core.search import masks
from janus_cli.core.stream import ahead, base, beside, following, framed, left_to_right

if TYPE_CHECKING:
    from janus_cli.core.model import Memory, Transformer

NEVER_WRITTEN = (PAD, BOS, MASK)
LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}  # numbers: 4 MiB stay in a CPU's cache while they are used


def allowed_logits(model: Transformer, states: Tensor, never: tuple[int, ...] = NEVER_WRITTEN) -> Tensor:
    """(N, D) -> (N, V) in float32 at least, -inf for what may not be written."""
    logits = model.logits(states)
    logits = logits if logits.dtype.itemsize > 4 else logits.float()
    for token in never:
        logits[:, token] = -inf
    return logits


def log_probabilities(model: Transformer, states: Tensor, never: tuple[int, ...] = NEVER_WRITTEN) -> Tensor:
    """(N, D) -> (N, V) in nats, over the tokens that may be written."""
    return allowed_logits(model, states, never).log_softmax(1)


def at_once(model: Transformer) -> int:
    """How many states are turned into logits together: memory does not grow with the batch."""
    words = model.output_weight
    return max(64, LOGITS_AT_ONCE.get(words.device.type, 1 << 25) // len(words))


def choices(
    model: Transformer, states: Tensor, never: tuple[int, ...] = NEVER_WRITTEN, at_end: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best token, the lowest id among equals, and its log-probability in nats. (N, D) -> (N,), (N,).

    at_end: (N,) bool, where EOS is the only choice.
    """
    found, count = [], at_once(model)
    for start in range(0, max(1, len(states)), count):
        logits = allowed_logits(model, states[start : start + count], never)
        best = argmax(logits)
        if at_end is not None:
            best = best.masked_fill(at_end[start : start + count], EOS)
        found.append((best, -F.cross_entropy(logits, best, reduction="none")))
    return found[0] if len(found) == 1 else (torch.cat([b for b, _ in found]), torch.cat([p for _, p in found]))


def chosen_at(
    model: Transformer, states: Tensor, asked: Tensor, never: tuple[int, ...], at_end: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`choices` at the places `asked` (R, L) bool of states (R, L, D) -> (R, L), (R, L); PAD and 0 elsewhere."""
    best = torch.full(asked.shape, PAD, device=asked.device)
    logps = torch.zeros(asked.shape, dtype=torch.promote_types(states.dtype, torch.float32), device=asked.device)
    best[asked], logps[asked] = choices(model, states[asked], never, None if at_end is None else at_end[asked])
    return best, logps


class NextToken:
    """The step of `beam_search` and `greedy`: one new slot a row (content), or one and a query, over a cache."""

    never: tuple[int, ...] = NEVER_WRITTEN

    def __init__(self, model: Transformer, memory: Memory, ar_stream: ARSide, most: Tensor) -> None:
        self.model, self.memory, self.ar_stream = model, memory, ar_stream
        self.cache = model.new_cache(len(memory.real), int(most.max()) + (ar_stream == "self"))
        self.position, self.fan = 0, 1

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        """For `beam_search`: (R, V) log-probabilities."""
        if parents is not None:
            sentences = torch.unique(parents // self.fan)
            self.fan = len(parents) // len(sentences)
            self._keep(parents, sentences)
        return log_probabilities(self.model, self._states(last), self.never)

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        """For `greedy`: the best token and its log-probability; each (R,)."""
        if kept is not None:
            self._keep(kept, kept)
        return choices(self.model, self._states(last), self.never, at_end)

    def _keep(self, rows: Tensor, sentences: Tensor) -> None:
        self.cache.select(rows)
        if len(sentences) < len(self.memory.real):
            self.memory = self.memory.select(sentences)

    def _states(self, last: Tensor) -> Tensor:
        start, real = torch.full_like(last, self.position), torch.ones_like(last, dtype=torch.bool)
        self.position += 1
        stream = following(last[:, None], start, real[:, None], self.ar_stream)
        states = self.model.decode(stream, self.memory, self.cache)[:, -1]
        self.cache.at = self.position  # a query that read itself is written over
        return states


class NextOfLength(NextToken):
    """The same for an AR side of `masks`: MASKs stand for all tokens of a text whose length is known.

    Base slots, which do not change, are decoded at the start; then, for each token, its slot and the next query.
    """

    never = (*NEVER_WRITTEN, EOS)

    def __init__(self, model: Transformer, memory: Memory, lengths: Tensor) -> None:
        """lengths: (B,) int64, without EOS."""
        super().__init__(model, memory, "masks", 2 * lengths + 2)
        target = framed(masks(lengths))
        model.decode(base(target, left_to_right(target == MASK)), memory, self.cache)
        self.lengths = lengths

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        logps = super().__call__(last, parents)
        ending = self.lengths < self.position
        logps[ending] = -inf
        logps[ending, EOS] = 0.0
        return logps

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        found, logps = super().best(last, kept, torch.zeros_like(at_end))
        return found.masked_fill(at_end, EOS), logps.masked_fill(at_end, 0.0)

    def _keep(self, rows: Tensor, sentences: Tensor) -> None:
        super()._keep(rows, sentences)
        self.lengths = self.lengths[rows]

    def _states(self, last: Tensor) -> Tensor:
        start, real = torch.full_like(last, self.position), torch.ones_like(last, dtype=torch.bool)
        stream = following(last[:, None], start, real[:, None], "query")
        if not self.position:  # BOS is a base slot
            stream = stream.unread
        self.position += 1
        return self.model.decode(stream, self.memory, self.cache)[:, -1]


class NextBlock:
    """The step of `blocks`: the tokens of the last block, and behind them as many MASKs as the next is to have.

    The MASKs see all tokens, themselves and those before them, as in BANG; they are written over in the next pass.
    """

    def __init__(self, model: Transformer, memory: Memory, most: Tensor, block: int) -> None:
        self.model, self.memory, self.known = model, memory, 0
        self.cache = model.new_cache(len(memory.real), int(most.max()) + 2 * block)

    def __call__(self, last: Tensor, count: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """last: (R, N) int64, BOS at first. kept: (R,) rows of the pass before. -> `count` more, (R, count) each."""
        if kept is not None:
            self.cache.select(kept)
            self.memory = self.memory.select(kept)
        ones = torch.ones_like(last, dtype=torch.bool)
        read = following(last, torch.full_like(last[:, 0], self.known), ones, "content")
        self.known += last.shape[1]
        blank = torch.full((len(last), self.known + count), MASK, device=last.device)
        step = torch.arange(1, count + 1, device=last.device)
        written = ahead(blank, torch.full_like(step, self.known - 1), step, alone=False)
        states = self.model.decode(beside(read, written), self.memory, self.cache)[:, -count:]
        self.cache.at = self.known
        best, logps = choices(self.model, states.flatten(0, 1))
        return best.view(len(last), count), logps.view(len(last), count)


class AllTokens:
    """The step of `mask_predict`: one decoder pass over BOS, observed and MASK tokens, EOS; all see each other."""

    def __init__(self, model: Transformer, memory: Memory, *, everywhere: bool = False) -> None:
        """everywhere: tokens are chosen at every place, asked or not, so that shapes do not depend on who is asked."""
        self.model, self.memory, self.everywhere = model, memory, everywhere

    def __call__(self, tokens: Tensor, asked: Tensor, sentences: Tensor | None) -> tuple[Tensor, Tensor]:
        memory = self.memory if sentences is None else self.memory.select(sentences)
        target = framed(tokens)
        states = self.model.decode(base(target, torch.zeros_like(target)), memory)[:, 1:-1]  # (R, T, D)
        if self.everywhere:
            best, logps = choices(self.model, states.flatten(0, 1), (*NEVER_WRITTEN, EOS))
            return best.view(asked.shape), logps.view(asked.shape)
        return chosen_at(self.model, states, asked, (*NEVER_WRITTEN, EOS))
