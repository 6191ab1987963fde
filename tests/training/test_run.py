"""`janus train` around the training itself: folder, lock, data, other weights to begin with, `run.txt`, log."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_cli.data.prepared import CHECKED
from janus_cli.errors import CheckpointError, DataError, RunInUseError, UsageError
from janus_cli.export.export import export
from janus_cli.files import locked, write_atomically
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training import run as run_module
from janus_cli.training.inspect import describe_run
from janus_cli.training.log import Log
from tests.faults.processes import digest, entries, go
from tests.helpers import Capture, Patch

ONE = "training.updates=1"
RECIPE = Path("tiny.yaml")


def explained(run: str = "runs/told") -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in Path(run, "run.txt").read_text(encoding="utf-8").split("\n"))
    return dict(words for words in lines if len(words) == 2)


def test_a_run_explains_itself(tiny_recipe: Path) -> None:
    go(tiny_recipe, "runs/told", "training.updates=2", objective="janus")
    first, run = explained(), Run(Path("runs/told"))
    assert first["go"].startswith("on      janus train --resume --run runs/told --set training.updates=N")
    assert first["state"].startswith("done (")
    assert "update 2 of 2" in first["state"]
    assert "objective janus" in first["what"]
    assert json.loads(run.manifest.read_bytes())["fingerprint"] == first["fingerprint"]
    go(tiny_recipe, "runs/told", "training.updates=3", resume=True)
    again = explained()
    assert "update 3 of 3" in again["state"]
    assert (again["began"], again["command"]) == (first["began"], first["command"])
    begun = entries(run.log, "start", "resumed")
    assert [(line["kind"], line["precision"]) for line in begun] == [
        (k, begun[0]["precision"]) for k in ("start", "resumed")
    ]
    assert all(0 < line["utilisation"] < 2 for line in entries(run.log, "train"))


def new(*changes: str, **more: Any) -> dict[str, Any]:
    return {"run": "x", "changes": changes, **more}


def folder_with(name: str) -> dict[str, Any]:
    file = Path("project", name)
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    return {"run": "project"}


def damaged_tokenizer() -> dict[str, Any]:
    Path("run/tokenizer.model").write_bytes(Path("run/tokenizer.model").read_bytes() + b" ")
    return new(start=OTHER)


OTHER, DATA = Path("run"), Path("data/tiny.src-tgt")
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a run": ({}, UsageError, "run holds a run already"),
    "no run": ({"run": "nothing", "resume": True}, UsageError, "nothing is not a run"),
    "resume and force": ({"resume": True, "force": True}, UsageError, "--resume and --force"),
    "resume and from": ({"resume": True, "start": OTHER}, UsageError, "--resume and --from"),
    "allow without resume": (new(allow_change=("seed",)), UsageError, "--allow-change needs --resume"),
    "from itself": ({"start": OTHER, "force": True}, UsageError, "which a new run would replace"),
    "from nowhere": (new(start=Path("nowhere")), UsageError, "nowhere is not a run"),
    "from another shape": (new("model.feedforward=24", start=OTHER), CheckpointError, "does not fit: .* has shape"),
    "from other heads": (new("model.heads=4", start=OTHER), CheckpointError, r"trained with model\.heads 2"),
    "from a damaged tokenizer": (damaged_tokenizer, CheckpointError, r"run/tokenizer\.model is damaged"),
    "an unknown metric": (new("training.best_metric=rouge"), UsageError, "rouge is not a validation"),
    "one whose knob is 0": (new("training.best_metric=ce_correct"), UsageError, "ce_correct is not a validation"),
    "other checkpoints": (lambda: folder_with("checkpoints/mine.pt"), UsageError, "project holds checkpoints but"),
    "the same, forced": (lambda: {**folder_with("log.jsonl"), "force": True}, UsageError, "holds log.jsonl but"),
    "other files": (lambda: folder_with("plan.txt"), UsageError, "project holds plan.txt but"),
    "files further down": (lambda: folder_with("src/main.py"), UsageError, "project holds src but"),
    "prepared data, forced": ({"run": str(DATA), "force": True}, UsageError, "src-tgt holds .* is not a run"),
    "no data there": (new(data_dir=Path("nowhere")), DataError, "folder nowhere does not exist"),
    "nothing prepared there": (new(prepared=Path("nowhere")), DataError, "no prepared data in nowhere"),
}


def contents() -> dict[Path, bytes]:
    """Everything in this folder but the notes of which data was checked, which any command may renew."""
    return {file: file.read_bytes() for file in Path().rglob("*") if file.is_file() and file.name != CHECKED}


def test_a_new_run_that_another_process_trains_is_in_use(trained: Path) -> None:
    with locked(Path("run/.lock"), pytest.fail), pytest.raises(RunInUseError, match=f"in use by pid {os.getpid()}"):
        go(RECIPE, "run")
    with pytest.raises(UsageError, match="holds a run already"):
        go(RECIPE, "run")


def test_a_table_that_was_changed_is_named_once(tiny_recipe: Path) -> None:
    files = "data.files=" + json.dumps({"train": ["t.tsv"], "valid": ["t.tsv"]})
    Path("t.tsv").write_text("src\ttgt\n" + "a b\tc d\n" * 9)
    change = (files, "data.synthetic=null", "tokenizer.kind=words")
    go(tiny_recipe, "run", *change, data_only=True)
    Path("t.tsv").write_text("src\ttgt\n" + "a b\tc e\n" * 8)
    with pytest.raises(DataError) as problem:
        go(tiny_recipe, "run", *change, data_only=True)
    assert problem.value.message.count("t.tsv") == 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(trained: Path, name: str) -> None:
    options, error, words = REFUSED[name]
    options = options() if callable(options) else options
    before = contents()
    with pytest.raises(error, match=words):
        go(RECIPE, **{"run": "run", **options})
    assert contents() == before


def test_a_run_begins_beside_prepared_data_and_beside_other_files_by_force(trained: Path) -> None:
    shutil.copytree("data", "both/data")
    Path("both/empty").mkdir()
    Path("both/data/.tiny.making").mkdir()  # of a preparation that was killed
    Path("both/data/tiny.downloads").mkdir()
    go(RECIPE, "both", ONE, prepared=Path("both", DATA))
    assert entries(Path("both/log.jsonl"), "done")
    file = Path(folder_with("plan.txt")["run"], "plan.txt")
    go(RECIPE, "project", ONE, force=True)
    assert entries(Path("project/log.jsonl"), "done")
    assert file.read_text() == "precious"


def test_a_missing_parent_is_made_and_a_dry_run_writes_nothing(trained: Path) -> None:
    go(RECIPE, "dry", dry_run=True)
    assert not Path("dry").exists()
    assert (go(RECIPE, "deep/down/run", ONE) / "last").is_dir()


def test_data_is_prepared_on_the_way_and_found_again(tiny_recipe: Path, capsys: Capture) -> None:
    whole = go(tiny_recipe, "whole", "training.updates=2")
    assert "data/tiny.src-tgt is not there yet: preparing it first" in capsys.readouterr().err
    Path("data/tiny.src-tgt").rename("elsewhere")
    go(tiny_recipe, "run", ONE, prepared=Path("elsewhere"))
    assert digest(go(tiny_recipe, "run", "training.updates=2", resume=True) / "last") == digest(whole / "last")


def test_made_up_text_of_another_seed_is_said(trained: Path, capsys: Capture) -> None:
    go(RECIPE, "other", ONE, seed=5)
    assert "data/tiny.src-tgt is text made from seed 1, the training has seed 5" in capsys.readouterr().err


def test_a_run_that_could_not_begin_begins_when_it_can(trained: Path, monkeypatch: Patch) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.parent.name == "new":
            raise OSError(28, "No space left on device", str(path))
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            go(RECIPE, "new", ONE)
    go(RECIPE, "new", ONE)
    assert entries(Path("new/log.jsonl"), "done")


def test_decoding_is_offered_once_there_is_a_checkpoint(trained: Path, monkeypatch: Patch) -> None:
    def full(folder: Path, *_: Any) -> None:
        raise CheckpointError(f"{folder} could not be written")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(CheckpointError):
            go(RECIPE, "new", ONE)
    assert not explained("new")["decode"].startswith("janus")
    go(RECIPE, "new", resume=True)
    assert explained("new")["decode"] == "janus decode --run new"


def test_weights_are_those_of_the_other_run(tiny_recipe: Path, capsys: Capture) -> None:
    """A learning rate of almost nothing leaves them where they were; the length head, which AR lacks, is fresh."""
    go(tiny_recipe, "ar", objective="ar")
    go(tiny_recipe, "janus", ONE, "training.learning_rate=1e-30", objective="janus", start=Path("ar"))
    old, new = (load_file(f"{name}/model.safetensors") for name in ("ar/checkpoints/best", "janus/checkpoints/last"))
    assert new.keys() - old.keys() == {"length_table"}
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "fresh: length_table" in capsys.readouterr().err
    origin = json.loads(Path("janus/manifest.json").read_text())["from"]
    assert origin["checkpoint"] == str(Path("ar/checkpoints/best").resolve())
    assert describe_run(Run(Path("janus")))["from"] == origin["checkpoint"]
    assert f"from       {origin['checkpoint']}" in Path("janus/run.txt").read_text()
    back = go(tiny_recipe, "back", ONE, objective="ar", start=Path("janus/checkpoints/last"))
    assert "length_table" not in load_file(back / "last/model.safetensors")
    assert "not used: length_table" in capsys.readouterr().err


def test_a_checkpoint_that_changed_meanwhile_is_not_begun_from(trained: Path) -> None:
    """The first checkpoint of the new run is lost, the other run trained on: a resume must not begin elsewhere."""
    go(RECIPE, "new", ONE, start=Path("run"))
    shutil.rmtree("new/checkpoints")
    Path("new/checkpoints").mkdir()
    origin = Path(json.loads(Path("new/manifest.json").read_text())["from"]["checkpoint"])
    shutil.rmtree(origin)
    shutil.copytree((go(RECIPE, "other", ONE, seed=7) / "last").resolve(), origin)
    with pytest.raises(CheckpointError, match="has changed since"):
        go(RECIPE, "new", resume=True)


def test_tensorboard_or_the_hint(trained: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for more in ({}, {"dry_run": True}):
        with pytest.raises(UsageError) as problem:
            go(RECIPE, "new", "training.tensorboard=true", ONE, **more)
        assert "[tensorboard]" in problem.value.hint


def test_a_full_disk_costs_a_warning_each(tiny_recipe: Path, monkeypatch: Patch, capsys: Capture) -> None:
    class Full:
        def add_scalar(self, *_: Any) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    def full(path: Path | None, tensorboard: Path | None = None) -> Log:
        log = Log(None if path is None else Path("/dev/full"))
        log.board = Full()
        return log

    monkeypatch.setattr(run_module, "Log", full)
    root = go(tiny_recipe, "run")
    said = capsys.readouterr().err
    assert said.count("/dev/full cannot be written (No space left") == 1
    assert said.count("TensorBoard's folder cannot be written") == 1
    assert checkpoint.newest_valid(root) is not None


OWN = """
name: own
data: {source: de, target: en, max_tokens: 60}
tokenizer: {kind: words, vocabulary: 60, joint: false}
model: {width: 16, feedforward: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, max_length: 64, tie: target}
training: {updates: 2, batch_tokens: 32, validate_every: 2}
"""


@pytest.fixture
def own(empty_folder: Path) -> Path:
    """A recipe file, and text in the folders `a` and, a little different, `b`."""
    path = empty_folder / "mine.yaml"
    path.write_text(OWN)
    for folder, word in (("a", "ein"), ("b", "kein")):
        Path(folder).mkdir()
        for split in ("train", "valid", "test"):
            for suffix in ("de", "en"):
                Path(folder, f"{split}.{suffix}").write_text(f"{word} satz mit wörtern\n" * 8)
    return path


def test_a_long_pair_of_valid_is_found_at_once(own: Path) -> None:
    for suffix in ("de", "en"):
        Path("a", f"valid.{suffix}").write_text("ein " * 40 + "\n")
    with pytest.raises(DataError, match=r"a pair of the valid split has 42 tokens, more than training\.batch_tokens"):
        go(own, "run", data_dir=Path("a"))
    assert not Path("run").exists()


def test_other_text_than_was_prepared_is_refused_and_the_hint_makes_what_was_asked_for(own: Path) -> None:
    go(own, "first", data_dir=Path("a"))
    go(own, "second", data_dir=Path("a").resolve())
    shutil.copytree("a", "copy")
    go(own, "third", data_dir=Path("copy"))
    with pytest.raises(DataError, match=r"b/train\.de is not the text that it was made of") as problem:
        go(own, "run", ONE, "data.max_ratio=3.0", data_dir=Path("b"))
    again = f"janus preprocess --recipe {own} --set data.max_ratio=3.0 --data-dir b --force"
    assert problem.value.hint == f"make it again: {again}"
    with pytest.raises(DataError, match=r"tokenizer\.vocabulary was 60, the recipe says 50") as problem:
        go(own, "run", "tokenizer.vocabulary=50")
    first, second = problem.value.hint.split("; or make it again: ")
    assert first.endswith(" add --set tokenizer.vocabulary=60"), "what changes nothing comes first"
    assert second == f"janus preprocess --recipe {own} --set tokenizer.vocabulary=50 --data-dir a --force"
    with pytest.raises(DataError, match="there is no prepared data in elsewhere") as problem:
        go(own, "run", prepared=Path("elsewhere"))
    assert problem.value.hint == f"make it: janus preprocess --recipe {own} --out elsewhere"
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty/train\.de \(or \.gz\) is not there"):
        go(own, "run", data_dir=Path("empty"))
    shutil.rmtree("a")  # not needed any more
    go(own, "fourth")


def test_a_run_whose_text_was_changed_is_told_where_its_weights_may_go(own: Path) -> None:
    """Preparing the changed text, as for a new run, would only lead to the next refusal."""
    go(own, "run", ONE, data_dir=Path("a"))
    Path("a/train.de").write_text("ein anderer satz mit wörtern\n" * 8)
    with pytest.raises(DataError, match=r"train\.de was changed") as problem:
        go(own, "run", resume=True)
    assert "janus preprocess" not in problem.value.hint
    assert "janus train --from" in problem.value.hint


def test_starting_over_counts_what_it_removes(tiny_recipe: Path, capsys: Capture) -> None:
    checkpoints = go(tiny_recipe, "run", "training.updates=2", "training.save_every=1")
    Path("run/decode").mkdir()
    Path("run/decode/test.ar.txt").write_text("a\n")
    export(kind="safetensors", run=Path("run"))
    [exported] = Path("run/export").iterdir()
    steps = len(list(checkpoints.glob("step-*")))
    capsys.readouterr()
    go(tiny_recipe, "run", ONE, force=True)
    said = capsys.readouterr().err
    assert f"{steps} checkpoint" in said
    assert "1 decoding" in said
    assert not Path("run/decode/test.ar.txt").exists()
    assert f"are kept: {exported}" in said, "an export may be all that is left of a model"
    assert (exported / "model.safetensors").is_file()


@pytest.mark.parametrize(("warmup", "warned"), [(1, False), (2, True)])
def test_a_warm_up_that_does_not_end_is_said(tiny_recipe: Path, capsys: Capture, warmup: int, warned: bool) -> None:
    go(tiny_recipe, "run", ONE, f"training.warmup={warmup}")
    assert ("training.warmup" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize(("objective", "change"), [("ar", "rdrop=1"), ("janus", "two_encodings=true")])
def test_two_passes_that_are_the_same_are_said(
    tiny_recipe: Path, capsys: Capture, objective: str, change: str, dropout: float
) -> None:
    go(tiny_recipe, "run", ONE, f"objective.{change}", f"model.dropout={dropout}", objective=objective)
    assert ("both passes are the same" in capsys.readouterr().err) == (not dropout)


def test_without_words_to_switch_an_earlier_run_stays(tiny_recipe: Path) -> None:
    go(tiny_recipe, "run", ONE)
    before = Path("run/recipe.yaml").read_bytes()
    Path("d.tsv").write_text("none\tsuch\n")
    with pytest.raises(DataError, match="no token has two translations"):
        go(tiny_recipe, "run", ONE, "objective.dictionary=d.tsv", objective="cemat", force=True)
    assert Path("run/recipe.yaml").read_bytes() == before
    assert (Path("run/checkpoints/last") / "manifest.json").is_file()
