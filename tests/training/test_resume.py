"""Stopping anywhere and going on is, bit for bit, not having stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli import console, recipe_load
from janus_cli.core.batch import Batch
from janus_cli.data.batching import Rows, epoch_batches
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.device import resolve_precision
from janus_cli.errors import CheckpointError, NonFiniteError, RunInUseError, Stopped, UsageError
from janus_cli.runs import Run
from janus_cli.training import trainer, validation
from janus_cli.training.run import train
from janus_cli.training.trainer import Trainer

CPU = torch.device("cpu")
OBJECTIVES = ["ar", "cmlm", "cmlmc", "cemat", "janus"]


def go(recipe: Path, run: str, *changes: str, resume: bool = False, allow: tuple[str, ...] = (), **more: Any) -> Run:
    return train(
        recipe=None if resume else str(recipe), run=Path(run), changes=changes, resume=resume, allow_change=allow,
        device="cpu", **more,
    )  # fmt: skip


def digests(run: Run, step: int) -> dict[str, str]:
    folder = run.checkpoints / f"step-{step:06d}"
    files = ("model.safetensors", "optimizer.safetensors")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def kinds(run: Run) -> list[str]:
    return [json.loads(line)["kind"] for line in run.log.read_text().splitlines()]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_stop_and_resume_equals_not_stopping(tiny_recipe: Path, objective: str, stop: int) -> None:
    """Mid-epoch and over an epoch's edge, with accumulation: the last window of the ten batches is short."""
    changes = ["training.accumulate=3"]
    whole = go(tiny_recipe, "whole", *changes, objective=objective)
    go(tiny_recipe, "parts", *changes, f"training.updates={stop}", objective=objective)
    parts = go(tiny_recipe, "parts", "training.updates=8", resume=True, allow=("training.updates",))
    assert digests(whole, 8) == digests(parts, 8)
    epochs = [json.loads(line)["epoch"] for line in whole.log.read_text().splitlines() if '"kind": "train"' in line]
    assert epochs[-1] >= 1


def test_a_run_explains_itself(tiny_recipe: Path) -> None:
    def told(run: Run) -> dict[str, str]:
        lines = (run.path / "run.txt").read_text(encoding="utf-8").split("\n")
        return dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)

    run = go(tiny_recipe, "runs/told", "training.updates=2", objective="janus")
    first = told(run)
    assert "janus train --resume --run runs/told" in (run.path / "run.txt").read_text(encoding="utf-8")
    assert first["state"].startswith("done (")
    assert "update 2 of 2" in first["state"]
    assert "objective janus" in first["what"]
    assert json.loads(run.manifest.read_bytes())["fingerprint"] in (run.path / "run.txt").read_text(encoding="utf-8")
    go(tiny_recipe, "runs/told", "training.updates=3", resume=True, allow=("training.updates",))
    again = told(run)
    assert "update 3 of 3" in again["state"]
    assert (again["began"], again["command"]) == (first["began"], first["command"])
    log = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    precisions = [line["precision"] for line in log if line["kind"] in ("start", "resumed")]
    assert precisions == [resolve_precision("auto", CPU)] * 2
    assert all(0 < line["utilisation"] < 2 for line in log if line["kind"] == "train")


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tiny_recipe: Path) -> None:
    one, two, other = (
        go(tiny_recipe, name, "training.updates=2", seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert digests(one, 2) == digests(two, 2) != digests(other, 2)


def test_a_finished_run_is_left_alone(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = go(tiny_recipe, "run", "training.updates=2")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.name != ".lock"}
    said: list[str] = []
    monkeypatch.setattr(console, "say", said.append)
    go(tiny_recipe, "run", resume=True)
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.name != ".lock"} == before
    assert any("is finished after 2 updates" in line for line in said)


def test_a_run_is_not_overwritten(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", "training.updates=2")
    with pytest.raises(UsageError, match="holds a run already"):
        go(tiny_recipe, "run", "training.updates=2")
    go(tiny_recipe, "run", "training.updates=1", force=True)
    with pytest.raises(UsageError, match="is no run"):
        go(tiny_recipe, "nothing", resume=True)


@pytest.mark.parametrize(
    "change", ["training.batch_tokens=128", "training.learning_rate=0.5", "objective.label_smoothing=0.3"]
)
def test_a_changed_recipe_is_refused(tiny_recipe: Path, change: str) -> None:
    go(tiny_recipe, "run", "training.updates=2")
    key, value = change.split("=")
    with pytest.raises(CheckpointError, match=key) as problem:
        go(tiny_recipe, "run", change, resume=True)
    assert value in problem.value.message


@pytest.mark.parametrize("split", ["train", "valid"])  # with another valid, `best` would compare two things
def test_changed_data_is_refused(tiny_recipe: Path, split: str) -> None:
    go(tiny_recipe, "run", "training.updates=2")
    manifest = Path("run/manifest.json")
    about = json.loads(manifest.read_text())
    about["splits"][split]["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=f"not the data .* trained on: {split} differ"):
        go(tiny_recipe, "run", "training.updates=4", resume=True, allow=("training.updates",))


def test_a_broken_gradient_is_skipped_counted_and_in_the_end_fatal(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = iter([False, True, False, *[True] * 9])
    plain = torch.nn.utils.clip_grad_norm_

    def poison(parameters: Iterator[torch.Tensor], largest: float) -> torch.Tensor:
        weights = list(parameters)
        if next(poisoned):
            assert weights[0].grad is not None
            weights[0].grad.fill_(float("nan"))
        return plain(weights, largest)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poison)
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        go(tiny_recipe, "run", "training.max_bad_steps=3", "training.updates=20")
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [line["in_a_row"] for line in skipped] == [1, 1, 2, 3]
    assert all(line["sentences"] for line in skipped)
    from janus_cli.training.checkpoint import load_model

    load_model(Path("run/checkpoints/last"))  # refuses weights that are not finite


def test_early_stopping_and_best(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 3.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr(trainer, "validate", lambda *_: {"loss": 1.0, "bleu_ar": next(scores)})
    changes = ("training.validate_every=1", "training.patience=2", "training.updates=50", "training.keep_last=1")
    run = go(tiny_recipe, "run", *changes, "training.keep_best=1")
    assert kinds(run)[-1] == "done"
    assert run.checkpoints.joinpath("best").readlink().name == "step-000002"
    assert run.checkpoints.joinpath("last").readlink().name == "step-000004"
    assert sorted(folder.name for folder in run.checkpoints.glob("step-*")) == ["step-000002", "step-000004"]


@pytest.mark.parametrize(
    ("objective", "means", "best"), [("ar", [30, 10, 20, 40], 4), ("cmlm", [30, 10, 20, 40], 4), ("janus", [20, 30], 4)]
)
def test_bleu_as_best_metric_is_the_mean_of_the_sides(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, objective: str, means: list[float], best: int
) -> None:
    """For JANUS update 2 is the better one left to right, update 4 the better one by the mean."""
    scores = iter([30.0, 10.0, 20.0, 40.0])
    monkeypatch.setattr(validation, "corpus_bleu", lambda *_: next(scores))
    every = 4 // len(means)
    changes = ("training.best_metric=bleu", f"training.validate_every={every}", "training.updates=4")
    run = go(tiny_recipe, "run", *changes, objective=objective)
    log = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    judged = [entry for entry in log if entry["kind"] == "valid"]
    assert [entry["bleu"] for entry in judged] == means
    state = json.loads((run.checkpoints / "last" / "state.json").read_text())
    assert (state["best"], state["best_step"]) == (max(means), best)


def test_an_unknown_best_metric_is_named(tiny_recipe: Path) -> None:
    with pytest.raises(UsageError, match="rouge is no validation metric"):
        go(tiny_recipe, "run", "training.best_metric=rouge")
    with pytest.raises(UsageError, match="ce_correct is no validation metric"):  # of a term whose knob is 0
        go(tiny_recipe, "run", "training.best_metric=ce_correct", objective="janus")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signals_save_and_stop(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    whole = go(tiny_recipe, "whole")
    plain, calls = Trainer.update, iter(range(100))

    def update(*arguments: Any) -> None:
        if next(calls) == 2:
            os.kill(os.getpid(), number)
        plain(*arguments)

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(Stopped) as stopped:
        go(tiny_recipe, "run")
    assert stopped.value.exit_code == code
    assert kinds(Run(Path("run")))[-1] == "stopped"
    monkeypatch.setattr(Trainer, "update", plain)
    parts = go(tiny_recipe, "run", resume=True)
    assert digests(whole, 8) == digests(parts, 8)


def test_two_trainings_in_one_folder(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tiny_recipe, "run", "training.updates=1")
    script = (
        "import fcntl, sys; f = open('run/.lock', 'r+'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.write('pid 4242 on elsewhere'); f.flush(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(RunInUseError, match="pid 4242"):
            go(tiny_recipe, "run", resume=True)
        other.communicate()
    assert "taken over" not in capsys.readouterr().err
    for taken_over in (True, False):  # the lock of a process that is gone holds nobody up
        go(tiny_recipe, "run", resume=True)
        assert ("pid 4242 on elsewhere left run" in capsys.readouterr().err) == taken_over


def test_data_is_prepared_on_the_way_and_announced(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "say", said.append)
    go(tiny_recipe, "run", "training.updates=1")
    assert any("preparing it first" in line for line in said)
    assert Path("data/tiny.src-tgt/manifest.json").exists()


def test_dry_run_writes_nothing(tiny_recipe: Path) -> None:
    go(tiny_recipe, "first", "training.updates=1")
    go(tiny_recipe, "run", dry_run=True)
    assert not Path("run").exists()


def test_a_parent_that_cannot_be_written_is_refused(tiny_recipe: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        go(tiny_recipe, "file/run")


def test_a_folder_that_is_no_run_is_left_alone(tiny_recipe: Path) -> None:
    """Somebody's own checkpoints/ are not ours to replace, not even with --force."""
    mine = Path("project/checkpoints/mine.pt")
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    for force in (False, True):
        with pytest.raises(UsageError, match="it is no run"):
            go(tiny_recipe, "project", force=force)
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("wrong", [{"resume": True, "force": True}, {"allow": ("seed",)}])
def test_options_that_contradict_each_other(tiny_recipe: Path, wrong: dict[str, Any]) -> None:
    go(tiny_recipe, "run", "training.updates=1")
    with pytest.raises(UsageError, match=r"exclude each other|needs --resume"):
        go(tiny_recipe, "run", **wrong)


def test_resume_finds_data_that_was_prepared_elsewhere(tiny_recipe: Path) -> None:
    whole = go(tiny_recipe, "whole", "training.updates=2")
    Path("data/tiny.src-tgt").rename("elsewhere")
    go(tiny_recipe, "run", "training.updates=1", prepared=Path("elsewhere"))
    run = go(tiny_recipe, "run", "training.updates=2", resume=True, allow=("training.updates",))
    assert digests(run, 2) == digests(whole, 2)


def test_resume_with_other_accumulation_starts_at_the_same_sentence(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position is a batch of the epoch, whatever a window was."""
    run = go(tiny_recipe, "run", "training.updates=2", "training.accumulate=2")
    state = json.loads((run.checkpoints / "last" / "state.json").read_text())
    assert (state["epoch"], state["batch"]) == (0, 4)
    read: list[list[int]] = []
    load_batch = trainer.load_batch

    def noted(store: Store, rows: Rows) -> Batch:
        read.append(rows.tolist())
        return load_batch(store, rows)

    monkeypatch.setattr(trainer, "load_batch", noted)
    allow = ("training.updates", "training.accumulate")
    go(tiny_recipe, "run", "training.updates=4", "training.accumulate=3", resume=True, allow=allow)
    store = open_prepared(recipe_load.load(str(run.recipe)), Path("data/tiny.src-tgt")).train
    expected = [rows.tolist() for rows in epoch_batches(store, 256, 1, 0)]
    assert read[:6] == expected[4:10], "the rest of the epoch, each batch once"


def test_what_a_killed_save_left_is_removed(tiny_recipe: Path) -> None:
    run = go(tiny_recipe, "run", "training.updates=1")
    for name in (".step-000009.making", ".step-000001.making", ".step-000001.replaced"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "part").write_text("")
    go(tiny_recipe, "run", "training.updates=2", resume=True, allow=("training.updates",))
    assert not list(run.checkpoints.glob(".*"))
    assert (run.checkpoints / "step-000001" / "manifest.json").exists()


def test_a_checkpoint_that_was_being_replaced_comes_back(tiny_recipe: Path) -> None:
    """Killed between the two renames, with nothing else to go on from."""
    whole = digests(go(tiny_recipe, "whole"), 8)
    run = go(tiny_recipe, "run", "training.updates=3")
    (run.checkpoints / "step-000003").rename(run.checkpoints / ".step-000003.replaced")
    shutil.copytree(run.checkpoints / ".step-000003.replaced", run.checkpoints / ".step-000003.making")
    go(tiny_recipe, "run", "training.updates=8", resume=True, allow=("training.updates",))
    assert digests(run, 8) == whole
    assert json.loads(run.log.read_text().splitlines()[-1])["kind"] == "done"
    assert [json.loads(line)["step"] for line in run.log.read_text().splitlines() if "resumed" in line] == [3]


def test_tensorboard_or_the_hint(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError) as problem:
        go(tiny_recipe, "run", "training.tensorboard=true", "training.updates=1")
    assert "[tensorboard]" in problem.value.message + problem.value.hint
