"""Losses against hand-worked numbers and against a plain float64 version, forward and gradient."""

from math import log

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.aux_loss import AuxLoss, aux_loss, tied
from janus_cli.core.losses import cross_entropy, length_loss
from janus_cli.core.model import Memory, Transformer

GOLD = torch.tensor([0, 6, 2, 2, 5])
WEIGHTS = AuxLoss(0.3, 0.5, 0.25, 3.0, 1.0, 2.0)
ALONE = [AuxLoss(*(float(name == other) for other in AuxLoss._fields)) for name in AuxLoss._fields]


def test_cross_entropy_by_hand() -> None:
    """Two words with probabilities 3/4 and 1/4, gold the first, smoothing 0.2."""
    states, weight = torch.tensor([[1.0]]), torch.tensor([[log(3.0)], [0.0]])
    expected = -0.8 * log(3 / 4) - 0.1 * (log(3 / 4) + log(1 / 4))
    assert cross_entropy(states, weight, torch.tensor([0]), 0.2).item() == pytest.approx(expected, rel=1e-6)


def test_aux_loss_by_hand() -> None:
    """p = (3/4, 1/4) for AR, (1/2, 1/2) for NAR and AUX: KLs = 1/2 * (1/4) * log 3, and 0 between equals."""
    p, half, words = torch.tensor([[log(3.0), 0.0]]), torch.zeros(1, 2), torch.eye(2)
    found = aux_loss(p, half, half, words, torch.tensor([0]), 0.0, AuxLoss(*[1.0] * 6))
    expected = [-log(3 / 4), log(2), log(2), 0.125 * log(3), 0.0, 0.125 * log(3)]
    assert torch.stack(found).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def plain(
    ar: Tensor, nar: Tensor, aux: Tensor, weight: Tensor, smoothing: float, share: float, temperature: float,
    sure: bool,
) -> AuxLoss[Tensor]:  # fmt: skip
    """The equations, token by token and word by word, in Python; autograd gives the gradient."""
    logits = {"ar": ar @ weight.T, "nar": nar @ weight.T, "aux": aux @ weight.T}
    reached = share * logits["ar"] + (1 - share) * logits["ar"].detach()  # the same values; gradient times `share`
    tied = {**logits, "ar": reached}
    sums = dict.fromkeys(AuxLoss._fields, torch.zeros((), dtype=torch.float64))
    for row in range(len(GOLD)):
        for name, x in logits.items():
            q = torch.softmax(x[row], -1)
            smooth = sum(-q[v].log() for v in range(len(q))) / len(q)
            sums[f"ce_{name}"] = sums[f"ce_{name}"] + (1 - smoothing) * -q[GOLD[row]].log() + smoothing * smooth
        p = {name: torch.softmax(x[row] / temperature, -1) for name, x in tied.items()}
        for one, two in (("ar", "aux"), ("nar", "aux"), ("ar", "nar")):
            for a, b in zip(p[one], p[two], strict=True):
                both = 0.5 * a * (a / b).log() + 0.5 * b * (b / a).log()
                known = float(torch.softmax(logits["aux"][row].detach(), -1)[GOLD[row]]) if sure else 1.0
                sums[f"kl_{one}_{two}"] = sums[f"kl_{one}_{two}"] + temperature**2 * known * both
    return AuxLoss(**sums)


def random_case(dtype: torch.dtype, states: int) -> tuple[list[Tensor], list[Tensor]]:
    """States (5, 4) each and a table (7, 4), in float64 and in this type."""
    torch.manual_seed(3)
    exact = [torch.randn(shape, dtype=torch.float64) for shape in [(5, 4)] * states + [(7, 4)]]
    return [x.clone().requires_grad_() for x in exact], [x.to(dtype).requires_grad_() for x in exact]


def compare(ours: Tensor, theirs: Tensor, given: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Values and gradients."""
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    gradients = torch.autograd.grad(theirs, exact, allow_unused=True)
    for own, other in zip(torch.autograd.grad(ours, given), gradients, strict=True):
        other = torch.zeros_like(own, dtype=torch.float64) if other is None else other
        assert torch.allclose(own.double(), other, rtol=tolerance, atol=tolerance)


PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
CASES = [(weights, 1.0, 1.0, False) for weights in (*ALONE, WEIGHTS, AuxLoss(*[0.0] * 6))]
CASES += [(WEIGHTS, share, 1.0, False) for share in (0.0, 0.25)] + [(WEIGHTS, 1.0, heat, False) for heat in (0.5, 2.0)]
CASES += [(WEIGHTS, 1.0, 1.0, True), (WEIGHTS, 0.25, 2.0, True)]


@PRECISIONS
@pytest.mark.parametrize("at_once", [1, 60, 1 << 20])
@pytest.mark.parametrize(("weights", "share", "temperature", "sure"), CASES, ids=str)
def test_aux_loss_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, weights: AuxLoss[float], share: float, temperature: float,
    sure: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each term alone and all of them, whatever the chunk size, the KLs' temperature, and what weighs them."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": at_once})
    exact, given = random_case(dtype, 3)
    expected = plain(*exact, 0.1, share, temperature, sure)
    found = aux_loss(*given, GOLD, 0.1, weights, share, temperature, sure)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    with torch.no_grad():
        again = aux_loss(*given, GOLD, 0.1, weights, share, temperature, sure)
        assert torch.allclose(torch.stack(found), torch.stack(again))
    total, wanted = (sum(2 * w * v for w, v in zip(weights, each, strict=True)) for each in (found, expected))
    compare(total, wanted, given, exact, tolerance)


@PRECISIONS
@pytest.mark.parametrize("at_once", [1, 60, 1 << 20])
def test_rdrop_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes: both cross-entropies and the KL between them, and their gradient."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": at_once})
    exact, given = random_case(dtype, 2)
    expected = plain(exact[0], exact[1], exact[1], exact[2], 0.1, 1.0, 1.0, False)
    found = tied(torch.stack(given[:2]), given[2], GOLD, 0.1, [0.5, 0.5, 2.5], [(0, 1)], (1.0, 1.0))
    wanted = torch.stack([expected.ce_ar, expected.ce_nar, expected.kl_ar_nar])
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=tolerance)
    factors = torch.tensor([0.5, 0.5, 2.5], dtype=torch.float64)
    compare((found * factors).sum(), (wanted * factors).sum(), given, exact, tolerance)


def test_a_gradient_for_other_weights_is_refused() -> None:
    _, given = random_case(torch.float32, 3)
    found = aux_loss(*given, GOLD, 0.1, AuxLoss(1.0, 0.5, 0.5, 3.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match="was made for totals weighted"):
        (found.ce_ar + found.ce_nar).backward()


@PRECISIONS
@pytest.mark.parametrize("at_once", [1, 20, 1 << 20])
def test_cross_entropy_equals_the_plain_version(
    dtype: torch.dtype, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": at_once})
    exact, given = random_case(dtype, 1)
    logits = exact[0] @ exact[1].T
    wanted = 3 * torch.nn.functional.cross_entropy(logits, GOLD, label_smoothing=0.1, reduction="sum")
    found = 3 * cross_entropy(*given, GOLD, 0.1)
    with torch.no_grad():
        assert torch.equal(3 * cross_entropy(*given, GOLD, 0.1), found.detach())
    compare(found, wanted, given, exact, tolerance)


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


def test_an_output_bias_acts_as_one_more_dimension_of_states_that_are_one_there() -> None:
    torch.manual_seed(4)
    states, weight = torch.randn(3, 6, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    bias, gold = torch.randn(11), torch.arange(6)
    weights = AuxLoss(1.0, 0.5, 0.5, 3.0, 1.0, 1.0)
    wider = torch.cat([states, torch.ones(3, 6, 1)], 2), torch.cat([weight, bias[:, None]], 1)
    sums = []
    for (some, table), constant in (((states, weight), bias), (wider, None)):
        tied = aux_loss(*some, table, gold, 0.1, weights, bias=constant)
        total = sum(
            (a * b for a, b in zip(weights, tied, strict=True)), cross_entropy(some[0], table, gold, 0.1, constant)
        )
        sums.append((total, *torch.autograd.grad(total, [states, weight])))
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other)
