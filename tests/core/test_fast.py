"""What is written out for speed computes what torch does: dropout, packed weights, attention in bf16."""

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import Batch
from janus_cli.core.fast import Linear, dropout, packed, product, scaled_dot_products
from janus_cli.core.generate import Generator
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer
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


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_packed_weight_gives_the_same_product(rows: int) -> None:
    torch.manual_seed(4)
    layer, x = Linear(96, 4100).requires_grad_(False), torch.randn(2, rows, 96)
    plain = layer(x)
    layer.packed = packed(layer.weight)
    assert (layer.packed is not None) == torch.backends.mkldnn.is_available()
    assert torch.allclose(layer(x), plain, rtol=1e-4, atol=1e-5)
    assert torch.allclose(product(x, layer.weight, layer.packed), plain - layer.bias, rtol=1e-4, atol=1e-5)
    assert packed(layer.weight.bfloat16()) is None


def test_training_unpacks_weights(ragged: Batch) -> None:
    torch.manual_seed(5)
    model = Transformer(Model(width=64, feedforward=128, heads=2, max_length=32), 400, 400, length_head=True).eval()
    stream = content(ragged.target)

    def logits() -> Tensor:
        with torch.no_grad():
            return model.logits(model.decode(stream, model.encode(ragged.source, ragged.source_real)))

    plain = logits()
    Generator(model)
    assert torch.allclose(logits(), plain, atol=1e-4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    changed = model.train().eval() and logits()
    assert not torch.allclose(changed, plain, atol=1e-2)
    Generator(model)
    assert torch.allclose(logits(), changed, atol=1e-4)
    model.load_weights({name: weight * 2.0 for name, weight in model.weights().items()})
    assert torch.equal(logits(), plain)


def test_attention_under_bf16_has_the_gradient_of_float32() -> None:
    torch.manual_seed(6)
    whole = [torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(3)]
    low = [x.detach().bfloat16().requires_grad_() for x in whole]
    for parts in (whole, low):
        with torch.autocast("cpu", torch.bfloat16):
            y = scaled_dot_products(*parts, None, 0.0)
        y.square().sum().backward()
    for one, two in zip(whole, low, strict=True):
        assert torch.allclose(one.grad, two.grad.float(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 2, 9, 8), (2, 1, 9, 8), (2, 2, 1, 8), (1, 1, 1, 8)])
def test_attention_under_bf16_has_a_gradient_for_every_shape(shape: tuple[int, ...], share: float) -> None:
    """With dropout torch takes another way, which keeps views of its inputs where a dimension is 1."""
    inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    scaled_dot_products(*inputs, None, share).sum().backward()
    assert all(x.grad is not None and x.grad.shape == shape for x in inputs)


@pytest.mark.parametrize(("part", "bytes_each"), [("dropout", 1), ("attention", 0)])
def test_little_is_kept_for_the_backward_pass(part: str, bytes_each: int) -> None:
    """One byte a number for dropout; of attention's inputs in bf16 no copies. What is returned is not counted."""
    inputs = [torch.randn(2, 4, 64, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with torch.profiler.profile(profile_memory=True) as profile:
        result = dropout(inputs[0], 0.1, True) if part == "dropout" else scaled_dot_products(*inputs, None, 0.0)
    assert result.requires_grad
    held = sum(event.self_cpu_memory_usage for event in profile.events()) - result.untyped_storage().nbytes()
    assert held / result.numel() == pytest.approx(bytes_each, abs=0.2)
