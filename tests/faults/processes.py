"""Tiny trainings, in this process or in one of their own, which can be killed; and what is left of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import janus_cli
from janus_cli import recipe_load
from janus_cli.data.prepared import open_prepared
from janus_cli.runs import Run, prepared_dir
from janus_cli.training import checkpoint
from janus_cli.training.log import Log
from janus_cli.training.model import build_model
from janus_cli.training.run import train
from janus_cli.training.trainer import Trainer
from janus_cli.world import World

# The code that is under test here, whatever is installed.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(janus_cli.__file__).parents[1])}
# Gives up every privilege, so that also root must ask before it writes.
NO_PRIVILEGES = """
import ctypes
if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()):
    raise OSError(ctypes.get_errno(), "capset")
"""


def start(recipe: Path, *arguments: str, before: str = "", **environment: str) -> subprocess.Popen[str]:
    """Starts `janus train` in the folder `run`; `before`: Python that runs first, in the same process."""
    if "--resume" not in arguments:
        arguments = (*arguments, "--recipe", str(recipe))
    return janus("train", "--run", "run", "--device", "cpu", *arguments, before=before, **environment)


def janus(
    *arguments: str, before: str = "", after: str = "", folder: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Starts `janus` in this or another folder; `before` and `after`: Python around it, in the same process."""
    code = f"import sys\n{before}\nfrom janus_cli.cli import main\ntry: main(sys.argv[1:])\nfinally:\n pass\n{after}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def go(recipe: Path, run: str, *changes: str, resume: bool = False, **more: Any) -> Path:
    """Trains in this process, which takes no time to start; returns the folder of the checkpoints.

    A resumed run may change what is named.
    """
    allow = tuple(change.partition("=")[0] for change in changes) if resume else ()
    named = None if resume else str(recipe)
    options = {"recipe": named, "changes": changes, "allow_change": allow, "device": "cpu", **more}
    return train(run=Path(run), resume=resume, **options).checkpoints


def make_trainer(recipe: Path, *changes: str, objective: str | None = None) -> Trainer:
    """A trainer on prepared data, which has a log, but no other files."""
    settings = recipe_load.load(str(recipe), changes, objective)
    train(recipe=str(recipe), changes=changes, objective=objective, device="cpu", data_only=True)
    data = open_prepared(settings, prepared_dir(settings))
    torch.manual_seed(1)
    model = build_model(settings, data.train.source_vocabulary, data.train.target_vocabulary)
    trainer = Trainer(settings, model, data, World(0, 1, torch.device("cpu")), Run(Path("run")))
    trainer.log = Log(Path("log.jsonl"))
    return trainer


def entries(log: Path, *kinds: str) -> list[dict[str, Any]]:
    """The lines of a log, or those of these kinds."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if not kinds or line["kind"] in kinds]


def state(folder: Path) -> dict[str, Any]:
    """The training state in a checkpoint."""
    values: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
    return values


def ended(process: subprocess.Popen[str], seconds: float = 100) -> tuple[int, str]:
    """The exit code and everything that was said."""
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Waits for a line with these words."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if words in line:
            return
        said.append(line)
    raise AssertionError(f"it never said {words}, but {said}")


def digest(folder: Path) -> str:
    """Of all weights and moments in a checkpoint."""
    files = ("model.safetensors", "optimizer.safetensors")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()


def relabel(folder: Path) -> None:
    """Makes a checkpoint's manifest agree with changed files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: checkpoint._describe(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
