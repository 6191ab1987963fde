"""`--from`: a run's model section and tokenizer go with its weights; all else is the recipe's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from janus_cli import recipe_load, runs
from janus_cli.recipe import Recipe
from tests.conftest import TINY_RECIPE
from tests.faults.processes import digest
from tests.helpers import Janus, ends, read_json, sets

SHAPE = (  # of the run in `trained`, which no line of the recipe below repeats
    ("width", 16), ("feedforward", 32), ("heads", 2), ("encoder_layers", 1), ("decoder_layers", 1), ("max_length", 64),
    ("norm", "pre"),
)  # fmt: skip
TASK = """
name: task
data: {synthetic: {train: 48, valid: 8, test: 8}, max_tokens: 50, task: generation}
tokenizer: {vocabulary: 99}
model:
  {width: 24, feedforward: 40, heads: 3, encoder_layers: 2, decoder_layers: 2, dropout: 0.3, max_length: 128}
training: {updates: 2, batch_tokens: 256, validate_every: 2, save_every: 1, valid_sentences: 4}
decoding: {iters: 2, beam: 2, length_beam: 2}
"""
TRAIN = ("train", "--recipe", "task.yaml", "--from", "run", "--device", "cpu")


@pytest.fixture
def task(trained: Path) -> Path:
    """A folder with the run `run` and its data, and a recipe of another shape and tokenizer."""
    Path("task.yaml").write_text(TASK)
    return Path("task.yaml")


def recipe_of(run: str) -> Recipe:
    return recipe_load.load(f"{run}/recipe.yaml")


def shape(recipe: Recipe) -> tuple[tuple[str, object], ...]:
    return tuple((key, getattr(recipe.model, key)) for key, _ in SHAPE)


def test_a_recipe_of_another_shape_fits_without_a_change(task: Path, janus: Janus) -> None:
    """And resumes, with its recipe by name or without; the limit of outputs and the dropout are the recipe's."""
    assert janus(*TRAIN, "--run", "fine", *sets("training.updates=1"))[0] == 0
    found = recipe_of("fine")
    assert shape(found) == SHAPE
    assert (found.name, found.model.dropout, found.data.max_tokens, found.data.max_ratio) == ("task", 0.3, 50, None)
    for file in ("tokenizer.json", "tokenizer.model"):
        assert Path("fine", file).read_bytes() == Path("run", file).read_bytes()
    made = read_json("fine/manifest.json")
    assert Path(made["prepared"]).name == "task-from-run.src-tgt"
    limits = found.decoding.max_ratio, found.decoding.max_extra
    assert None not in limits
    more = [*sets("training.updates=2"), "--allow-change", "training.updates"]
    shutil.copytree("fine", "again", symlinks=True)
    ends(janus("train", "--resume", "fine", *more), 0)
    ends(janus("train", "--resume", "again", "--recipe", "task.yaml", *more), 0)
    assert digest(Path("fine/checkpoints/last")) == digest(Path("again/checkpoints/last"))
    assert janus(*TRAIN, "--run", "whole")[0] == 0  # finds its data prepared
    assert digest(Path("whole/checkpoints/last")) == digest(Path("fine/checkpoints/last"))


def test_the_data_and_the_tokenizer_of_the_same_recipe_stay_what_they_are(trained: Path, janus: Janus) -> None:
    """Nothing is prepared anew, and the new run's recipe says of its tokenizer what the other one's says."""
    command = ("train", "--recipe", "tiny.yaml", "--device", "cpu", *sets("training.updates=1"))
    assert janus(*command, "--from", "run", "--run", "new")[0] == 0
    assert [path.name for path in Path("data").iterdir() if path.is_dir()] == ["tiny.src-tgt"]
    assert recipe_of("new").tokenizer == recipe_of("run").tokenizer
    assert janus(*command, "--run", "fresh", *sets("tokenizer.reuse=run"))[0] == 3  # without --from that is another


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.width=24", "does not fit"),
        ("model.heads=4", "model.heads 2"),
        ("model.norm=post", "model.norm pre"),
        ("tokenizer.vocabulary=90", "tokenizer.vocabulary"),
        ("tokenizer.kind=words", "tokenizer.kind"),
        ("data.max_tokens=100", "model.max_length 64"),
    ],
)
def test_what_cannot_fit_is_refused_before_there_is_data(task: Path, janus: Janus, change: str, said: str) -> None:
    code, _, err = janus(*TRAIN, "--run", "fine", *sets(change))
    assert (code in (2, 4), said in err, "run" in err) == (True, True, True), err
    assert not Path("fine").exists()
    assert not list(Path("data").glob("task*"))


def test_what_fits_may_be_asked_for(task: Path, janus: Janus) -> None:
    """One layer more is fresh; CMLMC has the second attention that it needs."""
    code, _, err = janus(*TRAIN, "--run", "deep", "--dry-run", *sets("model.decoder_layers=2"))
    assert code == 3, err  # no data yet, and nothing else is amiss
    ends(janus(*TRAIN, "--run", "cmlmc", "--objective", "cmlmc", *sets("training.updates=1")), 0, "fresh: ")
    model = recipe_of("cmlmc").model
    assert (model.causal_attention, model.embedding, shape(recipe_of("cmlmc"))) == (True, "concat", SHAPE)


def test_a_dry_run_without_data_checks_the_rest_and_names_the_command(trained: Path, janus: Janus) -> None:
    Path("text").mkdir()
    for split in ("train", "valid", "test"):
        for side in ("src", "tgt"):
            Path("text", f"{split}.{side}").write_text("ba du\nri mo\n" * 9)
    Path("task.yaml").write_text(TASK)
    command = (*TRAIN, "--run", "fine", "--data-dir", "text")
    err = ends(janus(*command, "--dry-run"), 3)
    assert not Path("fine").exists()
    hint = next(line for line in err.splitlines() if "janus preprocess" in line)
    words = shlex.split(re.sub(r".*?janus (preprocess .*)", r"\1", hint))
    assert words == ["preprocess", "--recipe", "task.yaml", "--from", "run", "--data-dir", "text"]
    assert janus(*words)[0] == 0
    ends(janus(*command, "--dry-run"), 0)


def test_text_that_was_named_when_the_recipe_was_prepared_is_not_guessed(trained: Path, janus: Janus) -> None:
    """The hint names it, and does what is missing."""
    for name in ("a.src", "a.tgt", "b.src", "b.tgt"):
        Path(name).write_text("ba du\nri mo\n" * 9)
    Path("task.yaml").write_text(TASK.replace("synthetic: {train: 48, valid: 8, test: 8}, ", ""))
    files = ("--train", "a.src", "a.tgt", "--valid", "b.src", "b.tgt")
    assert janus("preprocess", "--recipe", "task.yaml", *files, *sets("tokenizer.vocabulary=20"))[0] == 0
    err = ends(janus(*TRAIN, "--run", "fine"), 3)
    hint = next(line for line in err.splitlines() if "janus preprocess" in line)
    words = shlex.split(re.sub(r".*?janus (preprocess .*)", r"\1", hint))
    assert {"--from", "--train", "--valid"} <= set(words)
    assert janus(*words)[0] == 0
    ends(janus(*TRAIN, "--run", "fine"), 0)
    assert shape(recipe_of("fine")) == SHAPE


def test_named_data_with_another_tokenizer_is_refused_and_the_hint_makes_the_right_one(
    task: Path, janus: Janus
) -> None:
    assert janus("preprocess", "--recipe", "task.yaml", "--out", "other")[0] == 0
    err = ends(janus(*TRAIN, "--run", "fine", "--prepared", "other"), 4, "another tokenizer than other")
    words = shlex.split(re.search(r"janus (preprocess [^;]*)", err)[1])  # type: ignore[index]
    assert janus(*words)[0] == 0
    assert janus(*TRAIN, "--run", "fine")[0] == 0


def test_systems_of_a_comparison_have_the_shape_of_the_run(task: Path, janus: Janus) -> None:
    """Also when the same command trains them on."""
    compare = ("compare", "--recipe", "task.yaml", "--objectives", "ar", "--modes", "ar.beam1", "--device", "cpu")
    begun = (*compare, "--no-speed", "--out", "compared", "--steps")
    ends(janus(*begun, "1", "--from", "run"), 0)
    assert shape(recipe_of("compared/ar.seed1")) == SHAPE
    ends(janus(*begun, "2"), 0)
    assert read_json("compared/ar.seed1/checkpoints/last/state.json")["step"] == 2


def test_an_export_and_a_checkpoint_will_do(task: Path, janus: Janus) -> None:
    assert janus("export", "run", "--format", "safetensors", "--out", "light")[0] == 0
    for start in ("light", "run/checkpoints/step-000006"):
        ends(janus(*TRAIN[:3], "--from", start, "--run", "fine", "--force", "--device", "cpu"), 0)
        assert shape(recipe_of("fine")) == SHAPE


def test_the_shape_that_is_tested_is_the_shape_of_the_run(trained: Path) -> None:
    assert "norm: pre" in TINY_RECIPE
    assert shape(recipe_of("run")) == SHAPE


def test_what_the_objective_needs_is_added_also_if_the_recipe_spells_it_out(trained: Path) -> None:
    """As every recipe.yaml does that janus writes."""
    Path("spelt.yaml").write_text(recipe_load.dump(recipe_load.load("demo", objective="cmlmc")), encoding="utf-8")
    for recipe, objective in (("spelt.yaml", None), ("demo", "cmlmc")):
        model = recipe_load.load(recipe, (), objective, runs.basis(Path("run"))).model
        assert (model.causal_attention, model.embedding, model.width) == (True, "concat", 16)
