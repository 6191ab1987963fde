"""CMLMC and CeMAT through the commands' own code on the demo's text: they learn, and what they learn is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.core.batch import MASK
from janus_cli.core.generate import Generator
from janus_cli.core.knobs import Decoding
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data import lexicon
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import choose
from janus_cli.decoding.translate import Translator
from janus_cli.device import World
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import validation
from janus_cli.training.checkpoint import load_model, step_of
from janus_cli.training.checkpoint import steps as checkpoint_steps
from janus_cli.training.run import train
from janus_cli.training.trainer import Trainer

# Eight sentences, seen often: enough to be known by heart.
CHANGES = (
    "data.synthetic.train=8", "data.synthetic.valid=8", "data.synthetic.test=8", "tokenizer.vocabulary=120",
    "model.width=64", "model.feedforward=128", "model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1",
    "model.dropout=0.0", "training.updates=150", "training.batch_tokens=1024", "training.learning_rate=6e-3",
    "training.warmup=20", "training.log_every=20", "training.validate_every=150", "training.save_every=60",
    "training.keep_last=20", "training.precision=float32", "objective.label_smoothing=0.0",
)  # fmt: skip


def go(*changes: str, **more: Any) -> Run:
    return train(
        recipe=None if more.get("resume") else "demo",
        run=Path("run"),
        changes=changes,
        device="cpu",
        threads=1,
        **more,
    )


def exact(run: Run, step: int, **options: object) -> float:
    """Share of the training pairs whose target comes out, token for token."""
    prepared = Path(json.loads(run.manifest.read_bytes())["prepared"])
    store, tokenizers = Store.open(prepared, "train"), load_tokenizers(run.path)
    pairs = [store.pair(row) for row in range(len(store))]
    texts = tokenizers.source.decode([source.tolist() for source, _ in pairs])
    plan = choose(recipe_load.load(str(run.recipe)), {"mode": "nar", "iters": 4, "length_beam": 1, **options})
    translator = Translator(Generator(load_model(run.checkpoints / f"step-{step:06d}")), tokenizers, plan)
    found = [result.outputs[0].tokens for window in translator.windows(texts) for result in window]
    return sum(tokens == target.tolist() for tokens, (_, target) in zip(found, pairs, strict=True)) / len(pairs)


@pytest.mark.parametrize(
    ("objective", "changes", "share"),
    [
        ("cmlmc", (), 0.8),
        ("cemat", ("objective.target_most=1.0", "training.updates=250"), 0.6),  # the first pass of decoding hides all
    ],
)
def test_it_learns_and_decodes_what_it_learned(
    empty_folder: Path, objective: str, changes: tuple[str, ...], share: float
) -> None:
    run = go(*CHANGES, *changes, objective=objective)
    log = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    first, *_, last = [line["terms"] for line in log if line["kind"] == "train"]
    for name in OBJECTIVES[objective].terms:
        assert last[name] < (0.6 if name == "ce_encoder" else 0.2) * first[name], name
    steps = [step_of(folder) for folder in checkpoint_steps(run.checkpoints)]
    assert steps[0] == 60
    assert exact(run, steps[0]) <= share / 2
    assert exact(run, steps[-1]) >= share


TINY = (*CHANGES, "model.width=16", "training.updates=4", "training.save_every=2", "training.warmup=2")


def test_cmlmc_rewrites_everything_also_in_validation(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    plain = validation.generate

    def spied(model: Any, source: Any, mode: Any, options: Decoding, ar_stream: Any) -> Any:
        seen.append(options.update)
        return plain(model, source, mode, options, ar_stream)

    monkeypatch.setattr(validation, "generate", spied)
    run = go(*TINY, "training.updates=2", objective="cmlmc")
    assert set(seen) == {"all"}
    recipe = recipe_load.load(str(run.recipe))
    assert choose(recipe, {"iters": 4}).label == "nar4.lb3.all"
    assert choose(recipe, {"iters": 4, "update": "hidden"}).label == "nar4.lb3"
    with pytest.raises(UsageError, match="cannot decode autoregressively"):
        choose(recipe, {"mode": "ar"})


def test_cemat_switches_words_from_the_lexicon_that_its_run_keeps(empty_folder: Path) -> None:
    """It is made when a run begins, also when that was stopped before it had saved; going on needs it."""
    run = go(*TINY, objective="cemat")
    recipe, prepared = recipe_load.load(str(run.recipe)), Path(json.loads(run.manifest.read_bytes())["prepared"])
    data = open_prepared(recipe, prepared)
    lexicon.attach(recipe, data, run.lexicon)
    model = load_model(run.checkpoints / "last")
    trainer = Trainer(recipe, model, data, World(0, 1, torch.device("cpu")), run)
    ((batch, plan, _),) = next(trainer.windows()).micros
    assert plan.source is not None
    read = plan.source.tokens
    switched = (read != batch.source) & (read != MASK)
    assert switched.any()
    assert data.train.lexicon is not None
    for place in switched.nonzero():
        x, y = int(batch.source[*place]), int(read[*place])
        assert y in data.train.lexicon[x]

    before = run.lexicon.read_bytes()
    run.lexicon.unlink()
    more = {"resume": True, "allow_change": ("training.updates",)}
    with pytest.raises(CheckpointError, match=r"lexicon\.json does not exist"):
        go("training.updates=6", **more)
    shutil.rmtree(run.checkpoints)
    go("training.updates=6", **more)
    assert run.lexicon.read_bytes() == before
    go(*TINY, objective="cmlm", force=True)
    assert not run.lexicon.exists()
