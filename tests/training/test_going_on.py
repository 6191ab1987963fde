"""Trainings that begin badly, end early or fail half-way: what is kept, what is said, and whether they go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli.errors import CheckpointError, DataError, OutOfMemoryError
from janus_cli.files import write_atomically
from janus_cli.runs import Run
from janus_cli.training import run as run_module
from janus_cli.training import trainer
from janus_cli.training.log import Log
from janus_cli.training.run import train
from janus_cli.training.trainer import Trainer


def go(recipe: Path, *changes: str, resume: bool = False, run: str = "run", **more: Any) -> Run:
    allow = tuple(change.partition("=")[0] for change in changes) if resume else ()
    named = None if resume else str(recipe)
    return train(recipe=named, run=Path(run), changes=changes, resume=resume, allow_change=allow, device="cpu", **more)


def entries(run: Run, kind: str) -> list[dict[str, Any]]:
    return [entry for line in run.log.read_text().splitlines() if (entry := json.loads(line))["kind"] == kind]


def poison(monkeypatch: pytest.MonkeyPatch, *updates: int) -> None:
    """NaN in the gradient of these updates, counted from 1."""
    plain, calls = torch.nn.utils.clip_grad_norm_, iter(range(1, 10**6))

    def clip(parameters: Iterator[torch.Tensor], largest: float) -> torch.Tensor:
        weights = list(parameters)
        if next(calls) in updates:
            assert weights[0].grad is not None
            weights[0].grad.fill_(float("nan"))
        return plain(weights, largest)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)


def test_a_run_that_could_not_begin_begins_when_it_can(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tiny_recipe, "training.updates=1", run="first")  # prepares
    plain = write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.parent.name == "run":
            raise OSError(28, "No space left on device", str(path))
        plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            go(tiny_recipe)
    assert entries(go(tiny_recipe), "done")


def test_what_ended_a_run_is_what_must_change(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "validate", lambda *_: {"loss": 1.0, "bleu_ar": 1.0})
    go(tiny_recipe, "training.patience=1", "training.validate_every=1", "training.updates=20")
    go(tiny_recipe, resume=True)
    err = capsys.readouterr().err
    assert "is finished after 2 updates; for more: --set training.patience=N --allow-change training.patience" in err
    assert entries(go(tiny_recipe, "training.patience=0", resume=True), "done")[-1]["step"] == 20


def test_other_circumstances_are_said(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "circumstances", lambda *_: {"precision": "float32", "ranks": 2, "threads": 1})
        go(tiny_recipe, "training.updates=2", "training.precision=float32")
    go(tiny_recipe, "training.updates=4", resume=True)
    err = capsys.readouterr().err
    assert "up to update 2 this run had ranks 2, now it has ranks 1" in err
    assert "had threads" not in err


def test_a_damaged_checkpoint_takes_no_place_from_a_whole_one(tiny_recipe: Path) -> None:
    keep = ("training.keep_last=2", "training.keep_best=0", "training.save_every=1", "training.validate_every=100")
    run = go(tiny_recipe, *keep, "training.updates=4")
    (run.checkpoints / "step-000004" / "model.safetensors").write_bytes(b"")
    (run.checkpoints / "unusable-step-000004").mkdir()  # once before
    go(tiny_recipe, "training.updates=5", "training.save_every=5", resume=True)
    steps = sorted(folder.name for folder in run.checkpoints.glob("*step-*"))
    assert steps == ["step-000003", "step-000005", "unusable-step-000004"]


def test_the_mean_of_the_weights_begins_with_the_first_good_update(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(run: Run) -> str:
        return hashlib.sha256((run.checkpoints / "step-000004" / "optimizer.safetensors").read_bytes()).hexdigest()

    ema = ("training.ema=0.9", "training.updates=4")
    with monkeypatch.context() as patch:
        poison(patch, 1)
        whole = digest(go(tiny_recipe, *ema, run="whole"))
    with monkeypatch.context() as patch:
        poison(patch, 1)
        go(tiny_recipe, "training.ema=0.9", "training.updates=1")
    assert digest(go(tiny_recipe, "training.updates=4", resume=True)) == whole


def test_a_disk_too_full_for_tensorboard_is_no_reason_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def add_scalar(self, *_: Any) -> None:
            raise OSError(28, "No space left on device")

    log = Log(tmp_path / "log.jsonl")
    log.board = Full()
    for step in (1, 2):
        log.write("train", step, loss=1.0)
    log.close()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert capsys.readouterr().err.count("TensorBoard's folder cannot be written") == 1


def test_made_up_text_of_another_seed_is_said(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tiny_recipe, "training.updates=1", run="first")
    go(tiny_recipe, "training.updates=1", seed=5)
    assert "data/tiny.src-tgt is text made from seed 1, the training has seed 5" in capsys.readouterr().err


def test_updates_that_were_skipped_have_no_loss(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 2, 3)
    run = go(tiny_recipe, "training.updates=4", "training.log_every=1")
    found = entries(run, "train")
    assert ["loss" in entry for entry in found] == ["norm" in entry for entry in found] == [True, False, False, True]
    assert all(entry["seconds_per_update"] > 0 for entry in found)


def test_other_heads_would_mean_something_else(tiny_recipe: Path) -> None:
    """Their shapes fit, their weights do not."""
    start = go(tiny_recipe, "training.updates=1", run="first").path
    with pytest.raises(CheckpointError, match=r"trained with model\.heads 2, model\.activation relu") as problem:
        go(tiny_recipe, "model.heads=4", "model.activation=gelu", start=start)
    assert problem.value.hint == "--set model.heads=2 --set model.activation=relu"
    assert not Path("run").exists()


def test_what_run_txt_says_after_a_crash(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = Trainer.update, iter(range(100))

    def update(*arguments: Any) -> None:
        if next(calls) == 5:
            raise RuntimeError("a mistake of ours")
        plain(*arguments)

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(RuntimeError, match="mistake"):
        go(tiny_recipe)
    assert "update 4 of 8" in Path("run/run.txt").read_text()


@pytest.mark.parametrize("memory", [True, False])
def test_a_validation_that_fails_costs_no_update(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    whole = entries(go(tiny_recipe, run="whole"), "valid")

    def fail(*_: Any) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory") if memory else KeyError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "validate", fail)
        with pytest.raises(OutOfMemoryError if memory else KeyError) as problem:
            go(tiny_recipe, "training.save_every=100")
    if memory:
        assert "--set decoding.batch_sentences=32 --allow-change decoding.batch_sentences" in problem.value.hint
    state = json.loads(Path("run/checkpoints/last/state.json").read_text())
    assert (state["step"], state["owed"]) == (4, True)
    again = entries(go(tiny_recipe, resume=True), "valid")
    assert [(entry["step"], entry["loss"]) for entry in again] == [(entry["step"], entry["loss"]) for entry in whole]


def test_fewer_updates_than_were_made_is_an_end(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "validate", lambda *_: {}["nothing"])
        with pytest.raises(KeyError):
            go(tiny_recipe)
    run = go(tiny_recipe, "training.updates=3", resume=True)
    assert [entry["step"] for entry in entries(run, "valid")] == [4]
    assert entries(run, "done")[-1]["step"] == 4


OWN = """
name: own
data: {source: de, target: en, max_tokens: 60}
tokenizer: {kind: words, vocabulary: 60, joint: false}
model: {width: 16, feedforward: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, max_length: 64, tie: target}
training: {updates: 2, batch_tokens: 32, validate_every: 2}
"""


@pytest.fixture
def own(empty_folder: Path) -> Path:
    """A recipe file, and text in the folders `a` and, a little different, `b`."""
    path = empty_folder / "mine.yaml"
    path.write_text(OWN)
    for folder, word in (("a", "ein"), ("b", "kein")):
        Path(folder).mkdir()
        for split in ("train", "valid", "test"):
            for suffix in ("de", "en"):
                Path(folder, f"{split}.{suffix}").write_text(f"{word} satz mit wörtern\n" * 8)
    return path


def test_a_long_pair_of_valid_is_found_at_once(own: Path) -> None:
    for suffix in ("de", "en"):
        Path("a", f"valid.{suffix}").write_text("ein " * 40 + "\n")
    with pytest.raises(
        DataError, match=r"a pair of the valid split has 42 tokens, more than training\.batch_tokens 32"
    ):
        go(own, data_dir=Path("a"))
    assert not Path("run").exists()


def test_other_text_than_was_prepared_is_refused(own: Path) -> None:
    go(own, data_dir=Path("a"), run="first")
    go(own, data_dir=Path("a").resolve(), run="second")
    shutil.copytree("a", "copy")
    go(own, data_dir=Path("copy"), run="third")
    with pytest.raises(DataError, match=r"b/train\.de is not the text that it was made of") as problem:
        go(own, "training.updates=1", "data.max_ratio=3.0", data_dir=Path("b"))
    again = f"janus preprocess --recipe {own} --set training.updates=1 --set data.max_ratio=3.0 --data-dir b --force"
    assert problem.value.hint == f"make it again: {again}"
    with pytest.raises(DataError, match="the data folder nowhere does not exist"):
        go(own, data_dir=Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty/train\.de \(or \.gz\) is not there"):
        go(own, data_dir=Path("empty"))
    shutil.rmtree("a")  # not needed any more
    go(own, run="fourth")


def test_the_hint_makes_what_was_asked_for(own: Path) -> None:
    go(own, data_dir=Path("a"), run="first")
    with pytest.raises(DataError, match=r"tokenizer\.vocabulary was 60, the recipe says 50") as problem:
        go(own, "tokenizer.vocabulary=50")
    first, second = problem.value.hint.removeprefix("make it again: ").split("; it was made with ")
    assert first == f"janus preprocess --recipe {own} --set tokenizer.vocabulary=50 --data-dir a --force"
    assert second == "--set tokenizer.vocabulary=60"
    with pytest.raises(DataError, match="there is no prepared data in elsewhere") as problem:
        go(own, prepared=Path("elsewhere"))
    assert problem.value.hint == f"make it: janus preprocess --recipe {own} --out elsewhere"
