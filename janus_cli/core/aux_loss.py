"""The auxiliary loss of JANUS: one distribution between AR and NAR, and what ties the three together.

On the hidden tokens y_h, with P_AR(y_h | X, y_<h), P_NAR(y_h | X, observed, every MASK) and
P_AUX(y_h | X, observed, hidden tokens before h, MASK from h on):

    CE(P)      =  -(1 - s) log P(y_h) - s/V sum_v log P(v)
    KLs(p, q)  =  1/2 KL(p || q) + 1/2 KL(q || p)  =  1/2 sum_v (p_v - q_v) (log p_v - log q_v)

The objective adds them up,

    CE(AR) + 1/2 (CE(NAR) + CE(AUX)) + 3 KLs(AR, AUX) + 1 KLs(NAR, AUX) + 1 KLs(AR, NAR)

and CE(AR) on the other tokens (Liang et al., EMNLP 2022; weights of the released code, knobs here). Both sides of
every KL receive gradient: each distribution learns from the others. How much of it AR receives is a knob: as long as
NAR and AUX are much weaker than AR, they hold it back.

`terms` is the readable version, from logits, and autograd does the rest. `aux_loss` gives the same values and the same
gradient without ever holding the logits of a batch. For one token, with log-probabilities l_i and probabilities p_i of
the three distributions i, c_i the coefficient of CE(i), h_ij half that of KLs(i, j), and z_i the logits:

    d/dz_i  =  c_i (p_i - (1 - s) [gold] - s/V)
               + sum_j h_ij ( p_i (l_i - l_j) - p_i KL(p_i || p_j) + p_i - p_j )

which is linear in (l_1, l_2, l_3) and in (p_1, p_2, p_3) with coefficients that do not depend on the word.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from janus_cli.core.losses import in_chunks, rows_at_once, with_gradient

Number = TypeVar("Number", Tensor, float)


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
    """ar, nar, aux: states (N, D) of the three distributions at the same N hidden tokens; weight (V, D); gold (N,).

    See the module's docstring for the equation. coefficients: what the sums will be multiplied with, up to a
    common factor, when they are added up; the gradient is that of this sum.
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
    for where, some, table, logits in in_chunks(states, weight, rows_at_once(3 * len(weight), weight.device)):
        logs = logits.log_softmax(2)  # (3, R, V)
        p = logs.exp()
        soft = logs if temperature == 1 else (logits / temperature).log_softmax(2)
        q = p if temperature == 1 else soft.exp()
        inner = q.transpose(0, 1) @ soft.permute(1, 2, 0)  # (R, 3, 3): sum_v q_i l_j
        kl = inner.diagonal(dim1=1, dim2=2)[..., None] - inner  # KL(q_i || q_j)
        totals += _totals(logs, kl * temperature**2, gold[where], smoothing)
        if wanted:
            slope = _slope(p, soft, q, kl, gold[where], smoothing, factors[:3], half).to(some.dtype)
            everywhere = smoothing * factors[:3, None, None]  # c_i s, over V: equal for all words, so without a pass
            by_states[:, where] = slope @ table - everywhere * average
            by_weight += slope.flatten(0, 1).T @ some.flatten(0, 1)
            by_weight -= (everywhere / len(weight) * some).sum((0, 1))
    if wanted:
        totals = with_gradient(totals, factors, states, weight, by_states, by_weight)
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
    """d/dz (see the top) but for c_i s/V; p and, at the KLs' temperature, soft = log q (3, R, V), kl (R, 3, 3), c (3,),
    half = h (3, 3) -> (3, R, V)."""
    by_logs = torch.diag(half.sum(1)) - half  # sum_j h_ij (l_i - l_j) = (by_logs @ l)_i
    constant = half.sum(1) - (half * kl).sum(2)  # (R, 3)
    slope = (by_logs @ soft.view(3, -1)).view_as(soft).add_(constant.T[..., None]).mul_(q)
    if q is p:  # one pass instead of two
        slope.view(3, -1).addmm_(torch.diag(c) - half, p.view(3, -1))
    else:
        slope.view(3, -1).addmm_(-half, q.view(3, -1)).addmm_(torch.diag(c), p.view(3, -1))
    taken = (smoothing - 1) * c[:, None, None].expand(3, len(gold), 1)
    return slope.scatter_add_(2, gold.expand(3, -1)[..., None], taken)


def terms(
    ar: Tensor, nar: Tensor, aux: Tensor, gold: Tensor, smoothing: float, temperature: float = 1.0
) -> AuxLoss[Tensor]:
    """The same from logits (N, V)."""
    logits = [x if x.dtype.itemsize > 4 else x.float() for x in (ar, nar, aux)]
    soft = [(x / temperature).log_softmax(-1) for x in logits]
    kl = [temperature**2 * 0.5 * ((soft[i].exp() - soft[j].exp()) * (soft[i] - soft[j])).sum() for i, j in PAIRS]
    return AuxLoss(*(_smoothed(x.log_softmax(-1), gold, smoothing) for x in logits), *kl)


def _smoothed(log_p: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    chosen = log_p.gather(1, gold[:, None]).sum()
    return -(1 - smoothing) * chosen - smoothing * log_p.mean(-1).sum()
