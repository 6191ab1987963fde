"""Trainings as processes of their own, which can be killed, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import janus_cli

# The code that is under test here, whatever is installed.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(janus_cli.__file__).parents[1])}


def start(recipe: Path, *arguments: str, before: str = "", **environment: str) -> subprocess.Popen[str]:
    """Starts `janus train` in the folder `run`; `before`: Python that runs first, in the same process."""
    code = f"import sys\n{before}\nfrom janus_cli.cli import main\nmain(['train', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, "--run", "run", "--device", "cpu", *arguments]
    if "--resume" not in arguments:
        command += ["--recipe", str(recipe)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **environment}
    )


def ended(process: subprocess.Popen[str], seconds: float = 100) -> tuple[int, str]:
    """The exit code and everything that was said."""
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


def digest(folder: Path) -> str:
    """Of all weights and moments in a checkpoint."""
    files = ("model.safetensors", "optimizer.safetensors")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()
