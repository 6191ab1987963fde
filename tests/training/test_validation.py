"""What a validation computes, which of two is the better one, and what hangs on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from janus_cli.core.batch import EOS, PAD
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.search import Output
from janus_cli.data.batching import load_batch
from janus_cli.data.filters import with_losses
from janus_cli.errors import OutOfMemoryError
from janus_cli.training import trainer as trainer_module
from janus_cli.training import validation
from janus_cli.training.checkpoint import better
from janus_cli.training.trainer import Trainer
from tests.faults.processes import entries, go, make_trainer, state

LOG = Path("run/log.jsonl")
EACH = ("training.validate_every=1", "training.save_every=1")


@pytest.fixture
def trainer(tiny_recipe: Path) -> Trainer:
    knobs = ("training.batch_tokens=64", "decoding.batch_sentences=3", "training.valid_sentences=8")
    return make_trainer(tiny_recipe, *knobs)


def test_bleu_is_that_of_each_sentence_with_its_own_reference(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = trainer.prepared.valid
    whole = load_batch(store, np.arange(len(store)))
    gold = {
        tuple(source[source != PAD].tolist()): [int(token) for token in target[1:] if token not in (PAD, EOS)]
        for source, target in zip(whole.source, whole.target, strict=True)
    }
    assert len(gold) == len(store) == 8

    def generate(_: Transformer, source: Tensor, side: str, *__: Any) -> list[list[Output]]:
        rows = [gold[tuple(row[row != PAD].tolist())] for row in source]
        return [[Output(tokens if side == "ar" else tokens[1:], [], 0.0, 1)] for tokens in rows]

    monkeypatch.setattr(validation, "generate", generate)
    trainer.validate()
    assert trainer.metrics["bleu_ar"] == pytest.approx(100)
    assert 0 < trainer.metrics["bleu_nar"] < 99
    assert trainer.metrics["bleu"] == pytest.approx((100 + trainer.metrics["bleu_nar"]) / 2)


def test_terms_are_means_over_the_split_without_smoothing(trainer: Trainer) -> None:
    trainer.validate()
    metrics, store, model = trainer.metrics, trainer.prepared.valid, trainer.model
    knobs = replace(trainer.recipe.objective, label_smoothing=0.0)
    batch, objective = load_batch(store, np.arange(len(store))), trainer_module.OBJECTIVES["janus"]
    plan = objective.plan(batch, Draws(trainer.recipe.seed, -1, batch.ids), knobs)
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


@pytest.mark.parametrize(
    ("objective", "means"), [("ar", [30, 10, 20, 40]), ("cmlm", [30, 10, 20, 40]), ("janus", [20, 30])]
)
def test_bleu_as_best_metric_is_the_mean_of_the_sides(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, objective: str, means: list[float]
) -> None:
    """For JANUS update 2 is the better one left to right, update 4 the better one by the mean."""
    scores = iter([30.0, 10.0, 20.0, 40.0])
    monkeypatch.setattr(validation, "corpus_bleu", lambda *_: next(scores))
    changes = ("training.best_metric=bleu", f"training.validate_every={4 // len(means)}", "training.updates=4")
    last = go(tiny_recipe, "run", *changes, objective=objective) / "last"
    assert [line["bleu"] for line in entries(LOG, "valid")] == means
    assert (state(last)["best"], state(last)["best_step"]) == (max(means), 4)


def scores(monkeypatch: pytest.MonkeyPatch, pairs: Iterable[tuple[float, float]]) -> None:
    """The next validations find these losses and BLEUs."""
    found = iter(pairs)
    monkeypatch.setattr(trainer_module, "validate", lambda *_: dict(zip(("loss", "bleu_ar"), next(found), strict=True)))


@pytest.mark.parametrize(
    ("metric", "pairs", "best", "best_step"),
    [
        ("loss", [(3, 1), (2, 1), (4, 9), (5, 9)], 2.0, 2),
        ("auto", [(1, 1), (1, 3), (1, 2), (1, 3)], 3.0, 2),  # BLEU; a tie is no progress
    ],
)
def test_training_stops_early_and_keeps_the_best_checkpoint(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    metric: str, pairs: list[tuple[float, float]], best: float, best_step: int,
) -> None:  # fmt: skip
    scores(monkeypatch, pairs)
    keep = ("training.keep_last=1", "training.keep_best=1", "training.patience=2", f"training.best_metric={metric}")
    root = go(tiny_recipe, "run", *EACH, *keep, "training.updates=50")
    assert (root / "best").readlink().name == f"step-{best_step:06d}"
    assert sorted(folder.name for folder in root.glob("step-*")) == ["step-000002", "step-000004"]
    assert (state(root / "last")["best"], state(root / "last")["since_best"]) == (best, 2)
    assert entries(LOG)[-1]["kind"] == "done"
    go(tiny_recipe, "run", resume=True)
    assert "is finished after 4 updates; for more: --set training.patience=N" in capsys.readouterr().err
    scores(monkeypatch, [(9.0, 0.0)] * 2)
    root = go(tiny_recipe, "run", "training.patience=0", "training.updates=6", resume=True)
    assert state(root / "last")["step"] == 6


def test_another_metric_begins_with_the_checkpoints_that_are_there(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLEU 20 is no loss: compared with it, the first loss would be better for ever, and the other way none."""
    scores(monkeypatch, [(3.0, 10.0), (4.0, 20.0), (5.0, 15.0), (3.5, 30.0), (2.5, 5.0), (9.0, 25.0)])
    go(tiny_recipe, "run", *EACH, "training.updates=3", "training.best_metric=bleu_ar", "training.patience=2")
    for metric, updates, best_step, best, since in (("loss", 5, 5, 2.5, 0), ("bleu_ar", 6, 4, 30.0, 1)):
        changes = (f"training.best_metric={metric}", f"training.updates={updates}")
        root = go(tiny_recipe, "run", *changes, resume=True)
        assert (root / "best").readlink().name == f"step-{best_step:06d}"
        assert (state(root / "last")["best"], state(root / "last")["since_best"]) == (best, since)


@pytest.mark.parametrize(
    ("problem", "raised"),
    [(torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError), (KeyError("a mistake of ours"), KeyError)],
)
def test_a_validation_that_fails_costs_no_update(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, raised: type[Exception]
) -> None:
    def fail(*_: Any) -> dict[str, float]:
        raise problem

    go(tiny_recipe, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "validate", fail)
        with pytest.raises(raised) as failed:
            go(tiny_recipe, "run", "training.save_every=100")
    if isinstance(failed.value, OutOfMemoryError):
        assert "--set decoding.batch_sentences=32 --allow-change decoding.batch_sentences" in failed.value.hint
    last = state(Path("run/checkpoints/last"))
    assert (last["step"], last["owed"]) == (4, True)
    go(tiny_recipe, "run", "training.updates=3", resume=True)  # fewer than were made is an end, after the validation
    assert [(line["kind"], line["step"]) for line in entries(LOG)[-3:]] == [("valid", 4), ("saved", 4), ("done", 4)]
    go(tiny_recipe, "run", "training.updates=8", resume=True)
    loss = [[(line["step"], line["loss"]) for line in entries(Path(run), "valid")] for run in ("whole/log.jsonl", LOG)]
    assert loss[0] == loss[1]


def test_pairs_too_long_for_losses_are_decoded_and_scored_all_the_same(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model here copies its reference, so that BLEU is 100 only over all lines."""
    trainer = make_trainer(tiny_recipe, "training.valid_sentences=8", "data.max_target_tokens=27")
    folder, tokenizers = trainer.prepared.folder, trainer.prepared.tokenizers
    sources, targets = (
        (folder / f"valid.{side}.txt").read_text("utf-8").removesuffix("\n").split("\n")
        for side in ("source", "target")
    )
    losses = with_losses(trainer.prepared.valid, trainer.recipe.data)
    assert 0 < losses.sum() < len(losses) == len(sources) == 8
    gold = dict(zip(map(tuple, tokenizers.source.encode(sources)), tokenizers.target.encode(targets), strict=True))

    def generate(_: Transformer, source: Tensor, *__: Any) -> list[list[Output]]:
        rows = [tuple(row[(row != PAD) & (row != EOS)].tolist()) for row in source]
        return [[Output(gold[row], [], 0.0, 1)] for row in rows]

    monkeypatch.setattr(validation, "generate", generate)
    trainer.validate()
    assert trainer.metrics["bleu_ar"] == pytest.approx(100)
    few = trainer.prepared.valid.only(losses)
    assert few.lengths()[1].max() <= 27 < trainer.prepared.valid.lengths()[1].max()
    assert [few.pair(0)[1].tolist()] == [gold[tuple(few.pair(0)[0].tolist())]]
    gold = {row: target[:1] if len(target) > 27 else target for row, target in gold.items()}
    trainer.validate()
    assert trainer.metrics["bleu_ar"] < 90
