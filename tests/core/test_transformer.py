"""The model: shapes of every option, incremental decoding equal to one pass, shared memory, tied tables."""

from dataclasses import replace

import pytest
import torch

from janus_cli.core.batch import Batch, collate
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer, sinusoids
from janus_cli.core.stream import Stream, base, beside, content, queries

FIELDS = ("tokens", "positions", "time", "birth", "death", "labels")


def part(stream: Stream, slots: list[int], keys: int) -> Stream:
    return Stream(*(getattr(stream, name)[:, slots] for name in FIELDS), keys=keys)


def pick(stream: Stream, rows: torch.Tensor) -> Stream:
    return Stream(*(getattr(stream, name)[rows] for name in FIELDS), keys=stream.keys)


@pytest.fixture
def causal(tiny: Model) -> Transformer:
    """With both options of CMLMC."""
    torch.manual_seed(0)
    knobs = replace(tiny, init="xavier", causal_attention=True, embedding="concat")
    return Transformer(knobs, 20, 20, length_head=True).double().eval()


@pytest.mark.parametrize("kind", ["content", "query"])
@pytest.mark.parametrize("name", ["model", "causal"])
def test_step_by_step_with_a_cache_equals_one_pass(
    request: pytest.FixtureRequest, ragged: Batch, kind: str, name: str
) -> None:
    model: Transformer = request.getfixturevalue(name)
    stream = content(ragged.target)
    count = stream.keys
    if kind == "query":
        stream = beside(content(ragged.target, predict=False), queries(ragged.target))
    memory = model.encode(ragged.source, ragged.source_real)
    whole = model.decode(stream, memory)
    cache = model.new_cache(3, count)
    for step in range(count):
        slots = [step] if kind == "content" else [step, count + step]
        states = model.decode(part(stream, slots, 1), memory, cache)
        real = stream.labelled[:, slots[-1]]
        assert torch.allclose(states[real, -1], whole[real, slots[-1]], atol=1e-12)


@pytest.mark.parametrize("name", ["model", "causal"])
@pytest.mark.parametrize("at", [2, torch.tensor([2, 0, 1])], ids=["all", "each"])
def test_slots_that_all_see_each_other_may_be_decoded_over_a_cache(
    request: pytest.FixtureRequest, ragged: Batch, name: str, at: int | torch.Tensor
) -> None:
    """As the joint draft of speculative decoding does; in a causal self-attention their positions count."""
    model: Transformer = request.getfixturevalue(name)
    stream, memory = (
        base(ragged.target, torch.zeros_like(ragged.target)),
        model.encode(ragged.source, ragged.source_real),
    )
    cache = model.new_cache(3, 8)
    cache.at = at
    states, whole = model.decode(stream, memory, cache), model.decode(stream, memory)
    assert torch.allclose(states[ragged.target_real], whole[ragged.target_real], atol=1e-12)


def test_selected_rows_keep_their_past(model: Transformer, ragged: Batch) -> None:
    """Beams move between rows: going on with chosen rows equals having decoded those rows from the start."""
    stream = content(ragged.target)
    memory = model.encode(ragged.source, ragged.source_real)
    rows = torch.tensor([2, 0, 2])
    moved, fresh = model.new_cache(3, 4), model.new_cache(3, 4)
    model.decode(part(stream, [0, 1], 2), memory, moved)
    moved.select(rows)
    model.decode(pick(part(stream, [0, 1], 2), rows), memory.select(rows), fresh)
    following = pick(part(stream, [2], 1), rows)
    one, two = (model.decode(following, memory.select(rows), cache) for cache in (moved, fresh))
    assert torch.allclose(one, two, atol=1e-12)
    assert not torch.allclose(one[0], one[1], atol=1e-3)


def test_candidates_share_the_memory_of_their_sentence(model: Transformer, ragged: Batch) -> None:
    stream = base(ragged.target, torch.zeros_like(ragged.target))
    memory = model.encode(ragged.source, ragged.source_real)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    wide = pick(stream, rows)
    shared, copied = model.decode(wide, memory), model.decode(wide, memory.select(rows))
    assert torch.allclose(shared, copied, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "pre"},
        {"activation": "gelu", "embedding_norm": True, "embedding_scale": False},
        {"positions": "sinusoidal"},
        {"tie": "target"},
        {"tie": "none"},
        {"encoder_layers": 3, "decoder_layers": 1},
        {"init": "xavier"},
        {"causal_attention": True},
        {"causal_attention": True, "norm": "pre"},
        {"embedding": "concat", "embedding_scale": False},
        {"embedding": "concat", "init": "xavier", "positions": "sinusoidal"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_shape_option_runs_and_learns(tiny: Model, ragged: Batch, change: dict[str, object]) -> None:
    torch.manual_seed(0)
    knobs = replace(tiny, **change)
    model = Transformer(knobs, 20, 20, length_head=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    stream = content(ragged.target)
    first = last = 0.0
    for step in range(20):
        states = model.decode(stream, model.encode(ragged.source, ragged.source_real))
        logits = model.logits(states[stream.labelled])
        loss = torch.nn.functional.cross_entropy(logits, stream.labels[stream.labelled])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.5 * first


LAYER = ("attention.query", "attention.key_value", "attention.out", "feedforward.up", "feedforward.down")
NORMS = ("attention_norm", "feedforward_norm")


def test_options_leave_the_names_of_other_models_alone(tiny: Model, causal: Transformer) -> None:
    """Checkpoints are read by these names."""
    cross = ("cross.query", "cross.key_value", "cross.out", "cross_norm")
    modules = [f"encoder.0.{name}" for name in LAYER + NORMS] + [f"decoder.0.{name}" for name in LAYER + NORMS + cross]
    names = {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")}
    names |= {"target_table.weight", "source_positions", "target_positions", "length_table"}
    assert set(Transformer(tiny, 20, 20, length_head=True).weights()) == names
    more = ("causal.query", "causal.key_value", "causal.out", "causal_norm")
    new = {f"decoder.0.{name}" for name in more} | {"source_map", "target_map"}
    assert set(causal.weights()) == names | {f"{name}.{kind}" for name in new for kind in ("weight", "bias")}


def test_the_causal_self_attention_looks_to_the_left_only(causal: Transformer, ragged: Batch) -> None:
    """Without what the other attentions add, a slot's state depends on no slot to its right."""
    for layer in causal.decoder:
        for part in (layer.attention.out, layer.cross.out):
            torch.nn.init.zeros_(part.weight)
    memory = causal.encode(ragged.source, ragged.source_real)
    nothing = torch.zeros_like(ragged.target)
    before = causal.decode(base(ragged.target, nothing), memory)[0]
    for changed in range(1, 5):
        other = ragged.target.clone()
        other[0, changed] = 15
        after = causal.decode(base(other, nothing), memory)[0]
        moved = [not torch.allclose(x, y, atol=1e-12) for x, y in zip(before, after, strict=True)]
        assert moved == [place >= changed for place in range(6)]


def test_tokens_and_positions_stand_side_by_side(causal: Transformer, ragged: Batch) -> None:
    """The map is linear: with the identity on each half it adds them up, as the ordinary embedding does."""
    eye = torch.eye(causal.knobs.width).double()
    ordinary = Transformer(replace(causal.knobs, embedding="sum"), 20, 20, length_head=True)
    ordinary.double().eval().load_weights({k: v for k, v in causal.weights().items() if "_map" not in k})
    with torch.no_grad():
        for part in (causal.source_map, causal.target_map):
            part.weight.copy_(torch.cat([eye, eye], dim=1))
    stream = content(ragged.target)
    one, two = (m.decode(stream, m.encode(ragged.source, ragged.source_real)) for m in (causal, ordinary))
    assert torch.allclose(one, two, atol=1e-12)


def test_vocabularies_may_differ_when_untied(tiny: Model) -> None:
    model = Transformer(replace(tiny, tie="target"), 30, 20, length_head=False)
    batch = collate([[29]], [[19]], [0])
    stream = content(batch.target)
    assert model.logits(model.decode(stream, model.encode(batch.source, batch.source_real))).shape == (1, 2, 20)
    assert model.source_table.weight.shape == (30, 16)


def test_tied_tables_are_one_weight(tiny: Model) -> None:
    model = Transformer(tiny, 20, 20, length_head=True)
    assert model.source_table is model.target_table
    assert model.output_weight is model.target_table.weight
    assert sum(name.endswith("table.weight") for name in model.weights()) == 1


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
    table = sinusoids(3, 4)
    expected = [[0, 0, 1, 1], [0.84147, 1e-4, 0.54030, 1.0], [0.90930, 2e-4, -0.41615, 1.0]]
    assert torch.allclose(table, torch.tensor(expected), atol=1e-4)
