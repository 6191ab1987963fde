"""The exponential mean of the weights: what it is, that it goes on to the bit, and how it becomes a checkpoint."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from janus_cli.cli import main
from janus_cli.errors import UsageError
from janus_cli.runs import Run
from janus_cli.training.average import running_mean
from tests.faults.processes import digest, go

KEPT = ("training.ema=0.3", "training.save_every=1", "training.keep_last=20")


def mean_of(run: str) -> Path:
    return running_mean(Run(Path(run)), force=False)[0]


def test_it_is_the_mean_that_the_formula_says(tiny_recipe: Path) -> None:
    checkpoints = go(tiny_recipe, "run", *KEPT, "training.updates=8")
    expected = load_file(checkpoints / "step-000001/model.safetensors")
    for step in range(1, 8):
        decay = min(0.3, (1 + step) / (10 + step))  # the latter up to update 3
        fresh = load_file(checkpoints / f"step-{step + 1:06}/model.safetensors")
        expected = {key: decay * value + (1 - decay) * fresh[key] for key, value in expected.items()}
    found = load_file(mean_of("run") / "model.safetensors")
    assert found.keys() == expected.keys()
    last = load_file(checkpoints / "step-000008/model.safetensors")
    for key, value in expected.items():
        assert (found[key] - value).abs().max() < 1e-6
    assert any((found[key] - last[key]).abs().max() > 1e-4 for key in last)
    with pytest.raises(SystemExit) as ended:
        main(["decode", "--run", "run", "--checkpoint", "average-ema", "--device", "cpu", "--threads", "1"])
    assert ended.value.code == 0


def test_it_goes_on_to_the_bit_and_leaves_the_training_as_it_is(tiny_recipe: Path) -> None:
    whole = go(tiny_recipe, "whole", *KEPT, "training.updates=6")
    go(tiny_recipe, "parts", *KEPT, "training.updates=3")
    parts = go(tiny_recipe, "parts", "training.updates=6", resume=True, allow=("training.updates",))
    assert digest(parts / "step-000006") == digest(whole / "step-000006")
    without = go(tiny_recipe, "without", "training.updates=6")
    weights = [(folder / "step-000006/model.safetensors").read_bytes() for folder in (whole, without)]
    assert weights[0] == weights[1]


def test_it_can_begin_and_end_in_the_midst_of_a_training(tiny_recipe: Path) -> None:
    changes = ("training.updates", "training.ema")
    plain = go(tiny_recipe, "run", "training.updates=2")
    go(tiny_recipe, "run", *KEPT[:1], "training.updates=3", resume=True, allow=changes)
    third = load_file(plain / "step-000003/model.safetensors")
    found = load_file(mean_of("run") / "model.safetensors")
    assert all((found[key] == value).all() for key, value in third.items()), "it begins with the weights"
    go(tiny_recipe, "run", "training.ema=0.0", "training.updates=4", resume=True, allow=changes)
    assert not any(key.endswith(".ema") for key in load_file(plain / "step-000004/optimizer.safetensors"))


def test_what_was_not_kept_is_not_there(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tiny_recipe, "run", "training.updates=2")
    with pytest.raises(UsageError, match="keeps no mean"):
        mean_of("run")
    with pytest.raises(SystemExit):
        main(["average", "run", "--ema", "--last", "2"])
    assert "exclude each other" in capsys.readouterr().err
