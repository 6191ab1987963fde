"""Losses against hand-worked numbers and against a plain float64 version, forward and gradient."""

from math import log

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.aux_loss import AuxLoss, aux_loss, terms
from janus_cli.core.losses import cross_entropy, length_loss
from janus_cli.core.model import Memory, Transformer


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


def plain(ar: Tensor, nar: Tensor, aux: Tensor, gold: Tensor, smoothing: float, temperature: float = 1.0) -> AuxLoss:
    """The equations, token by token and word by word, in Python."""
    sums = dict.fromkeys(AuxLoss._fields, torch.zeros((), dtype=torch.float64))
    for row in range(len(gold)):
        p = {name: torch.softmax(x[row], -1) for name, x in (("ar", ar), ("nar", nar), ("aux", aux))}
        for name, q in p.items():
            smooth = sum(-q[v].log() for v in range(len(q))) / len(q)
            sums[f"ce_{name}"] = sums[f"ce_{name}"] + (1 - smoothing) * -q[gold[row]].log() + smoothing * smooth
        p = {name: torch.softmax(x[row] / temperature, -1) for name, x in (("ar", ar), ("nar", nar), ("aux", aux))}
        for one, two in (("ar", "aux"), ("nar", "aux"), ("ar", "nar")):
            for v in range(len(p[one])):
                a, b = p[one][v], p[two][v]
                key = f"kl_{one}_{two}"
                both = 0.5 * a * (a / b).log() + 0.5 * b * (b / a).log()
                sums[key] = sums[key] + temperature**2 * both
    return AuxLoss(**sums)


def close(ours: Tensor, theirs: Tensor | None, tolerance: float) -> bool:
    theirs = torch.zeros_like(ours) if theirs is None else theirs
    return torch.allclose(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
ONE = {name: AuxLoss(*(float(name == other) for other in AuxLoss._fields)) for name in AuxLoss._fields}


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("at_once", [1, 60, 1 << 20])
@pytest.mark.parametrize(
    "weights", [*ONE.values(), AuxLoss(0.3, 0.5, 0.25, 3.0, 1.0, 2.0), AuxLoss(*[0.0] * 6)], ids=lambda w: str([*w])
)
def test_aux_loss_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, weights: AuxLoss[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, of each term alone and of them all, whatever the chunk size."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": at_once})
    torch.manual_seed(3)
    shapes = [(5, 4)] * 3 + [(7, 4)]
    exact = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    gold = torch.tensor([0, 6, 2, 2, 5])
    expected = plain(*(x @ exact[3].T for x in exact[:3]), gold, 0.1)
    found = aux_loss(*given, gold, 0.1, weights)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    with torch.no_grad():
        assert torch.allclose(torch.stack(found), torch.stack(aux_loss(*given, gold, 0.1, weights)))
    total = sum(2 * weight * value for weight, value in zip(weights, found, strict=True))
    wanted = sum(2 * weight * value for weight, value in zip(weights, expected, strict=True))
    theirs = torch.autograd.grad(wanted, exact, allow_unused=True)
    for own, other in zip(torch.autograd.grad(total, given), theirs, strict=True):
        assert close(own, other, tolerance)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_kls_at_another_temperature(temperature: float) -> None:
    """Values and gradients are those of the plain version, and the gradient keeps its size as temperature grows."""
    torch.manual_seed(8)
    given = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in [(5, 4)] * 3 + [(7, 4)]]
    gold, weights = torch.tensor([0, 6, 2, 2, 5]), AuxLoss(0.3, 0.5, 0.25, 3.0, 1.0, 2.0)
    expected = plain(*(x @ given[3].T for x in given[:3]), gold, 0.1, temperature)
    found = aux_loss(*given, gold, 0.1, weights, temperature=temperature)
    colder = plain(*(x @ given[3].T for x in given[:3]), gold, 0.1)
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-10)
    assert torch.allclose(torch.stack(found[:3]), torch.stack(colder[:3]))  # cross-entropies stay as they are
    assert not torch.allclose(torch.stack(found[3:]), torch.stack(colder[3:]), rtol=1e-2)
    sums = (sum(factor * value for factor, value in zip(weights, each, strict=True)) for each in (found, expected))
    for own, other in zip(*(torch.autograd.grad(total, given) for total in sums), strict=True):
        assert close(own, other, 1e-10)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_how_much_of_the_kls_reaches_ar(share: float) -> None:
    torch.manual_seed(6)
    ar, nar, aux = (torch.randn(5, 4, dtype=torch.float64).requires_grad_() for _ in range(3))
    weight, gold = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 6, 2, 2, 5])
    weights = AuxLoss(0.3, 0.5, 0.25, 3.0, 1.0, 2.0)
    found = aux_loss(ar, nar, aux, weight, gold, 0.1, weights, share)
    total = sum(factor * value for factor, value in zip(weights, found, strict=True))
    reached = ar * share + ar.detach() * (1 - share)  # the same values; gradient times `share`
    taught = plain(reached @ weight.T, nar @ weight.T, aux @ weight.T, gold, 0.1)
    alone = plain(ar @ weight.T, nar.detach() @ weight.T, aux.detach() @ weight.T, gold, 0.1)
    expected = weights.ce_ar * alone.ce_ar + sum(f * v for f, v in zip(weights[1:], taught[1:], strict=True))
    assert total.item() == pytest.approx(expected.item(), rel=1e-10)
    theirs = torch.autograd.grad(expected, [ar, nar, aux])
    for own, other in zip(torch.autograd.grad(total, [ar, nar, aux]), theirs, strict=True):
        assert close(own, other, 1e-10)


def test_a_gradient_for_other_weights_is_refused() -> None:
    torch.manual_seed(0)
    states = [torch.randn(3, 4, requires_grad=True) for _ in range(3)]
    found = aux_loss(*states, torch.randn(5, 4), torch.tensor([0, 1, 2]), 0.1, AuxLoss(1.0, 0.5, 0.5, 3.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match="was made for totals weighted"):
        (found.ce_ar + found.ce_nar).backward()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("at_once", [1, 20, 1 << 20])
def test_cross_entropy_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": at_once})
    torch.manual_seed(4)
    exact = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((5, 4), (7, 4))]
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    gold = torch.tensor([0, 6, 2, 2, 5])
    logits = exact[0] @ exact[1].T
    wanted = 3 * torch.nn.functional.cross_entropy(logits, gold, label_smoothing=0.1, reduction="sum")
    found = 3 * cross_entropy(*given, gold, 0.1)
    assert found.item() == pytest.approx(wanted.item(), rel=tolerance)
    with torch.no_grad():
        assert torch.equal(3 * cross_entropy(*given, gold, 0.1), found.detach())
    for own, other in zip(torch.autograd.grad(found, given), torch.autograd.grad(wanted, exact), strict=True):
        assert close(own, other, tolerance)


@pytest.mark.parametrize("count", [0, 3])
def test_losses_in_bf16_under_autocast_are_near_and_finite(count: int) -> None:
    """Products in bf16, softmax in float32; a batch without tokens costs nothing."""
    torch.manual_seed(5)
    states = [torch.randn(count, 8, requires_grad=True) for _ in range(3)]
    weight, gold = torch.randn(11, 8, requires_grad=True), torch.arange(count)
    weights = AuxLoss(1.0, 0.5, 0.5, 3.0, 1.0, 1.0)
    sums = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            tied = aux_loss(*states, weight, gold, 0.1, weights)
            ce = cross_entropy(states[0], weight, gold, 0.1)
        total = sum((a * b for a, b in zip(weights, tied, strict=True)), ce)
        sums.append((total, *torch.autograd.grad(total, [*states, weight])))
    for exact, low in zip(*sums, strict=True):
        assert exact.dtype == low.dtype == torch.float32
        assert (exact - low).abs().sum() <= 0.05 * exact.abs().sum()
    assert float(sums[0][0].detach()) > 0 or not count


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
    memory = Memory(states, real, None, ())
    total = length_loss(model.length_logits(memory), torch.tensor([3, 9999]))
    scores = model.length_logits(memory).log_softmax(-1)
    assert total.item() == pytest.approx(-(scores[0, 3] + scores[1, 31]).item(), rel=1e-6)
    states[1, 1:] = 99.0
    assert model.length_table is not None
    assert torch.allclose(model.length_logits(memory)[1], model.length_table @ states[1, 0], atol=1e-12)
