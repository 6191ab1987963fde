"""`janus` in a folder with an untrained run of every objective."""

import io
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from untrained import CHANGES, Janus, Result, make_run

from janus_cli import recipe_load
from janus_cli.cli import main
from janus_cli.core.knobs import OBJECTIVES
from janus_cli.data.prepare import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/demo and a run of every objective, as runs/janus."""
    root = tmp_path_factory.mktemp("decode")
    prepared = root / "data" / "demo"
    prepared.parent.mkdir()
    prepare(recipe_load.load("demo", CHANGES), prepared, workers=1, force=False)
    for objective in OBJECTIVES:
        make_run(root, prepared, objective)
    os.utime(root / "runs" / "janus" / "recipe.yaml", (2e9, 2e9))  # the newest
    return root


@pytest.fixture
def any_janus(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Janus:
    """Runs `janus` where a copy of `made` lies; returns the exit code, stdout and stderr."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    os.utime(tmp_path / "runs" / "janus" / "recipe.yaml", (2e9, 2e9))
    monkeypatch.chdir(tmp_path)
    for manifest in Path("runs").glob("*/manifest.json"):
        about = {**json.loads(manifest.read_bytes()), "prepared": str(tmp_path / "data" / "demo")}
        manifest.write_text(json.dumps(about), encoding="utf-8")

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        torch.set_num_threads(1)
        assert isinstance(stopped.value.code, int)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def janus(any_janus: Janus) -> Janus:
    """The same for `janus decode`."""
    return partial(any_janus, "decode")
