"""The model: shapes of every option, incremental decoding equal to one pass, shared memory, tied tables."""

import pytest
import torch

from janus_cli.core.batch import Batch, collate
from janus_cli.core.layers import sinusoids
from janus_cli.core.stream import Stream, base, beside, content, queries
from janus_cli.core.transformer import Transformer
from janus_cli.recipe import Model

FIELDS = ("tokens", "positions", "time", "birth", "death", "labels")


def part(stream: Stream, slots: list[int], keys: int) -> Stream:
    return Stream(*(getattr(stream, name)[:, slots] for name in FIELDS), keys=keys)


def pick(stream: Stream, rows: torch.Tensor) -> Stream:
    return Stream(*(getattr(stream, name)[rows] for name in FIELDS), keys=stream.keys)


@pytest.mark.parametrize("kind", ["content", "query"])
def test_step_by_step_with_a_cache_equals_one_pass(model: Transformer, ragged: Batch, kind: str) -> None:
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
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_every_shape_option_runs_and_learns(tiny: Model, ragged: Batch, change: dict[str, object]) -> None:
    torch.manual_seed(0)
    knobs = tiny.model_copy(update=change)
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


def test_vocabularies_may_differ_when_untied(tiny: Model) -> None:
    model = Transformer(tiny.model_copy(update={"tie": "target"}), 30, 20, length_head=False)
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
    knobs = tiny.model_copy(update={"positions": "sinusoidal"})
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
