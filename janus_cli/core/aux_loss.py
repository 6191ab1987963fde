"""The auxiliary loss of JANUS: AUX lies between AR and NAR, and KL terms tie the three distributions together.

R-Drop ties two distributions in the same way (`tied`, with K = 2; `objectives/ar.py`).

At a hidden token y_h, each from logits z over the vocabulary:

    P_AR (y_h | X, y_<h)
    P_NAR(y_h | X, observed tokens, every MASK)
    P_AUX(y_h | X, observed tokens, hidden tokens before h, MASK from h on)

With p_i = softmax(z_i), q_i = softmax(z_i / t), label smoothing s and the temperature t of the KLs:

    CE_i       =  -(1 - s) log p_i(y_h) - s/V sum_v log p_i(v)
    KLs(i, j)  =  t^2 (1/2 KL(q_i || q_j) + 1/2 KL(q_j || q_i))

t^2 keeps the size of the gradient (Hinton 2015, section 2). Both sides of every KL receive gradient, so each
distribution learns from the others. AR receives r_AR = `kl_to_ar` of its part only, because an NAR and an AUX that are
much weaker would hold it back; r_NAR = r_AUX = 1. The gradient is written out. With c_i the coefficient of CE_i, h_ij
half that of KLs(i, j), and [y_h] 1 at the gold word and 0 elsewhere:

    d/dz_i  =  c_i (p_i - (1 - s) [y_h] - s/V)
               + t r_i sum_j h_ij (q_i (log q_i - log q_j) - q_i KL(q_i || q_j) + q_i - q_j)

The sums over j are products with (K, K) matrices, because their coefficients are the same for all words.

With `sure`, the KLs of each token are multiplied by p_AUX(gold word), which gets no gradient from it: an AUX that does
not know the word ties nobody to itself, and the KLs rise by themselves as it learns.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from janus_cli.core.losses import in_chunks, with_gradient

Number = TypeVar("Number", Tensor, float)
Pairs = Sequence[tuple[int, int]]  # of the distributions that a KL ties


class AuxLoss(NamedTuple, Generic[Number]):
    """The six terms: their sums over hidden tokens, in nats, or their coefficients."""

    ce_ar: Number
    ce_nar: Number
    ce_aux: Number
    kl_ar_aux: Number
    kl_nar_aux: Number
    kl_ar_nar: Number


AUX = 2
PAIRS = ((0, 2), (1, 2), (0, 1))  # of (AR, NAR, AUX), in the order of the KLs above


def aux_loss(
    ar: Tensor, nar: Tensor, aux: Tensor, weight: Tensor, gold: Tensor, smoothing: float,
    coefficients: AuxLoss[float], kl_to_ar: float = 1.0, temperature: float = 1.0, sure: bool = False,
    bias: Tensor | None = None,
) -> AuxLoss[Tensor]:  # fmt: skip
    """The sums of the six terms over N hidden tokens.

    ar, nar, aux: states (N, D) of the three distributions at the same tokens; output table weight (V, D); gold (N,).
    coefficients: weights of the sum whose gradient is computed; the caller must add up the terms with these weights, or
    with these times a common factor. bias: see `cross_entropy`.
    """
    states = torch.stack([ar, nar, aux])  # (3, N, D)
    reached, judge = (kl_to_ar, 1.0, 1.0), AUX if sure else None
    return AuxLoss(*tied(states, weight, gold, smoothing, coefficients, PAIRS, reached, temperature, judge, bias))


def tied(
    states: Tensor, weight: Tensor, gold: Tensor, smoothing: float, coefficients: Sequence[float], pairs: Pairs,
    reached: Sequence[float], temperature: float = 1.0, judge: int | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The sums over N tokens of K cross-entropies, then of the symmetric KL of each of the P pairs -> (K + P,).

    states (K, N, D), weight (V, D), gold (N,). coefficients: of these sums, see `aux_loss`. reached: r_i, the share of
    the KLs' gradient that each distribution receives. judge: the distribution whose certainty multiplies the KLs.
    """
    count, exact = len(states), torch.promote_types(states.dtype, torch.float32)
    factors = torch.tensor([*coefficients], dtype=exact, device=states.device)
    half = torch.zeros(count, count, dtype=exact, device=states.device)  # t r_i h_ij
    for (i, j), factor in zip(pairs, factors[count:], strict=True):
        half[i, j] = half[j, i] = factor / 2
    for row, share in zip(half, reached, strict=True):
        row *= share * temperature
    wanted = torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad)
    totals, by_states, by_weight = torch.zeros_like(factors), torch.zeros_like(states), torch.zeros_like(weight)
    average = weight.detach().mean(0)
    for chunk, some, table, logits in in_chunks(states, weight, count, bias):
        log_p = logits.log_softmax(2)  # (K, R, V)
        p = log_p.exp()
        log_q = log_p if temperature == 1 else (logits / temperature).log_softmax(2)
        q = p if temperature == 1 else log_q.exp()
        inner = q.transpose(0, 1) @ log_q.permute(1, 2, 0)  # (R, K, K): sum_v q_i log q_j
        kl = inner.diagonal(dim1=1, dim2=2)[..., None] - inner  # KL(q_i || q_j)
        sure = None if judge is None else p[judge].gather(1, gold[chunk, None])  # (R, 1)
        weighed = kl if sure is None else sure[..., None] * kl
        totals += _totals(log_p, weighed * temperature**2, gold[chunk], smoothing, pairs)
        if wanted:
            slope = _slope(p, q, log_q, kl, sure, gold[chunk], smoothing, factors[:count], half).to(some.dtype)
            everywhere = smoothing * factors[:count, None, None]  # c_i s, over V equal for all words: without a pass
            by_states[:, chunk] = slope @ table - everywhere * average
            by_weight += slope.flatten(0, 1).T @ some.flatten(0, 1)
            by_weight -= (everywhere / len(weight) * some).sum((0, 1))
    return with_gradient(totals, factors, states, weight, by_states, by_weight) if wanted else totals


def _totals(log_p: Tensor, kl: Tensor, gold: Tensor, smoothing: float, pairs: Pairs) -> Tensor:
    """The sums. log_p (K, R, V), kl (R, K, K), gold (R,) -> (K + P,)."""
    chosen = log_p.gather(2, gold.expand(len(log_p), -1)[..., None]).sum((1, 2))
    ce = -(1 - smoothing) * chosen - smoothing * log_p.mean(2).sum(1)
    both = kl.sum(0)
    return torch.cat([ce, torch.stack([(both[i, j] + both[j, i]) / 2 for i, j in pairs])])


def _slope(
    p: Tensor, q: Tensor, log_q: Tensor, kl: Tensor, sure: Tensor | None, gold: Tensor, smoothing: float, c: Tensor,
    half: Tensor,
) -> Tensor:  # fmt: skip
    """d/dz without - c_i s/V.

    p, q, log_q (K, R, V), kl (R, K, K), sure (R, 1), gold (R,), c (K,), half (K, K) -> (K, R, V).
    """
    count = len(p)
    by_logs = torch.diag(half.sum(1)) - half  # sum_j h_ij (log q_i - log q_j) = (by_logs @ log q)_i
    constant = half.sum(1) - (half * kl).sum(2)  # (R, K)
    slope = (by_logs @ log_q.view(count, -1)).view_as(log_q).add_(constant.T[..., None]).mul_(q)
    if q is p and sure is None:  # one pass instead of two
        slope.view(count, -1).addmm_(torch.diag(c) - half, p.view(count, -1))
    else:
        slope.view(count, -1).addmm_(-half, q.view(count, -1))
        slope = slope if sure is None else slope.mul_(sure)
        slope.view(count, -1).addmm_(torch.diag(c), p.view(count, -1))
    taken = (smoothing - 1) * c[:, None, None].expand(count, len(gold), 1)
    return slope.scatter_add_(2, gold.expand(count, -1)[..., None], taken)
