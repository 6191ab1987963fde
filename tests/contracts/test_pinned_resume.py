"""Stopping and going on is, to the bit, not having stopped; `tests/faults` has the signals and kills."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from workplace import done, train

TIMES = ("time", "tokens_per_second", "seconds_per_update", "utilisation")


@pytest.fixture
def place(tiny: Path, tmp_path: Path) -> Path:
    """A folder with the recipe and its data."""
    shutil.copytree(tiny / "data", tmp_path / "data")
    shutil.copy(tiny / "tiny.yaml", tmp_path)
    return tmp_path


def tensors(run: Path, step: int) -> dict[str, str]:
    """The sha256 of every weight and of everything that the optimiser keeps."""
    folder = run / f"checkpoints/step-{step:06d}"
    files = (load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer"))
    return {name: hashlib.sha256(value.tobytes()).hexdigest() for file in files for name, value in file.items()}


def logged(run: Path, until: int) -> dict[tuple[str, int], dict[str, Any]]:
    """What was logged of each update and validation, but for how long they took."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        (line["kind"], line["step"]): {key: value for key, value in line.items() if key not in TIMES}
        for line in lines
        if line["kind"] in ("train", "valid") and line["step"] <= until
    }


def go_on(place: Path, run: str, updates: int) -> None:
    more = ("--set", f"training.updates={updates}", "--allow-change", "training.updates")
    done(place, "train", "--resume", "--run", run, "--device", "cpu", *more)


@pytest.mark.parametrize("objective", ["ar", "janus"])
def test_parts_equal_the_whole(place: Path, objective: str) -> None:
    """22 updates are more than an epoch; stops within the first, at its end, and in the second."""
    changes = ("--objective", objective, "--set", "training.keep_last=30", "--set", "training.validate_every=7")
    train(place, "tiny.yaml", "whole", *changes, "--set", "training.updates=22")
    train(place, "tiny.yaml", "parts", *changes, "--set", "training.updates=5")
    for updates in (19, 20, 22):
        go_on(place, "parts", updates)
    whole, parts = place / "whole", place / "parts"
    assert tensors(whole, 22) == tensors(parts, 22)
    assert tensors(whole, 20) == tensors(parts, 20) != tensors(whole, 22)
    found = logged(whole, 22)
    assert found[("train", 22)]["epoch"] == 1
    assert {key: value for key, value in logged(parts, 22).items() if key in found} == found
