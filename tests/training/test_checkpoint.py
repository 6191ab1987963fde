"""Checkpoints: whole or refused, and the file at fault is named."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_cli import files
from janus_cli.cli import main
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.average import average_checkpoints
from janus_cli.training.checkpoint import MODEL, STATE, best_folders, load_model, newest_valid, verify
from janus_cli.training.inspect import describe, lines
from janus_cli.training.run import train


@pytest.fixture
def run(tiny_recipe: Path) -> Run:
    changes = ("training.updates=6", "training.validate_every=3")
    return train(recipe=str(tiny_recipe), run=Path("run"), changes=changes, device="cpu")


def last(run: Run) -> Path:
    return (run.checkpoints / "last").resolve()


def relabel(folder: Path) -> None:
    """Makes the manifest agree with changed files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = checkpoint._describe(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("where", [0, 8, 40, 0.5, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_truncated_files_are_named_and_the_one_before_is_taken(run: Run, name: str, where: float) -> None:
    folder = last(run)
    data = (folder / name).read_bytes()
    keep = int(len(data) * where) if isinstance(where, float) else where if where >= 0 else len(data) - 1
    (folder / name).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=name):
        verify(folder)
    found = newest_valid(run.checkpoints)
    assert found is not None
    assert found.folder.name == "step-000004"


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "recipe.yaml"])
def test_one_flipped_bit(run: Run, name: str) -> None:
    file = last(run) / name
    data = bytearray(file.read_bytes())
    at = data.index(b"sha256") + 20 if name == "manifest.json" else len(data) // 2
    data[at] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        load_model(last(run))


def test_a_folder_without_manifest_is_no_checkpoint(run: Run) -> None:
    (last(run) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(last(run))


def test_training_again_replaces_the_damaged_checkpoint(run: Run) -> None:
    """The newest is broken: resume goes on from the one before, and the run ends with the same weights, whole."""
    good = {name: value.clone() for name, value in load_file(last(run) / MODEL).items()}  # the file is mapped
    for name in ("state.json", MODEL):
        (last(run) / name).write_bytes(b"{")
    train(run=Path("run"), resume=True, device="cpu")
    assert verify(last(run)).state["step"] == 6
    assert all(torch.equal(good[name], value) for name, value in load_file(last(run) / MODEL).items())


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (1_000_000, 999_000, 5):
        checkpoint.step_folder(tmp_path, step).mkdir()
    (tmp_path / "step-notes").mkdir()
    assert [checkpoint.step_of(folder) for folder in checkpoint.steps(tmp_path)] == [5, 999_000, 1_000_000]


def test_when_all_are_damaged_resume_says_so(run: Run) -> None:
    for folder in checkpoint.steps(run.checkpoints):
        (folder / MODEL).write_bytes(b"")
    with pytest.raises(CheckpointError, match="is whole"):
        newest_valid(run.checkpoints)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_pickle_never_runs(run: Run) -> None:
    folder = last(run)
    (folder / MODEL).write_bytes(pickle.dumps(Payload()))
    relabel(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(folder)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "dtype", "nan"])
def test_foreign_weights(run: Run, fault: str) -> None:
    folder = last(run)
    weights = load_file(folder / MODEL)
    name = "decoder.0.cross.out.weight"
    if fault == "missing":
        del weights[name]
    elif fault == "extra":
        weights["more"] = torch.zeros(1)
    elif fault == "shape":
        weights[name] = weights[name][:-1].clone()
    elif fault == "dtype":
        weights[name] = weights[name].half()
    else:
        weights[name][0, 0] = float("nan")
    save_file(weights, folder / MODEL)
    relabel(folder)
    with pytest.raises(CheckpointError, match="more" if fault == "extra" else name.replace(".", r"\.")):
        load_model(folder)


def test_another_format_version(run: Run) -> None:
    manifest = last(run) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match=r"format 99.*format 1"):
        verify(last(run))


def test_a_manifest_cannot_point_outside(run: Run) -> None:
    folder = last(run)
    shutil.copy(folder / MODEL, "outside")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../outside"] = manifest["files"][MODEL]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="no plain file"):
        verify(folder)


def test_a_failed_save_leaves_nothing_and_the_older_ones(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(file.name for file in run.checkpoints.iterdir())
    found = verify(last(run))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(CheckpointError, match="No space left") as problem:
        checkpoint.save(run.checkpoints / "step-000099", found.recipe, (9, 9), {}, {"w": torch.zeros(1000)})
    assert "4,000 bytes" in problem.value.hint
    assert sorted(file.name for file in run.checkpoints.iterdir()) == before


def test_the_last_are_those_that_a_run_keeps_as_such(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Older ones are there because they were good: no mean of the last ones."""
    text = run.recipe.read_text(encoding="utf-8")
    assert text.count("keep_last: ") == 1
    run.recipe.write_text(re.sub(r"keep_last: \d+", "keep_last: 2", text), encoding="utf-8")
    for last in (3, None):
        folder, names = average_checkpoints(run, last=last, best=None, force=True)
        assert (folder.name, names) == ("average-last2", ["step-000004", "step-000006"])
    assert capsys.readouterr().err.count("run keeps its last 2 checkpoints: averaging 2, not 3") == 1


def test_average_is_the_mean_and_keeps_tables_tied(run: Run) -> None:
    folder, names = average_checkpoints(run, last=3, best=None, force=False)
    assert names == ["step-000003", "step-000004", "step-000006"]
    parts = [load_file(run.checkpoints / name / MODEL) for name in names]
    mean = load_file(folder / MODEL)
    assert sum(name.endswith("table.weight") for name in mean) == 1
    for name, value in mean.items():
        assert torch.allclose(value, torch.stack([part[name].double() for part in parts]).mean(0).float(), atol=1e-7)
    model = load_model(folder)
    assert model.source_table is model.target_table
    with pytest.raises(UsageError, match="exists"):
        average_checkpoints(run, last=3, best=None, force=False)


def test_the_best_are_those_with_the_highest_score(run: Run) -> None:
    for step, value in ((3, 0.25), (6, 0.125)):
        file = run.checkpoints / f"step-{step:06d}" / STATE
        state = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**state, "metrics": {"bleu_ar": value}}), encoding="utf-8")
    assert best_folders(run.checkpoints, "bleu_ar") == [run.checkpoints / f"step-{step:06d}" for step in (3, 6)]
    assert best_folders(run.checkpoints, "bleu_nar") == []


def test_average_of_the_best(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    _, names = average_checkpoints(run, last=None, best=2, force=False)
    assert sorted(names) == ["step-000003", "step-000006"]  # the two that were validated
    assert average_checkpoints(run, last=None, best=3, force=True)[0].name == "average-best2"
    assert "has 2 checkpoints: averaging 2, not 3" in capsys.readouterr().err


def test_the_run_to_average_is_named_first_or_by_option(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (
        ([str(run.path)], 0),
        (["--run", str(run.path), "--force"], 0),
        ([str(run.path), "--run", "x"], 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["average", *arguments, "--last", "2"])
        assert stopped.value.code == code
    assert "both name a run" in capsys.readouterr().err
    assert (run.checkpoints / "average-last2").is_dir()


def test_averaging_strangers_is_refused(run: Run, tiny_recipe: Path) -> None:
    other = train(
        recipe=str(tiny_recipe), run=Path("other"), objective="ar", changes=("training.updates=9",), device="cpu"
    )
    shutil.copytree(other.checkpoints / "step-000009", run.checkpoints / "step-000009")
    with pytest.raises(CheckpointError, match="differ in their objective"):
        average_checkpoints(run, last=2, best=None, force=False)


def test_inspect(run: Run) -> None:
    text = "\n".join(lines(describe(Path("run"))))
    assert "name: janus" in text
    assert "last: step-000006" in text
    text = "\n".join(lines(describe(last(run))))
    assert "  step: 6" in text.split("\n")
    assert "sha256" in text
    text = "\n".join(lines(describe(Path("data/tiny.src-tgt"))))
    assert "pairs: 64" in text
    with pytest.raises(UsageError, match="is no run"):
        describe(Path("nowhere"))
