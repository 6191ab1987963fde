"""`janus compare` on trainings of a second each."""

from pathlib import Path

import pytest
import torch
from comparisons import QUICK, Compare

from janus_cli.cli import main


@pytest.fixture
def compare(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Runs the command; returns the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([*QUICK, *arguments])
        torch.set_num_threads(1)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return run
