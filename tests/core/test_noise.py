"""What is hidden, how much of it, and that it depends on the sentence alone."""

import pytest
import torch

from janus_cli.core.batch import BOS, EOS, MASK, PAD, UNK, collate
from janus_cli.core.knobs import Noise
from janus_cli.core.noise import Draws, hide

MIXTURE = Noise(uniform=0.3, spans=0.3, fixed=0.1, suffix=0.1, full=0.2)


def sentences(length: int, count: int) -> torch.Tensor:
    return collate([[5]] * count, [[7] * length] * count, range(count)).target


@pytest.mark.parametrize("length", [12, 15, 20, 25, 30])
def test_released_span_sampler_hides_55_to_58_percent(length: int) -> None:
    """The share measured on the released sampler, for sentences of usual length; a full sentence never."""
    target = sentences(length, 4000)
    hidden = hide(target, Draws(1, 0, torch.arange(4000)), Noise(spans=1.0))
    share = hidden.sum(1) / length
    assert 0.545 < float(share.mean()) < 0.59
    assert float((share == 1).double().mean()) == 0.0


def test_spans_keep_the_budget_and_hide_runs() -> None:
    target = sentences(40, 2000)
    hidden = hide(target, Draws(1, 0, torch.arange(2000)), Noise(spans=1.0))
    assert int(hidden.sum(1).max()) <= 28  # 0.7 * 40
    starts = (hidden[:, 1:] & ~hidden[:, :-1]).sum(1)
    assert float((hidden.sum(1) / starts).mean()) > 2.3  # single tokens in random places give about 2.2 at this share


def test_uniform_hides_every_count_equally_often() -> None:
    hidden = hide(sentences(10, 20_000), Draws(1, 0, torch.arange(20_000)), Noise(uniform=1.0))
    often = torch.bincount(hidden.sum(1), minlength=11)
    assert often[0] == 0
    assert (often[1:] - 2000).abs().max() < 250
    places = hidden.double().mean(0)[1:11]
    assert (places - 0.55).abs().max() < 0.02


def test_fixed_and_full_and_their_mixture() -> None:
    target = sentences(10, 1000)
    ids = torch.arange(1000)
    assert (hide(target, Draws(1, 0, ids), Noise(fixed=1.0, share=0.3)).sum(1) == 3).all()
    assert (hide(target, Draws(1, 0, ids), Noise(full=1.0)).sum(1) == 10).all()
    both = hide(target, Draws(1, 0, ids), Noise(fixed=0.75, full=0.25, share=0.3)).sum(1)
    assert set(both.tolist()) == {3, 10}
    assert 0.2 < float((both == 10).double().mean()) < 0.3


def test_suffix_hides_the_last_tokens_every_count_equally_often() -> None:
    hidden = hide(sentences(10, 20_000), Draws(1, 0, torch.arange(20_000)), Noise(suffix=1.0))[:, 1:11]
    assert (hidden[:, 1:] | ~hidden[:, :-1]).all()  # once hidden, hidden to the end
    often = torch.bincount(hidden.sum(1), minlength=11)
    assert often[0] == 0
    assert (often[1:] - 2000).abs().max() < 250


def test_special_tokens_are_never_hidden_but_unk_is() -> None:
    target = torch.tensor([[BOS, 5, UNK, 6, EOS, PAD], [BOS, EOS, PAD, PAD, PAD, PAD]])
    hidden = hide(target, Draws(1, 0, torch.tensor([0, 1])), Noise(full=1.0))
    assert hidden.tolist() == [[False, True, True, True, False, False], [False] * 6]
    assert MASK not in target[hidden]


def test_noise_depends_on_seed_epoch_and_sentence_only() -> None:
    target = torch.cat([sentences(n, 4)[:, :5].clone() for n in (3, 3)])
    ids = torch.tensor([4, 7, 1, 0, 9, 2, 3, 8])
    whole = hide(target, Draws(3, 2, ids), MIXTURE)
    alone = torch.cat([hide(target[i : i + 1], Draws(3, 2, ids[i : i + 1]), MIXTURE) for i in range(8)])
    assert torch.equal(whole, alone)
    wider = torch.nn.functional.pad(target, (0, 3), value=PAD)
    assert torch.equal(hide(wider, Draws(3, 2, ids), MIXTURE)[:, :5], whole)


@pytest.mark.parametrize(("seed", "epoch"), [(3, 3), (4, 2)])
def test_other_seed_or_epoch_gives_other_noise(seed: int, epoch: int) -> None:
    target, ids = sentences(20, 50), torch.arange(50)
    assert not torch.equal(hide(target, Draws(3, 2, ids), MIXTURE), hide(target, Draws(seed, epoch, ids), MIXTURE))


def test_draws_are_uniform_and_fresh_at_each_call() -> None:
    draws = Draws(1, 0, torch.arange(2000))
    first, second = draws.uniform(50), draws.uniform(50)
    for values in (first, second):
        assert float(values.min()) >= 0
        assert float(values.max()) < 1
        assert abs(float(values.mean()) - 0.5) < 0.005
        assert abs(float(values.var()) - 1 / 12) < 0.002
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([first[:-1].flatten(), first[1:].flatten()]))[0, 1])) < 0.01
