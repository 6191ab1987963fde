"""The parts that are written out for speed: dropout, packed weights, masks as scores, attention under bf16."""

from math import inf

import pytest
import torch

from janus_cli.core.batch import Batch
from janus_cli.core.fast import Linear, dropout, packed, product, scaled_dot_products
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer, score_bias
from janus_cli.core.stream import content


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("shape", [(1000, 101), (3, 7, 4001)])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x, share, True)
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(1 - share, abs=0.01)
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - share)), rtol=1e-4)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)
    if x.dim() == 2:
        columns = kept.float().mean(0)
        assert float((columns - (1 - share)).abs().max()) < 0.08, "five standard deviations of 1,000 draws"


def test_neighbours_are_dropped_independently() -> None:
    """Four places share one random number: each of its four parts must be as good as the others."""
    torch.manual_seed(2)
    kept = (dropout(torch.ones(1 << 18), 0.3, True) != 0).double().view(-1, 4)
    assert torch.allclose(kept.mean(0), torch.tensor(0.7, dtype=torch.float64), atol=5e-3)
    together = torch.corrcoef(kept.T) - torch.eye(4)
    assert float(together.abs().max()) < 0.02


def test_dropout_repeats_with_its_seed_and_does_nothing_while_generating() -> None:
    x = torch.randn(33)
    torch.manual_seed(3)
    first = dropout(x, 0.4, True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.4, True))
    assert not torch.equal(first, dropout(x, 0.4, True))
    assert dropout(x, 0.4, False) is x
    assert dropout(x, 0.0, True) is x


def test_a_mask_as_scores() -> None:
    attend = torch.tensor([[[True, False], [True, True]]])
    scores = score_bias(attend, torch.float32)
    assert scores is not None
    assert scores.tolist() == [[[0.0, -inf], [0.0, 0.0]]]
    assert score_bias(attend | True, torch.float32) is None


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_weight_gives_the_same_product(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = Linear(96, 4100).to(dtype).requires_grad_(False)
    x = torch.randn(2, rows, 96).to(dtype)
    plain = layer(x)
    layer.packed = packed(layer.weight)
    if dtype == torch.float32:
        assert (layer.packed is not None) == torch.backends.mkldnn.is_available()
    if layer.packed is not None:
        assert layer.packed.least == (0 if dtype == torch.bfloat16 else (1 << 20) // 4100)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    assert torch.allclose(layer(x), plain, **close)
    assert torch.allclose(product(x, layer.weight, layer.packed), plain - layer.bias, **close)


def test_training_takes_weights_out_of_their_packing(ragged: Batch) -> None:
    torch.manual_seed(5)
    model = Transformer(Model(width=64, feedforward=128, heads=2, max_length=32), 400, 400, length_head=True)
    stream = content(ragged.target)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model.logits(model.decode(stream, model.encode(ragged.source, ragged.source_real)))

    model.eval()
    plain = logits()
    model.pack()
    assert torch.allclose(logits(), plain, atol=1e-4)
    with torch.no_grad():
        model.target_table.weight.mul_(2.0)
        for layer in model.modules():
            if isinstance(layer, Linear):
                layer.weight.mul_(0.5)
    model.train()
    model.eval()
    changed = logits()
    assert not torch.allclose(changed, plain, atol=1e-2)
    model.pack()
    assert torch.allclose(logits(), changed, atol=1e-4)
    model.load_weights({name: weight * 0.5 for name, weight in model.weights().items()})
    assert not torch.allclose(logits(), changed, atol=1e-2)


def test_attention_under_bf16_has_the_gradient_of_float32() -> None:
    torch.manual_seed(6)
    whole = [torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(3)]
    low = [x.detach().bfloat16().requires_grad_() for x in whole]
    for parts in (whole, low):
        with torch.autocast("cpu", torch.bfloat16):
            y = scaled_dot_products(*parts, None, 0.0)
        y.square().sum().backward()
    for one, two in zip(whole, low, strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad.float(), atol=0.1, rtol=0.1)
