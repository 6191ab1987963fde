"""FAULTS 6, 7, 8, 20, 21: disks that are full, folders that cannot be written, memory that is not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ended, start
from safetensors.torch import load_file

from janus_cli import files
from janus_cli.core.batch import PAD, Batch, collate
from janus_cli.core.knobs import ArObjective, CmlmObjective, JanusObjective, Model
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.errors import CheckpointError, OutOfMemoryError
from janus_cli.runs import Run
from janus_cli.training import checkpoint, log
from janus_cli.training.run import train
from janus_cli.training.trainer import LossModule

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def go(recipe: Path, run: str, *changes: str) -> Run:
    return train(recipe=str(recipe), run=Path(run), changes=changes, device="cpu", objective="janus")


def skipped(run: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "skipped"]


def fits(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Batches of more than `most` sentences do not fit into memory; the list tells of what size each one was."""
    plain, asked = LossModule.forward, []

    def forward(self: LossModule, batch: Batch, *rest: Any) -> Any:
        asked.append(len(batch.ids))
        if len(batch.ids) > most:
            raise RuntimeError(f"{NO_MEMORY} 123 bytes. Error code 12 (Cannot allocate memory)")
        return plain(self, batch, *rest)

    monkeypatch.setattr(LossModule, "forward", forward)
    return asked


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_gradient(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("model.dropout=0.0", "training.updates=4", "training.precision=float32", "training.validate_every=100")
    one = go(tiny_recipe, "one", *common)
    sizes = fits(monkeypatch, 10**6)
    go(tiny_recipe, "sizes", *common)
    largest, batches = max(sizes), len(sizes)
    asked = fits(monkeypatch, largest - 1)
    two = go(tiny_recipe, "two", *common)
    assert len(asked) > batches
    assert largest in asked
    assert skipped("two") == []
    weights, others = (load_file(run.checkpoints / "step-000004" / "model.safetensors") for run in (one, two))
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-5), name


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(f"{NO_MEMORY} 9 bytes")]
)
def test_no_room_for_what_the_optimiser_keeps(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, problem: RuntimeError
) -> None:
    def step(self: torch.optim.AdamW) -> None:
        raise problem

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(OutOfMemoryError, match="update 1: no memory for what the optimiser keeps"):
        go(tiny_recipe, "run", "training.updates=2")
    assert not list(Path("run/checkpoints").glob("step-*"))


def test_what_does_not_fit_in_halves_is_skipped_and_in_the_end_fatal(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, 0)
    with pytest.raises(OutOfMemoryError, match="does not fit into memory") as failed:
        go(tiny_recipe, "run", "training.max_bad_steps=3", "training.updates=20")
    assert failed.value.exit_code == 6
    assert "batch_tokens" in failed.value.hint
    assert [line["in_a_row"] for line in skipped("run")] == [1, 2, 3]
    assert all(line["why"] == "out of memory" and line["sentences"] for line in skipped("run"))


def test_other_errors_are_not_taken_for_memory(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LossModule, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        go(tiny_recipe, "run")


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tiny_recipe: Path) -> None:
    """EFBIG after some bytes, as a full disk leaves a part of a file: older checkpoints stay, nothing half is left."""
    code, said = ended(start(tiny_recipe, "--set", "training.updates=2"))
    assert code == 0, said
    size = (Path("run/checkpoints/last/model.safetensors")).stat().st_size
    limit = f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(\
resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))"
    allow = ("--set", "training.updates=4", "--allow-change", "training.updates")
    code, said = ended(start(tiny_recipe, "--resume", *allow, before=limit))
    assert code == 4, said
    assert "could not be written" in said
    assert "a checkpoint needs about" in said
    assert "Traceback" not in said
    assert [folder.name for folder in checkpoint.steps(Path("run/checkpoints"))] == ["step-000002"]
    assert not list(Path("run/checkpoints").glob(".*"))
    code, said = ended(start(tiny_recipe, "--resume", *allow))
    assert code == 0, said


def test_an_exception_in_the_middle_of_a_save(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tiny_recipe, "run", "training.updates=2")

    plain = files.sync

    def sync(path: Path) -> None:
        if ".step-" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(path)

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(CheckpointError, match="No space left"):
        train(
                run=Path("run"), resume=True, changes=("training.updates=4",), allow_change=("training.updates",),
                device="cpu",
            )  # fmt: skip
    assert checkpoint.newest_valid(Path("run/checkpoints")) is not None
    assert not list(Path("run/checkpoints").glob(".*.tmp"))


def test_a_log_that_cannot_be_written_costs_one_warning(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = log.Log.__init__

    def full(self: log.Log, path: Path | None, tensorboard: Path | None = None) -> None:
        plain(self, None if path is None else Path("/dev/full"), tensorboard)

    monkeypatch.setattr(log.Log, "__init__", full)
    run = go(tiny_recipe, "run")
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 1
    assert "No space left" in said
    assert checkpoint.newest_valid(run.checkpoints) is not None


def test_a_run_directory_that_cannot_be_made_is_refused_before_anything_is_trained(tiny_recipe: Path) -> None:
    Path("file").write_text("mine")
    code, said = ended(start(tiny_recipe, "--run", "file/run"))
    assert code == 2, said
    assert "file" in said
    assert "hint:" in said
    assert "Traceback" not in said
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("objective", ["ar", "cmlm", "janus"])
def test_a_target_without_tokens_and_a_source_of_padding(tiny: Model, objective: str) -> None:
    """Finite outputs and gradients, whatever is empty."""
    torch.manual_seed(0)
    knobs = {"ar": ArObjective(), "cmlm": CmlmObjective(), "janus": JanusObjective()}[objective]
    model = Transformer(tiny, 20, 20, length_head=True)
    batch = collate([[5, 6], [7]], [[], [8, 9]], [0, 1])
    batch = Batch(torch.where(torch.tensor([[True], [False]]), PAD, batch.source), batch.target, batch.ids)
    plan = OBJECTIVES[objective].plan(batch, Draws(1, 0, batch.ids), knobs)
    terms = OBJECTIVES[objective].loss(model, batch, plan, knobs)
    torch.stack([term.weight * term.total * plan.share(term.unit) for term in terms.values()]).sum().backward()
    assert all(torch.isfinite(term.total) for term in terms.values())
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in model.parameters())
