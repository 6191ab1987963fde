"""What is hidden, how much of it, and that it depends on the sentence alone."""

import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD, UNK, collate
from janus_cli.core.knobs import Noise
from janus_cli.core.noise import Draws, hide, random_order

MIXTURE = Noise(uniform=0.3, spans=0.3, fixed=0.1, suffix=0.1, full=0.2)


def sentences(length: int, count: int) -> Tensor:
    return collate([[5]] * count, [[7] * length] * count, range(count)).target


def hidden(length: int, count: int, **noise: float) -> Tensor:
    return hide(sentences(length, count), Draws(1, 0, torch.arange(count)), Noise(**noise))


@pytest.mark.parametrize("length", [12, 15, 20, 25, 30])
def test_released_span_sampler_hides_55_to_58_percent(length: int) -> None:
    """The share measured on the released sampler, for sentences of usual length; a full sentence never."""
    share = hidden(length, 4000, spans=1.0).sum(1) / length
    assert 0.545 < float(share.mean()) < 0.59
    assert float((share == 1).double().mean()) == 0.0


def test_spans_keep_the_budget_and_hide_runs() -> None:
    spans = hidden(40, 2000, spans=1.0)
    assert int(spans.sum(1).max()) <= 28  # 0.7 * 40
    starts = (spans[:, 1:] & ~spans[:, :-1]).sum(1)
    assert float((spans.sum(1) / starts).mean()) > 2.3  # single tokens in random places give about 2.2 at this share


@pytest.mark.parametrize("kind", ["uniform", "suffix"])
def test_every_count_is_hidden_equally_often(kind: str) -> None:
    places = hidden(10, 20_000, **{kind: 1.0})[:, 1:11]
    often = torch.bincount(places.sum(1), minlength=11)
    assert often[0] == 0
    assert (often[1:] - 2000).abs().max() < 250
    if kind == "uniform":
        assert (places.double().mean(0) - 0.55).abs().max() < 0.02
    else:
        assert (places[:, 1:] | ~places[:, :-1]).all()  # once hidden, hidden to the end


def test_fixed_and_full_and_their_mixture() -> None:
    assert (hidden(10, 1000, fixed=1.0, share=0.3).sum(1) == 3).all()
    assert (hidden(10, 1000, full=1.0).sum(1) == 10).all()
    both = hidden(10, 1000, fixed=0.75, full=0.25, share=0.3).sum(1)
    assert set(both.tolist()) == {3, 10}
    assert 0.2 < float((both == 10).double().mean()) < 0.3


def test_special_tokens_are_never_hidden_but_unk_is() -> None:
    target = torch.tensor([[BOS, 5, UNK, 6, EOS, PAD], [BOS, EOS, PAD, PAD, PAD, PAD]])
    assert hide(target, Draws(1, 0, torch.tensor([0, 1])), Noise(full=1.0)).tolist() == [
        [False, True, True, True, False, False], [False] * 6,
    ]  # fmt: skip


def test_noise_depends_on_seed_epoch_and_sentence_only() -> None:
    target = torch.cat([sentences(n, 4)[:, :5].clone() for n in (3, 3)])
    ids = torch.tensor([4, 7, 1, 0, 9, 2, 3, 8])
    for draw in (
        lambda target, draws: hide(target, draws, MIXTURE),
        lambda target, draws: random_order(target > 4, draws),
    ):
        whole = draw(target, Draws(3, 2, ids))
        alone = torch.cat([draw(target[i : i + 1], Draws(3, 2, ids[i : i + 1])) for i in range(8)])
        assert torch.equal(whole, alone)
        wider = torch.nn.functional.pad(target, (0, 3), value=PAD)
        assert torch.equal(draw(wider, Draws(3, 2, ids))[:, :5], whole)
        target_, ids_ = sentences(20, 50), torch.arange(50)
        for seed, epoch in ((3, 3), (4, 2)):
            assert not torch.equal(draw(target_, Draws(3, 2, ids_)), draw(target_, Draws(seed, epoch, ids_)))


def test_an_order_is_a_permutation() -> None:
    among = sentences(7, 50) > 4
    order = random_order(among, Draws(1, 0, torch.arange(50)))
    assert not order[~among].any()
    assert torch.equal(order[:, 1:8].sort(dim=1).values, torch.arange(1, 8).expand(50, -1))
    assert len({tuple(row) for row in order.tolist()}) > 40


def test_draws_are_uniform_and_fresh_at_each_call() -> None:
    draws = Draws(1, 0, torch.arange(2000))
    first, second = draws.uniform(50), draws.uniform(50)
    for values in (first, second):
        assert float(values.min()) >= 0
        assert float(values.max()) < 1
        assert abs(float(values.mean()) - 0.5) < 0.005
        assert abs(float(values.var()) - 1 / 12) < 0.002
    for one, two in ((first, second), (first[:-1], first[1:])):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])) < 0.01
