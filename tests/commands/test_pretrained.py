"""An exported folder as a run, and models that come with janus: `pretrained:NAME`."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from untrained import CHANGES, target

import janus_cli
from janus_cli import runs
from janus_cli.files import sha256
from tests.helpers import Janus, Patch, edit_json, ends, printed, read_json, sets

DATA = "data/demo.src-tgt"  # where the recipe looks for it
GREEDY = ("--mode", "ar", "--beam", "1")
TRAIN = ("train", "--objective", "janus", *sets(*CHANGES, "training.updates=1"))


@pytest.fixture
def models(any_janus: Janus, monkeypatch: Patch) -> Path:
    """The folder of models that come with janus: two, of which only `tiny` has its test split."""
    any_janus("export", "janus", "--quantization", "bfloat16", "--with-test", "--out", "models/tiny")
    any_janus("export", "ar", "--out", "models/tiny-ar")
    monkeypatch.setattr(runs, "PRETRAINED", Path("models").resolve())
    return Path("models")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def decoded(janus: Janus, *words: str) -> str:
    return printed(janus("decode", *words))


def test_weights_in_bfloat16_are_those_of_the_run_rounded(any_janus: Janus) -> None:
    code, _, err = any_janus("export", "janus", "--quantization", "bfloat16", "--out", "small")
    assert (code, read_json("small/provenance.json")["quantization"]) == (0, "bfloat16"), err
    assert "every weight, bfloat16" in Path("small/README.txt").read_text()
    checkpoint = Path("runs/janus/checkpoints/last").resolve()
    before, weights = decoded(any_janus, "--run", "janus", *GREEDY), load_file(checkpoint / "model.safetensors")
    small = load_file("small/model.safetensors")
    assert all(torch.equal(small[name], weight.to(torch.bfloat16)) for name, weight in weights.items())
    save_file({name: weight.bfloat16().float() for name, weight in weights.items()}, checkpoint / "model.safetensors")
    files = read_json(checkpoint / "manifest.json")["files"]
    files["model.safetensors"]["sha256"] = sha256(checkpoint / "model.safetensors")
    edit_json(checkpoint / "manifest.json", files=files)
    rounded = decoded(any_janus, "--run", "janus", *GREEDY)
    assert rounded != before
    assert decoded(any_janus, "--run", "small", "--input", "data/demo/test.source.txt", *GREEDY) == rounded
    weights_file = Path("small/model.safetensors")
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"?")
    assert any_janus("decode", "--run", "small", "--input", "data/demo/test.source.txt")[0] == 4


def test_every_command_that_takes_a_run_takes_an_exported_folder(any_janus: Janus) -> None:
    any_janus("export", "janus", "--with-test", "--out", "elsewhere/model")
    references = target()
    shutil.move("data/demo", DATA)
    shutil.rmtree("runs")
    janus, folder = any_janus, "elsewhere/model"
    assert decoded(janus, folder, *GREEDY) == Path(folder, "decode/test.ar.beam1.txt").read_text()
    assert decoded(janus, "--run", folder, "--checkpoint", "best", *GREEDY)
    assert Path(folder, "decode/test.reference.txt").read_text().splitlines() == references
    code, out, err = janus("score", folder, "--json")
    assert (code, json.loads(out)["sentences"]) == (0, len(references)), err
    assert "objective:\n  name: janus" in janus("inspect", folder)[1]
    for words in (
        ["bench", folder, "--mode", "nar1", "--sentences", "2", "--repeats", "1", "--out", "bench.json"],
        ["report", folder, "--sentences", "2"],
        ["export", folder, "--with-test", "--out", "again"],
        [*TRAIN, "--from", folder, "--run", "runs/new", "--prepared", DATA],
        ["distill", folder, "--out", "data/distilled"],
    ):
        code, _, err = janus(*words)
        assert code == 0, (words, err)
    assert read_json("data/distilled/manifest.json")["distilled"]["checkpoint"] == "best"
    assert decoded(janus, "again", *GREEDY) == decoded(janus, folder, *GREEDY)
    for words, reason in (
        (["average", folder], "nothing to average"),
        (["train", "--resume", folder], "is not trained any further"),
        (["decode", folder, "--checkpoint", "step-000001"], "there is no checkpoint step-000001"),
    ):
        code, _, err = janus(*words)
        assert code in (2, 4)
        assert reason in err


def test_an_export_holds_the_split_that_it_was_given_and_no_other(any_janus: Janus) -> None:
    any_janus("export", "janus", "--out", "without")
    any_janus("export", "janus", "--with-test", "--out", "with")
    for folder, split in (("without", "test"), ("with", "valid")):
        code, _, err = any_janus("decode", folder, "--split", split)
        assert (code, f"{folder} is an export, and does not hold the text of the {split} split" in err) == (3, True)
        assert "--input FILE" in err
    assert "test.source.txt, test.target.txt\n" in Path("with/README.txt").read_text()
    Path("with/test.source.txt").write_text("other\n" * 20)
    ends(any_janus("decode", "with", *GREEDY), 3, "with/test.source.txt was changed")
    Path("with/test.source.txt").unlink()
    ends(any_janus("decode", "with", *GREEDY), 3, "with/test.source.txt is missing")


def test_references_of_several_a_line_go_with_their_split(any_janus: Janus) -> None:
    several = "".join(json.dumps([line, "another"]) + "\n" for line in target())
    Path("data/demo/test.refs.jsonl").write_text(several)
    about = {"bytes": len(several), "sha256": sha256(Path("data/demo/test.refs.jsonl"))}
    manifest = Path("runs/janus/manifest.json")
    edit_json(manifest, files={**read_json(manifest)["files"], "test.refs.jsonl": about})
    any_janus("export", "janus", "--with-test", "--out", "out")
    manifest.unlink()
    decoded(any_janus, "out", *GREEDY)
    assert any_janus("score", "out")[0] == 0
    assert Path("out/decode/test.refs.jsonl").read_text() == several


def test_a_model_that_comes_with_janus_is_copied_to_runs_and_left_as_it_is(any_janus: Janus, models: Path) -> None:
    shipped = tree(models)
    for file in models.rglob("*"):
        file.chmod(0o555)
    out = decoded(any_janus, "--run", "pretrained:tiny", *GREEDY)
    assert out == decoded(any_janus, "models/tiny", "--input", "data/demo/test.source.txt", *GREEDY)
    assert Path("runs/pretrained-tiny/decode/test.ar.beam1.txt").read_text() == out
    assert all(file.stat().st_mode & 0o200 for file in Path("runs/pretrained-tiny").iterdir())
    assert any_janus("score", "pretrained:tiny")[0] == any_janus("score", "--run", "pretrained:tiny")[0] == 0
    code, out, err = any_janus("inspect", "pretrained:tiny")
    assert (code, "checkpoint: runs/pretrained-tiny\n" in out, "copying" in err) == (0, True, False)
    assert any_janus("inspect", "pretrained-tiny")[1] == out
    assert any_janus(*TRAIN, "--from", "pretrained:tiny", "--run", "runs/new", "--prepared", "data/demo")[0] == 0
    assert janus_cli.load("pretrained:tiny").translate(["ba du"])[0].text
    for file in models.rglob("*"):
        file.chmod(0o755)
    assert tree(models) == shipped


def test_a_copy_that_cannot_be_made_says_where_the_model_is(any_janus: Janus, models: Path, monkeypatch: Patch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr(runs, "whole_folder", refused)
    ends(any_janus("decode", "--run", "pretrained:tiny"), 2, f"--run {models.resolve() / 'tiny'}")
    with pytest.raises(janus_cli.JanusError, match="cannot be copied"):
        janus_cli.load("pretrained:tiny")


def test_a_published_model_is_compared_with(any_janus: Janus, models: Path) -> None:
    for run in ("pretrained:tiny", "janus"):
        decoded(any_janus, "--run", run, *GREEDY)
    out = printed(any_janus("score", "runs/janus", "--against", "pretrained:tiny", "--metrics", "chrf"))
    assert "pretrained-tiny/decode/test.ar.beam1.txt" in out


def test_its_tokenizer_can_be_that_of_other_text(any_janus: Janus, models: Path) -> None:
    words = ("preprocess", "--out", "data/new", *sets(*CHANGES, "tokenizer.reuse=pretrained:tiny"))
    assert any_janus(*words)[0] == 0
    assert Path("data/new/tokenizer.model").read_bytes() == (models / "tiny/tokenizer.model").read_bytes()
    assert not Path("runs/pretrained-tiny").exists()
    ends(any_janus(*words[:2], "data/newer", *sets("tokenizer.reuse=pretrained:tidy")), 2, "did you mean tiny?")


def test_what_was_trained_here_is_newer_than_a_copied_model(any_janus: Janus, models: Path) -> None:
    any_janus("inspect", "pretrained:tiny")
    os.utime("runs/pretrained-tiny/recipe.yaml", (3e9, 3e9))
    assert "taking runs/janus, the newest" in any_janus("decode", *GREEDY)[2]
    for run in Path("runs").iterdir():
        if run.name != "pretrained-tiny":
            shutil.rmtree(run)
    assert "taking runs/pretrained-tiny, the newest" in any_janus("decode", *GREEDY)[2]


@pytest.mark.parametrize("change", ["other manifest", "no manifest", "other run", "no weights", "damaged"])
def test_a_copy_that_differs_is_refused_and_kept(any_janus: Janus, models: Path, change: str) -> None:
    copy = Path("runs/pretrained-tiny")
    if change == "other run":
        shutil.copytree("runs/ar", copy, symlinks=True)
    else:
        any_janus("inspect", "pretrained:tiny")
        {
            "other manifest": lambda: edit_json(copy / "manifest.json", splits={}),
            "no manifest": (copy / "manifest.json").unlink,
            "no weights": (copy / "model.safetensors").unlink,
            "damaged": lambda: (copy / "tokenizer.model").write_bytes(b"?"),
        }[change]()
    before = tree(copy)
    code, _, err = any_janus("decode", "pretrained:tiny")
    assert (code, "runs/pretrained-tiny is not a copy of pretrained:tiny" in err) == (2, True)
    assert "rename or remove it" in err
    assert tree(copy) == before


@pytest.mark.parametrize("words", [("decode",), ("inspect",), ("score",), ("bench",), ("train", "--from")])
def test_unknown_names_are_told_with_those_that_are_there(any_janus: Janus, models: Path, words: tuple[str]) -> None:
    code, _, err = any_janus(*words, "pretrained:tinny")
    assert (code, "no model 'tinny' comes with this janus, did you mean tiny?" in err) == (2, True)
    assert "pretrained:tiny, pretrained:tiny-ar" in err
    assert "the repository of janus may have more" in err


@pytest.mark.parametrize("named", ["pretrained:tiny", "runs/pretrained-tiny", "models/tiny"])
def test_an_exported_model_is_no_place_for_a_training(any_janus: Janus, models: Path, named: str) -> None:
    any_janus("inspect", "pretrained:tiny")
    before = tree(Path())
    for words in (["--run", named], ["--run", named, "--force"], ["--resume", named]):
        ends(any_janus(*TRAIN, *words, "--prepared", "data/demo"), 2, f"--from {named}")
    assert tree(Path()) == before


def test_what_else_lies_in_the_folder_of_a_model_is_not_copied(any_janus: Janus, models: Path) -> None:
    names = {file.name for file in (models / "tiny").iterdir()}
    (models / "tiny/README.md").write_text("a card")
    (models / "tiny/report.html").write_text("a report")
    any_janus("inspect", "pretrained:tiny")
    assert {file.name for file in Path("runs/pretrained-tiny").iterdir()} == {*names, "README.md"}


def test_a_damaged_export_is_to_be_removed(any_janus: Janus, models: Path) -> None:
    any_janus("inspect", "pretrained:tiny")
    Path("runs/pretrained-tiny/model.safetensors").write_bytes(b"?")
    ends(any_janus("decode", "pretrained-tiny", *GREEDY), 4, "remove the folder")


def test_a_model_is_a_run_and_no_checkpoint(any_janus: Janus, models: Path) -> None:
    for run in ([], ["janus"]):
        ends(any_janus("decode", *run, "--checkpoint", "pretrained:tiny"), 2, "--run pretrained:tiny")
