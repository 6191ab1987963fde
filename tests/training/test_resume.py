"""FAULTS 1, 2, 3: wherever a training stops, it resumes bit for bit as if it had not; only with its recipe and data."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli import console, recipe_load
from janus_cli.core.batch import Batch
from janus_cli.data import tokenizer
from janus_cli.data.batching import Rows, epoch_batches
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.errors import CheckpointError, Stopped
from janus_cli.system import usable_cores
from janus_cli.training import trainer as trainer_module
from janus_cli.training.trainer import LossModule, Trainer
from tests.faults.processes import digest, entries, go, make_trainer, relabel, state
from tests.helpers import Capture, Janus, Patch, ends

LOG = Path("run/log.jsonl")
DATA = Path("data/tiny.src-tgt")


@pytest.mark.parametrize(
    ("objective", "stop", "changes"),
    [
        ("ar", 1, ()), ("cmlm", 3, ()), ("cmlmc", 6, ()), ("cemat", 3, ()), ("janus", 1, ()), ("janus", 6, ()),
        ("janus", 3, ("training.ema=0.3",)),
    ],
)  # fmt: skip
def test_stop_and_resume_equals_not_stopping(
    tiny_recipe: Path, objective: str, stop: int, changes: tuple[str, ...]
) -> None:
    """Mid-epoch and over an epoch's edge, with accumulation: the last window of the ten batches is short."""
    changes = ("training.accumulate=3", *changes)
    whole = go(tiny_recipe, "whole", *changes, objective=objective)
    go(tiny_recipe, "run", *changes, f"training.updates={stop}", objective=objective)
    parts = go(tiny_recipe, "run", "training.updates=8", resume=True)
    assert digest(whole / "step-000008") == digest(parts / "step-000008")
    assert entries(LOG, "train")[-1]["epoch"] >= 1


def signal_at(monkeypatch: Patch, owner: Any, name: str, at: int, number: signal.Signals = signal.SIGTERM) -> None:
    """A signal at the n-th call of a function."""
    plain, calls = getattr(owner, name), iter(range(1, 10**6))

    def call(*arguments: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return plain(*arguments)

    monkeypatch.setattr(owner, name, call)


MINE = """
name: mine
data: {columns: [a, b], task: generation, max_tokens: 14}
tokenizer: {kind: words}
model: {width: 16, feedforward: 16, heads: 2, encoder_layers: 1, decoder_layers: 1, max_length: 16}
training: {updates: 1, warmup: 1, batch_tokens: 64}
"""
PLACES: dict[str, tuple[Callable[[int], int], signal.Signals, int]] = {  # by the number of batches in an epoch
    "first": (lambda _: 1, signal.SIGINT, 130),
    "mid-epoch": (lambda batches: batches // 2, signal.SIGTERM, 143),
    "epoch edge": (lambda batches: batches, signal.SIGUSR1, 138),
    "last": (lambda batches: batches + 3, signal.SIGTERM, 143),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_at_any_update(tiny_recipe: Path, monkeypatch: Patch, place: str) -> None:
    where, number, code = PLACES[place]
    batches = len(list(epoch_batches(make_trainer(tiny_recipe).prepared.train, 256, 1, 0)))
    assert batches > 4
    updates, stop = batches + 3, where(batches)
    changes = (f"training.updates={updates}", "training.validate_every=100")
    final = f"step-{updates:06d}"
    whole = go(tiny_recipe, "whole", *changes) / final
    with monkeypatch.context() as patch:
        signal_at(patch, trainer_module, "load_batch", stop, number)  # comes before the update
        with pytest.raises(Stopped) as stopped:
            go(tiny_recipe, "run", *changes)
    assert stopped.value.exit_code == code
    assert entries(LOG)[-1]["kind"] == "stopped"
    last = state(Path("run/checkpoints/last"))
    assert (last["step"], last["epoch"]) == (stop, 0 if stop <= batches else 1)
    assert last["owed"] == (stop == updates), "the last update is validated, whatever comes into it"
    resumed = go(tiny_recipe, "run", resume=True) / final
    assert digest(resumed) == digest(whole)
    for name in ("best", "best_step", "since_best", "metrics", "owed"):
        assert state(resumed)[name] == state(whole)[name], name
    assert Path("run/checkpoints/best").readlink().name == final


@pytest.mark.parametrize("batch", [4, 6])
def test_a_signal_inside_a_window_stops_at_its_edge(tiny_recipe: Path, monkeypatch: Patch, batch: int) -> None:
    """Windows of three batches; the signal comes at the first or the last batch of the second one."""
    changes = ("training.accumulate=3", "training.validate_every=100", "training.updates=5")
    with monkeypatch.context() as patch:
        signal_at(patch, LossModule, "forward", batch)
        with pytest.raises(Stopped):
            go(tiny_recipe, "run", *changes)
    last = state(Path("run/checkpoints/last"))
    assert (last["step"], last["batch"]) == (3, 9)  # the update after the one that was at work
    resumed = go(tiny_recipe, "run", resume=True) / "step-000005"
    assert digest(resumed) == digest(go(tiny_recipe, "whole", *changes) / "step-000005")


def test_the_mean_of_the_weights_begins_with_the_first_good_update(tiny_recipe: Path, monkeypatch: Patch) -> None:
    plain = Trainer.backward

    def poison(self: Trainer, *arguments: Any) -> Any:
        results = plain(self, *arguments)
        for weight in self.model.parameters() if self.position.step == 0 else ():
            weight.grad = torch.full_like(weight, float("nan"))
        return results

    monkeypatch.setattr(Trainer, "backward", poison)
    ema = ("training.ema=0.9", "training.updates=4")
    whole = go(tiny_recipe, "whole", *ema)
    go(tiny_recipe, "run", *ema[:1], "training.updates=1")
    resumed = go(tiny_recipe, "run", "training.updates=4", resume=True)
    assert digest(resumed / "step-000004") == digest(whole / "step-000004")


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tiny_recipe: Path) -> None:
    one, two, other = (
        digest(go(tiny_recipe, name, "training.updates=2", seed=seed) / "last")
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert one == two != other


def test_resume_with_other_accumulation_starts_at_the_same_sentence(tiny_recipe: Path, monkeypatch: Patch) -> None:
    """The position is a batch of the epoch, whatever a window was."""
    last = go(tiny_recipe, "run", "training.updates=2", "training.accumulate=2") / "last"
    assert (state(last)["epoch"], state(last)["batch"]) == (0, 4)
    read, load_batch = list[list[int]](), trainer_module.load_batch

    def noted(store: Store, rows: Rows) -> Batch:
        read.append(rows.tolist())
        return load_batch(store, rows)

    monkeypatch.setattr(trainer_module, "load_batch", noted)
    go(tiny_recipe, "run", "training.updates=4", "training.accumulate=3", resume=True)
    store = open_prepared(recipe_load.load("run/recipe.yaml"), DATA).train
    expected = [rows.tolist() for rows in epoch_batches(store, 256, 1, 0)]
    assert read[:6] == expected[4:10], "the rest of the epoch, each batch once"


def test_resume_with_other_batches_reads_the_rest_of_the_epoch(tiny_recipe: Path, monkeypatch: Patch) -> None:
    """FAULTS 18: each sentence once an epoch, whatever becomes of training.batch_tokens, also over two resumes."""
    read, load_batch = list[list[int]](), trainer_module.load_batch

    def noted(store: Store, rows: Rows) -> Batch:
        read.append(rows.tolist())
        return load_batch(store, rows)

    monkeypatch.setattr(trainer_module, "load_batch", noted)
    go(tiny_recipe, "run", "training.updates=3")
    go(tiny_recipe, "run", "training.updates=5", "training.batch_tokens=128", f"seed={2**62}", resume=True)
    last = go(tiny_recipe, "run", "training.updates=40", "training.batch_tokens=200", resume=True) / "last"
    store = open_prepared(recipe_load.load("run/recipe.yaml"), DATA).train
    flat = [row for rows in read for row in rows]
    assert sorted(flat[: len(store)]) == list(range(len(store)))
    assert (state(last)["epoch"] > 0, state(last)["read"]) == (True, [])


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_save_left(trained: Path, there: bool) -> None:
    """A checkpoint that was being replaced comes back, where there is no other to go on from."""
    whole = digest(trained / "step-000006")
    for name in ("step-000004", "step-000006"):
        shutil.rmtree(trained / name)
    if there:
        shutil.copytree(trained / "step-000003", trained / ".step-000003.replaced")
    else:
        (trained / "step-000003").rename(trained / ".step-000003.replaced")
    for name in (".step-000003.making", ".step-000009.making"):
        (trained / name).mkdir()
        (trained / name / "part").write_text("")
    for number in (4, 6, 9):
        (trained / f".step-{number:06d}.lock").write_text("pid 7 on another\n")
    go(Path(), "run", resume=True)
    assert not list(trained.glob(".*"))
    assert digest(trained / "step-000006") == whole
    assert [line["step"] for line in entries(LOG, "resumed")] == [3]


def test_a_damaged_checkpoint_takes_no_place_from_a_whole_one(trained: Path) -> None:
    (trained / "step-000006" / "model.safetensors").write_bytes(b"")
    (trained / "unusable-step-000006").mkdir()  # once before
    changes = ("keep_last=2", "keep_best=0", "updates=7", "save_every=7", "validate_every=100")
    go(Path(), "run", *(f"training.{change}" for change in changes), resume=True)
    assert sorted(folder.name for folder in trained.glob("*step-*")) == [
        "step-000004", "step-000007", "unusable-step-000006",
    ]  # fmt: skip


def test_a_finished_run_is_left_alone(trained: Path, monkeypatch: Patch) -> None:
    def times() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in Path("run").rglob("*") if file.name != ".lock"}

    before, said = times(), list[str]()
    monkeypatch.setattr(console, "say", said.append)
    go(Path(), "run", resume=True)
    assert times() == before
    assert any("is finished after 6 updates" in line for line in said)


def test_what_may_change_changes(trained: Path) -> None:
    changed = go(Path(), "run", "training.learning_rate=0.5", "training.updates=7", resume=True)
    assert digest(changed / "step-000007") != digest(go(Path("tiny.yaml"), "other", "training.updates=7") / "last")
    assert recipe_load.load("run/recipe.yaml").training.learning_rate == 0.5


@pytest.mark.parametrize("name", ["ranks", "precision", "threads"])
def test_what_no_longer_rounds_alike_is_said(trained: Path, capsys: Capture, name: str) -> None:
    """`auto` may mean another precision on the machine that a run is resumed on."""
    last = (trained / "last").resolve()
    now = state(last)[name]
    before = {"ranks": 2, "threads": 5000, "precision": "float32" if now == "bf16" else "bf16"}[name]
    (last / "state.json").write_text(json.dumps({**state(last), name: before}))
    relabel(last)
    go(Path(), "run", "training.updates=7", resume=True)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: up to")]
    assert warnings == [f"warning: up to update 6 this run had {name} {before}, now it has {name} {now}"]
    assert state(trained / "last")[name] == now


@pytest.mark.skipif(usable_cores() < 2, reason="one core allows one number of threads")
def test_a_run_goes_on_with_its_threads(trained: Path) -> None:
    last, now = (trained / "last").resolve(), torch.get_num_threads()
    before = 1 if now > 1 else 2
    (last / "state.json").write_text(json.dumps({**state(last), "threads": before}))
    relabel(last)
    try:
        go(Path(), "run", "training.updates=7", resume=True)
    finally:
        torch.set_num_threads(now)
    assert state(trained / "last")["threads"] == before


@pytest.mark.parametrize("split", ["train", "valid"])  # with another valid, `best` would compare two things
def test_other_data_is_refused(trained: Path, split: str) -> None:
    """The same recipe, prepared again from text that is another."""
    recipe, lines = Path("tiny.yaml"), [b"one two three four\n", b"five six seven\n", b"two four six eight ten\n"] * 30
    Path("text").mkdir()
    for name in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            Path(f"text/{name}.{side}").write_bytes(b"".join(lines))
    words = ("data.dir=text", "tokenizer.kind=words", "tokenizer.vocabulary=40", "training.updates=1")
    shutil.rmtree("data")
    go(recipe, "other", *words)
    Path(f"text/{split}.src").write_bytes(b"".join(lines[::-1]))
    shutil.rmtree("data")
    with pytest.raises(CheckpointError, match=f"is not the data .* trained on: {split} differ") as problem:
        go(recipe, "other", "training.updates=2", resume=True)
    assert problem.value.exit_code == 4


def test_data_that_is_gone_comes_back_with_the_tokenizer_of_the_run(
    tiny_recipe: Path, shell: Janus, monkeypatch: Patch
) -> None:
    """Another version of janus, or of SentencePiece, trains another tokenizer on the same text."""
    few = ("--set", "training.updates=2")
    with monkeypatch.context() as earlier:
        earlier.setattr(tokenizer, "INSIDE", tokenizer.NAMES)
        assert shell("train", "--recipe", str(tiny_recipe), *few)[0] == 0
    shutil.rmtree("data")
    err = ends(shell("train", "--resume"), 4, "is not the data that runs/tiny-janus was trained on")
    again = shlex.split(err.split("with the run's: ")[1])
    assert "tokenizer.reuse=runs/tiny-janus" in again
    ends(shell("distill", "--run", "runs/tiny-janus", "--out", "data/d"), 3, "tokenizer.reuse=runs/tiny-janus")
    assert shell(*again[1:])[0] == 0
    ends(shell("train", "--resume"), 0, "is finished after 2 updates")
    ends(shell("distill", "--run", "runs/tiny-janus", "--out", "data/d", "--beam", "1"), 0, "written to data/d")


def test_data_that_is_gone_is_prepared_again_from_the_files_that_were_named(empty_folder: Path, shell: Janus) -> None:
    """The recipe names no text: without these files there is none."""
    Path("mine.csv").write_text("a,b\n" + "one two,two one\n" * 30)
    Path("mine.yaml").write_text(MINE)
    made = ("--recipe", "mine.yaml", "--train", "mine.csv", "--valid", "mine.csv", "--out", "made")
    ends(shell("preprocess", *made), 0)
    assert shell("train", "--recipe", "mine.yaml", "--prepared", "made", "--run", "run")[0] == 0
    shutil.rmtree("made")
    err = ends(shell("train", "--resume", "--run", "run"), 3, "is gone")
    assert shell(*shlex.split(err.split("hint: ")[1])[1:])[0] == 0
    assert "is finished after 1 updates" in shell("train", "--resume", "--run", "run")[2]


def test_a_run_that_was_killed_before_it_said_that_it_is_done_says_so_later(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", "training.updates=1")
    file = Path("run/run.txt")
    done = file.read_text()
    file.write_text(done.replace("state      done", "state      training"))
    go(tiny_recipe, "run", resume=True)
    assert "state      done" in file.read_text()
    file.write_text(done)
    go(tiny_recipe, "run", resume=True)
    assert file.read_text() == done, "when it was done is kept"


@pytest.mark.parametrize(("stops", "validate_every"), [((3, 5), 100), ((3,), 3), ((6,), 3)])
def test_a_run_that_was_stopped_keeps_the_checkpoints_of_one_that_was_not(
    tiny_recipe: Path, monkeypatch: Patch, stops: tuple[int, ...], validate_every: int
) -> None:
    """So their averages are equal, too, and so is the best one. A stop comes before a save, or in a validation."""
    changes = ("training.updates=8", "training.save_every=2", f"training.validate_every={validate_every}")
    changes = (*changes, "training.keep_last=3")
    go(tiny_recipe, "whole", *changes)
    done = 0
    for stop in stops:
        with monkeypatch.context() as patch:
            signal_at(patch, trainer_module, "load_batch", stop - done)
            with pytest.raises(Stopped):
                go(tiny_recipe, "run", *(() if done else changes), resume=bool(done))
        done = stop
    go(tiny_recipe, "run", resume=True)
    kept = [sorted(folder.name for folder in Path(f"{run}/checkpoints").glob("step-*")) for run in ("whole", "run")]
    assert kept[0] == kept[1] != []
    best = [Path(f"{run}/checkpoints/best").resolve().name for run in ("whole", "run")]
    assert best[0] == best[1] in kept[0]


def test_stops_push_no_regular_checkpoint_out(tiny_recipe: Path, monkeypatch: Patch) -> None:
    """However often a training is stopped between two saves, it keeps what it saved itself, and two that stops made."""
    changes = ("training.updates=12", "training.save_every=4", "training.keep_last=2", "training.validate_every=100")
    for stop in (9, 1, 1):
        with monkeypatch.context() as patch:
            signal_at(patch, trainer_module, "load_batch", stop)
            with pytest.raises(Stopped):
                go(tiny_recipe, "run", *changes, resume=stop == 1)
    kept = [sorted(int(folder.name[5:]) for folder in Path("run/checkpoints").glob("step-*"))]
    go(tiny_recipe, "run", *changes, resume=True)
    kept.append(sorted(int(folder.name[5:]) for folder in Path("run/checkpoints").glob("step-*")))
    assert kept == [[4, 8, 10, 11], [8, 12]]


def test_a_save_that_falls_on_a_skipped_update_is_made_up_for(tiny_recipe: Path, monkeypatch: Patch) -> None:
    plain, updates = torch.nn.utils.clip_grad_norm_, iter(range(1, 100))

    def norm(*arguments: Any) -> Any:
        return torch.tensor(float("nan")) if next(updates) in (2, 4, 6, 7) else plain(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", norm)
    every = ("save_every=2", "updates=10", "validate_every=100", "keep_last=9", "keep_best=0")
    go(tiny_recipe, "run", *(f"training.{each}" for each in every), objective="ar")
    assert [line["step"] for line in entries(LOG, "saved")] == [3, 5, 8, 10]


def test_checkpoints_of_stops_are_kept_until_there_is_a_regular_one(tiny_recipe: Path, monkeypatch: Patch) -> None:
    """Else a machine that is often taken away would have one checkpoint alone, which may be damaged."""
    for resume in (False, True):
        with monkeypatch.context() as patch:
            signal_at(patch, trainer_module, "load_batch", 2)
            with pytest.raises(Stopped):
                go(tiny_recipe, "run", *(() if resume else ("training.updates=9",)), resume=resume)
    assert sorted(folder.name for folder in Path("run/checkpoints").glob("step-*")) == ["step-000002", "step-000004"]


def test_decoding_says_that_a_training_is_not_done(tiny_recipe: Path, shell: Janus) -> None:
    go(tiny_recipe, "run", "training.updates=4", "training.save_every=2")
    for log, unfinished in (
        (whole := Path("run/log.jsonl").read_bytes(), False),
        (whole[: whole.rindex(b'{"kind": "done"')], True),
    ):
        Path("run/log.jsonl").write_bytes(log)
        code, _, err = shell("decode", "--run", "run", "--dry-run")
        assert (code, "of an unfinished training" in err) == (0, unfinished), err
