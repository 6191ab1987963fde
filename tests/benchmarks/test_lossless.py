"""`benchmarks/lossless.py`: equal texts pass, and a text that greedy would not have written is found."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.data.prepare import prepare
from janus_cli.decoding.translate import Result, Translator
from tests.commands.untrained import CHANGES, LINES, make_run


@pytest.fixture
def lossless(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, called as for runs/janus and the demo's test text."""
    Path("data").mkdir()
    prepare(recipe_load.load("demo", CHANGES), Path("data/demo"), workers=1, force=False)
    make_run(empty_folder, empty_folder / "data/demo", "janus")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["lossless.py", "runs/janus", "data/demo/test.source.txt", "--threads", "1"])
    return importlib.import_module("lossless")


def test_speculative_text_of_any_model_passes(lossless: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert lossless.main() == 0
    assert f"{LINES} sentences, 0 differ" in capsys.readouterr().out


def test_another_text_is_found(
    lossless: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(Translator):
        def windows(self, *arguments: Any) -> Iterator[list[Result]]:
            for window in super().windows(*arguments):
                if self.plan.mode == "spec":
                    best = window[0].outputs[0]
                    other = 10 if best.tokens[0] != 10 else 11
                    window[0].outputs[0] = replace(best, tokens=[other, *best.tokens[1:]])
                yield window

    monkeypatch.setattr(lossless, "Translator", Wrong)
    assert lossless.main() == 1
    assert f"{LINES} sentences, 1 differ" in capsys.readouterr().out
