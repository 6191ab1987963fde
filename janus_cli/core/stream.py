"""The clock: one rule decides which slots attend to which, for every objective and every decoding mode.

A decoder reads *slots*. A slot has a token, a position, and three times:

    attend(query slot q, key slot k)  =  birth_k <= time_q < death_k

* a token that is always visible is born at -inf and never dies (death = +inf);
* no slot attends to one that is never born (birth = +inf): padding, and the *query* slots, which only predict;
* a MASK that is replaced by its token at time k dies at k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD
from janus_cli.core.knobs import ARSide

NEVER = inf  # birth of a query slot
FIELDS = ("tokens", "positions", "time", "birth", "death", "labels")


def visible(time: Tensor, birth: Tensor, death: Tensor) -> Tensor:
    """The rule, True = may attend; the arguments are broadcast."""
    return (birth <= time) & (time < death)


@dataclass(frozen=True)
class Stream:
    """The slots of a decoder call, all tensors (B, L). The first `keys` slots can be attended to; the rest are queries.

    tokens, positions: int64. time, birth, death: float32. labels: int64, the token to predict, IGNORE for none.
    """

    tokens: Tensor
    positions: Tensor
    time: Tensor
    birth: Tensor
    death: Tensor
    labels: Tensor
    keys: int

    @property
    def attend(self) -> Tensor:
        """(B, L, K) bool, True = may attend."""
        birth, death = (times[:, None, : self.keys] for times in (self.birth, self.death))
        return visible(self.time[:, :, None], birth, death)

    @property
    def causal(self) -> Tensor:
        """(B, L, K) bool, True = may attend in a causal self-attention: by the clock, and not to the right."""
        return self.attend & (self.positions[:, None, : self.keys] <= self.positions[:, :, None])

    def mask_mod(self, *, causal: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """`attend` or `causal` for FlexAttention: (batch, head, query index, key index) -> bool."""
        time, birth, death, positions = self.time, self.birth, self.death, self.positions
        if causal:
            return lambda b, h, q, k: (
                visible(time[b, q], birth[b, k], death[b, k]) & (positions[b, k] <= positions[b, q])
            )
        return lambda b, h, q, k: visible(time[b, q], birth[b, k], death[b, k])

    @property
    def labelled(self) -> Tensor:
        """(B, L) bool, True for slots that must predict a token."""
        return self.labels != IGNORE

    def rows(self, count: int) -> Stream:
        """The slots of the first `count` sentences."""
        return self.replace(**{name: getattr(self, name)[:count] for name in FIELDS})

    def replace(self, **changes: Tensor) -> Stream:
        """The same slots with other values in these fields."""
        return Stream(**{**self.__dict__, **changes})

    @property
    def unlabelled(self) -> Stream:
        """The same slots without labels."""
        return self.replace(labels=torch.full_like(self.labels, IGNORE))

    @property
    def query_slots(self) -> Stream:
        """The query slots only."""
        return Stream(**{name: getattr(self, name)[:, self.keys :] for name in FIELDS}, keys=0)

    def to(self, device: torch.device | str) -> Stream:
        """The same stream on another device."""
        return self.replace(**{name: getattr(self, name).to(device) for name in FIELDS})


def _slots(
    positions: Tensor, time: Tensor, *, tokens: Tensor | int = MASK, birth: Tensor | float = NEVER,
    death: Tensor | float = inf, labels: Tensor | int = IGNORE, keys: int = 0,
) -> Stream:  # fmt: skip
    """Slots at these positions and times (B, L), by default MASK queries; a number applies to all slots."""

    def full(value: Tensor | float, like: Tensor) -> Tensor:
        return value if isinstance(value, Tensor) else torch.full_like(like, value)

    return Stream(
        full(tokens, positions), positions, time, full(birth, time), full(death, time), full(labels, positions), keys
    )


def _places(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)


def content(target: Tensor) -> Stream:
    """The ordinary causal decoder: y_t is born at t, lives on, and predicts y_{t+1} (Vaswani 2017).

    target: (B, T), BOS y_1 .. y_n EOS. Slots: (B, T-1), positions 0 .. T-2.
    """
    tokens, labels = target[:, :-1], target[:, 1:]
    real, positions = labels != PAD, _places(tokens)
    time = positions.float()
    return _slots(
        positions, time, tokens=tokens, birth=torch.where(real, time, NEVER),
        labels=labels.masked_fill(~real, IGNORE), keys=tokens.shape[1],
    )  # fmt: skip


def queries(target: Tensor) -> Stream:
    """Query slots beside `content`: a MASK at position t, time t - 1/2, predicts y_t from y_<t (two-stream AR).

    target: (B, T). Slots: (B, T-1), positions 1 .. T-1, none of them keys.
    """
    positions, labels = _places(target)[:, 1:], target[:, 1:]
    return _slots(positions, positions - 0.5, labels=labels.masked_fill(labels == PAD, IGNORE))


def future(target: Tensor, known: Tensor, step: Tensor, *, alone: bool) -> Stream:
    """Slots beside `content` that predict y_{d+s} from y_<=d: a MASK at position d + s, born at time d + s/T.

    All slots of one d share the interval d .. d + 1, in the order of s. `alone`: a slot attends to no MASK but itself
    (ProphetNet), because each dies before the next is born; otherwise also to the MASKs before it (BANG).

    target: (B, T). known, step: (L,) int64, d >= 0 and s >= 1 of each slot, d + s < T. Slots: (B, L), all keys.
    """
    positions = (known + step).expand(len(target), -1)
    labels = target.gather(1, positions)
    real = labels != PAD
    tick = 1 / target.shape[1]
    time = (known + step * tick).expand(positions.shape)
    death = time + tick / 2 if alone else (known + 1.0).expand(positions.shape)
    return _slots(
        positions, time, birth=torch.where(real, time, NEVER), death=death,
        labels=labels.masked_fill(~real, IGNORE), keys=positions.shape[1],
    )  # fmt: skip


def masked(target: Tensor, rank: Tensor) -> Stream:
    """The NAR stream, all at time 0: observed tokens, and for each hidden one a MASK that dies when it is revealed.

    target: (B, T). rank: (B, T), 0 for observed, k >= 1 for the k-th token to be revealed. Slots: (B, T), of
    which the MASKs predict the hidden tokens.
    """
    hidden = rank > 0
    return _slots(
        _places(target), torch.zeros(target.shape, device=target.device), tokens=target.masked_fill(hidden, MASK),
        birth=torch.where(target == PAD, NEVER, -inf), death=torch.where(hidden, rank.float(), inf),
        labels=target.masked_fill(~hidden, IGNORE), keys=target.shape[1],
    )  # fmt: skip


def revealed(target: Tensor, rank: Tensor) -> tuple[Stream, Stream]:
    """The hidden tokens in order of rank: gold slots that are revealed one by one, and queries that predict them.

    Gold k: the token, birth = time = k. Query k: a MASK at the same position, time k - 1/2, label the token.
    target, rank: (B, T). Both streams: (B, M), M the largest number of hidden tokens; gold are keys, queries are not.
    """
    hidden = rank > 0
    count = hidden.sum(1, keepdim=True)
    most = int(count.max()) if len(count) else 0
    positions = torch.where(hidden, rank, target.shape[1] + 1).argsort(dim=1, stable=True)[:, :most]
    tokens = target.gather(1, positions)
    k = torch.arange(1, most + 1, device=target.device).expand_as(positions)
    exists, time = k <= count, k.float()
    gold = _slots(positions, time, tokens=tokens, birth=torch.where(exists, time, NEVER), keys=most)
    return gold, _slots(positions, time - 0.5, labels=tokens.masked_fill(~exists, IGNORE))


def ar_stream(target: Tensor, kind: ARSide) -> Stream:
    """The slots of P_AR in training; target (B, T).

    content: each token predicts the next one (an ordinary decoder). query: MASK queries predict (two streams).
    self: MASK slots that attend to themselves predict. masks: every target token begins as a MASK, and they are
    revealed from left to right; the length is known, so EOS is not predicted.
    """
    if kind == "content":
        return content(target)
    if kind == "masks":
        rank = left_to_right((target != PAD) & (target != BOS) & (target != EOS))
        return beside(masked(target, rank).unlabelled, *revealed(target, rank))
    if kind == "query":
        return beside(content(target).unlabelled, queries(target))
    known = torch.arange(target.shape[1] - 1, device=target.device)
    return beside(content(target).unlabelled, future(target, known, torch.ones_like(known), alone=True))


def ar_step(tokens: Tensor, start: Tensor, real: Tensor, kind: ARSide) -> Stream:
    """The slots of P_AR in decoding: they predict the token after each of `tokens` (R, L), which begin at `start`.

    y_t has position and time t. With a `query` side, as in `queries`, the query for y_{t+1} is a MASK at position
    t + 1, half a tick before it; with `self`, it is also a key, until the next tick.
    start: (R,) int64. real: (R, L) bool, False for padding on the right.
    """
    positions = start[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    time, count = positions.float(), tokens.shape[1]
    read = _slots(positions, time, tokens=tokens, birth=torch.where(real, time, NEVER), keys=count)
    if kind == "content":
        return read
    ask = time + 0.5
    if kind == "query":
        return beside(read, _slots(positions + 1, ask))
    return beside(read, _slots(positions + 1, ask, birth=ask, death=time + 1, keys=count))


def framed(tokens: Tensor) -> Tensor:
    """tokens (R, T), PAD on the right -> (R, T + 2): BOS, tokens, EOS, PAD."""
    target = F.pad(tokens, (1, 1), value=PAD)
    target[:, 0] = BOS
    return target.scatter(1, 1 + (tokens != PAD).sum(1, keepdim=True), EOS)


def left_to_right(hidden: Tensor) -> Tensor:
    """The rank of each hidden token if revealed from left to right. (B, T) bool -> (B, T) int64."""
    return hidden.cumsum(1) * hidden


def beside(*streams: Stream) -> Stream:
    """The streams joined on one clock: slots attend to each other as their times say. Keys first, queries last."""
    parts = [(s, slice(0, s.keys)) for s in streams] + [(s, slice(s.keys, None)) for s in streams]
    fields = {name: torch.cat([getattr(s, name)[:, slots] for s, slots in parts], dim=1) for name in FIELDS}
    return Stream(**fields, keys=sum(s.keys for s in streams))


def repeated(stream: Stream, times: int) -> Stream:
    """The slots of a batch (B, L), `times` over -> (times * B, L)."""
    return stream.replace(**{name: getattr(stream, name).repeat(times, 1) for name in FIELDS})
