"""Trainings as processes of their own, which can be killed, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import janus_cli
from janus_cli.training.run import train

# The code that is under test here, whatever is installed.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(janus_cli.__file__).parents[1])}


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


def go(recipe: Path, run: str, *changes: str, resume: bool = False, allow: tuple[str, ...] = ()) -> Path:
    """Trains in this process, which takes no time to start; returns the folder of the checkpoints."""
    return train(
        recipe=None if resume else str(recipe), run=Path(run), changes=changes, resume=resume, allow_change=allow,
        device="cpu",
    ).checkpoints  # fmt: skip


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
