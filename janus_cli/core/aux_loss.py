"""The auxiliary loss of JANUS: one distribution between AR and NAR, and what ties the three together.

On the hidden tokens y_h, with P_AR(y_h | X, y_<h), P_NAR(y_h | X, observed, every MASK) and
P_AUX(y_h | X, observed, hidden tokens before h, MASK from h on):

    CE(P)      =  -(1 - s) log P(y_h) - s/V sum_v log P(v)
    KLs(p, q)  =  1/2 KL(p || q) + 1/2 KL(q || p)  =  1/2 sum_v (p_v - q_v) (log p_v - log q_v)

The objective adds them up,

    CE(AR) + 1/2 (CE(NAR) + CE(AUX)) + 3 KLs(AR, AUX) + 1 KLs(NAR, AUX) + 1 KLs(AR, NAR)

and CE(AR) on the other tokens (Liang et al., EMNLP 2022; weights of the released code, knobs here). Both sides of
every KL receive gradient: each distribution learns from the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from janus_cli.core.losses import rows_at_once


class AuxLoss(NamedTuple):
    """Sums over hidden tokens, in nats."""

    ce_ar: Tensor
    ce_nar: Tensor
    ce_aux: Tensor
    kl_ar_aux: Tensor
    kl_nar_aux: Tensor
    kl_ar_nar: Tensor


def aux_loss(ar: Tensor, nar: Tensor, aux: Tensor, weight: Tensor, gold: Tensor, smoothing: float) -> AuxLoss:
    """ar, nar, aux: states (N, D) of the three distributions at the same N hidden tokens; weight (V, D); gold (N,).

    Logits are made for some tokens at a time. See the module's docstring for the equation.
    """
    rows = rows_at_once(len(weight))
    chunks = zip(ar.split(rows), nar.split(rows), aux.split(rows), gold.split(rows), strict=True)
    parts = [terms(a @ weight.T, n @ weight.T, u @ weight.T, y, smoothing) for a, n, u, y in chunks]
    return AuxLoss(*(torch.stack(sums).sum() for sums in zip(*parts, strict=True)))


def terms(ar: Tensor, nar: Tensor, aux: Tensor, gold: Tensor, smoothing: float) -> AuxLoss:
    """The same from logits (N, V)."""
    log_ar, log_nar, log_aux = ((x if x.dtype.itemsize > 4 else x.float()).log_softmax(-1) for x in (ar, nar, aux))
    p_ar, p_nar, p_aux = log_ar.exp(), log_nar.exp(), log_aux.exp()
    return AuxLoss(
        ce_ar=_smoothed(log_ar, gold, smoothing),
        ce_nar=_smoothed(log_nar, gold, smoothing),
        ce_aux=_smoothed(log_aux, gold, smoothing),
        kl_ar_aux=0.5 * ((p_ar - p_aux) * (log_ar - log_aux)).sum(),
        kl_nar_aux=0.5 * ((p_nar - p_aux) * (log_nar - log_aux)).sum(),
        kl_ar_nar=0.5 * ((p_ar - p_nar) * (log_ar - log_nar)).sum(),
    )


def _smoothed(log_p: Tensor, gold: Tensor, smoothing: float) -> Tensor:
    chosen = log_p.gather(1, gold[:, None]).sum()
    return -(1 - smoothing) * chosen - smoothing * log_p.mean(-1).sum()
