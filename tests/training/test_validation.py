"""What a validation computes, and which of two is the better one."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from janus_cli import recipe_load
from janus_cli.core.batch import EOS, PAD
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.search import Output
from janus_cli.data.batching import load_batch
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import Prepared, open_prepared
from janus_cli.device import StopSignal
from janus_cli.recipe import Recipe
from janus_cli.training import trainer, validation
from janus_cli.training.checkpoint import better, build_model
from janus_cli.training.validation import validate
from tests.faults.processes import go

CPU = torch.device("cpu")


@pytest.fixture
def made(tiny_recipe: Path) -> tuple[Recipe, Prepared, Transformer]:
    changes = ["training.batch_tokens=64", "decoding.batch_sentences=3", "training.valid_sentences=8"]
    recipe = recipe_load.load(str(tiny_recipe), changes)
    prepare(recipe, Path("data/tiny.src-tgt"), workers=1, force=False)
    prepared = open_prepared(recipe, Path("data/tiny.src-tgt"))
    torch.manual_seed(1)
    model = build_model(recipe, prepared.train.source_vocabulary, prepared.train.target_vocabulary)
    return recipe, prepared, model


def test_bleu_is_that_of_each_sentence_with_its_own_reference(
    made: tuple[Recipe, Prepared, Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, prepared, model = made
    whole = load_batch(prepared.valid, np.arange(len(prepared.valid)))
    gold = {
        tuple(source[source != PAD].tolist()): [int(token) for token in target[1:] if token not in (PAD, EOS)]
        for source, target in zip(whole.source, whole.target, strict=True)
    }
    assert len(gold) == len(prepared.valid) == 8

    def generate(_: Transformer, source: Tensor, side: str, *__: Any) -> list[list[Output]]:
        found = [gold[tuple(row[row != PAD].tolist())] for row in source]
        return [[Output(tokens if side == "ar" else tokens[1:], [], 0.0, 1)] for tokens in found]

    monkeypatch.setattr(validation, "generate", generate)
    with StopSignal() as stop:
        metrics = validate(model, recipe, prepared, CPU, stop)
    assert metrics["bleu_ar"] == pytest.approx(100)
    assert 0 < metrics["bleu_nar"] < 99
    assert metrics["bleu"] == pytest.approx((100 + metrics["bleu_nar"]) / 2)


def test_terms_are_means_over_the_split_without_smoothing(made: tuple[Recipe, Prepared, Transformer]) -> None:
    recipe, prepared, model = made
    with StopSignal() as stop:
        metrics = validate(model, recipe, prepared, CPU, stop)
    knobs = replace(recipe.objective, label_smoothing=0.0)
    batch = load_batch(prepared.valid, np.arange(len(prepared.valid)))
    objective = OBJECTIVES["janus"]
    plan = objective.plan(batch, Draws(recipe.seed, -1, batch.ids), knobs)
    model.eval()
    with torch.no_grad():
        terms = objective.loss(model, batch, plan, knobs)
    expected = {name: float(term.total) / plan.counts[term.unit] for name, term in terms.items()}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert metrics["loss"] == pytest.approx(sum(terms[name].weight * value for name, value in expected.items()))


@pytest.mark.parametrize(
    ("metric", "value", "than", "is_better"),
    [
        ("bleu_ar", 2.0, 1.0, True), ("bleu", 1.0, 2.0, False), ("loss", 1.0, 2.0, True), ("ce_nar", 2.0, 1.0, False),
        ("kl_ar_aux", 1.0, 2.0, True), ("length", 1.0, 2.0, True), ("loss", 1.0, 1.0, False), ("bleu", 1.0, 1.0, False),
        ("loss", 5.0, None, True), ("loss", nan, None, False), ("loss", nan, 1.0, False), ("bleu_ar", nan, 1.0, False),
    ],
)  # fmt: skip
def test_losses_are_better_where_they_are_smaller(
    metric: str, value: float, than: float | None, is_better: bool
) -> None:
    assert better(metric, value, than) == is_better


def scores(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[float, float]) -> None:
    """The next validations find these losses and BLEUs."""
    found = iter(pairs)

    def validated(*_: Any) -> dict[str, float]:
        loss, bleu = next(found)
        return {"loss": loss, "bleu_ar": bleu}

    monkeypatch.setattr(trainer, "validate", validated)


def state(checkpoints: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoints / "last" / "state.json").read_bytes())
    return found


EACH = ("training.validate_every=1", "training.save_every=1")


def test_the_checkpoint_of_the_lowest_loss_is_kept(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores(monkeypatch, (3.0, 1.0), (2.0, 1.0), (4.0, 9.0), (5.0, 9.0))
    checkpoints = go(
        tiny_recipe,
        "run",
        *EACH,
        "training.updates=4",
        "training.keep_last=1",
        "training.keep_best=1",
        "training.best_metric=loss",
    )
    assert (checkpoints / "best").readlink().name == "step-000002"
    assert sorted(folder.name for folder in checkpoints.glob("step-*")) == ["step-000002", "step-000004"]
    assert (state(checkpoints)["best"], state(checkpoints)["since_best"]) == (2.0, 2)


def test_another_metric_begins_with_the_checkpoints_that_are_there(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLEU 20 is no loss: compared with it, the first loss would be better for ever, and the other way none."""
    scores(monkeypatch, (3.0, 10.0), (4.0, 20.0), (5.0, 15.0))
    go(tiny_recipe, "run", *EACH, "training.updates=3", "training.best_metric=bleu_ar", "training.patience=2")
    allow = ("training.best_metric", "training.updates")
    scores(monkeypatch, (3.5, 30.0), (2.5, 5.0))
    changes = ("training.best_metric=loss", "training.updates=5")
    checkpoints = go(tiny_recipe, "run", *changes, resume=True, allow=allow)
    assert (checkpoints / "best").readlink().name == "step-000005"
    assert (state(checkpoints)["best"], state(checkpoints)["since_best"]) == (2.5, 0)
    scores(monkeypatch, (9.0, 25.0))
    changes = ("training.best_metric=bleu_ar", "training.updates=6")
    checkpoints = go(tiny_recipe, "run", *changes, resume=True, allow=allow)
    assert (checkpoints / "best").readlink().name == "step-000004"
    assert (state(checkpoints)["best"], state(checkpoints)["since_best"]) == (30.0, 1)
