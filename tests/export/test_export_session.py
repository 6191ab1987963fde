"""`janus export`: what is refused, what is replaced, and what is left when something fails. Needs no extra."""

import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from janus_cli.export import safetensors
from janus_cli.files import copy_files

MakeRun = Callable[..., Path]
Janus = Callable[..., tuple[int, str, str]]


def tree(folder: Path = Path()) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("cmlm", [], "objective cmlm: it has no left-to-right side"),
        ("janus", ["objective.ar_stream=query"], "ar_stream query"),
        ("ar", ["model.causal_attention=true"], "model.causal_attention true"),
        ("ar", ["model.embedding=concat"], "model.embedding concat"),
        ("ar", ["objective.ar_stream=query"], "ar_stream query"),
    ],
)
def test_what_ctranslate2_cannot_do_is_refused(
    make_run: MakeRun, janus: Janus, monkeypatch: pytest.MonkeyPatch, objective: str, changes: list[str], words: str
) -> None:
    """Also where CTranslate2 is not installed: installing it would not help."""
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    make_run("run", objective, changes)
    before = tree()
    code, out, err = janus("export", "run", "--format", "ctranslate2", "--output", "out")
    assert (code, out) == (2, "")
    assert words in err
    assert "\nhint: use --format safetensors, or train with " in err
    assert tree() == before
    assert janus("export", "run", "--format", "safetensors", "--output", "out")[0] == 0


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_missing_extra_is_one_hint(
    make_run: MakeRun, janus: Janus, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    make_run("run", "janus")
    code, _, err = janus("export", "run", "--format", "ctranslate2", *options)
    assert code == 2
    assert re.search(r"error: ctranslate2 is not installed\nhint: pip install .*\[export\]'\n$", err)
    assert not Path("runs/run/export").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--run", "other"], 2, "both name a run"),
        (["nope"], 2, "nope is no run"),
        (["run", "--checkpoint", "step-000009"], 4, "no checkpoint step-000009"),
        (["run", "--quantization", "int8"], 2, "safetensors keeps the weights as they are"),
        (["run", "--quantization", "int7"], 2, "int7"),
        (["run", "--format", "onnx"], 2, "onnx"),
        (["run", "--output", "runs/run/recipe.yaml"], 2, "is a file"),
        (["run", "--output", "runs/run/recipe.yaml/out"], 2, "cannot write runs/run/recipe.yaml/out"),
        (["run", "--output", "runs/run", "--force"], 2, "holds something else than an export"),
        (["run", "--output", ".", "--force"], 2, "holds something else than an export"),
    ],
)
def test_mistakes(make_run: MakeRun, janus: Janus, arguments: list[str], code: int, words: str) -> None:
    make_run("run")
    before = tree()
    found, out, err = janus("export", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "\nhint: " in err
    assert tree() == before


def test_a_dry_run_checks_and_writes_nothing(make_run: MakeRun, janus: Janus) -> None:
    run = make_run("run")
    before = tree()
    code, out, err = janus("export", "--dry-run", "--output", "new/out")
    assert (code, out) == (0, "")
    assert "would export runs/run, checkpoint step-000007, to new/out, as safetensors, float32" in err
    assert tree() == before
    assert not Path("new").exists()
    weights = run / "checkpoints" / "step-000007" / "model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    code, _, err = janus("export", "--dry-run", "--output", "new/out")
    assert code == 4
    assert "is damaged" in err


def test_an_export_is_replaced_only_when_asked_for(make_run: MakeRun, janus: Janus) -> None:
    make_run("run")
    Path("out").mkdir()
    assert janus("export", "--output", "out")[0] == 0
    Path("out/README.txt").write_text("older", encoding="utf-8")
    before = tree()
    code, _, err = janus("export", "--output", "out")
    assert code == 2
    assert "out holds an export already" in err
    assert tree() == before
    assert janus("export", "--output", "out", "--force")[0] == 0
    assert Path("out/README.txt").read_text(encoding="utf-8") != "older"
    assert sorted(file.name for file in Path().iterdir()) == ["out", "runs"]


@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_what_was_there(
    make_run: MakeRun, janus: Janus, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    make_run("run")
    if old:
        janus("export", "--output", "new/out")
    before = tree()

    def full(file: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(safetensors, "write_json", full)
    code, _, err = janus("export", "--output", "new/out", "--force")
    assert code == 1
    assert "No space left on device" in err
    assert tree() == before


def test_the_old_export_comes_back_when_the_last_step_fails(
    make_run: MakeRun, janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("run")
    janus("export", "--output", "out")
    before = tree()
    rename = Path.rename

    def sometimes(self: Path, target: Path) -> Path:
        if self.suffix == ".making" and target.name == "out":
            raise OSError(errno.EACCES, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    assert janus("export", "--output", "out", "--force")[0] == 1
    assert tree() == before


def test_a_foreign_tokenizer_is_noticed(make_run: MakeRun, janus: Janus) -> None:
    run, other = make_run("run"), make_run("other", "ar", ["tokenizer.vocabulary=70"])
    copy_files(["tokenizer.model"], other, run)
    code, _, err = janus("export", "run")
    assert code == 4
    assert "was not trained with the tokenizer in runs/run" in err


def test_averages_say_what_went_into_them(make_run: MakeRun, janus: Janus) -> None:
    make_run("run")
    assert janus("average", "--last", "1")[0] == 0
    assert janus("export", "--checkpoint", "average-last1", "--output", "out")[0] == 0
    about = json.loads(Path("out/provenance.json").read_bytes())
    assert (about["checkpoint"], about["step"], about["averaged"]) == ("average-last1", 7, ["step-000007"])
    assert "checkpoint average-last1 (the mean of step-000007)" in Path("out/README.txt").read_text(encoding="utf-8")
