"""Sums over tokens, in nats. The loop divides them by counts taken over all ranks.

Logits of a whole batch are never held: they are made for some tokens at a time, turned into the loss and at once into
its gradient with respect to states and output table, and forgotten: memory does not grow with vocabulary x tokens.
"""

from collections.abc import Callable, Iterator
from math import inf, isfinite
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from janus_cli.core.stream import Stream

LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}  # numbers: 16 MiB in float32; a GPU wants few, large products

Number = TypeVar("Number", Tensor, float)


class _Known(torch.autograd.Function):
    """Totals whose gradient was computed along with them, for one choice of coefficients."""

    @staticmethod
    def forward(
        ctx: Any, totals: Tensor, coefficients: Tensor, states: Tensor, weight: Tensor, by_states: Tensor,
        by_weight: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(coefficients, by_states, by_weight)
        return totals.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, by_states, by_weight = ctx.saved_tensors
        size = (coefficients * coefficients).sum()
        scale = (grad * coefficients).sum() / torch.where(size > 0, size, 1.0)
        # Not checked on a GPU, which would have to be waited for; what is not finite is for the loop to skip.
        largest = float(grad.abs().max()) if grad.device.type == "cpu" else inf
        if isfinite(largest) and not torch.allclose(grad, scale * coefficients, rtol=1e-4, atol=1e-6 * largest):
            raise RuntimeError(
                f"the gradient was made for totals weighted {coefficients.tolist()}, not {grad.tolist()}"
            )
        return None, None, by_states * scale, by_weight * scale, None, None


def _with_gradient(
    totals: Tensor, coefficients: Tensor, states: Tensor, weight: Tensor, by_states: Tensor, by_weight: Tensor
) -> Tensor:
    """`totals` (K,), differentiable by `states` and `weight` as long as they are summed up in proportion to
    `coefficients` (K,); by_states and by_weight are the gradient of that sum.

    Raises (in the backward pass, on CPU):
        RuntimeError: they were summed up otherwise.
    """
    apply = cast("Callable[..., Tensor]", _Known.apply)  # torch leaves it untyped
    return apply(totals, coefficients, states, weight, by_states, by_weight)


def _in_chunks(states: Tensor, weight: Tensor, vocabularies: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Some of N states (..., N, D) at a time: which, the states, the table (V, D) and their logits (..., R, V).

    States and table come in the type that products are made in (bf16 under autocast), logits in float32 at least.
    vocabularies: rows of logits that each of the N makes.
    """
    device = states.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    rows = max(1, LOGITS_AT_ONCE.get(device, 1 << 26) // (vocabularies * len(weight)))
    with torch.no_grad(), torch.autocast(device, enabled=False):
        table = weight.to(low)
        for start in range(0, states.shape[-2], rows):
            some = states[..., start : start + rows, :].to(low)
            logits = some @ table.T  # (..., R, D) @ (D, V) -> (..., R, V)
            yield slice(start, start + rows), some, table, logits if logits.dtype.itemsize > 4 else logits.float()


def cross_entropy(states: Tensor, weight: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing: (1 - s) * -log p(gold) + s * mean over V of -log p.

    states (N, D), output table weight (V, D), gold (N,) -> scalar, the sum over N in nats.
    Szegedy 2016, as Vaswani 2017 uses it.
    """
    wanted = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    total = torch.zeros((), dtype=torch.promote_types(states.dtype, torch.float32), device=states.device)
    by_states, by_weight = torch.zeros_like(states), torch.zeros_like(weight)
    average = weight.detach().mean(0)
    for chunk, some, table, logits in _in_chunks(states, weight, 1):
        words, logs = gold[chunk, None], logits.log_softmax(1)
        chosen = logs.gather(1, words)
        norm = logits.gather(1, words) - chosen
        mean = (some @ average.to(some.dtype)).to(norm.dtype)[:, None] - norm  # of log p over the vocabulary
        total -= (1 - smoothing) * chosen.sum() + smoothing * mean.sum()
        if wanted:  # by logits: p - (1 - s) [gold] - s/V; the last part, equal for all words, without a pass over them
            slope = logs.exp_().scatter_add_(1, words, torch.full_like(norm, smoothing - 1)).to(some.dtype)
            by_states[chunk] = slope @ table - smoothing * average
            by_weight += slope.T @ some
            by_weight -= smoothing / len(weight) * some.sum(0)
    if not wanted:
        return total
    return _with_gradient(total[None], torch.ones_like(total)[None], states, weight, by_states, by_weight)[0]


def labelled_loss(
    stream: Stream, states: Tensor, weight: Tensor, smoothing: float, slots: slice = slice(None)
) -> Tensor:
    """Cross-entropy of what a stream's slots, or some of them, must predict; states (B, L, D) -> scalar, in nats."""
    asked, labels = stream.labelled[:, slots], stream.labels[:, slots]
    return cross_entropy(states[:, slots][asked], weight, labels[asked], smoothing)  # (N, D), (N,)


def length_loss(logits: Tensor, lengths: Tensor) -> Tensor:
    """-log p(n | source), summed over sentences; lengths (B,) without BOS and EOS (Mask-Predict, section 3.2)."""
    return F.cross_entropy(logits.float(), lengths.clamp(0, logits.shape[1] - 1), reduction="sum")


class AuxLoss(NamedTuple, Generic[Number]):
    """Sums over hidden tokens, in nats; or a coefficient for each of them."""

    ce_ar: Number
    ce_nar: Number
    ce_aux: Number
    kl_ar_aux: Number
    kl_nar_aux: Number
    kl_ar_nar: Number


PAIRS = ((0, 2), (1, 2), (0, 1))  # of (AR, NAR, AUX), in the order of the KLs above


def aux_loss(
    ar: Tensor, nar: Tensor, aux: Tensor, weight: Tensor, gold: Tensor, smoothing: float,
    coefficients: AuxLoss[float], kl_to_ar: float = 1.0, temperature: float = 1.0,
) -> AuxLoss[Tensor]:  # fmt: skip
    """The auxiliary loss of JANUS: AUX lies between AR and NAR, and the KLs tie the three together.

    On the hidden tokens y_h, with P_AR(y_h | X, y_<h), P_NAR(y_h | X, observed, every MASK) and
    P_AUX(y_h | X, observed, hidden tokens before h, MASK from h on), the sums of

        CE(P)      =  -(1 - s) log P(y_h) - s/V sum_v log P(v)                                for each P
        KLs(p, q)  =  1/2 KL(p || q) + 1/2 KL(q || p)  =  1/2 sum_v (p_v - q_v) (log p_v - log q_v)  for each pair

    Both sides of every KL receive gradient: each distribution learns from the others. How much of it AR receives is a
    knob: as long as NAR and AUX are much weaker than AR, they hold it back. The logits of a batch are never held, and
    the gradient is written out. For one token, with log-probabilities l_i and probabilities p_i of the three
    distributions i, c_i the coefficient of CE(i), h_ij half that of KLs(i, j), and z_i the logits:

        d/dz_i  =  c_i (p_i - (1 - s) [gold] - s/V)
                   + sum_j h_ij ( p_i (l_i - l_j) - p_i KL(p_i || p_j) + p_i - p_j )

    which is linear in (l_1, l_2, l_3) and in (p_1, p_2, p_3) with coefficients that do not depend on the word.

    ar, nar, aux: states (N, D) of the three distributions at the same N hidden tokens; weight (V, D); gold (N,).
    coefficients: what the sums will be multiplied with, up to a common factor, when they are added up; the gradient is
    that of this sum.
    kl_to_ar: the KLs' gradient by `ar` is multiplied with it.
    temperature: the KLs are those of softmax(z / temperature), times its square, so that their gradient keeps its size
    (Hinton 2015, section 2).
    """
    states = torch.stack([ar, nar, aux])  # (3, N, D)
    exact = torch.promote_types(ar.dtype, torch.float32)
    factors = torch.tensor(coefficients, dtype=exact, device=ar.device)
    half = torch.zeros(3, 3, dtype=exact, device=ar.device)  # h_ij
    for (i, j), factor in zip(PAIRS, factors[3:], strict=True):
        half[i, j] = half[j, i] = factor / 2
    half[0] *= kl_to_ar  # row i is what reaches distribution i
    half *= temperature  # its square, and 1 / temperature for d(z / temperature)
    wanted = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    totals, by_states, by_weight = torch.zeros_like(factors), torch.zeros_like(states), torch.zeros_like(weight)
    average = weight.detach().mean(0)
    for chunk, some, table, logits in _in_chunks(states, weight, 3):
        logs = logits.log_softmax(2)  # (3, R, V)
        p = logs.exp()
        soft = logs if temperature == 1 else (logits / temperature).log_softmax(2)
        q = p if temperature == 1 else soft.exp()
        inner = q.transpose(0, 1) @ soft.permute(1, 2, 0)  # (R, 3, 3): sum_v q_i l_j
        kl = inner.diagonal(dim1=1, dim2=2)[..., None] - inner  # KL(q_i || q_j)
        totals += _totals(logs, kl * temperature**2, gold[chunk], smoothing)
        if wanted:
            slope = _slope(p, soft, q, kl, gold[chunk], smoothing, factors[:3], half).to(some.dtype)
            everywhere = smoothing * factors[:3, None, None]  # c_i s, over V: equal for all words, so without a pass
            by_states[:, chunk] = slope @ table - everywhere * average
            by_weight += slope.flatten(0, 1).T @ some.flatten(0, 1)
            by_weight -= (everywhere / len(weight) * some).sum((0, 1))
    if wanted:
        totals = _with_gradient(totals, factors, states, weight, by_states, by_weight)
    return AuxLoss(*totals)


def _totals(logs: Tensor, kl: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    """The six sums. logs (3, R, V), kl (R, 3, 3), gold (R,) -> (6,)."""
    chosen = logs.gather(2, gold.expand(3, -1)[..., None]).sum((1, 2))
    ce = -(1 - smoothing) * chosen - smoothing * logs.mean(2).sum(1)
    both = kl.sum(0)
    return torch.cat([ce, torch.stack([(both[i, j] + both[j, i]) / 2 for i, j in PAIRS])])


def _slope(
    p: Tensor, soft: Tensor, q: Tensor, kl: Tensor, gold: Tensor, smoothing: float, c: Tensor, half: Tensor
) -> Tensor:
    """d/dz (see `aux_loss`) but for c_i s/V; p and, at the KLs' temperature, soft = log q (3, R, V), kl (R, 3, 3),
    c (3,), half = h (3, 3) -> (3, R, V)."""
    by_logs = torch.diag(half.sum(1)) - half  # sum_j h_ij (l_i - l_j) = (by_logs @ l)_i
    constant = half.sum(1) - (half * kl).sum(2)  # (R, 3)
    slope = (by_logs @ soft.view(3, -1)).view_as(soft).add_(constant.T[..., None]).mul_(q)
    if q is p:  # one pass instead of two
        slope.view(3, -1).addmm_(torch.diag(c) - half, p.view(3, -1))
    else:
        slope.view(3, -1).addmm_(-half, q.view(3, -1)).addmm_(torch.diag(c), p.view(3, -1))
    taken = (smoothing - 1) * c[:, None, None].expand(3, len(gold), 1)
    return slope.scatter_add_(2, gold.expand(3, -1)[..., None], taken)
