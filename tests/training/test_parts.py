"""A batch that a CPU takes in parts costs and teaches what it does whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from janus_cli import recipe_load
from janus_cli.core.batch import Batch
from janus_cli.training.run import train
from janus_cli.training.trainer import micro_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", ["ar", "janus", "cmlmc", "bang"])
def test_weights_are_the_same_up_to_rounding(tiny_recipe: Path, objective: str) -> None:
    found = []
    for most in (0, 40):
        changes = ("model.dropout=0.0", "training.precision=float32", f"training.cpu_slots={most}")
        run = train(
            recipe=str(tiny_recipe), run=Path(f"slots{most}"), objective=objective, device="cpu", changes=changes
        )
        found.append(load_file(run.checkpoints / "step-000008" / "model.safetensors"))
    for name, weight in found[0].items():
        assert torch.allclose(weight, found[1][name], atol=1e-5), name
    assert any(not torch.equal(weight, found[1][name]) for name, weight in found[0].items()), "nothing was parted"


def test_parts_hold_every_sentence_once(tiny_recipe: Path, ragged: Batch) -> None:
    def parts(most: int, device: torch.device = CPU) -> list[Batch]:
        recipe = recipe_load.load(str(tiny_recipe), [f"training.cpu_slots={most}"], "ar")
        return [batch for batch, _, _ in micro_batches(ragged, 1.0, recipe, 0, device)]

    assert [part.ids.tolist() for part in parts(15)] == [[0, 1, 2]]  # 3 sentences of 5 slots
    assert [part.ids.tolist() for part in parts(10)] == [[0, 1], [2]]
    assert [part.ids.tolist() for part in parts(1)] == [[0], [1], [2]]
    assert [part.ids.tolist() for part in parts(0)] == [[0, 1, 2]]
    assert [part.ids.tolist() for part in parts(1, torch.device("cuda"))] == [[0, 1, 2]]
