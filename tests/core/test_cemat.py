"""CeMAT: which words are switched and hidden, on both sides, and that no prediction sees its answer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from janus_cli.core import losses
from janus_cli.core.batch import BOS, EOS, IGNORE, MASK, PAD, Batch, collate
from janus_cli.core.knobs import CematObjective, Model
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import cemat
from janus_cli.core.objectives.base import Plan

# 5 is 15 or 16, 6 is 16 only, 7 is 17, 18 or 7 itself, 9 is 10, 11 or 12.
LEXICON = torch.full((20, 3), PAD)
LEXICON[5, :2] = torch.tensor([15, 16])
LEXICON[6, 0] = 16
LEXICON[7] = torch.tensor([17, 18, 7])
LEXICON[9] = torch.tensor([10, 11, 12])
NOTHING = CematObjective(source_least=0.0, source_most=0.0, target_least=0.0, target_most=0.0, switched=0.0)


def pairs(sources: list[list[int]], targets: list[list[int]], lexicon: Tensor | None = LEXICON) -> Batch:
    return collate(sources, targets, range(len(sources)), lexicon)


def planned(batch: Batch, seed: int = 1, epoch: int = 0, **changes: float) -> Plan:
    knobs = replace(NOTHING, **{"label_smoothing": 0.0} | changes)
    return cemat.plan(batch, Draws(seed, epoch, batch.ids), knobs)


@pytest.mark.parametrize(
    ("source", "target", "read", "nar"),
    [
        # 6 has no other translation; the two 17 of 7 are both hidden; 8 is in no lexicon.
        ([5, 6, 7, 8], [15, 17, 9, 17], [16, 6, 18, 8], [MASK, MASK, 9, MASK]),
        ([5, 6, 7, 8], [15, 17, 9, 17, 16], [5, 6, 18, 8], [15, MASK, 9, MASK, 16]),  # 5 has nothing: 16 is there too
        ([9], [11, 10], [12], [11, MASK]),  # of several translations that are there, the likeliest
    ],
)
def test_a_word_gives_way_to_a_translation_that_the_target_does_not_have_and_its_own_is_hidden(
    source: list[int], target: list[int], read: list[int], nar: list[int]
) -> None:
    plan = planned(pairs([source], [target]), switched=1.0)
    assert plan.source is not None
    assert plan.source.tokens.tolist() == [[*read, EOS]]
    assert plan.streams["nar"].tokens.tolist() == [[BOS, *nar, EOS]]
    assert plan.streams["nar"].attend.all()
    assert (plan.source.labels == IGNORE).all()


@pytest.mark.parametrize("lexicon", [None, torch.full((20, 3), PAD)])
def test_without_a_lexicon_nothing_is_switched(lexicon: Tensor | None) -> None:
    batch = pairs([[5, 6, 7]], [[15, 16, 17]], lexicon)
    plan = planned(batch, switched=1.0)
    assert plan.source is not None
    assert torch.equal(plan.source.tokens, batch.source)


def test_how_much_is_hidden_and_switched() -> None:
    """Twenty words a side, all with translations: shares are those of the paper, and spread evenly."""
    lexicon = torch.full((20, 2), PAD)
    lexicon[5:] = torch.tensor([6, 7])
    count = 4000
    batch = pairs([[5] * 20] * count, [[6] + [8] * 19] * count, lexicon)
    defaults = CematObjective()
    plan = cemat.plan(batch, Draws(1, 0, batch.ids), defaults)
    assert plan.source is not None
    switched = plan.source.tokens == 7
    unread = plan.source.labels != IGNORE
    hidden = plan.streams["nar"].labelled
    assert (switched.sum(1) == 3).all()
    assert hidden[:, 1].all()  # what 5 is aligned with
    assert not (switched & unread).any()
    assert torch.equal(plan.source.tokens == MASK, unread)
    assert (plan.source.labels[unread] == 5).all()
    for places, least, most in ((unread, 2, 4), (hidden, 4, 20)):
        often = torch.bincount(places.sum(1), minlength=most + 1)
        assert often[:least].sum() == 0
        assert len(often) == most + 1
        inner = often[least + 1 : most]  # a share at an end is rounded to it half as often
        assert (inner - count / (most - least)).abs().max() < 130
    assert plan.counts["unread"] == int(unread.sum())
    assert plan.counts["hidden"] == int(hidden.sum())


def test_what_the_noise_of_plain_text_hides_is_hidden_in_place_of_a_share() -> None:
    batch = pairs([[5] + [8] * 9], [[15] + [8] * 9])
    noise = torch.tensor([[False] * 6 + [True] * 3 + [False] * 3])
    plan = cemat.plan(replace(batch, hidden=noise), Draws(1, 0, batch.ids), CematObjective())
    aligned = torch.zeros_like(noise)
    aligned[0, 1] = True
    assert torch.equal(plan.streams["nar"].labelled, noise | aligned)


def logits(monkeypatch: pytest.MonkeyPatch, model: Transformer, batch: Batch, plan: Plan) -> list[Tensor]:
    """Of the encoder's and of the decoder's predictions, as `loss` makes them; tables told apart by their width."""
    found: list[Tensor] = []

    def keep(states: Tensor, words: Tensor, gold: Tensor, smoothing: float, bias: Tensor | None = None) -> Tensor:
        found.append(states @ words.T)
        return states.sum()

    for module in (cemat, losses):
        monkeypatch.setattr(module, "cross_entropy", keep)
    cemat.loss(model, batch, plan, NOTHING)
    return found


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("changed", range(1, 6))
def test_no_prediction_sees_what_is_hidden(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, side: str, changed: int
) -> None:
    """Change one word of a pair whose noise stays: hidden and switched ones move nothing."""
    sentences = {"source": [5, 8, 9, 10, 11], "target": [15, 8, 9, 10, 11]}
    options = {"source_least": 0.4, "source_most": 0.4, "target_least": 0.4, "target_most": 0.4, "switched": 0.2}

    def made(sentences: dict[str, list[int]]) -> tuple[Batch, Plan]:
        batch = pairs([sentences["source"]], [sentences["target"]])
        return batch, planned(batch, **options)

    batch, plan = made(sentences)
    assert plan.source is not None
    assert plan.source.tokens[0, 0] == 16  # switched
    unread, hidden = (plan.source.labels != IGNORE)[0].tolist(), plan.streams["nar"].labelled[0].tolist()
    before = logits(monkeypatch, model, batch, plan)
    if (side, changed) in (("source", 1), ("target", 1)):  # a switched word, and what it is aligned with
        reading = replace(plan, source=plan.source)
        tokens = getattr(batch, side).clone()
        tokens[0, 0 if side == "source" else 1] = 14
        batch, plan, secret = replace(batch, **{side: tokens}), reading, True
    else:
        other = {**sentences, side: [*sentences[side]]}
        other[side][changed - 1] = 14
        batch, plan = made(other)
        secret = unread[changed - 1] if side == "source" else hidden[changed]
    after = logits(monkeypatch, model, batch, plan)
    moved = [not torch.allclose(x, y, atol=1e-12) for x, y in zip(before, after, strict=True)]
    sees_target = [False, True]
    assert moved == ([False, False] if secret else [True, True] if side == "source" else sees_target)


def test_the_encoder_speaks_with_its_own_table(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    model = Transformer(replace(tiny, tie="none"), 30, 20, length_head=True)
    batch = pairs([[5, 6, 7]], [[8, 9]])
    plan = planned(batch, source_least=0.5, source_most=0.5)
    shapes = [tuple(found.shape) for found in logits(monkeypatch, model, batch, plan)]
    assert shapes == [(2, 30), (1, 20)]
