"""Layer-wise learning rates and frozen parts: which weights move, and how far."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from janus_cli import recipe_load
from janus_cli.core.symbols import MASK
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import size
from janus_cli.training.average import running_mean
from janus_cli.training.inspect import describe
from janus_cli.training.optimizer import FRESH_MASK, Shares
from janus_cli.training.trainer import Trainer
from tests.faults.processes import digest, entries, go, make_trainer

# Of Adam's first step, whose size is the learning rate itself; nothing else moves a weight.
RATE = 0.25 * 1e-3  # of the first of four updates of the warm-up
FIRST = ("training.updates=1", "training.weight_decay=0.0", "training.epsilon=1e-30", "training.precision=float32")
DEEP = ("model.encoder_layers=3", "model.decoder_layers=2", "model.positions=learned")
FROZEN = "training.freeze=[embeddings, encoder]"
TABLE = "target_table.weight"


def weights(root: str) -> dict[str, Tensor]:
    return load_file(f"{root}/model.safetensors")


def farthest(before: Tensor, after: Tensor) -> float:
    return float((after - before).abs().max())


def moved(recipe: Path, *changes: str, objective: str = "janus") -> dict[str, float]:
    """How far the first update moves the farthest number of each weight, over the learning rate."""
    trainer = make_trainer(recipe, *FIRST, *changes, objective=objective)
    before = {name: weight.clone() for name, weight in trainer.model.weights().items()}
    trainer.update(next(trainer.windows()))
    return {name: farthest(before[name], weight) / RATE for name, weight in trainer.model.weights().items()}


def test_a_layer_has_the_decay_times_the_rate_of_the_layer_above(tiny_recipe: Path) -> None:
    expected = {
        r"decoder\.1": 0.5, r"decoder\.0": 0.25, r"encoder\.2": 0.5, r"encoder\.1": 0.25, r"encoder\.0": 0.125,
        "(source|target)_(table|positions|norm)": 0.0625, "(en|de)coder_norm|output_table|length_table": 1.0,
    }  # fmt: skip
    knobs = ("training.layer_decay=0.5", "model.embedding_norm=true", *DEEP)
    for tie in ("all", "none"):
        for name, step in moved(tiny_recipe, f"model.tie={tie}", *knobs).items():
            (share,) = (share for pattern, share in expected.items() if re.match(pattern, name))
            assert step == pytest.approx(share, rel=0.02), name


def test_frozen_parts_stay_and_the_rest_moves(tiny_recipe: Path) -> None:
    for part, names in (
        ("embeddings", r"(source|target)_"),
        ("encoder", r"encoder(\.|_norm)"),
        ("decoder", r"decoder(\.|_norm)"),
    ):
        steps = moved(tiny_recipe, f"training.freeze=[{part}]", "training.weight_decay=0.1", *DEEP)
        for name, step in steps.items():
            assert (step == 0) == bool(re.match(names, name)), (part, name)


def test_the_norm_that_is_clipped_and_logged_is_that_of_what_is_trained(tiny_recipe: Path) -> None:
    trainer = make_trainer(tiny_recipe, FROZEN, "training.clip=0.05", "training.precision=float32")
    trainer.update(next(trainer.windows()))
    gradients = [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
    assert float(torch.cat([gradient.flatten() for gradient in gradients]).norm()) == pytest.approx(0.05, rel=1e-3)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    assert trained == {name for name in trainer.model.weights() if re.match("decoder|length_table", name)}


def test_of_frozen_embeddings_with_a_fresh_mask_only_its_row_has_a_gradient(tiny_recipe: Path) -> None:
    made = make_trainer(tiny_recipe, "training.clip=0.05", "training.precision=float32")
    knobs = replace(made.knobs, freeze=("embeddings",))
    recipe, shares = replace(made.recipe, training=knobs), Shares.of(made.model, knobs, [FRESH_MASK])
    trainer = Trainer(recipe, made.model, made.prepared, made.world, made.run, shares)
    trainer.update(next(trainer.windows()))
    gradient = trainer.model.target_table.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().tolist() == [[MASK]]


def from_ar(recipe: Path, *changes: str) -> tuple[Tensor, Tensor]:
    """The embeddings of an AR model, and after an update of a JANUS model that begins with them."""
    go(recipe, "ar", "training.updates=2", objective="ar")
    root = go(recipe, "new", *FIRST, *changes, objective="janus", start=Path("ar"))
    return weights("ar/checkpoints/last")[TABLE], weights(str(root / "last"))[TABLE]


@pytest.mark.parametrize("freeze", [(), ("training.freeze=[embeddings]",)])
def test_a_mask_that_was_never_read_learns_at_the_full_rate(tiny_recipe: Path, freeze: tuple[str, ...]) -> None:
    """An AR model has not trained this row of its embeddings."""
    decay = ("training.layer_decay=0.5", "training.weight_decay=0.1")
    before, after = from_ar(tiny_recipe, *decay, *freeze)
    grown = before[MASK] * (1 - 0.1 * RATE)
    assert (after[MASK] - grown).abs().tolist() == pytest.approx([RATE] * len(grown), rel=0.02)
    others = [row for row in range(len(before)) if row != MASK]
    assert farthest(before[others], after[others]) == pytest.approx(0 if freeze else RATE / 4, rel=0.02)


def test_a_mask_that_was_trained_is_frozen_with_the_others(tiny_recipe: Path) -> None:
    go(tiny_recipe, "old", "training.updates=1", objective="cmlm")
    root = go(tiny_recipe, "new", FROZEN, "training.updates=2", objective="janus", start=Path("old"))
    assert torch.equal(weights(str(root / "last"))[TABLE], weights("old/checkpoints/last")[TABLE])


@pytest.mark.parametrize("freeze", ["[]", "[embeddings, encoder]"])
def test_resume_equals_not_stopping(tiny_recipe: Path, freeze: str) -> None:
    """Also of the fresh MASK, with clipping and with a mean of the weights."""
    go(tiny_recipe, "ar", "training.updates=2", objective="ar")
    knobs = ("training.layer_decay=0.6", f"training.freeze={freeze}", "training.ema=0.5", "training.clip=0.1")
    start = {"objective": "janus", "start": Path("ar")}
    whole = go(tiny_recipe, "whole", *knobs, "training.updates=5", **start)
    go(tiny_recipe, "run", *knobs, "training.updates=2", **start)
    parts = go(tiny_recipe, "run", "training.updates=5", resume=True)
    assert digest(whole / "step-000005") == digest(parts / "step-000005")


def test_the_mean_of_frozen_weights_is_these_weights(tiny_recipe: Path) -> None:
    root = go(tiny_recipe, "run", FROZEN, "training.ema=0.5", "training.updates=3")
    mean, last = (weights(str(folder)) for folder in (running_mean(Run(Path("run")), force=False)[0], root / "last"))
    assert torch.equal(mean[TABLE], last[TABLE])
    assert not torch.equal(mean["length_table"], last["length_table"])


def test_a_resumed_training_keeps_its_knobs_unless_they_may_change(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", FROZEN, "training.layer_decay=0.9", "training.updates=2")
    for change in ("training.freeze=[encoder]", "training.layer_decay=1.0"):
        with pytest.raises(CheckpointError, match=change.partition("=")[0]):
            go(tiny_recipe, "run", change, "training.updates=4", resume=True, allow_change=("training.updates",))
    before = weights("run/checkpoints/last")
    after = weights(
        str(go(tiny_recipe, "run", "training.freeze=[encoder]", "training.updates=4", resume=True) / "last")
    )
    assert not torch.equal(before[TABLE], after[TABLE])
    assert torch.equal(before["encoder.0.feedforward.up.weight"], after["encoder.0.feedforward.up.weight"])


def test_what_is_frozen_is_said(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from_ar(tiny_recipe, FROZEN, "training.layer_decay=0.5")
    found = weights("new/checkpoints/last")
    frozen = sum(weight.numel() for name, weight in found.items() if re.match("(source|target)_|encoder", name))
    frozen -= found[TABLE].shape[1]  # the MASK
    said = capsys.readouterr().err, *(describe(Path(place))["fine-tuning"] for place in ("new", "new/checkpoints/last"))
    for words in said:
        assert f"{frozen:,} of them frozen" in words
        assert "0.0005 " in words, "of the decoder's layer"
    assert entries(Path("new/log.jsonl"), "start")[0]["frozen"] == frozen


def test_something_must_be_left_to_train(tiny_recipe: Path) -> None:
    everything = "training.freeze=[embeddings, encoder, decoder]"
    with pytest.raises(UsageError, match=r"training\.freeze"):
        go(tiny_recipe, "run", everything, objective="ar")
    assert not Path("run").exists()
    steps = moved(tiny_recipe, everything)
    assert {name for name, step in steps.items() if step} == {"length_table"}


def test_frozen_weights_need_no_memory_for_their_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = recipe_load.load("demo").model
    counts, frozen = size.parts(model, (1000, 1000), lengths=True), {"embeddings", "encoder"}
    enough = 4 * counts.total() + 12 * (counts.total() - sum(counts[part] for part in frozen))
    monkeypatch.setattr(size, "usable_memory", lambda: enough)
    size.must_fit(model, (1000, 1000), lengths=True, frozen=frozen)
    monkeypatch.setattr(size, "usable_memory", lambda: enough - 1)
    with pytest.raises(Exception, match="memory"):
        size.must_fit(model, (1000, 1000), lengths=True, frozen=frozen)
