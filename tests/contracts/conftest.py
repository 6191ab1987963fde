"""Made once for all contracts: a run of every objective, and one that was trained, averaged and decoded."""

from pathlib import Path

import pytest
import workplace


@pytest.fixture(scope="session")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `workplace.build`."""
    return workplace.build(tmp_path_factory.mktemp("still"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `workplace.build_tiny`. Nobody writes there."""
    return workplace.build_tiny(tmp_path_factory.mktemp("tiny"))
