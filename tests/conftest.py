"""What many tests share: a tiny model, tiny text, and one thread, so that tests do not fight over cores."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from janus_cli.cli import main
from janus_cli.core.batch import Batch, collate
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer
from tests.helpers import Janus, Result

torch.set_num_threads(1)
hypothesis.settings.register_profile("janus", deadline=None)  # what else the machine does decides no test
hypothesis.settings.load_profile("janus")


@pytest.fixture
def tiny() -> Model:
    """Width 16, one layer each side, no dropout."""
    return Model(width=16, feedforward=32, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0, max_length=32)


@pytest.fixture
def model(tiny: Model) -> Transformer:
    """Random weights, large enough that every token matters; float64 so that equal means equal."""
    torch.manual_seed(0)
    made = Transformer(replace(tiny, init="xavier"), 20, 20, length_head=True)
    return made.double().eval()


@pytest.fixture
def ragged() -> Batch:
    """Three pairs of different lengths; vocabulary 20."""
    return collate([[5, 6, 7], [8, 9], [10, 11, 12, 13]], [[5, 6, 7, 8], [9], [10, 11]], [0, 1, 2])


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Janus:
    """Runs the command line in this process: (exit code, stdout, stderr). A bug's exception comes out."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        torch.set_num_threads(1)
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        assert "Traceback" not in captured.err
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def janus(shell: Janus) -> Janus:
    """The same; where all tests are of one verb, they have a `janus` that runs this verb."""
    return shell


TINY_RECIPE = """
name: tiny
data: {synthetic: {train: 64, valid: 8, test: 8}, max_tokens: 60}
tokenizer: {vocabulary: 120}
model:
  {width: 16, feedforward: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, dropout: 0.1, max_length: 64, norm: pre}
training:
  updates: 8
  batch_tokens: 256
  learning_rate: 1e-3
  warmup: 4
  log_every: 2
  validate_every: 4
  save_every: 2
  valid_sentences: 4
decoding: {iters: 2, beam: 2, length_beam: 2}
"""


@pytest.fixture
def tiny_recipe(empty_folder: Path) -> Path:
    """A recipe that trains in a second, in a working directory of its own."""
    path = empty_folder / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


def _trained(folder: Path, *changes: str) -> Path:
    """Trains the tiny recipe there, in the folder `run`."""
    from tests.faults.processes import go

    with contextlib.chdir(folder):
        Path("tiny.yaml").write_text(TINY_RECIPE)
        go(Path("tiny.yaml"), "run", *changes)
    return folder / "run/checkpoints"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint, of update 8, of a training that nobody stopped or killed. To read only."""
    return _trained(tmp_path_factory.mktemp("whole")) / "step-000008"


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    _trained(folder, "training.updates=6", "training.validate_every=3")
    return folder


@pytest.fixture
def trained(_trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoints of a run of six updates, validated after 3 and 6, saved after 2, 3, 4 and 6.

    In a working directory of its own, with tiny.yaml and the data.
    """
    shutil.copytree(_trained_once, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return Path("run/checkpoints")
