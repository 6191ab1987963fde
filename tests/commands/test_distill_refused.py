"""What `janus distill` refuses, and that a refusal or a dry run leaves everything as it was."""

import json
from functools import partial
from pathlib import Path

import pytest
from untrained import Janus

OUT = Path("data/demo-distilled.src-tgt")


@pytest.fixture
def distill(any_janus: Janus) -> Janus:
    return partial(any_janus, "distill")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ar", "--surest", "0.5"], 2, "chooses among the lines of --source, and there is none"),
        (["ar", "--source", "recipe.yaml", "--surest", "nan"], 2, "Invalid value for '--surest'"),
        (["ar", "--source", "recipe.yaml", "--surest", "0"], 2, "Invalid value for '--surest'"),
        (["ar", "--source", "nowhere"], 3, "nowhere cannot be read: No such file"),
        (["cmlm"], 2, "runs/cmlm was trained with objective cmlm: it has no autoregressive side"),
        (["ar", "--run", "janus"], 2, "both name a run"),
        (["nothing"], 2, "is no run"),
        (["ar", "--checkpoint", "step-9"], 4, "no checkpoint step-9"),
        (["ar", "--set", "training.updates=1"], 2, "only decoding.…"),
        (["ar", "--set", "decoding.nbest=3"], 2, "a teacher writes one output, left to right"),
        (["ar", "--out", "data/demo"], 2, "holds prepared data already"),
        (["ar", "--out", "data/demo/manifest.json/x"], 3, "cannot be written"),
    ],
)
def test_mistakes(distill: Janus, arguments: list[str], code: int, message: str) -> None:
    before = sorted(Path().rglob("*"))
    got, out, err = distill(*arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert "\nhint: " in err
    assert sorted(Path().rglob("*")) == before


def test_an_empty_folder_is_free(distill: Janus) -> None:
    Path("mine").mkdir()
    assert distill("ar", "--out", "mine", "--set", "decoding.max_extra=0")[0] == 0
    assert json.loads(Path("mine/manifest.json").read_bytes())["distilled"]["run"] == "runs/ar"


def test_data_that_the_teacher_was_not_trained_on(distill: Janus) -> None:
    file = Path("runs/ar/manifest.json")
    theirs = json.loads(file.read_bytes())
    theirs["splits"]["train"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(theirs))
    code, _, err = distill("ar")
    assert code == 3
    assert "is not the data that runs/ar was trained on" in err
    assert not OUT.exists()


def test_a_dry_run_writes_nothing(distill: Janus) -> None:
    before = sorted(Path().rglob("*"))
    code, out, err = distill("--dry-run", "--beam", "4")
    assert (code, out) == (0, "")
    assert "would decode the 298 training sources" in err
    assert "beam 4" in err
    assert f"would write {OUT}" in err
    assert sorted(Path().rglob("*")) == before
