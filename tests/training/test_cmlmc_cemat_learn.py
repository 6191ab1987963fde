"""CMLMC and CeMAT through the commands' own code on the demo's text: they learn, and what they learn is decoded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.core.batch import MASK
from janus_cli.core.knobs import Decoding
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data import lexicon
from janus_cli.data.store import Store
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import choose
from janus_cli.decoding.translate import Translator
from janus_cli.engines.engine import Engine
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import validation
from janus_cli.training.checkpoint import step_of
from janus_cli.training.checkpoint import steps as checkpoint_steps
from janus_cli.training.model import load_model
from tests.faults.processes import entries, go, make_trainer

RUN = Run(Path("run"))
# Eight sentences, seen often: enough to be known by heart.
CHANGES = (
    "data.synthetic.train=8", "data.synthetic.valid=8", "data.synthetic.test=8", "tokenizer.vocabulary=120",
    "model.width=64", "model.feedforward=128", "model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1",
    "model.dropout=0.0", "training.updates=150", "training.batch_tokens=1024", "training.learning_rate=6e-3",
    "training.warmup=20", "training.log_every=20", "training.validate_every=150", "training.save_every=60",
    "training.keep_last=20", "training.precision=float32", "objective.label_smoothing=0.0",
)  # fmt: skip


def exact(step: int) -> float:
    """Share of the training pairs whose target comes out, token for token."""
    store, tokenizers = Store.open(Path(RUN.read_manifest()["prepared"]), "train"), load_tokenizers(RUN.path)
    pairs = [store.pair(row) for row in range(len(store))]
    texts = tokenizers.source.decode([source.tolist() for source, _ in pairs])
    plan = choose(recipe_load.load(str(RUN.recipe)), {"mode": "nar", "iters": 4, "length_beam": 1})
    translator = Translator(Engine(load_model(RUN.checkpoints / f"step-{step:06d}")), tokenizers, plan)
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
    go(Path("demo"), "run", *CHANGES, *changes, objective=objective)
    first, *_, last = [line["terms"] for line in entries(RUN.log, "train")]
    for name in OBJECTIVES[objective].terms:
        assert last[name] < (0.6 if name == "ce_encoder" else 0.2) * first[name], name
    steps = [step_of(folder) for folder in checkpoint_steps(RUN.checkpoints)]
    assert steps[0] == 60
    assert exact(steps[0]) <= share / 2
    assert exact(steps[-1]) >= share


TINY = (*CHANGES, "model.width=16", "training.updates=4", "training.save_every=2", "training.warmup=2")


def test_cmlmc_rewrites_everything_also_in_validation(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    plain = validation.generate

    def spied(model: Any, source: Any, mode: Any, options: Decoding, ar_stream: Any) -> Any:
        seen.append(options.update)
        return plain(model, source, mode, options, ar_stream)

    monkeypatch.setattr(validation, "generate", spied)
    go(Path("demo"), "run", *TINY, "training.updates=2", objective="cmlmc")
    assert set(seen) == {"all"}
    recipe = recipe_load.load(str(RUN.recipe))
    assert choose(recipe, {"iters": 4}).label == "nar4.lb3.all"
    assert choose(recipe, {"iters": 4, "update": "hidden"}).label == "nar4.lb3"
    with pytest.raises(UsageError, match="cannot decode autoregressively"):
        choose(recipe, {"mode": "ar"})


def test_cemat_switches_words_from_the_lexicon_that_its_run_keeps(empty_folder: Path) -> None:
    """It is made when a run begins, also when that was stopped before it had saved; going on needs it."""
    go(Path("demo"), "run", *TINY, objective="cemat")
    trainer = make_trainer(Path("demo"), *TINY, objective="cemat")
    data = trainer.prepared
    lexicon.attach(trainer.recipe, data, RUN.lexicon)
    ((batch, plan, _),) = next(trainer.windows()).micros
    assert plan.source is not None
    read = plan.source.tokens
    switched = (read != batch.source) & (read != MASK)
    assert switched.any()
    assert data.train.lexicon is not None
    for place in switched.nonzero():
        x, y = int(batch.source[*place]), int(read[*place])
        assert y in data.train.lexicon[x]

    before = RUN.lexicon.read_bytes()
    RUN.lexicon.unlink()
    with pytest.raises(CheckpointError, match=r"lexicon\.json does not exist"):
        go(Path(), "run", "training.updates=6", resume=True)
    shutil.rmtree(RUN.checkpoints)
    go(Path(), "run", "training.updates=6", resume=True)
    assert RUN.lexicon.read_bytes() == before
    go(Path("demo"), "run", *TINY, objective="cmlm", force=True)
    assert not RUN.lexicon.exists()
