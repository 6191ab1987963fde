"""Streams of XLNet, MPNet, ProphetNet and BANG: their matrices written out; what each may not see; left to right."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch
from janus_cli.core.generate import generate, most_tokens
from janus_cli.core.knobs import ARSide, Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws, random_order
from janus_cli.core.objectives.bang import bridge
from janus_cli.core.objectives.prophetnet import prophets
from janus_cli.core.objectives.xlnet import permuted
from janus_cli.core.stream import Stream, ar_stream, base, beside, framed, revealed

TARGET = torch.tensor([[BOS, 5, 6, 7, EOS]])
_ = IGNORE


def matrix(stream: Stream) -> list[str]:
    return ["".join("1" if cell else "0" for cell in line) for line in stream.attend[0].tolist()]


def test_xlnet_slots() -> None:
    """Order 6 EOS 5 7. Keys: BOS, then the tokens in that order. Rows: keys, then queries."""
    stream = permuted(TARGET, torch.tensor([[0, 3, 1, 4, 2]]), 1.0)
    assert stream.tokens.tolist() == [[BOS, 6, EOS, 5, 7, MASK, MASK, MASK, MASK]]
    assert stream.positions.tolist() == [[0, 2, 4, 1, 3, 2, 4, 1, 3]]
    assert stream.labels.tolist() == [[_, _, _, _, _, 6, EOS, 5, 7]]
    assert matrix(stream) == [
        "10000", "11000", "11100", "11110", "11111",
        "10000", "11000", "11100", "11110",
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "asked"), [(1 / 6, [7]), (0.5, [5, 7]), (0.51, [EOS, 5, 7])])
def test_xlnet_predicts_the_end_of_the_order(share: float, asked: list[int]) -> None:
    stream = permuted(TARGET, torch.tensor([[0, 3, 1, 4, 2]]), share)
    assert stream.labels[stream.labelled].tolist() == asked


def test_mpnet_slots() -> None:
    """5 and 7 are hidden, 7 first. Keys: BOS M 6 M EOS | 7 5. Rows: base, gold, queries."""
    rank = torch.tensor([[0, 2, 0, 1, 0]])
    stream = beside(base(TARGET, rank, predict=False), *revealed(TARGET, rank))
    assert stream.tokens.tolist() == [[BOS, MASK, 6, MASK, EOS, 7, 5, MASK, MASK]]
    assert stream.labels.tolist() == [[_, _, _, _, _, _, _, 7, 5]]
    seen = "1111100"
    assert matrix(stream) == [
        seen, seen, seen, seen, seen,
        "1110110",  # gold 7: its MASK has died
        "1010111",  # gold 5
        "1111100",  # query for 7: both MASKs are there
        "1110110",  # query for 5: 7 is revealed
    ]  # fmt: skip


def test_prophetnet_slots() -> None:
    """Rows: content BOS 5 6 7; stream 1, for 5 6 7 EOS; stream 2, for 6 7 EOS. A slot reads its prefix and itself."""
    stream = prophets(TARGET, 2)
    assert stream.keys == 11
    assert stream.positions.tolist() == [[0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4]]
    assert stream.labels.tolist() == [[_, _, _, _, 5, 6, 7, EOS, 6, 7, EOS]]
    assert matrix(stream) == [
        "10000000000", "11000000000", "11100000000", "11110000000",
        "10001000000", "11000100000", "11100010000", "11110001000",
        "10000000100", "11000000010", "11100000001",
    ]  # fmt: skip


def test_bang_slots() -> None:
    """Rows: content BOS 5 6 7; AR for 5 6 7 EOS; NAR for 6 7 EOS (5 is AR's); s = 2 for 7 EOS; s = 3 for EOS."""
    stream = bridge(TARGET, 3)
    assert stream.positions.tolist() == [[0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 3, 4, 4]]
    assert stream.labels.tolist() == [[_, _, _, _, 5, 6, 7, EOS, 6, 7, EOS, 7, EOS, EOS]]
    assert matrix(stream) == [
        "10000000000000", "11000000000000", "11100000000000", "11110000000000",
        "10001000000000",  # 5 from BOS and its own MASK
        "11000100000000", "11100010000000", "11110001000000",
        "10001000100000",  # 6 from BOS, the MASK of 5 and its own
        "10001000110000",
        "10001000111000",
        "11000100000100",  # 7 from 5, the MASK of 6 (AR's) and its own
        "11100010000010",
        "11000100000101",  # EOS from 5 and the MASKs of 6, 7 and itself
    ]  # fmt: skip


def test_padding_is_read_by_nobody_and_reads_something(ragged: Batch) -> None:
    order = random_order((ragged.target != PAD) & (ragged.target != BOS), Draws(1, 0, ragged.ids))
    for stream in (permuted(ragged.target, order, 1.0), prophets(ragged.target, 3), bridge(ragged.target, 4)):
        attend, keys = stream.attend, stream.keys
        assert attend.any(-1).all()
        behind = stream.positions[:, :keys] >= ragged.target_real.sum(1, keepdim=True)
        assert not (attend & behind[:, None] & ~torch.eye(attend.shape[1], keys, dtype=torch.bool)).any()


def test_an_order_is_a_permutation_of_its_own_for_each_sentence(ragged: Batch) -> None:
    among = (ragged.target != PAD) & (ragged.target != BOS)
    orders = [random_order(among, Draws(1, epoch, ragged.ids)) for epoch in range(50)]
    for order in orders:
        for row, real in zip(order.tolist(), among.tolist(), strict=True):
            assert sorted(k for k, is_real in zip(row, real, strict=True) if is_real) == list(range(1, sum(real) + 1))
            assert not any(k for k, is_real in zip(row, real, strict=True) if not is_real)
    assert len({tuple(order[0].tolist()) for order in orders}) > 30
    alone = random_order(among[1:2], Draws(1, 7, ragged.ids[1:2]))
    assert alone.tolist() == orders[7][1:2].tolist()


SIDES: list[ARSide] = ["content", "query", "self", "masks"]
OPTIONS = Decoding(beam=1, max_ratio=2.0, max_extra=4)


def slot_logps(model: Transformer, source: Tensor, tokens: Tensor, make: Callable[[Tensor], Stream]) -> Tensor:
    """(R, T, V) log-probabilities of what stands at each position, from training's slots, read in one pass."""
    target = framed(tokens)
    stream = make(target)
    states = model.decode(stream, model.encode(source, source != PAD))
    logits = model.logits(states)
    logits[..., [PAD, BOS, MASK]] = -torch.inf
    found = torch.full((*target.shape, logits.shape[-1]), torch.nan, dtype=logits.dtype)
    rows, slots = stream.labelled.nonzero(as_tuple=True)
    shift = int(stream.labels[0, 0] != IGNORE)  # content predicts the next position
    found[rows, stream.positions[rows, slots] + shift] = logits[rows, slots]
    return found


@pytest.mark.parametrize("kind", SIDES)
@pytest.mark.parametrize("beam", [1, 3])
def test_left_to_right_gives_what_training_saw(model: Transformer, ragged: Batch, kind: ARSide, beam: int) -> None:
    """Token by token with a cache, rows leaving as they end: the log-probabilities are those of one pass."""
    options = replace(OPTIONS, beam=beam)
    with torch.no_grad():
        outputs = [found[0] for found in generate(model, ragged.source, "ar", options, kind)]
        assert len({len(output.tokens) for output in outputs}) > 1
        most = most_tokens(ragged.source, model, options)
        for row, output in enumerate(outputs):
            tokens = torch.tensor([output.tokens])
            logits = slot_logps(model, ragged.source[row : row + 1], tokens, lambda target: ar_stream(target, kind))
            if kind == "masks":
                logits[..., EOS] = -torch.inf
                assert output.logps.pop() == 0.0  # EOS is known
            ids = (tokens if kind == "masks" else torch.cat([tokens, torch.tensor([[EOS]])], dim=1))[0]
            expected = logits[0, 1 : 1 + len(ids)].log_softmax(-1).gather(1, ids[:, None])[:, 0]
            forced = int(len(ids) == most[row] and kind != "masks")  # EOS, as the only choice
            assert output.logps[: len(ids) - forced] == pytest.approx(expected.tolist()[: len(ids) - forced], abs=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, None])
def test_blocks_give_what_training_saw(model: Transformer, ragged: Batch, block: int | None) -> None:
    """A token in place j of a block is what the slot s = j of BANG predicts, and EOS ends the text."""
    with torch.no_grad():
        if block is None:
            model.length_table = None  # then `nar` is one block for all
        options = replace(OPTIONS, block=block or 1)
        outputs = [found[0] for found in generate(model, ragged.source, "semi" if block else "nar", options, None)]
        for row, output in enumerate(outputs):
            count = len(output.tokens)
            stream = bridge(framed(torch.tensor([output.tokens])), count + 1)
            source = ragged.source[row : row + 1]
            states = model.decode(stream, model.encode(source, source != PAD))
            for place, (token, logp) in enumerate(zip(output.tokens, output.logps, strict=True)):
                known = 0 if block is None else place // block * block
                step = place + 1 - known
                at = (stream.positions[0] == place + 1) & (stream.time[0].floor() == known) & stream.labelled[0]
                (slot,) = at.nonzero()[:, 0].tolist()
                assert stream.time[0, slot] == pytest.approx(known + step / (count + 2))
                logits = model.logits(states[0, slot])
                logits[[PAD, BOS, MASK]] = -torch.inf
                assert logp == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-6)
            assert output.passes == (1 if block is None else -(-(count + 1) // block))


def test_one_token_blocks_are_greedy(model: Transformer, ragged: Batch) -> None:
    ours = [found[0].tokens for found in generate(model, ragged.source, "semi", replace(OPTIONS, block=1), None)]
    assert ours == [found[0].tokens for found in generate(model, ragged.source, "ar", OPTIONS, "self")]
