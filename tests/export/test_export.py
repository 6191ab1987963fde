"""`janus export`: what is refused, what is replaced, and what is left when something fails. Needs no extra."""

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from janus_cli.export import safetensors
from janus_cli.files import copy_files
from tests.helpers import Janus, Patch, ends, read_json

MakeRun = Callable[..., Path]
CT2 = ("--format", "ctranslate2")


def tree(folder: Path = Path()) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("objective", "changes", "arguments", "code", "words"),
    [
        ("cmlm", [], CT2, 2, "objective cmlm: it has no left-to-right side"),
        ("ar", ["objective.ar_stream=query"], CT2, 2, "objective ar, ar_stream query"),
        ("ar", ["model.causal_attention=true"], CT2, 2, "model.causal_attention true"),
        ("ar", ["model.embedding=concat"], CT2, 2, "model.embedding concat"),
        ("ar", [], CT2, 2, "ctranslate2 is not installed"),
        ("ar", [], [*CT2, "--dry-run"], 2, "ctranslate2 is not installed"),
        ("ar", [], ["--run", "other"], 2, "both name a run"),
        ("ar", [], ["--checkpoint", "step-000009"], 4, "no checkpoint step-000009"),
        ("ar", [], ["--quantization", "int8"], 2, "safetensors stores float32 or bfloat16"),
        ("ar", [], ["--with-test"], 3, "leave --with-test out"),
        ("ar", [], [*CT2, "--with-test"], 2, "--with-test"),
        ("ar", [], ["--out", "runs/run/recipe.yaml"], 2, "is a file"),
        ("ar", [], ["--out", "runs/run/recipe.yaml/out"], 2, "runs/run/recipe.yaml"),
        ("ar", [], ["--out", ".", "--force"], 2, "holds something other than an export"),
    ],
)
def test_mistakes(
    make_run: MakeRun, janus: Janus, monkeypatch: Patch, objective: str, changes: list[str],
    arguments: Sequence[str], code: int, words: str,
) -> None:  # fmt: skip
    """What CTranslate2 cannot represent is refused where it is not installed, too: installing it would not help."""
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    make_run("run", objective, changes)
    before = tree()
    ends(janus("export", "run", *arguments), code, words, "\nhint: ", out="")
    assert tree() == before


def test_a_foreign_tokenizer_is_noticed(make_run: MakeRun, janus: Janus) -> None:
    run, other = make_run("run"), make_run("other", "ar", ["tokenizer.vocabulary=70"])
    copy_files(["tokenizer.model"], other, run)
    ends(janus("export", "run"), 4, "was not trained with the tokenizer in runs/run")


def test_a_dry_run_checks_and_writes_nothing(make_run: MakeRun, janus: Janus) -> None:
    run = make_run("run")
    before = tree()
    code, out, err = janus("export", "--dry-run", "--out", "new/out")
    assert (code, out) == (0, "")
    assert "would export runs/run, checkpoint step-000007, to new/out, as safetensors, float32" in err
    assert tree() == before
    assert not Path("new").exists()
    weights = run / "checkpoints" / "step-000007" / "model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    ends(janus("export", "--dry-run", "--output", "new/out"), 4, "is damaged")


def test_an_export_is_replaced_only_when_asked_for(make_run: MakeRun, janus: Janus) -> None:
    make_run("run")
    Path("out").mkdir()
    assert janus("export", "--out", "out")[0] == 0
    Path("out/README.txt").write_text("older", encoding="utf-8")
    before = tree()
    code, _, err = janus("export", "--out", "out")
    assert (code, "out holds an export already" in err, tree() == before) == (2, True, True)
    assert janus("export", "--out", "out", "--force")[0] == 0
    assert Path("out/README.txt").read_text(encoding="utf-8") != "older"
    assert sorted(file.name for file in Path().iterdir()) == ["out", "runs"]


@pytest.mark.parametrize("folder", ["decode", "checkpoints"])
def test_what_was_made_with_an_export_is_never_replaced(make_run: MakeRun, janus: Janus, folder: str) -> None:
    make_run("run")
    janus("export", "--out", "out")
    Path("out", folder).mkdir()
    Path("out", folder, "file").write_text("a user's")
    before = tree()
    code, _, err = janus("export", "run", "--out", "out", "--force")
    assert (code, "name another folder" in err, tree() == before) == (2, True, True)


@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_what_was_there(make_run: MakeRun, janus: Janus, monkeypatch: Patch, old: bool) -> None:
    make_run("run")
    if old:
        janus("export", "--out", "new/out")
    before = tree()

    def full(file: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(safetensors, "write_json", full)
    code, _, err = janus("export", "--out", "new/out", "--force")
    assert (code, "No space left on device" in err, tree() == before) == (1, True, True)


def test_averages_say_what_went_into_them(make_run: MakeRun, janus: Janus) -> None:
    make_run("run")
    assert janus("average", "--last", "1")[0] == 0
    assert janus("export", "--checkpoint", "average-last1", "--out", "out")[0] == 0
    about = read_json("out/provenance.json")
    assert (about["checkpoint"], about["step"], about["averaged"]) == ("average-last1", 7, ["step-000007"])
    assert "checkpoint average-last1 (the mean of step-000007)" in Path("out/README.txt").read_text(encoding="utf-8")
