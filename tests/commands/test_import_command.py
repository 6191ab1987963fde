"""`janus import` as a user meets it first: what it refuses, and the run beside the model of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from janus_cli.recipe_load import load
from tests.export import hf_folders
from tests.helpers import Janus, ends, read_json, sets


@pytest.fixture
def model(empty_folder: Path) -> Path:
    """The folder of a tiny BART, in the current one."""
    found = read_json(hf_folders.GOLDEN / "bart.json")
    Path("bart").mkdir()
    hf_folders.unpack(found["files"], Path("bart"))
    return Path("bart")


def test_a_name_of_the_hub_is_answered_with_how_to_fetch_it(shell: Janus, empty_folder: Path) -> None:
    code, _, err = shell("import", "facebook/bart-base")
    assert (code, "hf download facebook/bart-base --local-dir bart-base" in err) == (3, True), err
    assert "janus import bart-base" in err


def test_an_existing_run_is_kept_and_the_option_that_helps_is_there(shell: Janus, model: Path) -> None:
    assert shell("import", "bart")[0] == 0
    assert "--out" not in ends(shell("import", "bart"), 2, "--run")
    assert shell("import", "bart", "--run", "runs/second")[0] == 0


def test_its_name_is_the_run_wherever_the_model_lies(shell: Janus, model: Path) -> None:
    assert shell("import", "bart")[0] == 0
    for verb in ("inspect", "decode"):
        code, out, err = shell(verb, "bart", *(["--input", "-"] if verb == "decode" else []), stdin=b"a b\n")
        assert (code, bool(out)) == (0, True), err


def test_it_is_fine_tuned_with_the_recipe_of_a_task(shell: Janus, model: Path) -> None:
    """No pair is dropped by the ratio of its lengths, and outputs end where those of the task do."""
    assert shell("import", "bart")[0] == 0
    assert load("runs/bart/recipe.yaml").data.max_ratio is None
    for split in ("train", "valid", "test"):
        Path(f"{split}.src").write_text("a b c d e f g h\n" * 9)
        Path(f"{split}.tgt").write_text("a\n" * 9)
    few = sets(
        "training.updates=1", "training.validate_every=1", "data.max_source_tokens=40", "data.max_target_tokens=40"
    )
    task = ("--recipe", "squad_qg", "--from", "runs/bart", "--data-dir", ".", "--run", "runs/mine")
    err = ends(shell("train", *task, *few), 0)
    assert "ratio" not in err.split("AR outputs")[0]
    recipe = load("runs/mine/recipe.yaml")
    assert (recipe.model.width, recipe.tokenizer.kind) == (load("runs/bart/recipe.yaml").model.width, "hf")
    assert (recipe.decoding.max_ratio or 0) * 8 + (recipe.decoding.max_extra or 0) < 30
    for mode in ("ar", "nar"):
        assert shell("decode", "--run", "mine", "--mode", mode)[0] == 0
