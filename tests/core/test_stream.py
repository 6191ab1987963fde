"""Every stream against its matrix, written out; the rule against brute force; spans; FlexAttention."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch
from janus_cli.core.noise import Draws, random_order
from janus_cli.core.objectives.bang import bridge
from janus_cli.core.objectives.janus import nar_and_aux
from janus_cli.core.objectives.prophetnet import prophets
from janus_cli.core.objectives.xlnet import permuted
from janus_cli.core.stream import ar_step, ar_stream, beside, content, framed, left_to_right, masked, revealed

TARGET = torch.tensor([[BOS, 5, 6, 7, EOS]])
HIDDEN = torch.tensor([[False, True, False, True, False]])  # y_1 and y_3
ORDER = torch.tensor([[0, 3, 1, 4, 2]])  # 6 EOS 5 7
PERMUTED = torch.tensor([[0, 2, 0, 1, 0]])  # 5 and 7 are hidden, 7 comes first
M, _ = MASK, IGNORE


def matrix(attend: Tensor) -> list[str]:
    """Queries by keys, as 0 and 1."""
    return ["".join("1" if cell else "0" for cell in line) for line in attend[0].tolist()]


# Tokens, positions and labels of the slots, and a row of the matrix for each.
STREAMS = {
    "content": (content(TARGET), [BOS, 5, 6, 7], [0, 1, 2, 3], [5, 6, 7, EOS], "1000 1100 1110 1111"),
    "query": (  # what a query sees is to its left
        ar_stream(TARGET, "query"), [BOS, 5, 6, 7, M, M, M, M], [0, 1, 2, 3, 1, 2, 3, 4], [_, _, _, _, 5, 6, 7, EOS],
        "1000 1100 1110 1111  1000 1100 1110 1111",
    ),
    "self": (  # a slot reads its prefix and itself
        ar_stream(TARGET, "self"), [BOS, 5, 6, 7, M, M, M, M], [0, 1, 2, 3, 1, 2, 3, 4], [_, _, _, _, 5, 6, 7, EOS],
        "10000000 11000000 11100000 11110000  10001000 11000100 11100010 11110001",
    ),
    "masks": (  # base, gold, queries: a MASK for every token, which dies when its token is revealed
        ar_stream(TARGET, "masks"), [BOS, M, M, M, EOS, 5, 6, 7, M, M, M], [0, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3],
        [_, _, _, _, _, _, _, _, 5, 6, 7],
        "11111000 11111000 11111000 11111000 11111000  10111100 10011110 10001111  11111000 10111100 10011110",
    ),
    # Base, gold, queries. A gold slot's own MASK has died; a query's own MASK is still there.
    "nar and aux": (
        nar_and_aux(TARGET, HIDDEN), [BOS, M, 6, M, EOS, 5, 7, M, M], [0, 1, 2, 3, 4, 1, 3, 1, 3],
        [_, 5, _, 7, _, _, _, 5, 7],
        "1111100 1111100 1111100 1111100 1111100  1011110 1010111  1111100 1011110",
    ),
    "mpnet": (
        beside(masked(TARGET, PERMUTED).unlabelled, *revealed(TARGET, PERMUTED)),
        [BOS, M, 6, M, EOS, 7, 5, M, M], [0, 1, 2, 3, 4, 3, 1, 3, 1], [_, _, _, _, _, _, _, 7, 5],
        "1111100 1111100 1111100 1111100 1111100  1110110 1010111  1111100 1110110",
    ),
    "xlnet": (  # BOS and the tokens in their order, then queries
        permuted(TARGET, ORDER, 1.0), [BOS, 6, EOS, 5, 7, M, M, M, M], [0, 2, 4, 1, 3, 2, 4, 1, 3],
        [_, _, _, _, _, 6, EOS, 5, 7],
        "10000 11000 11100 11110 11111  10000 11000 11100 11110",
    ),
    "xlnet, the last half": (  # 6 and EOS are the context: BOS and they see each other in both directions
        permuted(TARGET, ORDER, 0.5), [BOS, 6, EOS, 5, 7, M, M, M, M], [0, 2, 4, 1, 3, 2, 4, 1, 3],
        [_, _, _, _, _, _, _, 5, 7],
        "11100 11100 11100 11110 11111  11100 11100 11100 11110",
    ),
    "prophetnet": (  # content; stream 1, for 5 6 7 EOS; stream 2, for 6 7 EOS
        prophets(TARGET, 2), [BOS, 5, 6, 7, *[M] * 7], [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4],
        [_, _, _, _, 5, 6, 7, EOS, 6, 7, EOS],
        "10000000000 11000000000 11100000000 11110000000  10001000000 11000100000 11100010000 11110001000 "
        "10000000100 11000000010 11100000001",
    ),
    "bang": (  # content; AR for 5 6 7 EOS; NAR for 6 7 EOS (5 is AR's); s = 2 for 7 EOS; s = 3 for EOS
        bridge(TARGET, 3), [BOS, 5, 6, 7, *[M] * 10], [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 3, 4, 4],
        [_, _, _, _, 5, 6, 7, EOS, 6, 7, EOS, 7, EOS, EOS],
        "10000000000000 11000000000000 11100000000000 11110000000000 "
        "10001000000000 11000100000000 11100010000000 11110001000000 "
        "10001000100000 10001000110000 10001000111000 "  # 6 from BOS, the MASK of 5 and its own, and so on
        "11000100000100 11100010000010 "  # 7 from 5, the MASK of 6 (AR's) and its own
        "11000100000101",  # EOS from 5 and the MASKs of 6, 7 and itself
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_slots_and_who_sees_whom(name: str) -> None:
    stream, tokens, positions, labels, rows = STREAMS[name]
    assert stream.tokens.tolist() == [tokens]
    assert stream.positions.tolist() == [positions]
    assert stream.labels.tolist() == [labels]
    assert matrix(stream.attend) == rows.split()


@pytest.mark.parametrize(("share", "asked"), [(1 / 6, [7]), (0.5, [5, 7]), (0.51, [EOS, 5, 7])])
def test_xlnet_predicts_the_end_of_the_order(share: float, asked: list[int]) -> None:
    stream = permuted(TARGET, ORDER, share)
    assert stream.labels[stream.labelled].tolist() == asked


@pytest.mark.parametrize("kind", ["content", "query", "self"])
def test_decoding_has_the_slots_of_training(kind: str) -> None:
    trained, decoded = ar_stream(TARGET, kind), ar_step(TARGET[:, :-1], torch.tensor([0]), TARGET[:, :-1] >= 0, kind)
    assert torch.equal(decoded.tokens, trained.tokens)
    assert torch.equal(decoded.positions, trained.positions)
    assert torch.equal(decoded.attend, trained.attend)


def test_a_causal_self_attention_sees_what_the_clock_shows_and_nothing_to_the_right() -> None:
    """The slots of `nar and aux` above: positions 0 1 2 3 4 | 1 3 (gold) as keys, 1 3 (queries)."""
    causal = "1000000 1100000 1110000 1111000 1111100  1000010 1010011  1100000 1011010"
    assert matrix(nar_and_aux(TARGET, HIDDEN).causal) == causal.split()
    for kind in ("content", "query"):
        stream = ar_stream(TARGET, kind)
        assert torch.equal(stream.causal, stream.attend)


def test_padding_is_read_by_nobody_and_reads_something(ragged: Batch) -> None:
    target, draws = ragged.target, Draws(1, 0, ragged.ids)
    order = random_order((target != PAD) & (target != BOS), draws)
    streams = [ar_stream(target, kind) for kind in ("content", "query", "self", "masks")]
    streams += [nar_and_aux(target, target == target.max(1, keepdim=True).values), permuted(target, order, 1.0)]
    streams += [prophets(target, 3), bridge(target, 4)]
    for stream in streams:
        attend, keys = stream.attend, stream.keys
        assert attend.any(-1).all()
        behind = stream.positions[:, :keys] >= ragged.target_real.sum(1, keepdim=True)
        assert not (attend & behind[:, None] & ~torch.eye(attend.shape[1], keys, dtype=torch.bool)).any()


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
        attend = beside(masked(target, rank), *revealed(target, rank)).attend[0]
        slots = [("base", p, 0) for p in range(n + 2)]
        slots += [(kind, p, k) for kind in ("gold", "query") for k, p in enumerate(hidden, 1)]
        keys = slots[: n + 2 + m]
        for (i, (kind, _, k)), (j, (key_kind, place, key_rank)) in itertools.product(enumerate(slots), enumerate(keys)):
            place_rank = int(rank[0, place])
            if kind == "base":
                expected = key_kind == "base"
            elif key_kind == "base":  # observed, or still hidden
                expected = place_rank == 0 or place_rank > k or (kind == "query" and place_rank == k)
            else:
                expected = key_rank < k or (kind == "gold" and key_rank == k)
            assert bool(attend[i, j]) == expected, (kind, k, key_kind, place)


def test_xlnet_against_a_definition_in_words() -> None:
    """Everybody sees the context; a predicted token is seen by itself and by what comes later in the order."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        n = int(torch.randint(1, 9, (1,), generator=generator))
        predicted = int(torch.randint(1, n + 1, (1,), generator=generator))
        order = (torch.randperm(n, generator=generator) + 1).tolist()
        target, rank = torch.tensor([[BOS, *range(5, 5 + n)]]), torch.tensor([[0, *order]])
        stream = permuted(target, rank, (predicted - 0.5) / n)
        keys, ranks = [0, *range(1, n + 1)], [0, *range(1, n + 1), *range(1, n + 1)]
        for (i, own), (j, other) in itertools.product(enumerate(ranks), enumerate(keys)):
            expected = other <= n - predicted or other < own or (other == own and i <= n)
            assert bool(stream.attend[0, i, j]) == expected, (i, own, other)
        asked = [rank.tolist()[0].index(r) + 4 for r in range(n - predicted + 1, n + 1)]
        assert stream.labels[stream.labelled].tolist() == asked


def test_flex_attention_has_the_same_rule(ragged: Batch) -> None:
    stream = nar_and_aux(ragged.target, ragged.target >= 5)
    rows, slots = stream.tokens.shape
    for causal, expected in ((False, stream.attend), (True, stream.causal)):
        assert torch.equal(
            create_mask(stream.mask_mod(causal=causal), rows, 1, slots, stream.keys, device="cpu")[:, 0], expected
        )
    assert not torch.equal(stream.causal, stream.attend)


def test_framed_puts_bos_and_eos_around_each_row_and_ranks_go_left_to_right() -> None:
    tokens = torch.tensor([[7, 8, 9], [MASK, PAD, PAD], [PAD, PAD, PAD]])
    assert framed(tokens).tolist() == [[BOS, 7, 8, 9, EOS], [BOS, MASK, EOS, PAD, PAD], [BOS, EOS, PAD, PAD, PAD]]
    assert left_to_right(HIDDEN).tolist() == [[0, 1, 0, 2, 0]]
