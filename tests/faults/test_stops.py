"""FAULTS 1, 2, 3: wherever a training stops, it goes on as if it had not; and only with the same recipe and data."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import digest, go

from janus_cli import recipe_load
from janus_cli.cli import main
from janus_cli.data.batching import epoch_batches
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import open_prepared
from janus_cli.errors import CheckpointError, Stopped
from janus_cli.training import trainer
from janus_cli.training.trainer import LossModule, Trainer


def signal_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    """SIGTERM at the n-th call of a function."""
    plain, calls = getattr(owner, name), iter(range(1, 10**6))

    def call(*arguments: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(owner, name, call)


PLACES: dict[str, Callable[[int], int]] = {
    "first": lambda _: 1,
    "mid-epoch": lambda batches: batches // 2,
    "before the last batch": lambda batches: batches - 1,
    "epoch edge": lambda batches: batches,
    "first of the next epoch": lambda batches: batches + 1,
    "last": lambda batches: batches + 3,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_stop_at_any_update(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    recipe = recipe_load.load(str(tiny_recipe))
    prepare(recipe, Path("data/tiny.src-tgt"), workers=1, force=False)
    store = open_prepared(recipe, Path("data/tiny.src-tgt")).train
    batches = len(list(epoch_batches(store, recipe.training.batch_tokens, recipe.seed, 0)))
    assert batches > 4
    updates, stop = batches + 3, PLACES[place](batches)
    changes = (f"training.updates={updates}", "training.validate_every=100")
    final = f"step-{updates:06d}"
    expected = digest(go(tiny_recipe, "whole", *changes) / final)
    with monkeypatch.context() as patch:
        signal_at(patch, trainer, "load_batch", stop)  # comes before the update
        with pytest.raises(Stopped):
            go(tiny_recipe, "run", *changes)
    state = json.loads(Path("run/checkpoints/last/state.json").read_bytes())
    assert (state["step"], state["epoch"]) == (stop, 0 if stop <= batches else 1)
    assert state["owed"] == (stop == updates), "the last update is validated, whatever comes into it"
    assert digest(go(tiny_recipe, "run", resume=True) / final) == expected
    states = [json.loads(Path(f"{run}/checkpoints/{final}/state.json").read_bytes()) for run in ("whole", "run")]
    for name in ("best", "best_step", "since_best", "metrics", "owed"):
        assert states[0][name] == states[1][name], name
    assert Path("run/checkpoints/best").readlink().name == final


def test_a_stop_before_the_first_update(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(go(tiny_recipe, "whole") / "step-000008")

    def die(*_: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", die)
        with pytest.raises(RuntimeError, match="power"):
            go(tiny_recipe, "run")
    assert not list(Path("run/checkpoints").iterdir())
    assert digest(go(tiny_recipe, "run", resume=True) / "step-000008") == expected


@pytest.mark.parametrize("batch", [4, 5, 6])
def test_a_stop_inside_a_window_is_saved_at_its_edge(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Windows of three batches; the signal comes at the first, second and last batch of the second one."""
    changes = ("training.accumulate=3", "training.validate_every=100")
    expected = digest(go(tiny_recipe, "whole", *changes) / "step-000008")
    with monkeypatch.context() as patch:
        signal_at(patch, LossModule, "forward", batch)
        with pytest.raises(Stopped):
            go(tiny_recipe, "run", *changes)
    state = json.loads(Path("run/checkpoints/last/state.json").read_bytes())
    assert (state["step"], state["batch"]) == (3, 9)  # the update after the one that was at work
    assert digest(go(tiny_recipe, "run", resume=True) / "step-000008") == expected


@pytest.mark.parametrize(
    "change",
    [
        "training.batch_tokens=512", "training.accumulate=2", "training.learning_rate=0.01", "tokenizer.vocabulary=90",
        "data.synthetic.train=65", "model.width=32", "seed=9",
    ],
)  # fmt: skip
def test_other_settings_end_with_4_and_the_difference(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    go(tiny_recipe, "run", "training.updates=1")
    before = Path("run/recipe.yaml").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "--run", "run", "--device", "cpu", "--set", change])
    said = capsys.readouterr().err
    key, value = change.split("=")
    assert ended.value.code == 4
    assert f"{key}: " in said
    assert f"{value} now" in said
    assert "--allow-change" in said
    assert Path("run/recipe.yaml").read_bytes() == before


def test_what_may_change_changes(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", "training.updates=2")
    allow = ("training.learning_rate", "training.updates")
    changes = ("training.learning_rate=0.5", "training.updates=3")
    changed = digest(go(tiny_recipe, "run", *changes, resume=True, allow=allow) / "step-000003")
    assert changed != digest(go(tiny_recipe, "other", "training.updates=3") / "step-000003")
    assert recipe_load.load("run/recipe.yaml").training.learning_rate == 0.5


def test_other_text_ends_with_4(tiny_recipe: Path) -> None:
    """The same recipe, prepared again from text that is another."""
    Path("text").mkdir()
    recipe = recipe_load.load(str(tiny_recipe))
    prepare(recipe, Path("made"), workers=1, force=False)
    lines = [b"one two three four\n", b"five six seven\n", b"two four six eight ten\n"] * 30
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            Path(f"text/{split}.{side}").write_bytes(b"".join(lines))
    changes = ("data.dir=text", "tokenizer.kind=words", "tokenizer.vocabulary=40")
    go(tiny_recipe, "run", *changes, "training.updates=1")
    Path("text/train.src").write_bytes(b"".join(lines[::-1]))
    shutil.rmtree("data")
    with pytest.raises(CheckpointError, match="is not the data") as problem:
        go(tiny_recipe, "run", "training.updates=2", resume=True, allow=("training.updates",))
    assert problem.value.exit_code == 4
