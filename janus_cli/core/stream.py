"""The clock: one rule decides who sees whom, for every objective and every decoder.

A decoder reads *slots*. A slot has a token, a position, and three times:

    attend(query slot q, key slot k)  =  birth_k <= time_q < death_k

* a token that is always there is born at -inf and never dies (death = +inf);
* a slot that is never born (birth = +inf) is read by nobody: a *query* slot;
* a MASK that is replaced by its token at time k dies at k.

Times within one stream lie in [0, SPAN). Streams in disjoint spans (`in_span`) do not see each other.
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
SPAN = 2048.0  # longer than any target; halves and 1/n steps inside it stay exact enough in float32


def visible(time: Tensor, birth: Tensor, death: Tensor) -> Tensor:
    """The rule. time (B, L), birth and death (B, K) -> (B, L, K) bool, True = may attend."""
    now = time[:, :, None]
    return (birth[:, None, :] <= now) & (now < death[:, None, :])


def leftward(positions: Tensor, keys: Tensor) -> Tensor:
    """Which keys stand where the query stands or to its left. positions (B, L), keys (B, K) -> (B, L, K) bool."""
    return keys[:, None, :] <= positions[:, :, None]


@dataclass(frozen=True)
class Stream:
    """Slots of a decoder call, all tensors (B, L); the first `keys` slots can be seen, the rest are query slots.

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
        return visible(self.time, self.birth[:, : self.keys], self.death[:, : self.keys])

    @property
    def causal(self) -> Tensor:
        """(B, L, K) bool, True = may attend in a causal self-attention: by the clock, and not to the right."""
        return self.attend & leftward(self.positions, self.positions[:, : self.keys])

    @property
    def mask_mod(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule for FlexAttention: (batch, head, query index, key index) -> bool."""
        time, birth, death = self.time, self.birth, self.death
        return lambda b, h, q, k: (birth[b, k] <= time[b, q]) & (time[b, q] < death[b, k])

    @property
    def causal_mod(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """`causal` for FlexAttention."""
        clock, positions = self.mask_mod, self.positions
        return lambda b, h, q, k: clock(b, h, q, k) & (positions[b, k] <= positions[b, q])

    @property
    def labelled(self) -> Tensor:
        """(B, L) bool, True where a slot must predict a token."""
        return self.labels != IGNORE

    def replace(self, **changes: Tensor) -> Stream:
        """The same slots with other values in these fields."""
        return Stream(**{**self.__dict__, **changes})

    @property
    def unread(self) -> Stream:
        """Its query slots alone."""
        return Stream(**{name: getattr(self, name)[:, self.keys :] for name in FIELDS}, keys=0)

    def to(self, device: torch.device | str) -> Stream:
        """The same stream on another device."""
        return self.replace(**{name: getattr(self, name).to(device) for name in FIELDS})


def _places(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)


def content(target: Tensor, *, predict: bool = True) -> Stream:
    """The ordinary causal decoder: y_t is born at t, lives on, and predicts y_{t+1} (Vaswani 2017).

    target: (B, T), BOS y_1 .. y_n EOS. Slots: (B, T-1), positions 0 .. T-2. `predict` False leaves the labels out.
    """
    tokens, following = target[:, :-1], target[:, 1:]
    real = following != PAD
    positions = _places(tokens)
    time = positions.float()
    return Stream(
        tokens, positions, time, torch.where(real, time, NEVER), torch.full_like(time, inf),
        following.masked_fill(~real | (not predict), IGNORE), tokens.shape[1],
    )  # fmt: skip


def queries(target: Tensor) -> Stream:
    """Query slots over `content`: a MASK at position t, time t - 1/2, predicts y_t from y_<t (two-stream AR).

    target: (B, T). Slots: (B, T-1), positions 1 .. T-1, none of them keys.
    """
    labels = target[:, 1:]
    positions = _places(target)[:, 1:]
    time = positions - 0.5
    return Stream(
        torch.full_like(labels, MASK), positions, time, torch.full_like(time, NEVER), torch.full_like(time, inf),
        labels.masked_fill(labels == PAD, IGNORE), 0,
    )  # fmt: skip


def ahead(target: Tensor, known: Tensor, step: Tensor, *, alone: bool) -> Stream:
    """Slots over `content` that predict y_{d+s} from y_<=d: a MASK at position d + s, born at time d + s/T.

    All slots of one d stand on one stretch of time, d .. d + 1, in the order of s. `alone`: a slot reads no MASK but
    itself, as in ProphetNet, because each dies before the next is born; else those before it too, as in BANG.

    target: (B, T). known, step: (L,) int64, d >= 0 and s >= 1 of each slot, d + s < T. Slots: (B, L), all keys.
    """
    positions = (known + step).expand(len(target), -1)
    labels = target.gather(1, positions)
    real = labels != PAD
    tick = 1 / target.shape[1]
    time = (known + step * tick).expand(positions.shape)
    death = time + tick / 2 if alone else (known + 1.0).expand(positions.shape)
    return Stream(
        torch.full_like(labels, MASK), positions, time, torch.where(real, time, NEVER), death,
        labels.masked_fill(~real, IGNORE), positions.shape[1],
    )  # fmt: skip


def base(target: Tensor, rank: Tensor, *, predict: bool = True) -> Stream:
    """What NAR reads, all at time 0: observed tokens, and a MASK for each hidden one that dies when it is revealed.

    target: (B, T). rank: (B, T), 0 for observed, k >= 1 for the k-th token to be revealed. Slots: (B, T).
    `predict` False leaves the labels out.
    """
    hidden = rank > 0
    time = torch.zeros(target.shape, device=target.device)
    return Stream(
        target.masked_fill(hidden, MASK), _places(target), time,
        torch.where(target == PAD, NEVER, -inf), torch.where(hidden, rank.float(), inf),
        target.masked_fill(~hidden | (not predict), IGNORE), target.shape[1],
    )  # fmt: skip


def revealed(target: Tensor, rank: Tensor) -> tuple[Stream, Stream]:
    """The hidden tokens in the order of their rank: gold slots that appear one by one, and queries that predict them.

    Gold k: the token, birth = time = k. Query k: a MASK at the same position, time k - 1/2, label the token.
    target, rank: (B, T). Both streams: (B, M), M the largest number of hidden tokens; gold are keys, queries are not.
    """
    hidden = rank > 0
    count = hidden.sum(1, keepdim=True)
    most = int(count.max()) if len(count) else 0
    order = torch.where(hidden, rank, target.shape[1] + 1).argsort(dim=1, stable=True)[:, :most]
    tokens = target.gather(1, order)
    k = torch.arange(1, most + 1, device=target.device).expand_as(order)
    exists = k <= count
    time, forever = k.float(), torch.full(order.shape, inf, device=target.device)
    nothing = torch.full_like(order, IGNORE)
    gold = Stream(tokens, order, time, torch.where(exists, time, NEVER), forever, nothing, most)
    query = Stream(
        torch.full_like(order, MASK), order, time - 0.5, torch.full_like(time, NEVER), forever,
        tokens.masked_fill(~exists, IGNORE), 0,
    )  # fmt: skip
    return gold, query


def ar_stream(target: Tensor, kind: ARSide) -> Stream:
    """The slots of P_AR in training; target (B, T).

    content: each token predicts the next one (an ordinary decoder). query: unread MASK slots predict (two streams).
    self: MASK slots that read themselves predict. masks: the whole target stands there as MASKs, which are revealed
    from left to right, so the length is known and EOS is not predicted.
    """
    if kind == "content":
        return content(target)
    if kind == "masks":
        rank = left_to_right((target != PAD) & (target != BOS) & (target != EOS))
        return beside(base(target, rank, predict=False), *revealed(target, rank))
    if kind == "query":
        return beside(content(target, predict=False), queries(target))
    known = torch.arange(target.shape[1] - 1, device=target.device)
    return beside(content(target, predict=False), ahead(target, known, torch.ones_like(known), alone=True))


def following(tokens: Tensor, start: Tensor, real: Tensor, kind: ARSide) -> Stream:
    """The slots of P_AR in decoding: they predict what follows each of `tokens` (R, L), the first at position `start`.

    y_t stands at position and time t. With a `query` side, as in `queries`, the query for y_{t+1} is a MASK at position
    t + 1, half a tick before it; with `self`, it is also a key, until the next tick.
    start: (R,) int64. real: (R, L) bool, False for padding on the right.
    """
    positions = start[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    time = positions.float()
    forever, nothing = torch.full_like(time, inf), torch.full_like(tokens, IGNORE)
    keys = Stream(tokens, positions, time, torch.where(real, time, NEVER), forever, nothing, tokens.shape[1])
    if kind == "content":
        return keys
    masks, now, never = torch.full_like(tokens, MASK), time + 0.5, torch.full_like(time, NEVER)
    if kind == "query":
        return beside(keys, Stream(masks, positions + 1, now, never, forever, nothing, 0))
    return beside(keys, Stream(masks, positions + 1, now, now, time + 1, nothing, tokens.shape[1]))


def framed(tokens: Tensor) -> Tensor:
    """tokens (R, T), PAD behind the end -> (R, T + 2): BOS, tokens, EOS, PAD."""
    target = F.pad(tokens, (1, 1), value=PAD)
    target[:, 0] = BOS
    return target.scatter(1, 1 + (tokens != PAD).sum(1, keepdim=True), EOS)


def left_to_right(hidden: Tensor) -> Tensor:
    """The rank of each hidden token when they are revealed from left to right. (B, T) bool -> (B, T) int64."""
    return hidden.cumsum(1) * hidden


def beside(*streams: Stream) -> Stream:
    """One stream on one clock: the parts see each other as their times say. Keys first, queries last."""
    pick = [(s, slice(0, s.keys)) for s in streams] + [(s, slice(s.keys, None)) for s in streams]
    fields = {name: torch.cat([getattr(s, name)[:, part] for s, part in pick], dim=1) for name in FIELDS}
    return Stream(**fields, keys=sum(s.keys for s in streams))


def in_span(stream: Stream, index: int | Tensor) -> Stream:
    """The same slots in the `index`-th span of time: they neither see slots of other spans nor are seen there."""
    start = index * SPAN
    birth = torch.where(stream.birth == NEVER, NEVER, stream.birth.clamp(min=0.0) + start)
    return stream.replace(time=stream.time + start, birth=birth, death=stream.death.clamp(max=SPAN) + start)
