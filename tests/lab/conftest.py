"""`janus compare` on trainings of a second each."""

from functools import partial
from pathlib import Path

import pytest
from comparisons import QUICK, Compare


@pytest.fixture
def compare(tiny_recipe: Path, shell: Compare) -> Compare:
    """Runs the command; returns the exit code, stdout and stderr."""
    return partial(shell, *QUICK)
