from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import put, text


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """60 training, 6 validation and 5 test pairs, German and English."""
    folder = tmp_path / "corpus"
    put(folder, "train", *text(60))
    put(folder, "valid", *text(6, 60))
    put(folder, "test", *text(5, 70))
    return folder
