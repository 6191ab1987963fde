"""Two processes under torchrun do what one does with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_cli.recipe import Training
from janus_cli.training.schedule import learning_rate
from janus_cli.training.session import Request, run_training


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["ar", "janus", "cmlmc", "cemat"])
def test_two_ranks_equal_one_with_accumulation(tiny_recipe: Path, objective: str) -> None:
    """Same windows, same noise, counts over both ranks; odd last windows. No dropout: each rank draws its own."""
    common = ("model.dropout=0.0", "training.updates=6")
    one = run_training(
        Request(
            recipe=str(tiny_recipe), run=Path("one"), objective=objective, device="cpu",
            changes=(*common, "training.accumulate=2"),
        )
    )  # fmt: skip
    sets = [part for change in common for part in ("--set", change)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--",
        "janus_cli", "train", "--recipe", str(tiny_recipe), "--objective", objective, "--run", "two",
        "--device", "cpu", *sets,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("2 ranks on cpu") == 1  # one voice
    weights = load_file(one.checkpoints / "step-000006" / "model.safetensors")
    others = load_file("two/checkpoints/step-000006/model.safetensors")
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-5), name
    losses = [[line["loss"] for line in read_log(Path(run)) if line["kind"] == "train"] for run in ("one", "two")]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_schedules() -> None:
    def at(step: int, schedule: str) -> float:
        knobs = Training(updates=100, warmup=10, learning_rate=1.0, schedule=schedule)  # type: ignore[arg-type]
        return learning_rate(step, knobs)

    for schedule in ("inverse_sqrt", "linear", "cosine"):
        assert at(0, schedule) == pytest.approx(0.1)
        assert at(9, schedule) == pytest.approx(1.0, rel=0.02)
    assert at(39, "inverse_sqrt") == pytest.approx(0.5)
    assert at(55, "linear") == pytest.approx(0.5)
    assert at(55, "cosine") == pytest.approx(0.5)
    assert at(99, "linear") == pytest.approx(1 / 90)
    assert at(32, "cosine") > at(32, "linear")
