"""`--from`: a training that begins with the weights of another one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.inspect import describe_run
from janus_cli.training.run import train


def go(recipe: Path, run: str, *changes: str, **more: Any) -> Run:
    return train(recipe=str(recipe), run=Path(run), changes=changes, device="cpu", **more)


def weights(run: Run, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / name / "model.safetensors")


def test_weights_are_those_of_the_other_run(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate of almost nothing leaves them where they were; the length head, which AR lacks, is fresh."""
    ar = go(tiny_recipe, "ar", objective="ar")
    janus = go(
        tiny_recipe, "janus", "training.updates=1", "training.learning_rate=1e-30", objective="janus", start=ar.path
    )
    old, new = weights(ar, "best"), weights(janus)
    assert new.keys() - old.keys() == {"length_table"}
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "fresh: length_table" in capsys.readouterr().err
    origin = json.loads(janus.manifest.read_text())["from"]
    assert origin["checkpoint"] == str((ar.checkpoints / "best").resolve())
    assert describe_run(janus)["from"] == origin["checkpoint"]
    assert f"from       {origin['checkpoint']}" in (janus.path / "run.txt").read_text()

    back = go(tiny_recipe, "back", "training.updates=1", objective="ar", start=janus.checkpoints / "last")
    assert "length_table" not in weights(back)
    assert "not used: length_table" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(tiny_recipe: Path) -> None:
    ar = go(tiny_recipe, "ar", objective="ar")
    with pytest.raises(CheckpointError, match=r"does not fit: .* has shape"):
        go(tiny_recipe, "wide", "model.feedforward=24", objective="ar", start=ar.path, dry_run=True)
    with pytest.raises(UsageError, match="nowhere is no run"):
        go(tiny_recipe, "none", objective="ar", start=Path("nowhere"), dry_run=True)
    with pytest.raises(UsageError, match="exclude each other"):
        go(tiny_recipe, "ar", resume=True, start=ar.path)
    with pytest.raises(UsageError, match="which a new run would replace"):  # and would be gone when it is to be read
        go(tiny_recipe, "ar", objective="ar", start=ar.path, force=True)
    tokenizer = next(
        file for file in ar.path.iterdir() if file.name.endswith((".model", ".txt")) and "run" not in file.name
    )
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    before = checkpoint.fingerprint(ar.checkpoints / "last")
    with pytest.raises(CheckpointError, match="has another tokenizer"):
        go(tiny_recipe, "ar2", objective="ar", start=ar.path)
    assert checkpoint.fingerprint(ar.checkpoints / "last") == before


def test_a_checkpoint_that_changed_meanwhile_is_not_begun_from(tiny_recipe: Path) -> None:
    """The first checkpoint of the new run is lost, the other run trained on: a resume must not begin elsewhere."""
    ar = go(tiny_recipe, "ar", objective="ar")
    new = go(tiny_recipe, "new", "training.updates=1", objective="ar", start=ar.path)
    shutil.rmtree(new.checkpoints)
    new.checkpoints.mkdir()
    origin = Path(json.loads(new.manifest.read_text())["from"]["checkpoint"])
    shutil.rmtree(origin)
    other = go(tiny_recipe, "other", objective="ar", seed=7)
    shutil.copytree((other.checkpoints / "last").resolve(), origin)
    with pytest.raises(CheckpointError, match="has changed since"):
        train(run=new.path, resume=True, device="cpu")
