"""FAULTS 8, 9, 10, 29: folders that cannot be written, that others write to, and that others read meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from processes import digest, ended, go, janus, start

from janus_cli import recipe_load
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import open_prepared
from janus_cli.decoding.translate import read_model
from janus_cli.errors import CheckpointError
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.average import average_checkpoints
from janus_cli.training.checkpoint import read_checkpoint
from janus_cli.training.inspect import describe

# Gives up every privilege, so that also root must ask before it writes.
NO_PRIVILEGES = """
import ctypes
if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()):
    raise OSError(ctypes.get_errno(), "capset")
"""
# Does three updates and then nothing more.
STUCK = """
import time
from janus_cli.training.trainer import Trainer
plain, calls = Trainer.update, 0
def update(*arguments):
    global calls
    calls += 1
    if calls == 4:
        time.sleep(600)
    plain(*arguments)
Trainer.update = update
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_only_can_be_read_is_refused_before_training(tiny_recipe: Path, there: bool) -> None:
    prepare(recipe_load.load(str(tiny_recipe)), Path("data/tiny.src-tgt"), workers=1, force=False)
    folder = Path("only/run" if there else "only")
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    code, said = ended(start(tiny_recipe, "--run", "only/run", before=NO_PRIVILEGES))
    folder.chmod(0o755)
    assert code == 2, said
    assert "only/run cannot be written: Permission denied" in said
    assert "hint: choose another folder with --run" in said
    assert "parameters" not in said
    assert list(folder.iterdir()) == []


def test_a_missing_parent_is_made(tiny_recipe: Path) -> None:
    go(tiny_recipe, "deep/down/run", "training.updates=1")
    assert Path("deep/down/run/checkpoints/last").is_dir()


def test_two_trainings_and_a_dead_one(tiny_recipe: Path) -> None:
    expected = digest(go(tiny_recipe, "whole") / "step-000008")
    first = start(tiny_recipe, before=STUCK)
    try:
        wait_for(Path("run/checkpoints/last"))
        code, said = ended(start(tiny_recipe, "--resume"))
    finally:
        first.send_signal(signal.SIGKILL)
        ended(first)
    assert code == 7, said
    assert f"run is in use by pid {first.pid} on {socket.gethostname()}" in said
    code, said = ended(start(tiny_recipe, "--resume"))
    assert code == 0, said
    assert f"pid {first.pid} on {socket.gethostname()} left run without ending its training; taken over" in said
    assert digest(Path("run/checkpoints/step-000008")) == expected


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_readers_while_a_training_saves_and_prunes(tiny_recipe: Path) -> None:
    changes = ("training.updates=100000", "training.save_every=1", "training.keep_last=1", "training.validate_every=9")
    writer = start(tiny_recipe, *(part for change in changes for part in ("--set", change)))
    steps: list[int] = []

    def read(run: Run, folder: Path) -> None:
        model, _ = read_model(run, folder)
        assert all(torch.isfinite(weight).all() for weight in model.parameters())
        steps.append(checkpoint.step_of(folder))

    try:
        wait_for(Path("run/checkpoints/last"))
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline or len(set(steps)) < 3:
            assert time.monotonic() < deadline + 60
            read_checkpoint(Path("run"), Path("last"), read)
            assert "checkpoints" in describe(Path("run"))
            average_checkpoints(Run(Path("run")), last=1, best=None, force=True)
    finally:
        writer.send_signal(signal.SIGTERM)
        code, said = ended(writer)
    assert code == 143, said
    assert steps == sorted(steps)


def test_an_average_begins_again_when_a_checkpoint_is_pruned(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = go(tiny_recipe, "run", "training.save_every=1", "training.validate_every=100", "training.keep_last=3")
    verify, pruned = checkpoint.verify, []

    def prune(folder: Path) -> checkpoint.Checkpoint:
        if folder.name == "step-000006" and not pruned:  # as a training does that goes on
            pruned.append(folder)
            shutil.copytree(root / "step-000008", root / "step-000009")
            shutil.rmtree(folder)
        return verify(folder)

    monkeypatch.setattr(checkpoint, "verify", prune)
    _, names = average_checkpoints(Run(Path("run")), last=3, best=None, force=False)
    assert pruned
    assert names == ["step-000007", "step-000008", "step-000009"]


def test_a_checkpoint_that_is_pruned_while_it_is_read_is_missing(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = go(tiny_recipe, "run") / "last"
    real = checkpoint._describe

    def prune(file: Path) -> object:
        file.unlink()  # behind the look whether it is there
        return real(file)

    monkeypatch.setattr(checkpoint, "_describe", prune)
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.verify(folder.resolve())


def test_two_preparations_at_once_leave_one_whole_folder(tiny_recipe: Path) -> None:
    arguments = ("preprocess", "--recipe", str(tiny_recipe), "--out", "out")
    results = [ended(each) for each in [janus(*arguments), janus(*arguments)]]
    assert sorted(code for code, _ in results) == [0, 2], results
    assert any("holds prepared data already" in said for _, said in results)
    assert sorted(path.name for path in Path().iterdir()) == ["out", "tiny.yaml"]
    assert len(open_prepared(recipe_load.load(str(tiny_recipe)), Path("out")).train) == 64
    assert json.loads(Path("out/manifest.json").read_bytes())["splits"]["train"]["kept"] == 64
