"""`janus` in a folder with an untrained run of every objective."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from untrained import CHANGES, Stop, ctrl_c, make_run

from janus_cli import recipe_load
from janus_cli.core.knobs import OBJECTIVES
from janus_cli.data.prepare import prepare
from janus_cli.decoding import translate
from janus_cli.decoding.translate import Translator
from tests.helpers import Janus, Result, edit_json


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/demo and a run of every objective, as runs/janus. To read only."""
    root = tmp_path_factory.mktemp("decode")
    prepared = root / "data" / "demo"
    prepared.parent.mkdir()
    prepare(recipe_load.load("demo", CHANGES), prepared, workers=1, force=False)
    for objective in OBJECTIVES:
        make_run(root, prepared, objective)
    os.utime(root / "runs" / "janus" / "recipe.yaml", (2e9, 2e9))  # the newest
    return root


@pytest.fixture
def any_janus(made: Path, empty_folder: Path, shell: Janus) -> Janus:
    """Runs `janus` where a copy of `made` lies."""
    shutil.copytree(made, empty_folder, dirs_exist_ok=True, symlinks=True)
    os.utime("runs/janus/recipe.yaml", (2e9, 2e9))
    for manifest in Path("runs").glob("*/manifest.json"):
        edit_json(manifest, prepared=str(empty_folder / "data" / "demo"))
    return shell


@pytest.fixture
def janus(any_janus: Janus) -> Janus:
    """The same for `janus decode`."""
    return partial(any_janus, "decode")


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Makes the next decoding call something after so many windows, which are of two batches."""
    monkeypatch.setattr(translate, "WINDOW_BATCHES", 2)
    all_windows = Translator.windows

    def after(count: int, call: Callable[[], object]) -> None:
        def windows(self: Translator, rest: Iterator[str], first: int = 0) -> Iterator[list[translate.Result]]:
            for number, window in enumerate(all_windows(self, rest, first)):
                if number == count:
                    monkeypatch.setattr(Translator, "windows", all_windows)
                    call()
                yield window

        monkeypatch.setattr(Translator, "windows", windows)

    return after


@pytest.fixture
def halted(janus: Janus, stop: Stop) -> Janus:
    """Runs `janus decode` and halts it by Ctrl-C after so many windows: `halted(2, "--output", "mine")`."""

    def run(windows: int, *arguments: str, stdin: bytes = b"") -> Result:
        stop(windows, ctrl_c)
        return janus(*arguments, stdin=stdin)

    return run
