"""The benchmarks of training on tiny settings: they run and compare equal things; no number that is a time decides."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.data.store import Store
from janus_cli.recipe import Recipe

RecipeOf = Callable[..., Recipe]
Called = Callable[..., SimpleNamespace]  # returncode, stdout, stderr
PUBLISHED = Path(__file__).parents[2] / "pretrained" / "tatoeba-deen"
TINY = ["--shape", "16/32", "--set", "model.heads=2", "--threads", "1"]


MISTAKES = [
    ("train_speed", ["--shape", "256"], "WIDTH/FEEDFORWARD"),
    ("train_speed", ["--turns", "0"], "above 0"),
    ("train_speed", ["--shape", "30/32"], "width 30 is not a multiple of heads 4"),
    ("train_speed", ["--prepared", "nowhere"], "there is no prepared data in nowhere"),
    ("loss_memory", ["--words", "500"], "--words 500 does not fit model.max_length"),
    ("engines", ["nowhere", "lines"], "nowhere"),
    ("engines", [str(PUBLISHED), "lines", "--mode", "nra4"], "there is no such row"),
    ("speculation", [str(PUBLISHED), "lines", "--set", "window"], "window"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), MISTAKES)
def test_a_mistake_is_a_message(
    name: str, arguments: list[str], said: str, scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as left:
        scripts.shared.run(vars(scripts)[name].main)
    assert left.value.code in (2, 3)
    written = capsys.readouterr()
    assert said in written.err
    assert "Traceback" not in written.err
    assert not written.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("train_speed", ["--objective", "ar", "--turns", "1", "--steps", "1", "--pairs", "200"], ["tokens/s"]),
        ("loss_memory", ["--vocabulary", "60", "--tokens", "40"], ["in chunks", "plain"]),
    ],
)
def test_a_benchmark_prints_its_table(name: str, arguments: list[str], rows: list[str], called: Called) -> None:
    done = called(name, *TINY, *arguments)
    assert done.returncode == 0, done.stderr
    assert [row for row in rows if row not in done.stdout] == []


def test_made_up_pairs_are_as_asked(scripts: SimpleNamespace, tmp_path: Path) -> None:
    scripts.shared.made_up_store(tmp_path, 2000, 14, 40, 300)
    store = Store.open(tmp_path, "train")
    assert len(store) == 2000
    for lengths in store.lengths():
        assert lengths.mean() == pytest.approx(14, abs=0.5)
        assert lengths.min() >= 1
        assert lengths.max() <= 40
    assert store.source_vocabulary == store.target_vocabulary == 300


@pytest.mark.parametrize("objective", ["ar", "janus"])
def test_the_twin_has_the_same_size(scripts: SimpleNamespace, objective: str) -> None:
    """But for the positions, which it does not learn, and JANUS' length table: 2 % at 256/1024 and 8,000 words."""
    pytest.importorskip("transformers")
    from janus_cli.training.model import build_model

    recipe = recipe_load.load("multi30k", ["model.width=256", "model.feedforward=1024"], objective)
    ours, theirs = (
        sum(weight.numel() for weight in model.parameters())
        for model in (build_model(recipe, 8000, 8000), scripts.trainings.marian(recipe, 8000, 8000))
    )
    assert theirs == pytest.approx(ours, rel=0.02)


def test_the_twin_has_our_dropout_and_learns(scripts: SimpleNamespace, recipe_of: RecipeOf, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    scripts.shared.made_up_store(tmp_path, 4, 6, 10, 50)
    recipe = recipe_of("ar", "model.dropout=0.25", "training.batch_tokens=64", "training.learning_rate=1e-2")
    entry = scripts.trainings.Entry("transformers", recipe, tmp_path, "cpu")
    twin = scripts.trainings.Marian(entry, Store.open(tmp_path, "train"))
    assert twin.model.model.decoder.layers[0].dropout == 0.25
    batch = next(twin.batches)
    losses = [twin.step(batch) for _ in range(30)]
    assert losses[-1] < losses[0] - 1


def test_the_peer_gets_our_batches(scripts: SimpleNamespace, recipe_of: RecipeOf, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    scripts.shared.made_up_store(tmp_path, 40, 6, 10, 50)
    recipe, store = recipe_of("ar", "training.batch_tokens=64"), Store.open(tmp_path, "train")
    entries = (scripts.trainings.Entry(who, recipe, tmp_path, "cpu") for who in ("ar", "transformers"))
    ours, peer = scripts.trainings.Ours(next(entries), store), scripts.trainings.Marian(next(entries), store)
    for _ in range(20):  # into the second epoch
        [(mine, _, _)], theirs = next(ours.windows).micros, next(peer.batches)
        assert torch.equal(mine.source, theirs.source)
        assert torch.equal(mine.target, theirs.target)
    assert ours.trainer.position.epoch > 0


@pytest.mark.parametrize("objective", ["ar", "janus"])
def test_both_losses_are_the_same_loss(objective: str, scripts: SimpleNamespace, recipe_of: RecipeOf) -> None:
    memory = scripts.loss_memory
    case = memory.Case(recipe_of(objective), "plain", 60, 5, 7)
    found = []
    for way in memory.WAYS:
        states, weight, gold = memory.made_up_states(case, *case.asked)
        total = memory.loss(way, states, weight, gold, 0.1)
        total.backward()
        found.append([total.detach(), weight.grad, *(each.grad for each in states)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


STEP = """
import argparse, loss_memory as m, shared
asked = argparse.Namespace(recipe='multi30k', shape=(16, 32), changes={changes})
calls = set()
for name in ('plain_cross_entropy', 'plain_aux_loss'):
    def call(*a, name=name, plain=getattr(m, name), **k):
        calls.add(name)
        return plain(*a, **k)
    setattr(m, name, call)
m.of_a_step(m.Case(shared.load(asked, '{objective}', 'float32'), 'plain', 60, 5, 7))
print(*sorted(calls))
"""


@pytest.mark.parametrize(
    ("objective", "changes", "calls"),
    [("ar", [], "plain_cross_entropy"), ("janus", ["objective.kl_to_ar=1"], "plain_aux_loss plain_cross_entropy")],
)
def test_a_step_with_the_plain_loss_is_one(objective: str, changes: list[str], calls: str, called: Called) -> None:
    """What it puts in place of the loss in chunks is what the objective calls."""
    done = called("-c", STEP.format(objective=objective, changes=changes))
    assert (done.returncode, done.stdout.strip()) == (0, calls), done.stderr


@pytest.mark.parametrize(
    ("ours", "janus", "verdicts"),
    [((1.0, 200.0), (3.0, 90.0), ["yes", "yes", "yes", "yes"]), ((2.0, 80.0), (7.0, 20.0), ["no", "no", "yes", "yes"])],
)
def test_bars_are_cleared_or_not(
    scripts: SimpleNamespace, ours: tuple[float, float], janus: tuple[float, float], verdicts: list[str]
) -> None:
    """AR: tokens/s of Hugging Face's at least. JANUS: 3.2 times AR's step at most. Two turns, the second slower."""
    speed, turns = scripts.train_speed, scripts.trainings
    recipe = recipe_load.load("demo", ["training.precision=float32"])

    def contestant(who: str, seconds: float, tokens: float) -> object:
        made = speed.Contestant(turns.Entry(who, recipe, Path(), "cpu"), None)
        made.turns = [turns.Turn(slower * seconds, tokens / slower, 0.01, 2**20) for slower in (1, 2)]
        return made

    rows = speed.bars([contestant("ar", *ours), contestant("janus", *janus), contestant("transformers", 1.0, 100.0)])
    assert [row[3] for row in rows if row[3]] == verdicts
    measured = {row[0]: row[1] for row in rows}
    assert measured["tokens/s: ar float32 / transformers float32"].startswith(f"{ours[1] / 100:.2f} ")
    assert measured["step: janus / ar, float32"].startswith(f"{janus[0] / ours[0]:.2f} ")


def test_a_folder_of_somebody_else_is_left_alone(called: Called) -> None:
    letter = Path("mine/text/letter")
    letter.parent.mkdir(parents=True)
    letter.write_text("dear")
    done = called("preprocess_speed", "--pairs", "10", "--folder", "mine")
    assert (done.returncode, "mine holds something else" in done.stderr) == (2, True)
    assert letter.read_text() == "dear"


@pytest.mark.slow
def test_train_speed_prints_both_tables(called: Called) -> None:
    pytest.importorskip("transformers")
    words = ["--vocabulary", "200", "--batch-tokens", "128", "--pairs", "100", "--turns", "2", "--steps", "1"]
    done = called("train_speed", *TINY, *words, "--precision", "float32", "--against", "transformers")
    assert done.returncode == 0, done.stderr
    for label in ("ar float32", "janus float32", "transformers float32"):
        assert re.search(rf"{label} +│ +0\.0\d M │ [\d.]+ \([\d.]+-[\d.]+\) │ +[\d,]+ │", done.stdout), done.stdout
    assert re.search(r"ar float32 / transformers float32 +│ [\d.]+ \(.*at least 1\.0 │ +(yes|no) │", done.stdout)
    assert re.search(r"step: janus / ar, float32 +│ [\d.]+ \(.*at most 3\.2 │ +(yes|no) │", done.stdout)
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_the_loss_in_chunks_takes_less_memory(called: Called) -> None:
    pytest.importorskip("matplotlib")
    words = ["--tokens", "1500", "--vocabulary", "20000", "--objective", "ar", "--plot", "a.svg"]
    done = called("loss_memory", *TINY, *words)
    assert done.returncode == 0, done.stderr
    taken = dict(re.findall(r"│ ar +│ +(in chunks|plain) │ +20,000 │ +(\d+) │", done.stdout))
    assert int(taken["plain"]) > 2 * int(taken["in chunks"]) > 0
    assert "<svg" in Path("a.svg").read_text()
