"""The benchmarks as modules, and as commands in an empty folder."""

import importlib
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from janus_cli.recipe import Recipe

ROOT = Path(__file__).parents[2]
NAMES = ("shared", "trainings", "train_speed", "loss_memory", "pretraining", "engines", "speculation")
Called = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def called(empty_folder: Path) -> Called:
    """Runs a benchmark: `called("budget", "--pairs", "10")`; or a line of Python beside them: `called("-c", ...)`."""

    def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        folder = ROOT / "benchmarks"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{folder}"}
        program = name if name == "-c" else str(folder / f"{name}.py")
        return subprocess.run(
            [sys.executable, program, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The scripts as modules: `scripts.train_speed`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}
    yield SimpleNamespace(**modules)
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def recipe_of(scripts: SimpleNamespace) -> Callable[..., Recipe]:
    """A small recipe in float32: `recipe_of("janus", "model.dropout=0")`."""

    def load(objective: str, *changes: str) -> Recipe:
        asked = Namespace(recipe="multi30k", shape=(16, 32), changes=list(changes))
        recipe: Recipe = scripts.shared.load(asked, objective, "float32")
        return recipe

    return load
