"""Decoder passes of a model, as the callables that the searches in `core/search/` take."""

from __future__ import annotations

from functools import partial
from itertools import chain
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.search.mask_predict import mask_predict, masks
from janus_cli.core.stream import Stream, ar_step, ar_stream, beside, framed, future, left_to_right, masked
from janus_cli.core.writing import NEVER_WRITTEN, Unwritten, never_written

LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}  # elements: 4 MiB stay in a CPU's cache while they are used


def logits_without(model: Transformer, states: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """(N, D) -> (N, V) in float32 at least, -inf for `tokens`."""
    logits = model.logits(states)
    return without(logits if logits.dtype.itemsize > 4 else logits.float(), tokens)


def without(values: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """values (N, V), changed in place: -inf for `tokens`."""
    for token in tokens:
        values[:, token] = -inf
    return values


def log_probabilities(model: Transformer, states: Tensor, never: Unwritten = NEVER_WRITTEN) -> Tensor:
    """(N, D) -> (N, V) in nats, -inf for what is never written."""
    return without(logits_without(model, states, never.shared).log_softmax(1), never.kept)


def at_once(model: Transformer) -> int:
    """How many states are turned into logits together, so that memory does not grow with the batch."""
    words = model.output_weight
    return max(64, LOGITS_AT_ONCE.get(words.device.type, 1 << 25) // len(words))


def choices(
    model: Transformer, states: Tensor, never: Unwritten = NEVER_WRITTEN, at_end: Tensor | None = None,
    *, doubt: bool = False, other: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The likeliest token, the lowest id of equal ones, and its log-probability in nats. (N, D) -> (N,), (N,).

    at_end: (N,) bool, where EOS is the only choice. other: add the next likeliest and its log-probability, (N,) each.
    doubt: add the entropy in nats, (N,).
    """
    chosen, count = [], at_once(model)
    for start in range(0, max(1, len(states)), count):
        logits = logits_without(model, states[start : start + count], never.shared)
        allowed = without(logits.clone(), never.kept) if never.kept else logits
        best = allowed.argmax(1)
        if at_end is not None:
            best = best.masked_fill(at_end[start : start + count], EOS)
        entropy = [torch.special.entr(logits.softmax(1)).sum(1)] if doubt else []
        found = [best] + ([allowed.scatter(1, best[:, None], -inf).argmax(1)] if other else [])
        sure = ((each, -F.cross_entropy(logits, each, reduction="none")) for each in found)
        chosen.append((*chain.from_iterable(sure), *entropy))
    return chosen[0] if len(chosen) == 1 else tuple(map(torch.cat, zip(*chosen, strict=True)))


def choices_at(
    model: Transformer, states: Tensor, asked: Tensor, never: Unwritten, at_end: Tensor | None = None,
    *, everywhere: bool = False, **more: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`choices` at the places `asked` (R, L) bool of states (R, L, D) -> (R, L) each; PAD, which is 0, elsewhere.

    everywhere: compute them at all places, so that no shape depends on `asked`. more: what `choices` adds.
    """
    if everywhere:
        found = choices(model, states.flatten(0, 1), never, None if at_end is None else at_end.flatten(), **more)
        return tuple(each.view(asked.shape).masked_fill(~asked, PAD) for each in found)
    found = choices(model, states[asked], never, None if at_end is None else at_end[asked], **more)
    wholes = tuple(torch.full(asked.shape, PAD, dtype=part.dtype, device=asked.device) for part in found)
    for whole, part in zip(wholes, found, strict=True):
        whole[asked] = part
    return wholes


def token_logps(model: Transformer, states: Tensor, tokens: Tensor, never: Unwritten = NEVER_WRITTEN) -> Tensor:
    """The log-probability in nats of a given token in each state. (N, D), (N,) -> (N,)."""
    count = at_once(model)
    parts = zip(states.split(count), tokens.split(count), strict=True)
    return torch.cat([log_probabilities(model, some, never).gather(1, token[:, None])[:, 0] for some, token in parts])


def ar_scores(
    model: Transformer, memory: Memory, tokens: Tensor, side: ARSide, never: Unwritten = NEVER_WRITTEN
) -> Tensor:
    """Mean log-probability in nats of each row's tokens and EOS, read left to right in one pass. (R, T) -> (R,).

    An AR side of `masks` knows the length: it neither predicts EOS nor may write it. never: tokens of probability 0.
    """
    stream, asking = ar_stream(framed(tokens), side), slice(-tokens.shape[1] - 1, None)  # the slots that predict
    states, labels = model.decode(stream, memory)[:, asking], stream.labels[:, asking]
    gold, real = labels.flatten().clamp(min=0), labels != IGNORE
    logps = token_logps(model, states.flatten(0, 1), gold, never.or_eos if side == "masks" else never)
    return torch.where(real, logps.view(real.shape), 0.0).sum(1) / real.sum(1)


class NextToken:
    """The step of `beam_search` and `greedy`: for each row one new slot (content), or one and a query, and a cache."""

    def __init__(
        self, model: Transformer, memory: Memory, side: ARSide, most: Tensor, never: Unwritten = NEVER_WRITTEN
    ) -> None:
        """most: (B,) int64, the longest output of each sentence, EOS included. never: tokens of probability 0."""
        self.model, self.memory, self.side, self.never = model, memory, side, never
        self.cache = model.new_cache(len(memory.real), int(most.max()) + (side == "self"))
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
        best, logps = choices(self.model, self._states(last), self.never, at_end)
        return best, logps

    def _keep(self, rows: Tensor, sentences: Tensor) -> None:
        self.cache.select(rows)
        if len(sentences) < len(self.memory.real):
            self.memory = self.memory.select(sentences)

    def _slots(self, last: Tensor, side: ARSide) -> Stream:
        start, real = torch.full_like(last, self.position), torch.ones_like(last, dtype=torch.bool)
        return ar_step(last[:, None], start, real[:, None], side)

    def _states(self, last: Tensor) -> Tensor:
        states = self.model.decode(self._slots(last, self.side), self.memory, self.cache)[:, -1]
        self.position += 1
        self.cache.at = self.position  # the next token overwrites a query of a `self` side
        return states


class NextOfLength(NextToken):
    """`NextToken` for an AR side of `masks`: the length is known, and at first every token is a MASK.

    BOS, MASKs and EOS are decoded at the start, once; then, for each token, its slot and the next query.
    """

    def __init__(self, model: Transformer, memory: Memory, lengths: Tensor, never: Unwritten = NEVER_WRITTEN) -> None:
        """lengths: (B,) int64, without EOS. never: tokens of probability 0, beside EOS."""
        super().__init__(model, memory, "masks", 2 * lengths + 2, never.or_eos)
        target = framed(masks(lengths))
        model.decode(masked(target, left_to_right(target == MASK)), memory, self.cache)
        self.lengths = lengths

    def __call__(self, last: Tensor, parents: Tensor | None) -> Tensor:
        logps = super().__call__(last, parents)
        ending = self.lengths < self.position
        logps[ending] = -inf
        logps[ending, EOS] = 0.0
        return logps

    def best(self, last: Tensor, kept: Tensor | None, at_end: Tensor) -> tuple[Tensor, Tensor]:
        best, logps = super().best(last, kept, torch.zeros_like(at_end))
        return best.masked_fill(at_end, EOS), logps.masked_fill(at_end, 0.0)

    def _keep(self, rows: Tensor, sentences: Tensor) -> None:
        super()._keep(rows, sentences)
        self.lengths = self.lengths[rows]

    def _states(self, last: Tensor) -> Tensor:
        stream = self._slots(last, "query")
        if not self.position:  # BOS was decoded with the MASKs
            stream = stream.query_slots
        self.position += 1
        return self.model.decode(stream, self.memory, self.cache)[:, -1]


class NextBlock:
    """The step of `write_blocks`: the tokens of the last block, then a MASK for each token of the next.

    The MASKs see all tokens, themselves and the MASKs before them, as in BANG; the next pass overwrites them.
    """

    def __init__(
        self, model: Transformer, memory: Memory, most: Tensor, block: int, never: Unwritten = NEVER_WRITTEN
    ) -> None:
        self.model, self.memory, self.never, self.known = model, memory, never, 0
        self.cache = model.new_cache(len(memory.real), int(most.max()) + 2 * block)

    def __call__(self, last: Tensor, count: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """last: (R, N) int64, BOS at first. kept: (R,) rows of the previous pass. -> `count` more, (R, count) each."""
        if kept is not None:
            self.cache.select(kept)
            self.memory = self.memory.select(kept)
        ones = torch.ones_like(last, dtype=torch.bool)
        read = ar_step(last, torch.full_like(last[:, 0], self.known), ones, "content")
        self.known += last.shape[1]
        blank = torch.full((len(last), self.known + count), MASK, device=last.device)
        step = torch.arange(1, count + 1, device=last.device)
        written = future(blank, torch.full_like(step, self.known - 1), step, alone=False)
        states = self.model.decode(beside(read, written), self.memory, self.cache)[:, -count:]
        self.cache.at = self.known
        best, logps = choices(self.model, states.flatten(0, 1), self.never)
        return best.view(len(last), count), logps.view(len(last), count)


def fill_masks(
    model: Transformer, memory: Memory, tokens: Tensor, asked: Tensor, sentences: Tensor | None = None,
    *, never: Unwritten = NEVER_WRITTEN, everywhere: bool = False, doubt: bool = False, differ: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The step of `mask_predict`: one decoder pass over BOS, observed and MASK tokens, EOS; all see each other.

    never: tokens of probability 0, beside EOS. everywhere, doubt: see `choices_at`; `over_lengths` needs the doubt of
    the first pass. differ: add the next likeliest tokens, for what would equal a neighbour.
    """
    memory = memory if sentences is None else memory.select(sentences)
    target = framed(tokens)
    states = model.decode(masked(target, torch.zeros_like(target)), memory)[:, 1:-1]  # (R, T, D)
    return choices_at(model, states, asked, never.or_eos, everywhere=everywhere, doubt=doubt, other=differ)


def draft_input(tokens: Tensor, counts: Tensor, size: Tensor, length: int, room: int) -> tuple[Tensor, Tensor]:
    """What drafting reads, (A, room): the first `counts` (A,) of tokens (A, P), then MASKs up to `size` (A,), then PAD;
    and where it writes, (A, room) bool: the first `length` MASKs."""
    place = torch.arange(room, device=tokens.device)
    known = F.pad(tokens, (0, max(0, room - tokens.shape[1])))[:, :room]
    known = torch.where(place < counts[:, None], known, MASK).masked_fill(place >= size[:, None], PAD)
    return known, (known == MASK) & (place < counts[:, None] + length)


class Draft:
    """The `draft` of `speculative`: mask-predict on what follows the prefix, up to the predicted length."""

    def __init__(self, model: Transformer, memory: Memory, lengths: Tensor, most: Tensor, options: Decoding) -> None:
        """lengths, most: (B,) int64, predicted length without EOS, and the longest output with EOS."""
        self.model, self.memory, self.options, self.never = model, memory, options, never_written(options)
        self.lengths, self.most = lengths, (most - 1).clamp(max=model.knobs.max_length - 2)

    def __call__(self, tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        written, passes = self.write(*self.input(tokens, counts, sentences), sentences)
        return self.proposals(written, counts), passes

    def write(self, known: Tensor, asked: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """`known` (A, T) with its MASKs at `asked` filled in, and the passes (A,) that this took."""
        everyone = len(sentences) == len(self.memory.real)
        memory = self.memory if everyone else self.memory.select(sentences)
        step = partial(fill_masks, self.model, memory, never=self.never)
        written, _, passes = mask_predict(step, known, self.options.draft_iters, only=asked)
        return written, passes

    def size(self, counts: Tensor, sentences: Tensor) -> Tensor:
        """The length (A,) to draft up to: as predicted, but beyond the prefix and within the longest output."""
        return torch.maximum(self.lengths[sentences], counts + 1).minimum(self.most[sentences])

    def input(self, tokens: Tensor, counts: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """`draft_input` for these prefixes, (A, T) each; T is the longest `size`."""
        size = self.size(counts, sentences)
        return draft_input(tokens, counts, size, self.options.draft_length, int(size.max()))

    def proposals(self, written: Tensor, counts: Tensor) -> Tensor:
        """The drafted tokens after the prefix, then EOS if the draft reaches the end. (A, T) -> (A, W)."""
        longest = min(self.options.draft_length, written.shape[1] - int(counts.min()))
        places = counts[:, None] + torch.arange(longest + 1, device=written.device)
        behind = F.pad(written, (0, 1)).gather(1, places.clamp(max=written.shape[1]))  # beyond the longest: PAD
        size = (written != PAD).sum(1, keepdim=True)
        behind = torch.where(places == size, EOS, behind)
        return behind.masked_fill((behind == MASK).cumsum(1) > 0, PAD)


class Verify:
    """The `verify` of `speculative`: one pass over the last verified token and the proposals after it.

    Slots of rejected proposals stay in the cache until the next ones overwrite them; until then the clock hides them,
    because they were born later than any slot that predicts.
    """

    everywhere = False  # see `choices_at`

    def __init__(
        self, model: Transformer, memory: Memory, side: ARSide, most: Tensor, window: int,
        never: Unwritten = NEVER_WRITTEN,
    ) -> None:  # fmt: skip
        self.model, self.memory, self.side, self.never = model, memory, side, never
        self.cache = model.new_cache(len(memory.real), int(most.max()) + window + 1)

    def __call__(
        self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if kept is not None:
            self.cache.select(kept)
            self.memory = self.memory.select(kept)
        self.cache.at = counts if len(counts) > 1 else int(counts)
        return self.run(tokens, counts, proposals, at_end)

    def run(self, tokens: Tensor, counts: Tensor, proposals: Tensor, at_end: Tensor) -> tuple[Tensor, Tensor]:
        """The pass: choices and log-probabilities (A, W + 1) after the last token and each proposal."""
        last = F.pad(tokens, (1, 0), value=BOS).gather(1, counts[:, None])
        read = torch.cat([last, proposals], dim=1)  # (A, W + 1)
        real, width = read != PAD, read.shape[1]
        stream = ar_step(read, counts, real, self.side)
        # Padding may lie beyond the model's last position.
        stream = stream.replace(positions=stream.positions.clamp(max=self.model.knobs.max_length - 1))
        states = self.model.decode(stream, self.memory, self.cache)
        asking = states[:, :width] if self.side == "content" else states[:, -width:]
        best, logps = choices_at(self.model, asking, real, self.never, at_end, everywhere=self.everywhere)
        return best, logps
