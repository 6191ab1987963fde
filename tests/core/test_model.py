"""The model: shapes of every option, incremental decoding equal to one pass, shared memory, tied tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from janus_cli.core.batch import Batch, collate
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer, sinusoids
from janus_cli.core.shapes import shapes
from janus_cli.core.stream import content, masked
from janus_cli.core.weights import Weights


@pytest.fixture
def causal(tiny: Model) -> Transformer:
    """With both options of CMLMC."""
    torch.manual_seed(0)
    knobs = replace(tiny, init="xavier", causal_attention=True, embedding="concat")
    return Transformer(knobs, 20, 20, length_head=True).double().eval()


@pytest.fixture(params=["model", "causal"])
def either(request: pytest.FixtureRequest) -> Transformer:
    """With one self-attention in its decoder layers, or two."""
    made: Transformer = request.getfixturevalue(request.param)
    return made


@pytest.mark.parametrize("at", [2, torch.tensor([2, 0, 1])], ids=["all", "each"])
def test_slots_that_all_see_each_other_may_be_decoded_over_a_cache(
    either: Transformer, ragged: Batch, at: int | torch.Tensor
) -> None:
    """In a causal self-attention their positions count."""
    stream = masked(ragged.target, torch.zeros_like(ragged.target))
    memory, cache = either.encode(ragged.source, ragged.source_real), either.new_cache(3, 8)
    cache.at = at
    states, whole = either.decode(stream, memory, cache), either.decode(stream, memory)
    assert torch.allclose(states[ragged.target_real], whole[ragged.target_real], atol=1e-12)


SHAPES = pytest.mark.parametrize(
    "change",
    [
        {"norm": "pre"}, {"activation": "gelu", "embedding_norm": True, "embedding_scale": False},
        {"positions": "sinusoidal"}, {"tie": "target"}, {"tie": "none"}, {"encoder_layers": 3, "decoder_layers": 1},
        {"init": "xavier"}, {"causal_attention": True}, {"causal_attention": True, "norm": "pre"},
        {"embedding": "concat", "embedding_scale": False},
        {"embedding": "concat", "init": "xavier", "positions": "sinusoidal"},
    ],
    ids=str,
)  # fmt: skip


@SHAPES
@pytest.mark.parametrize("lengths", [False, True])
def test_weights_have_these_names_and_shapes(tiny: Model, change: dict[str, object], lengths: bool) -> None:
    knobs = replace(tiny, output_bias=lengths, **change)
    model = Transformer(knobs, 20, 20 if knobs.tie == "all" else 18, length_head=lengths)
    sizes = 20, len(model.target_table.weight)
    weights = {name: weight.numpy() for name, weight in model.weights().items()}
    assert shapes(knobs, sizes, lengths=lengths) == {name: weight.shape for name, weight in weights.items()}
    stored = Weights(knobs, sizes, weights)
    again = stored.model()
    assert (stored.output == model.output_weight.detach().numpy()).all()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert np.shares_memory(again.output_weight.detach().numpy(), stored.output), "they are in memory once"


@SHAPES
def test_every_shape_option_runs_and_learns(tiny: Model, ragged: Batch, change: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, stream = Transformer(replace(tiny, **change), 20, 20, length_head=False), content(ragged.target)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(20):
        states = model.decode(stream, model.encode(ragged.source, ragged.source_real))
        logits = model.logits(states[stream.labelled])
        loss = torch.nn.functional.cross_entropy(logits, stream.labels[stream.labelled])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_causal_self_attention_looks_to_the_left_only(causal: Transformer, ragged: Batch) -> None:
    """Without what the other attentions add, a slot's state depends on no slot to its right."""
    for layer in causal.decoder:
        for module in (layer.attention.out, layer.cross.out):
            torch.nn.init.zeros_(module.weight)
    memory, nothing = causal.encode(ragged.source, ragged.source_real), torch.zeros_like(ragged.target)
    before = causal.decode(masked(ragged.target, nothing), memory)[0]
    for changed in range(1, 5):
        other = ragged.target.clone()
        other[0, changed] = 15
        after = causal.decode(masked(other, nothing), memory)[0]
        moved = [not torch.allclose(x, y, atol=1e-12) for x, y in zip(before, after, strict=True)]
        assert moved == [place >= changed for place in range(6)]


def test_tokens_and_positions_stand_side_by_side(causal: Transformer, ragged: Batch) -> None:
    """The map is linear: with the identity on each half it adds them up, as the ordinary embedding does."""
    ordinary = Transformer(replace(causal.knobs, embedding="sum"), 20, 20, length_head=True).double().eval()
    ordinary.load_weights({k: v for k, v in causal.weights().items() if "_map" not in k})
    eye = torch.eye(causal.knobs.width).double()
    with torch.no_grad():
        for module in (causal.source_map, causal.target_map):
            module.weight.copy_(torch.cat([eye, eye], dim=1))
    stream = content(ragged.target)
    one, two = (m.decode(stream, m.encode(ragged.source, ragged.source_real)) for m in (causal, ordinary))
    assert torch.allclose(one, two, atol=1e-12)


def test_tables_are_tied_or_of_different_sizes(tiny: Model) -> None:
    tied = Transformer(tiny, 20, 20, length_head=True)
    assert tied.source_table is tied.target_table
    assert tied.output_weight is tied.target_table.weight
    assert sum(name.endswith("table.weight") for name in tied.weights()) == 1
    model, batch = Transformer(replace(tiny, tie="target"), 30, 20, length_head=False), collate([[29]], [[19]], [0])
    states = model.decode(content(batch.target), model.encode(batch.source, batch.source_real))
    assert model.logits(states).shape == (1, 2, 20)
    assert model.source_table.weight.shape == (30, 16)


def test_weights_go_round(tiny: Model, ragged: Batch) -> None:
    torch.manual_seed(1)
    knobs = replace(tiny, positions="sinusoidal")
    model = Transformer(knobs, 20, 20, length_head=True)
    with torch.device("meta"):
        other = Transformer(knobs, 20, 20, length_head=True)
    other.to_empty(device="cpu")
    other.load_weights(model.weights())
    stream = content(ragged.target)
    one, two = (m.decode(stream, m.encode(ragged.source, ragged.source_real)) for m in (model, other))
    assert torch.equal(one, two)


def test_sinusoids() -> None:
    expected = [[0, 0, 1, 1], [0.84147, 1e-4, 0.54030, 1.0], [0.90930, 2e-4, -0.41615, 1.0]]
    assert torch.allclose(sinusoids(3, 4), torch.tensor(expected), atol=1e-4)
