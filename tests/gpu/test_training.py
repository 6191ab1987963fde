"""Trainings on a GPU: they learn, stop, go on to the bit, and survive what does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli.training.trainer import Trainer
from tests.faults import processes
from tests.faults.processes import digest, entries

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
go = partial(processes.go, device="cuda")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_that_stopped_goes_on_to_the_bit(tiny_recipe: Path, precision: str) -> None:
    chosen = f"training.precision={precision}"
    whole = go(tiny_recipe, "whole", chosen, "training.updates=12")
    go(tiny_recipe, "parts", chosen, "training.updates=5")
    parts = go(tiny_recipe, "parts", "training.updates=12", resume=True)
    assert digest(parts / "step-000012") == digest(whole / "step-000012")


def test_the_loss_falls(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", "training.updates=200", "training.log_every=20", "training.learning_rate=3e-3")
    losses = [line["loss"] for line in entries(Path("run/log.jsonl"), "train")]
    assert losses[-1] < 0.95 * losses[0]


def test_what_does_not_fit_is_taken_in_halves(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sizes = Trainer.backward, []

    def crowded(self: Trainer, micros: Any, counts: Any) -> Any:
        sizes.append(len(micros))
        if len(micros) == 1:
            torch.empty(1 << 45, dtype=torch.uint8, device="cuda")  # 32 TiB
        return plain(self, micros, counts)

    monkeypatch.setattr(Trainer, "backward", crowded)
    go(tiny_recipe, "run", "training.updates=2")
    assert sizes == [1, 2, 1, 2]
