"""FAULTS 6, 8, 9, 10, 29: folders that cannot be written, on full disks, or that others write to or read meanwhile."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import torch
from processes import digest, ended, janus, start

from janus_cli import recipe_load
from janus_cli.data.prepared import open_prepared
from janus_cli.decoding.translate import read_model
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.average import average_checkpoints
from janus_cli.training.checkpoint import read_checkpoint
from janus_cli.training.inspect import describe
from tests.helpers import ends, read_json

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


def test_two_trainings_and_a_dead_one(tiny_recipe: Path, whole: Path) -> None:
    first = start(tiny_recipe, before=STUCK)
    try:
        wait_for(Path("run/checkpoints/last"))
        first.send_signal(signal.SIGSTOP)
        code, said = ended(start(tiny_recipe, "--resume"))
    finally:
        first.send_signal(signal.SIGKILL)
        ended(first)
    assert code == 7, said
    holder = f"pid {first.pid} on {socket.gethostname()}"
    assert f"run is in use by {holder}, which is suspended (`kill -CONT {first.pid}`)" in said
    ends(ended(start(tiny_recipe, "--resume")), 0, f"{holder} left run without ending its training; taking over")
    assert digest(Path("run/checkpoints/step-000008")) == digest(whole)
    assert "taken over" not in ended(start(tiny_recipe, "--resume"))[1]


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


def test_two_preparations_at_once_leave_one_whole_folder(tiny_recipe: Path) -> None:
    arguments = ("preprocess", "--recipe", str(tiny_recipe), "--out", "out")
    results = [ended(each) for each in [janus(*arguments), janus(*arguments)]]
    assert sorted(code for code, _ in results) == [0, 2], results
    assert any("holds prepared data already" in said for _, said in results)
    assert sorted(path.name for path in Path().iterdir()) == ["out", "tiny.yaml"]
    assert len(open_prepared(recipe_load.load(str(tiny_recipe)), Path("out")).train) == 64
    assert read_json("out/manifest.json")["splits"]["train"]["kept"] == 64


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(trained: Path) -> None:
    """EFBIG after some bytes, as a full disk leaves a part of a file: older checkpoints stay, nothing half is left."""
    size, before = (trained / "last/model.safetensors").stat().st_size, list(checkpoint.steps(trained))
    limit = f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(\
resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))"
    allow = ("--set", "training.updates=7", "--allow-change", "training.updates")
    code, said = ended(start(Path(), "--resume", *allow, before=limit))
    assert code == 1, said
    assert "could not be written" in said
    assert "ulimit -f`), a checkpoint needs about" in said
    assert "janus train --resume --run run" in said
    assert "Traceback" not in said
    assert list(checkpoint.steps(trained)) == before
    assert not list(trained.glob(".*"))
    ends(ended(start(Path(), "--resume", *allow)), 0)
