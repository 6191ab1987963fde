from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import CORPUS, put, text


@pytest.fixture
def small_corpus(empty_folder: Path) -> None:
    """A working directory with 60 training, 6 validation and 5 test pairs, German and English, in `corpus`."""
    put(CORPUS, "train", *text(60))
    put(CORPUS, "valid", *text(6, 60))
    put(CORPUS, "test", *text(5, 70))
