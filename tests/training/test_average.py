"""Means of weights: of several checkpoints, and the exponential one that a training keeps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.average import average_checkpoints, running_mean
from janus_cli.training.checkpoint import MODEL
from janus_cli.training.model import load_model
from tests.faults.processes import go, relabel
from tests.helpers import Janus, ends

RUN = Run(Path("run"))


def test_average_is_the_mean_and_keeps_tables_tied(trained: Path) -> None:
    folder, names = average_checkpoints(RUN, last=3, best=None, force=False)
    assert names == ["step-000003", "step-000004", "step-000006"]
    parts = [load_file(trained / name / MODEL) for name in names]
    mean = load_file(folder / MODEL)
    assert sum(name.endswith("table.weight") for name in mean) == 1
    for name, value in mean.items():
        assert torch.allclose(value, torch.stack([part[name].double() for part in parts]).mean(0).float(), atol=1e-7)
    model = load_model(folder)
    assert model.source_table is model.target_table
    with pytest.raises(UsageError, match="exists"):
        average_checkpoints(RUN, last=3, best=None, force=False)


def test_the_last_are_those_that_a_run_keeps_as_such(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Older ones are there because they were good: no mean of the last ones."""
    text = RUN.recipe.read_text(encoding="utf-8")
    assert text.count("keep_last: ") == 1
    RUN.recipe.write_text(re.sub(r"keep_last: \d+", "keep_last: 2", text), encoding="utf-8")
    for last in (3, None):
        folder, names = average_checkpoints(RUN, last=last, best=None, force=True)
        assert (folder.name, names) == ("average-last2", ["step-000004", "step-000006"])
    assert capsys.readouterr().err.count("run keeps its last 2 checkpoints: averaging 2, not 3") == 1


def test_checkpoints_of_a_stop_are_not_among_the_last(trained: Path) -> None:
    file = trained / "step-000006" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "interim": True}))
    relabel(trained / "step-000006")
    _, names = average_checkpoints(RUN, last=2, best=None, force=False)
    assert names == ["step-000003", "step-000004"]


def test_average_of_the_best(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, names = average_checkpoints(RUN, last=None, best=2, force=False)
    assert sorted(names) == ["step-000003", "step-000006"]  # the two that were validated
    assert average_checkpoints(RUN, last=None, best=3, force=True)[0].name == "average-best2"
    err = capsys.readouterr().err
    assert ("has 2 checkpoints: averaging 2, not 3" in err, "keep_best" in err) == (True, False)
    text = RUN.recipe.read_text(encoding="utf-8")
    RUN.recipe.write_text(re.sub(r"keep_best: \d+", "keep_best: 1", text), encoding="utf-8")
    average_checkpoints(RUN, last=None, best=2, force=True)
    assert "run keeps its best 1 (training.keep_best)" in capsys.readouterr().err, "the second best may be gone"


def test_a_metric_that_nothing_was_validated_by_yet(trained: Path) -> None:
    """As after a resume with another metric, before the next validation."""
    text = RUN.recipe.read_text(encoding="utf-8")
    assert "best_metric: auto" in text
    RUN.recipe.write_text(text.replace("best_metric: auto", "best_metric: chrf_ar"), encoding="utf-8")
    with pytest.raises(UsageError, match="no checkpoint of run was validated by chrf_ar yet") as caught:
        average_checkpoints(RUN, last=None, best=2, force=False)
    assert caught.value.hint == "average the newest, with --last N"


def test_what_a_training_is_saving_is_left_to_it(trained: Path) -> None:
    """It may run on another machine, whose locks look free here."""
    saving = [trained / ".step-000007.making", trained / ".step-000007.replaced"]
    for folder in (*saving, trained / ".average-last2.making"):
        folder.mkdir()
    average_checkpoints(RUN, last=2, best=None, force=False)
    assert sorted(trained.glob(".*")) == saving


@pytest.mark.parametrize(("arguments", "code"), [("run", 0), ("--run run", 0), ("run --run x", 2), ("run --ema", 2)])
def test_the_command(trained: Path, janus: Janus, arguments: str, code: int) -> None:
    err = ends(janus("average", *arguments.split(), "--last", "2"), code)
    assert ("mean of step-000004, step-000006" in err) == (trained / "average-last2").is_dir() == (code == 0)


@pytest.mark.parametrize("change", ["tokenizer.vocabulary=100", "model.feedforward=48", "model.norm=post", "objective"])
def test_checkpoints_of_different_runs_are_refused(trained: Path, change: str) -> None:
    shutil.rmtree("data")
    changes, objective = ((), "ar") if change == "objective" else ((change,), None)
    knobs = ("training.updates=7", "training.validate_every=100")
    other = go(Path("tiny.yaml"), "other", *changes, *knobs, objective=objective)
    shutil.copytree(other / "step-000007", trained / "step-000007")
    differing = "vocabularies" if "vocabulary" in change else change.split(".")[0]
    with pytest.raises(CheckpointError, match=f"differ in their {differing}"):
        average_checkpoints(RUN, last=2, best=None, force=False)
    assert not list(trained.glob("average*"))


def test_it_begins_again_when_a_checkpoint_is_pruned(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, pruned = checkpoint.verify, []

    def prune(folder: Path) -> checkpoint.Checkpoint:
        if folder.name == "step-000003" and not pruned:  # as a training does that goes on
            pruned.append(folder)
            shutil.copytree(trained / "step-000006", trained / "step-000007")
            shutil.rmtree(folder)
        return verify(folder)

    monkeypatch.setattr(checkpoint, "verify", prune)
    _, names = average_checkpoints(RUN, last=3, best=None, force=False)
    assert pruned
    assert names == ["step-000004", "step-000006", "step-000007"]


KEPT = ("training.ema=0.3", "training.save_every=1", "training.keep_last=20")


def test_the_exponential_mean_is_what_the_formula_says_and_leaves_the_training_as_it_is(tiny_recipe: Path) -> None:
    root = go(tiny_recipe, "run", *KEPT)
    expected = load_file(root / "step-000001" / MODEL)
    for step in range(1, 8):
        decay = min(0.3, (1 + step) / (10 + step))  # the latter up to update 3
        fresh = load_file(root / f"step-{step + 1:06}" / MODEL)
        expected = {key: decay * value + (1 - decay) * fresh[key] for key, value in expected.items()}
    mean = load_file(running_mean(RUN, force=False)[0] / MODEL)
    assert mean.keys() == expected.keys()
    for key, value in expected.items():
        assert (mean[key] - value).abs().max() < 1e-6
    assert any((mean[key] - fresh[key]).abs().max() > 1e-4 for key in fresh)
    load_model(root / "average-ema")
    without = go(tiny_recipe, "without")
    assert (root / "last" / MODEL).read_bytes() == (without / "last" / MODEL).read_bytes()


def test_it_can_begin_and_end_in_the_midst_of_a_training(trained: Path) -> None:
    with pytest.raises(UsageError, match="keeps no mean"):
        running_mean(RUN, force=False)
    go(Path(), "run", "training.ema=0.3", "training.updates=7", resume=True)
    seventh = load_file(trained / "step-000007" / MODEL)
    mean = load_file(running_mean(RUN, force=False)[0] / MODEL)
    assert all((mean[key] == value).all() for key, value in seventh.items()), "it begins with the weights"
    go(Path(), "run", "training.ema=0.0", "training.updates=8", resume=True)
    assert not any(key.endswith(".ema") for key in load_file(trained / "step-000008/optimizer.safetensors"))
