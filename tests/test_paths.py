"""One sentence and one update pass few files, so that who follows them need not open many."""

import io
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import janus_cli
from janus_cli.cli import main
from tests.helpers import Patch, sets

MOST = 15
PACKAGE = str(Path(janus_cli.__file__).parent) + os.sep


class Trail:
    """The files of janus in which a function ran between `start` and `stop`, each time."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.times: list[list[str]] = []

    def start(self) -> None:
        self.files.clear()
        sys.setprofile(self._event)

    def stop(self) -> None:
        sys.setprofile(None)
        self.times.append(sorted(self.files))

    def _event(self, frame: FrameType, _: str, __: Any) -> None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            self.files.add(name.removeprefix(PACKAGE))


def janus(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    sys.setprofile(None)
    torch.set_num_threads(1)
    assert stopped.value.code == 0


@pytest.mark.parametrize("objective", ["janus", "ar"])
def test_an_update_passes_few_files(tiny_recipe: Path, monkeypatch: Patch, objective: str) -> None:
    """From the end of one step of the optimiser to the end of the next, without logging, validating and saving."""
    trail, step = Trail(), torch.optim.AdamW.step

    def followed(*arguments: Any, **options: Any) -> Any:
        done = step(*arguments, **options)
        trail.stop()
        trail.start()
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", followed)
    rare = sets(*(f"training.{name}=99" for name in ("log_every", "validate_every", "save_every")))
    janus("train", "--recipe", "tiny.yaml", "--objective", objective, *sets("training.updates=3"), *rare)
    assert {f"core/objectives/{objective}.py", "training/trainer.py"} < set(trail.times[2])
    assert len(trail.times[2]) <= MOST, trail.times[2]


class Source(io.BytesIO):
    """Lines on stdin: what becomes of each is followed from when it is read."""

    trail: Trail

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.trail.start()
        return line


class Target(io.BytesIO):
    """Stdout: to when it is written."""

    trail: Trail

    def write(self, text: Any, /) -> int:
        self.trail.stop()
        return super().write(text)


@pytest.mark.parametrize(
    ("mode", "engine", "file"),
    [("ar", "auto", "engines/session.py"), ("nar", "auto", "engines/session.py")],
)
def test_a_sentence_passes_few_files(tiny_recipe: Path, monkeypatch: Patch, mode: str, engine: str, file: str) -> None:
    """From reading a line to writing its hypothesis; the second line, because the first loads some."""
    janus("train", "--recipe", "tiny.yaml", "--set", "training.updates=1")
    Source.trail = Target.trail = trail = Trail()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Source(b"a b c\nb c d\n")))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Target()))
    janus("decode", "--mode", mode, "--input", "-", "--batch-sentences", "1", "--engine", engine)
    assert {file, "decoding/translate.py"} < set(trail.times[1])
    assert len(trail.times[1]) <= MOST, trail.times[1]
