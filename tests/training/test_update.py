"""What an update is made with: the optimiser's numbers, clipping, the knobs in force, and a training's randomness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.core.batch import Batch
from janus_cli.core.knobs import Model
from janus_cli.core.model import Transformer
from janus_cli.core.stream import content
from janus_cli.training.trainer import LossModule, dropout_seed, planned
from tests.faults.processes import go

SCHEDULE = [0.25, 0.5, 0.75, 1.0, (4 / 5) ** 0.5, (4 / 6) ** 0.5]  # warm-up over 4 updates, then 1 / sqrt


def test_the_optimiser_gets_what_the_recipe_says(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, groups, norms = torch.optim.AdamW.step, list[dict[str, Any]](), list[float]()

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        (group,) = self.param_groups
        groups.append({name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
        norms.append(float(torch.cat([weight.grad.flatten() for weight in group["params"]]).norm()))
        return plain(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    knobs = ("learning_rate=0.002", "beta1=0.8", "beta2=0.9", "epsilon=1e-7", "weight_decay=0.03", "updates=6")
    go(tiny_recipe, "run", *(f"training.{knob}" for knob in knobs))
    rest = {"betas": (0.8, 0.9), "eps": 1e-7, "weight_decay": 0.03}
    assert groups == [{"lr": pytest.approx(0.002 * part), **rest} for part in SCHEDULE]
    assert min(norms) > 0.05
    norms.clear()
    go(tiny_recipe, "clipped", "training.clip=0.05", "training.updates=3")
    assert norms == [pytest.approx(0.05, rel=1e-3)] * 3


def test_the_kls_rise_while_a_training_goes_on(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = LossModule.forward, list[tuple[float, float]]()

    def forward(self: LossModule, batch: Batch, plan: Any, knobs: Any) -> Any:
        seen.append((knobs.kl_ar_aux, knobs.kl_nar_aux))
        return plain(self, batch, plan, knobs)

    monkeypatch.setattr(LossModule, "forward", forward)
    knobs = ("kl_ar_aux=2", "kl_nar_aux=1", "kl_start=2", "kl_warmup=2")
    go(tiny_recipe, "run", *(f"objective.{knob}" for knob in knobs), "training.updates=6")
    assert seen == [(0, 0), (0, 0), (1, 0.5), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(
    ("knob", "elsewhere"),
    [("dropout", "layers"), ("dropout", "embeddings"), ("attention_dropout", ""), ("activation_dropout", "")],
)
def test_each_dropout_acts_and_repeats_with_its_seed(tiny: Model, ragged: Batch, knob: str, elsewhere: str) -> None:
    """`dropout` in the embeddings and in the layers, each without the other."""
    model = Transformer(replace(tiny, **{knob: 0.5}), 20, 20, length_head=False)
    if elsewhere == "embeddings":
        model.knobs = tiny
    if elsewhere == "layers":
        for layer in (*model.encoder, *model.decoder):
            layer.dropout = 0.0

    def states(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.decode(content(ragged.target), model.encode(ragged.source, ragged.source_real))

    model.train()
    assert torch.equal(states(1), states(1))
    assert not torch.allclose(states(1), states(2))
    model.eval()
    assert torch.equal(states(1), states(2))


def test_no_two_updates_or_ranks_share_their_dropout() -> None:
    seeds = {dropout_seed(seed, step, rank) for seed in (1, 2) for step in range(50) for rank in range(8)}
    assert len(seeds) == 2 * 50 * 8


def test_each_epoch_hides_other_tokens(tiny_recipe: Path, ragged: Batch) -> None:
    recipe = recipe_load.load(str(tiny_recipe))
    first, again, second = (planned(ragged, recipe, epoch).streams["nar_aux"].tokens for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape != second.shape or not torch.equal(first, second)
