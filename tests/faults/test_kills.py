"""FAULTS 5: a training that is killed anywhere resumes as if it had not been."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from processes import digest, ended, go, read_until, start

from janus_cli.training import checkpoint
from tests.helpers import ends

# Kills itself at the n-th call that touches the disk while the checkpoint of update 4 is written.
DEADLY = """
import os, signal
from pathlib import Path
from janus_cli import files
from janus_cli.training import checkpoint
from janus_cli.training.trainer import Trainer
count, armed = 0, False
def deadly(name, owner):
    plain = getattr(owner, name)
    def call(*arguments, **more):
        global count
        if armed:
            count += 1
            if count == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **more)
    setattr(owner, name, call)
for name in ("_write_tensors", "_describe"):
    deadly(name, checkpoint)
deadly("sync", files)
for name in ("write_text", "rename", "replace", "mkdir", "symlink_to"):
    deadly(name, Path)
plain_save = Trainer.save
def save(self, **more):
    global armed
    armed = self.position.step == 4
    plain_save(self, **more)
    if armed:
        print("calls", count, flush=True)
    armed = False
Trainer.save = save
"""
QUICK = ("--set", "training.validate_every=100", "--set", "training.save_every=1")


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_each_step_of_the_commit_protocol(tiny_recipe: Path, whole: Path, every: int) -> None:
    """Some of the calls that touch the disk, the first and the last among them; all of them with -m slow."""
    said = ends(ended(start(tiny_recipe, *QUICK, before=DEADLY.format(at=0))), 0)
    calls = int(said.split("calls ")[1].split()[0])
    assert calls > 15
    for at in sorted({*range(1, calls + 1, every), calls}):
        ended(start(tiny_recipe, *QUICK, "--force", before=DEADLY.format(at=at)))
        found = checkpoint.newest_valid(Path("run/checkpoints"))
        assert found is not None
        assert found.state["step"] in (3, 4), f"killed at call {at} of {calls}"
        assert digest(go(tiny_recipe, "run", resume=True) / "step-000008") == digest(whole)
        assert not [left for left in Path("run/checkpoints").iterdir() if left.name.startswith(".")]


@pytest.mark.parametrize("times", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tiny_recipe: Path, times: int) -> None:
    """Each time after training began, and with enough left to do for all of them."""
    changes = ("training.validate_every=1000", "training.save_every=1", f"training.updates={20 * times}")
    final = f"step-{20 * times:06d}"
    expected = digest(go(tiny_recipe, "other", *changes) / final)
    draw = random.Random(5)
    process, steps = start(tiny_recipe, *(part for change in changes for part in ("--set", change))), [0]
    for _ in range(times):
        before = set(Path("run/checkpoints").glob("step-*"))
        read_until(process, "parameters, ")
        while set(Path("run/checkpoints").glob("step-*")) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert ended(process)[0] == -signal.SIGKILL  # not done yet
        newest = checkpoint.newest_valid(Path("run/checkpoints"))
        steps.append(newest.state["step"] if newest else 0)
        process = start(tiny_recipe, "--resume")
    ends(ended(process), 0)
    assert steps == sorted(set(steps)), "each time it came further"
    assert digest(Path("run/checkpoints") / final) == expected
