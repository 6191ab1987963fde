"""Every stream against its matrix, written out; the rule against brute force; joined calls against separate ones."""

import itertools

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch
from janus_cli.core.model import Transformer
from janus_cli.core.stream import SPAN, Stream, base, beside, content, join, left_to_right, queries, revealed

TARGET = torch.tensor([[BOS, 5, 6, 7, EOS]])


def matrix(stream: Stream, row: int = 0) -> list[str]:
    return ["".join("1" if cell else "0" for cell in line) for line in stream.attend[row].tolist()]


def test_content_is_the_causal_triangle() -> None:
    stream = content(TARGET)
    assert stream.tokens.tolist() == [[BOS, 5, 6, 7]]
    assert stream.positions.tolist() == [[0, 1, 2, 3]]
    assert stream.labels.tolist() == [[5, 6, 7, EOS]]
    assert matrix(stream) == ["1000", "1100", "1110", "1111"]


def test_queries_see_only_what_is_to_their_left() -> None:
    stream = beside(content(TARGET, predict=False), queries(TARGET))
    assert stream.keys == 4
    assert stream.tokens.tolist() == [[BOS, 5, 6, 7, MASK, MASK, MASK, MASK]]
    assert stream.positions.tolist() == [[0, 1, 2, 3, 1, 2, 3, 4]]
    assert stream.labels.tolist() == [[IGNORE] * 4 + [5, 6, 7, EOS]]
    triangle = ["1000", "1100", "1110", "1111"]
    assert matrix(stream) == triangle + triangle


def test_nar_and_aux_slots() -> None:
    """y_1 and y_3 are hidden. Keys: BOS M 6 M EOS | 5 7 (gold). Rows: base, gold, queries."""
    rank = left_to_right(torch.tensor([[False, True, False, True, False]]))
    assert rank.tolist() == [[0, 1, 0, 2, 0]]
    stream = beside(base(TARGET, rank), *revealed(TARGET, rank))
    assert stream.tokens.tolist() == [[BOS, MASK, 6, MASK, EOS, 5, 7, MASK, MASK]]
    assert stream.positions.tolist() == [[0, 1, 2, 3, 4, 1, 3, 1, 3]]
    assert stream.labels.tolist() == [[IGNORE, 5, IGNORE, 7, IGNORE, IGNORE, IGNORE, 5, 7]]
    nar = "1111100"  # everything there at time 0, nothing revealed
    assert matrix(stream) == [
        nar, nar, nar, nar, nar,
        "1011110",  # gold 5: its own MASK has died, the MASK of 7 lives
        "1010111",  # gold 7
        "1111100",  # query for 5: nothing revealed, its own MASK still there
        "1011110",  # query for 7: 5 revealed, 7 still MASK
    ]  # fmt: skip


def test_revealed_follows_any_order() -> None:
    rank = torch.tensor([[0, 2, 0, 1, 0]])
    gold, query = revealed(TARGET, rank)
    assert gold.tokens.tolist() == [[7, 5]]
    assert query.labels.tolist() == [[7, 5]]
    stream = beside(base(TARGET, rank), gold, query)
    assert matrix(stream)[-1] == "1110110"  # the query for 5 (second): 7 revealed, its MASK dead; MASK of 5 alive


def test_padding_is_read_by_nobody_and_reads_something(ragged: Batch) -> None:
    hidden = torch.zeros_like(ragged.target, dtype=torch.bool)
    hidden[:, 1] = True
    rank = left_to_right(hidden)
    streams = [
        content(ragged.target),
        beside(content(ragged.target, predict=False), queries(ragged.target)),
        beside(base(ragged.target, rank), *revealed(ragged.target, rank)),
    ]
    for stream in [*streams, join(streams)[0]]:
        attend = stream.attend
        assert attend.any(-1).all()
        is_pad = (stream.tokens[:, : stream.keys] == PAD)[:, None, :]
        assert not (attend & is_pad).any()


def test_the_rule_against_a_definition_in_words() -> None:
    """200 random sentences and orders: who may see whom, said slot by slot."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        n = int(torch.randint(1, 9, (1,), generator=generator))
        m = int(torch.randint(1, n + 1, (1,), generator=generator))
        hidden = (torch.randperm(n, generator=generator)[:m] + 1).tolist()
        rank = torch.zeros(1, n + 2, dtype=torch.int64)
        for k, position in enumerate(hidden, 1):
            rank[0, position] = k
        target = torch.tensor([[BOS, *range(5, 5 + n), EOS]])
        attend = beside(base(target, rank), *revealed(target, rank)).attend[0]
        slots = [("base", p, 0) for p in range(n + 2)]
        slots += [(kind, p, k) for kind in ("gold", "query") for k, p in enumerate(hidden, 1)]
        keys = slots[: n + 2 + m]
        for (i, (kind, _, k)), (j, (key_kind, place, key_rank)) in itertools.product(enumerate(slots), enumerate(keys)):
            still_hidden = (
                int(rank[0, place]) == 0 or int(rank[0, place]) > k or (kind == "query" and rank[0, place] == k)
            )
            if kind == "base":
                expected = key_kind == "base"
            elif key_kind == "base":
                expected = still_hidden
            else:
                expected = key_rank < k or (kind == "gold" and key_rank == k)
            assert bool(attend[i, j]) == expected, (kind, k, key_kind, place)


def test_joined_streams_do_not_see_each_other() -> None:
    rank = torch.tensor([[0, 1, 0, 2, 0]])
    first, second = content(TARGET), beside(base(TARGET, rank), *revealed(TARGET, rank))
    joined, apart = join([first, second])
    assert joined.keys == first.keys + second.keys
    attend = joined.attend[0]
    own_first = attend[: first.keys, : first.keys]
    assert torch.equal(own_first, first.attend[0])
    assert not attend[: first.keys, first.keys :].any()
    rows = torch.cat([attend[first.keys : joined.keys], attend[joined.keys :]])
    assert torch.equal(rows[:, first.keys :], second.attend[0])
    assert not rows[:, : first.keys].any()
    back = apart(joined.tokens[..., None])
    assert torch.equal(back[0][..., 0], first.tokens)
    assert torch.equal(back[1][..., 0], second.tokens)


def test_long_targets_fit_a_span() -> None:
    target = torch.cat([torch.tensor([[BOS]]), torch.full((1, 1022), 5), torch.tensor([[EOS]])], dim=1)
    query = beside(content(target, predict=False), queries(target))
    assert query.time.max() < SPAN
    joined, _ = join([query, query, query])
    part = joined.attend[0, joined.keys + 2 * 1023 :, 2 * 1023 : 3 * 1023]
    assert torch.equal(part, query.attend[0, 1023:])


def decode(model: Transformer, batch: Batch, stream: Stream) -> Tensor:
    return model.decode(stream, model.encode(batch.source, batch.source_real))


@pytest.mark.parametrize("kind", ["content", "query"])
def test_one_joined_call_equals_separate_calls(model: Transformer, ragged: Batch, kind: str) -> None:
    hidden = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()
    rank = left_to_right(hidden)
    ar = content(ragged.target)
    if kind == "query":
        ar = beside(content(ragged.target, predict=False), queries(ragged.target))
    nar_aux = beside(base(ragged.target, rank), *revealed(ragged.target, rank))
    joined, apart = join([ar, nar_aux])
    for stream, states in zip((ar, nar_aux), apart(decode(model, ragged, joined)), strict=True):
        alone = decode(model, ragged, stream)
        assert torch.allclose(states[stream.labelled], alone[stream.labelled], atol=1e-12)


def test_a_causal_self_attention_sees_what_the_clock_shows_and_nothing_to_the_right() -> None:
    """The slots of `test_nar_and_aux_slots`: positions 0 1 2 3 4 | 1 3 (gold) as keys, 1 3 (queries)."""
    rank = left_to_right(torch.tensor([[False, True, False, True, False]]))
    stream = beside(base(TARGET, rank), *revealed(TARGET, rank))
    causal = ["".join("1" if cell else "0" for cell in line) for line in stream.causal[0].tolist()]
    assert causal == [
        "1000000", "1100000", "1110000", "1111000", "1111100",
        "1000010",  # gold 5 at position 1: its own MASK has died
        "1010011",  # gold 7 at position 3
        "1100000",  # query for 5
        "1011010",  # query for 7: 5 revealed, its own MASK alive
    ]  # fmt: skip
    for ordinary in (content(TARGET), beside(content(TARGET, predict=False), queries(TARGET))):
        assert torch.equal(ordinary.causal, ordinary.attend)


def test_flex_attention_has_the_same_rule(ragged: Batch) -> None:
    from torch.nn.attention.flex_attention import create_mask

    rank = left_to_right(ragged.target >= 5)
    stream = beside(base(ragged.target, rank), *revealed(ragged.target, rank))
    rows, slots = stream.tokens.shape
    dense = create_mask(stream.mask_mod, rows, 1, slots, stream.keys, device="cpu")
    assert torch.equal(dense[:, 0], stream.attend)
    causal = create_mask(stream.causal_mod, rows, 1, slots, stream.keys, device="cpu")
    assert torch.equal(causal[:, 0], stream.causal)
    assert not torch.equal(stream.causal, stream.attend)
