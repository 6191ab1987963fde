"""FAULTS 17, 18, 19: several processes do what one does, stop together, and skip together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ENVIRONMENT, ended, entries, go, state
from safetensors.torch import load_file

from janus_cli import recipe_load
from janus_cli.data.batching import epoch_batches
from janus_cli.data.prepared import open_prepared
from janus_cli.training import checkpoint
from tests.helpers import ends

ALONE = ("--standalone", "--nproc-per-node", "2")
ROOT, LOG = Path("run/checkpoints"), Path("run/log.jsonl")
# Eleven batches an epoch: in its last window, the sixth, the second rank has none.
COMMON = ("model.dropout=0.0", "training.batch_tokens=240", "training.updates=6")


def torchrun(
    *arguments: str, changes: Sequence[str], launcher: Sequence[str] = ALONE, before: str = ""
) -> subprocess.Popen[str]:
    """Trains under torchrun, in a process group of its own, as a shell starts it; before: as in `processes.janus`."""
    program = ["-m", "--", "janus_cli"]
    if before:
        Path("ranks.py").write_text(f"import os, sys\n{before}\nfrom janus_cli.__main__ import main\nmain()\n")
        program = ["--", "ranks.py"]
    sets = [word for change in changes for word in ("--set", change)]
    command = [
        sys.executable, "-m", "torch.distributed.run", *launcher, *program, "train", "--recipe", "tiny.yaml",
        "--run", "run", "--device", "cpu", *sets, *arguments,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, start_new_session=True
    )


def must_equal_one_process(objective: str, *changes: str, **more: Any) -> None:
    """One that reads as much before an update as two do: same windows, same noise, counts over both ranks."""
    one = go(Path("tiny.yaml"), "one", *COMMON, *changes, "training.accumulate=2", objective=objective, **more)
    weights, others = (load_file(root / "step-000006/model.safetensors") for root in (one, ROOT))
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-5), name
    assert state(one / "last")["batch"] == state(ROOT / "last")["batch"] == 12
    trained = [entries(log, "train") for log in (Path("one/log.jsonl"), LOG)]
    assert len(trained[0]) == 3
    for name, tolerance in (("loss", 1e-5), ("norm", 1e-4)):  # Adam hides a gradient that is off by a factor
        ours, theirs = ([line[name] for line in lines] for lines in trained)
        assert ours == pytest.approx(theirs, rel=tolerance), name


@pytest.mark.parametrize(
    "objective", ["janus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ar", "cmlmc", "cemat"))]
)
def test_two_ranks_equal_one_with_accumulation(tiny_recipe: Path, objective: str) -> None:
    """No dropout: each rank draws its own."""
    said = ends(ended(torchrun("--objective", objective, changes=COMMON), 240), 0)
    assert said.count("2 ranks on cpu") == 1  # one voice
    must_equal_one_process(objective)


def test_two_ranks_equal_one_where_parts_are_frozen_and_the_mask_is_fresh(tiny_recipe: Path) -> None:
    start = go(Path("tiny.yaml"), "base", "training.updates=1", objective="ar") / "last"
    frozen = ("training.freeze=[embeddings, encoder]", "training.layer_decay=0.5")
    ends(ended(torchrun("--objective", "janus", "--from", str(start), changes=(*COMMON, *frozen)), 240), 0)
    must_equal_one_process("janus", *frozen, start=start)


def test_ranks_that_are_done_do_not_fail_while_python_ends(tiny_recipe: Path) -> None:
    """Threads of torch then abort it, though rarely: "terminate called without an active exception"."""
    code, said = ended(torchrun(changes=("training.updates=1",), before="import atexit\natexit.register(os.abort)"))
    assert code == 0, said
    assert "done after 1 updates" in said


@pytest.mark.slow
def test_two_nodes_equal_one_process(tiny_recipe: Path) -> None:
    """Two launchers that know of each other only by an address, as on two machines that share a file system."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    there = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    nodes = [torchrun(changes=COMMON, launcher=(*there, "--node-rank", str(rank))) for rank in (0, 1)]
    codes, said = zip(*(ended(node, 240) for node in nodes), strict=True)
    assert codes == (0, 0), said
    assert ["2 ranks on cpu" in words for words in said] == [True, False]
    must_equal_one_process("janus")


def must_be_gone(group: int, said: str) -> None:
    """No process of the group is left, and there is a checkpoint."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(said)
    assert checkpoint.newest_valid(ROOT) is not None


def test_ctrl_c_under_torchrun(tiny_recipe: Path) -> None:
    changes = ("training.updates=100000", "training.validate_every=100000", "training.save_every=1")
    process, deadline = torchrun(changes=changes), time.monotonic() + 90
    while not list(ROOT.glob("step-*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    code, said = ended(process)
    assert code != 0
    must_be_gone(process.pid, said)
    assert entries(LOG)[-1]["kind"] == "stopped", "it finished its update and saved"


def test_a_rank_that_waits_for_the_data_obeys_sigterm(tiny_recipe: Path) -> None:
    wait = """
import signal, time
from threading import Timer
from janus_cli.world import World
plain = World.wait
def wait(world):
    if world.rank == 0:
        time.sleep(300)
    Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    plain(world)
World.wait = wait
"""
    process = torchrun(changes=(), before=wait)
    try:
        code, said = ended(process)
        assert code != 0
        assert "Signal 15 (SIGTERM)" in said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_second_signal_ends_a_rank_that_waits_for_another(tiny_recipe: Path) -> None:
    """Handlers of Python's do not run while torch waits, so neither signal would be heard."""
    wait = """
import signal, time
from threading import Timer
from janus_cli.training.trainer import Trainer
plain = Trainer.update
def update(self, window):
    if self.position.step == 2:
        if self.world.rank == 1:
            time.sleep(300)
        for seconds in (1, 3):
            Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
    plain(self, window)
Trainer.update = update
"""
    process = torchrun(changes=("training.updates=100000", "training.save_every=1"), before=wait)
    try:
        code, said = ended(process)
        assert code != 0
        assert "exitcode  : 143" in said, said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_ranks_on_different_devices_are_refused(tiny_recipe: Path) -> None:
    """One machine of a cluster whose driver is broken: gloo here and NCCL there would wait for each other."""
    other = """
import torch
from janus_cli import world
world.choose_device = lambda name, local: torch.device("cuda" if local else "cpu")
torch.cuda.set_device = lambda device: None
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="GPU-1")
"""
    code, said = ended(torchrun(changes=(), before=f"from types import SimpleNamespace\n{other}"), 120)
    assert code != 0
    assert "rank 0 found no GPU" in said, said
    both = other.replace('"cuda" if local else "cpu"', '"cuda"')
    code, said = ended(torchrun(changes=(), before=f"from types import SimpleNamespace\n{both}"), 120)
    assert code != 0
    assert "ranks 0, 1 share a GPU" in said, said


def test_one_rank_dies(tiny_recipe: Path) -> None:
    die = """
from janus_cli.training.trainer import Trainer
plain = Trainer.update
def update(self, window):
    if self.position.step == 3 and self.world.rank == 1:
        os._exit(9)
    plain(self, window)
Trainer.update = update
"""
    process = torchrun(changes=("training.updates=100000", "training.save_every=1"), before=die)
    code, said = ended(process)
    assert code != 0
    must_be_gone(process.pid, said)
    assert [folder.name for folder in checkpoint.steps(ROOT)] == [f"step-{step:06d}" for step in (1, 2, 3)]


def test_a_bad_gradient_on_one_rank_is_skipped_on_both(tiny_recipe: Path) -> None:
    poison = """
from janus_cli.training.trainer import Trainer
plain = Trainer.__init__
def poisoned(self, *arguments):
    plain(self, *arguments)
    if self.world.rank == 1:
        forward = self.loss.module.forward
        def broken(*arguments):
            factor = float("nan") if self.position.step == 1 else 1.0
            return {name: term._replace(total=term.total * factor) for name, term in forward(*arguments).items()}
        self.loss.module.forward = broken
Trainer.__init__ = poisoned
"""
    ends(ended(torchrun(changes=("training.updates=4",), before=poison)), 0)
    (skipped,) = entries(LOG, "skipped")
    assert skipped["step"] == 2, "the update that was skipped"
    recipe = recipe_load.load("tiny.yaml")
    batches = epoch_batches(open_prepared(recipe, Path("data/tiny.src-tgt")).train, 256, recipe.seed, 0)
    assert skipped["sentences"] == [int(row) for rows in list(batches)[2:4] for row in rows]  # of both ranks
    assert checkpoint.newest_valid(ROOT) is not None
