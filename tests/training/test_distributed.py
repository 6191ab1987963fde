"""Two processes under torchrun do what one does with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import janus_cli
from janus_cli.recipe import Training
from janus_cli.runs import Run
from janus_cli.training.run import train
from janus_cli.training.trainer import learning_rate

# Eleven batches an epoch: in its last window, the sixth, the second rank has none.
COMMON = ("model.dropout=0.0", "training.batch_tokens=240", "training.updates=6")


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def alone(recipe: Path, objective: str) -> Run:
    """One process that reads as much before an update as two do."""
    changes = (*COMMON, "training.accumulate=2")
    return train(recipe=str(recipe), run=Path("one"), objective=objective, device="cpu", changes=changes)


def launch(recipe: Path, objective: str, run: str, *launcher: str) -> subprocess.Popen[str]:
    """`torchrun` with these options of its own."""
    sets = [part for change in COMMON for part in ("--set", change)]
    command = [
        sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "--", "janus_cli", "train",
        "--recipe", str(recipe), "--objective", objective, "--run", run, "--device", "cpu", *sets,
    ]  # fmt: skip
    here = str(Path(janus_cli.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def must_be_alike(one: Run, two: Path) -> None:
    weights = load_file(one.checkpoints / "step-000006" / "model.safetensors")
    others = load_file(two / "checkpoints/step-000006/model.safetensors")
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-5), name
    assert json.loads((one.checkpoints / "last" / "state.json").read_bytes())["batch"] == 12
    trained = [[line for line in read_log(run) if line["kind"] == "train"] for run in (one.path, two)]
    assert len(trained[0]) == 3
    for name, tolerance in (("loss", 1e-5), ("norm", 1e-4)):  # Adam hides a gradient that is off by a factor
        ours, theirs = ([line[name] for line in lines] for lines in trained)
        assert ours == pytest.approx(theirs, rel=tolerance), name


@pytest.mark.parametrize(
    "objective", ["janus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ar", "cmlmc", "cemat"))]
)
def test_two_ranks_equal_one_with_accumulation(tiny_recipe: Path, objective: str) -> None:
    """Same windows, same noise, counts over both ranks. No dropout: each rank draws its own."""
    one = alone(tiny_recipe, objective)
    with launch(tiny_recipe, objective, "two", "--standalone", "--nproc-per-node", "2") as process:
        said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said[-3000:]
    assert said.count("2 ranks on cpu") == 1  # one voice
    must_be_alike(one, Path("two"))


def test_two_nodes_equal_one_process(tiny_recipe: Path) -> None:
    """Two launchers that know of each other only by an address, as on two machines that share a file system."""
    one = alone(tiny_recipe, "janus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        launch(
            tiny_recipe, "janus", "two", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank),
            "--master-addr", "127.0.0.1", "--master-port", port,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert ["2 ranks on cpu" in words for words in said] == [True, False]
    must_be_alike(one, Path("two"))


def test_schedules() -> None:
    def at(step: int, schedule: Any) -> float:
        knobs = Training(updates=100, warmup=10, learning_rate=1.0, schedule=schedule)
        return learning_rate(step, knobs)

    for schedule in ("inverse_sqrt", "linear", "cosine"):
        assert at(0, schedule) == pytest.approx(0.1)
        assert at(9, schedule) == pytest.approx(1.0, rel=0.02)
    assert at(39, "inverse_sqrt") == pytest.approx(0.5)
    assert at(55, "linear") == pytest.approx(0.5)
    assert at(55, "cosine") == pytest.approx(0.5)
    assert at(99, "linear") == pytest.approx(1 / 90)
    assert at(32, "cosine") > at(32, "linear")
