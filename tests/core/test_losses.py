"""Losses against hand-worked numbers and against a plain float64 version, forward and gradient."""

from math import log

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.aux_loss import AuxLoss, aux_loss, terms
from janus_cli.core.losses import cross_entropy, length_loss
from janus_cli.core.transformer import Memory, Transformer


def test_cross_entropy_by_hand() -> None:
    """Two words with probabilities 3/4 and 1/4, gold the first, smoothing 0.2."""
    states, weight = torch.tensor([[1.0]]), torch.tensor([[log(3.0)], [0.0]])
    expected = -0.8 * log(3 / 4) - 0.1 * (log(3 / 4) + log(1 / 4))
    assert cross_entropy(states, weight, torch.tensor([0]), 0.2).item() == pytest.approx(expected, rel=1e-6)


def test_aux_terms_by_hand() -> None:
    """p = (3/4, 1/4) for AR, (1/2, 1/2) for NAR and AUX: KLs = 1/2 * (1/4) * log 3, and 0 between equals."""
    p, half = torch.tensor([[log(3.0), 0.0]]), torch.zeros(1, 2)
    found = terms(p, half, half, torch.tensor([0]), 0.0)
    assert found.ce_ar.item() == pytest.approx(-log(3 / 4), rel=1e-6)
    assert found.ce_nar.item() == pytest.approx(log(2), rel=1e-6)
    assert found.kl_ar_aux.item() == pytest.approx(0.125 * log(3), rel=1e-6)
    assert found.kl_ar_nar.item() == pytest.approx(0.125 * log(3), rel=1e-6)
    assert found.kl_nar_aux.item() == 0.0


def plain(ar: Tensor, nar: Tensor, aux: Tensor, gold: Tensor, smoothing: float) -> AuxLoss:
    """The equations, token by token and word by word, in Python."""
    sums = dict.fromkeys(AuxLoss._fields, torch.zeros((), dtype=torch.float64))
    for row in range(len(gold)):
        p = {name: torch.softmax(x[row], -1) for name, x in (("ar", ar), ("nar", nar), ("aux", aux))}
        for name, q in p.items():
            smooth = sum(-q[v].log() for v in range(len(q))) / len(q)
            sums[f"ce_{name}"] = sums[f"ce_{name}"] + (1 - smoothing) * -q[gold[row]].log() + smoothing * smooth
        for one, two in (("ar", "aux"), ("nar", "aux"), ("ar", "nar")):
            for v in range(len(p[one])):
                a, b = p[one][v], p[two][v]
                key = f"kl_{one}_{two}"
                sums[key] = sums[key] + 0.5 * a * (a / b).log() + 0.5 * b * (b / a).log()
    return AuxLoss(**sums)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("at_once", [1, 21, 1 << 20])
def test_aux_loss_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of every term, on both sides of every KL, whatever the chunk size."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    torch.manual_seed(3)
    shapes = [(5, 4)] * 3 + [(7, 4)]
    exact = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    gold = torch.tensor([0, 6, 2, 2, 5])
    expected = plain(*(x @ exact[3].T for x in exact[:3]), gold, 0.1)
    found = aux_loss(*given, gold, 0.1)
    for name in AuxLoss._fields:
        a, b = getattr(expected, name), getattr(found, name)
        assert b.item() == pytest.approx(a.item(), rel=tolerance)
        ours = torch.autograd.grad(b, given, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(a, exact, retain_graph=True, allow_unused=True)
        for own, other in zip(ours, theirs, strict=True):
            assert (
                (own is None or bool((own == 0).all()))
                if other is None
                else torch.allclose(own.double(), other, rtol=tolerance, atol=tolerance)
            )


def test_both_sides_of_each_kl_get_gradient() -> None:
    torch.manual_seed(0)
    x = [torch.randn(4, 6, requires_grad=True) for _ in range(3)]
    found = terms(*x, torch.tensor([0, 1, 2, 3]), 0.1)
    for name, sides in (("kl_ar_aux", (0, 2)), ("kl_nar_aux", (1, 2)), ("kl_ar_nar", (0, 1))):
        grads = torch.autograd.grad(getattr(found, name), x, retain_graph=True, allow_unused=True)
        assert [g is not None for g in grads] == [index in sides for index in range(3)]
        assert all(bool(grads[side].abs().sum() > 0) for side in sides)


def test_length_loss_clamps_and_ignores_padding(model: Transformer) -> None:
    states = torch.randn(2, 3, 16, dtype=torch.float64)
    real = torch.tensor([[True, True, True], [True, False, False]])
    memory = Memory(states, real, ())
    total = length_loss(model, memory, torch.tensor([3, 9999]))
    scores = model.length_logits(memory).log_softmax(-1)
    assert total.item() == pytest.approx(-(scores[0, 3] + scores[1, 31]).item(), rel=1e-6)
    states[1, 1:] = 99.0
    assert model.length_table is not None
    assert torch.allclose(model.length_logits(memory)[1], model.length_table @ states[1, 0], atol=1e-12)
