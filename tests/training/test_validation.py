"""What a validation computes, which of two is the better one, and what hangs on it."""

from __future__ import annotations

import json
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
from janus_cli.training.best import rank
from janus_cli.training.inspect import describe
from janus_cli.training.trainer import Trainer
from janus_cli.training.validation import sample
from tests.faults.processes import entries, go, make_trainer, relabel, state
from tests.helpers import Capture, Janus, Patch

LOG = Path("run/log.jsonl")
EACH = ("training.validate_every=1", "training.save_every=1")


@pytest.fixture
def trainer(tiny_recipe: Path) -> Trainer:
    knobs = ("training.batch_tokens=64", "decoding.batch_sentences=3", "training.valid_sentences=8")
    return make_trainer(tiny_recipe, *knobs)


def test_bleu_is_that_of_each_sentence_with_its_own_reference(trainer: Trainer, monkeypatch: Patch) -> None:
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
    ("metric", "better", "worse"),
    [
        ("bleu_ar", 2.0, 1.0), ("bleu", 2.0, 1.0), ("exact", 2.0, 1.0), ("rougeLsum-stem_nar", 2.0, 1.0),
        ("loss", 1.0, 2.0), ("ce_nar", 1.0, 2.0), ("kl_ar_aux", 1.0, 2.0), ("length", 1.0, 2.0),
        ("ter_ar", 1.0, 2.0), ("edit", 1.0, 2.0),
    ],
)  # fmt: skip
def test_losses_and_edits_are_better_where_they_are_smaller(metric: str, better: float, worse: float) -> None:
    high, low = (rank(metric, {"loss": 1.0, metric: value}) for value in (better, worse))
    assert high is not None
    assert low is not None
    assert high > low
    assert rank(metric, {"loss": 1.0, metric: nan}) is rank(metric, {}) is None


def scores(monkeypatch: Patch, pairs: Iterable[tuple[float, float]]) -> None:
    """The next validations find these losses and BLEUs."""
    found = iter(pairs)
    monkeypatch.setattr(
        trainer_module, "validate", lambda *_: {"loss": (pair := next(found))[0], "bleu_ar": pair[1], "bleu": pair[1]}
    )


@pytest.mark.parametrize(
    ("metric", "pairs", "best", "best_step"),
    [
        ("loss", [(3, 1), (2, 1), (4, 9), (5, 9)], 2.0, 2),
        ("auto", [(1, 1), (1, 3), (1, 2), (2, 3)], 3.0, 2),  # BLEU; a tie with a higher loss is worse
        ("bleu", [(1, 1), (1, 3), (1, 2), (2, 3)], 3.0, 2),  # the mean of both sides
        ("auto", [(1, 1), (1, 3), (1, 2), (1, 3)], 3.0, 4),  # an equal one is no progress, but the later one is taken
        ("auto", [(3, 0), (2, 0), (3, 0), (4, 0)], 0.0, 2),  # a metric that says nothing: the loss decides
    ],
)
def test_training_stops_early_and_keeps_the_best_checkpoint(
    tiny_recipe: Path, monkeypatch: Patch, capsys: Capture,
    metric: str, pairs: list[tuple[float, float]], best: float, best_step: int,
) -> None:  # fmt: skip
    scores(monkeypatch, pairs)
    keep = ("training.keep_last=1", "training.keep_best=1", "training.patience=2", f"training.best_metric={metric}")
    root = go(tiny_recipe, "run", *EACH, *keep, "training.updates=50")
    assert (root / "best").readlink().name == f"step-{best_step:06d}"
    assert {folder.name for folder in root.glob("step-*")} == {f"step-{best_step:06d}", "step-000004"}
    assert (state(root / "last")["best"], state(root / "last")["since_best"]) == (best, 2)
    assert entries(LOG)[-1]["kind"] == "done"
    go(tiny_recipe, "run", resume=True)
    assert "is finished after 4 updates; for more: --set training.patience=N" in capsys.readouterr().err
    scores(monkeypatch, [(9.0, 0.0)] * 2)
    root = go(tiny_recipe, "run", "training.patience=0", "training.updates=6", resume=True)
    assert state(root / "last")["step"] == 6


def test_validations_look_up_their_split_once(tiny_recipe: Path, monkeypatch: Patch) -> None:
    found, plain = list[object](), trainer_module.material
    monkeypatch.setattr(trainer_module, "material", lambda *given: [found.append(given), plain(*given)][1])
    go(tiny_recipe, "run", *EACH, "training.updates=2")
    assert (len(entries(LOG, "valid")), len(found)) == (2, 1)


def test_another_metric_begins_with_the_checkpoints_that_are_there(tiny_recipe: Path, monkeypatch: Patch) -> None:
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
    tiny_recipe: Path, monkeypatch: Patch, problem: Exception, raised: type[Exception]
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


def test_valid_pairs_larger_than_a_batch_stop_no_training(tiny_recipe: Path) -> None:
    """Their longest target has 50 tokens."""
    small = ("data.max_target_tokens=27", "training.batch_tokens=40")
    go(tiny_recipe, "run", *small, "training.updates=1", "training.validate_every=1")
    assert [line["step"] for line in entries(LOG, "valid")] == [1]


def test_pairs_too_long_for_losses_are_decoded_and_scored_all_the_same(tiny_recipe: Path, monkeypatch: Patch) -> None:
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
    loss, whole = trainer.metrics["loss"], trainer.prepared
    trainer.prepared = replace(whole, valid=few)
    del trainer.material
    trainer.validate()
    assert trainer.metrics["loss"] == pytest.approx(loss)
    trainer.prepared = whole
    del trainer.material
    gold = {row: target[:1] if len(target) > 27 else target for row, target in gold.items()}
    trainer.validate()
    assert trainer.metrics["bleu_ar"] < 90


def test_equal_checkpoints_are_ranked_alike_everywhere(tiny_recipe: Path, monkeypatch: Patch, shell: Janus) -> None:
    """`best`, keep_best and `average --best`: the lower loss, then the later one."""
    scores(monkeypatch, [(2, 7), (1, 7), (1, 7), (3, 7), (9, 6)])
    root = go(tiny_recipe, "run", *EACH, "training.updates=5", "training.keep_last=1", "training.keep_best=3")
    assert (root / "best").readlink().name == "step-000003"
    assert sorted(folder.name for folder in root.glob("step-*")) == [f"step-00000{step}" for step in (1, 2, 3, 5)]
    code, _, err = shell("average", "run", "--best", "2")
    assert (code, "mean of step-000003, step-000002" in err) == (0, True)
    assert "best by bleu_ar (13a, 4 sentences)" in err


def test_a_metric_that_is_the_same_in_every_validation_is_warned_of_once(
    tiny_recipe: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    scores(monkeypatch, [(3, 0), (2, 0), (1, 0), (1, 0)])
    go(tiny_recipe, "run", *EACH, "training.updates=4")
    assert capsys.readouterr().err.count("warning: bleu_ar was 0.00 in both validations") == 1
    scores(monkeypatch, [(3, 0), (2, 1), (1, 1)])
    go(tiny_recipe, "other", *EACH, "training.updates=3")
    assert "in both validations" not in capsys.readouterr().err


def test_a_training_that_diverges_is_warned_of(tiny_recipe: Path, capsys: Capture) -> None:
    go(tiny_recipe, "run", *EACH, "training.updates=2")
    assert "diverges" not in capsys.readouterr().err
    go(tiny_recipe, "other", *EACH, "training.updates=2", "training.learning_rate=50", "training.warmup=0")
    assert "this training diverges" in capsys.readouterr().err


def test_values_of_another_metric_tokenizer_or_sample_do_not_compete(
    tiny_recipe: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Each time the values are lower than before, and the first of them is the best one all the same."""
    scores(monkeypatch, [(1, 90.0)])
    root, updates = go(tiny_recipe, "run", *EACH, "training.updates=1"), 1
    for change, said in (
        ("scoring.tokenize=char", "(13a, 4 sentences), from now on bleu_ar (char, 4 sentences) decides"),
        ("training.valid_sentences=8", "(char, 4 sentences), from now on bleu_ar (char) decides"),
    ):
        updates += 1
        scores(monkeypatch, [(1, 90.0 - updates)])
        go(tiny_recipe, "run", change, f"training.updates={updates}", resume=True)
        assert said in capsys.readouterr().err
        assert (root / "best").readlink().name == f"step-00000{updates}"
    assert [line["scoring"] for line in entries(LOG, "valid")] == [
        {"metric": "bleu", "tokenize": "13a", "sentences": 4}, {"metric": "bleu", "tokenize": "char", "sentences": 4},
        {"metric": "bleu", "tokenize": "char"},
    ]  # fmt: skip
    shown = describe(Path("run"))
    assert shown["judged by"] == "bleu (char)"
    assert [found.get("judged by") for found in shown["checkpoints"].values()] == [
        "bleu (13a, 4 sentences)", "bleu (char, 4 sentences)", None
    ]  # fmt: skip


def test_a_change_of_scoring_needs_no_permission(tiny_recipe: Path, shell: Janus) -> None:
    go(tiny_recipe, "run", "training.updates=4")
    more = ("--set", "scoring.metric=edit", "--set", "training.updates=8", "--allow-change", "training.updates")
    code, _, err = shell("train", "--resume", "--run", "run", "--device", "cpu", *more)
    assert (code, "from now on edit_ar (4 sentences) decides" in err) == (0, True)
    assert {"edit", "edit_ar", "edit_nar"} <= entries(LOG, "valid")[-1].keys()
    assert "scoring" in (Path("run/recipe.yaml")).read_text(encoding="utf-8")


def test_a_run_of_before_goes_on_with_its_best(tiny_recipe: Path, monkeypatch: Patch, capsys: Capture) -> None:
    """Its checkpoints do not say what judged them: BLEU did, here on the whole split."""
    scores(monkeypatch, [(1, 90.0)])
    changes = ("training.updates=1", "training.valid_sentences=8")
    root = go(tiny_recipe, "run", *EACH, *changes)
    old = {key: value for key, value in state(root / "last").items() if key not in ("scoring", "best_loss")}
    (root / "last/state.json").write_text(json.dumps(old))
    relabel(root / "last")
    scores(monkeypatch, [(1, 80.0)])
    go(tiny_recipe, "run", "training.updates=2", resume=True)
    assert (root / "best").readlink().name == "step-000001"
    assert "were ranked by" not in capsys.readouterr().err


def test_what_something_else_judged_best_stays_until_there_are_others(
    tiny_recipe: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """A run of before: its checkpoints do not say what judged them, and a part of the split is decoded."""
    scores(monkeypatch, [(1, 90.0), (1, 95.0), (1, 10.0), (1, 11.0)])
    root = go(tiny_recipe, "run", *EACH, "training.keep_last=1", "training.keep_best=2", "training.updates=4")
    for folder in root.glob("step-*"):
        old = {key: value for key, value in state(folder).items() if key not in ("scoring", "best_loss")}
        (folder / "state.json").write_text(json.dumps(old))
        relabel(folder)

    def kept() -> tuple[list[int], str]:
        steps = sorted(int(folder.name[5:]) for folder in root.glob("step-*"))
        return steps, (root / "best").resolve(strict=True).name

    assert kept() == ([1, 2, 4], "step-000002")
    fails = ("training.validate_every=3", "training.save_every=1", "training.updates=7")
    monkeypatch.setattr(trainer_module, "validate", lambda *_: pytest.fail("stopped by the first validation"))
    with pytest.raises(pytest.fail.Exception):
        go(tiny_recipe, "run", *fails, resume=True)
    assert "(13a, 4 sentences) decides; until it has judged others" in capsys.readouterr().err
    assert kept() == ([1, 2, 4, 6], "step-000002"), "saved twice, and nothing was validated"
    scores(monkeypatch, [(1, 5.0), (1, 6.0)])
    go(tiny_recipe, "run", "training.updates=6", resume=True)
    assert kept() == ([1, 2, 4, 6], "step-000006"), "one is fewer than keep_best"
    go(tiny_recipe, "run", "training.updates=7", resume=True)
    assert kept() == ([6, 7], "step-000007")


def test_the_sample_is_spread_over_the_whole_split_and_always_the_same() -> None:
    for size, most in ((1014, 500), (7, 3), (1000, 1), (5, 4)):
        rows = sample(size, most)
        assert len(set(rows)) == most
        assert rows == sorted(rows) == sample(size, most)
        for part in range(most):
            assert part * size // most <= rows[part] < (part + 1) * size // most
    assert sample(5, 5) == sample(5, 9) == [0, 1, 2, 3, 4]
    assert sample(10_000, 100) != list(range(0, 10_000, 100))


def test_several_references_and_sources_that_are_cut_as_decoding_does(trainer: Trainer, monkeypatch: Patch) -> None:
    """Row 0's source is longer than the model; the outputs equal the second references, of which row 1 has none."""
    valid, widths = trainer.prepared.valid, list[int]()
    pairs = [valid.pair(row) for row in range(8)]
    long = [(np.full(99, 7), pairs[0][1]), *pairs[1:]]
    monkeypatch.setattr(valid, "pair", lambda row: long[row])
    lines = (trainer.prepared.folder / "valid.target.txt").read_text(encoding="utf-8").splitlines()
    several = [json.dumps([line] if row == 1 else ["x", line]) for row, line in enumerate(lines)]
    (trainer.prepared.folder / "valid.refs.jsonl").write_text("\n".join(several), encoding="utf-8")
    ids = trainer.prepared.tokenizers.target.encode(lines)
    sources = {tuple(pairs[row][0].tolist()): row for row in range(1, 8)}

    def generate(_: Transformer, source: Tensor, *__: Any) -> list[list[Output]]:
        widths.append(source.shape[1])
        rows = [sources.get(tuple(row[(row != PAD) & (row != EOS)].tolist()), 0) for row in source]
        return [[Output(ids[row], [], 0.0, 1)] for row in rows]

    monkeypatch.setattr(validation, "generate", generate)
    monkeypatch.setattr(validation, "_terms", lambda *_: {"loss": 1.0})
    trainer.validate()
    assert trainer.metrics["bleu"] == pytest.approx(100)
    assert max(widths) == trainer.model.knobs.max_length


def test_a_task_of_glge_is_validated_as_it_is_scored(tiny_recipe: Path, monkeypatch: Patch, janus: Janus) -> None:
    """By lower-case lines with joined words, one for each source, whose references are pooled."""
    names = ("Ann", "Bob", "Eve", "Kim")
    questions = {name: (f"who ' s {name} ?", f"What did {name} do ?") for name in names}
    written = {name: f"who ' s {other} ?" for name, other in zip(names, ("Ann", "Bob", "Bob", "Bob"), strict=True)}
    for split in ("train", "valid", "test"):
        Path(f"{split}.src").write_text("".join(f"{name}\n{name}\n" for name in names))
        targets = [line for name in names for line in questions[name]]
        Path(f"{split}.tgt").write_text("".join(f"{line}\n" for line in targets))
    trainer = make_trainer(
        tiny_recipe, "data.dir=.", "data.task=generation", "tokenizer.kind=words", "scoring.task=squad_qg",
        "scoring.metric=bleu1-coco", "training.valid_sentences=8", objective="ar",
    )  # fmt: skip
    sides = trainer.prepared.tokenizers

    def generate(_: Transformer, source: Tensor, *__: Any) -> list[list[Output]]:
        texts = sides.source.decode([[token for token in row if token > EOS] for row in source.tolist()])
        return [[Output(ids, [], 0.0, 1)] for ids in sides.target.encode([written[text] for text in texts])]

    monkeypatch.setattr(validation, "generate", generate)
    trainer.validate()
    Path("out.txt").write_text("".join(f"{written[name]}\n" * 2 for name in names))
    command = ("score", "out.txt", "--reference", "valid.tgt", "--metrics", "bleu1-coco", "--json")
    raw, official = (
        json.loads(janus(*command, *more)[1])["scores"][0]["value"]
        for more in ((), ("--task", "squad_qg", "--pool-references", "valid.src"))
    )
    assert trainer.metrics["bleu1-coco_ar"] == pytest.approx(official)
    assert official != pytest.approx(raw)
