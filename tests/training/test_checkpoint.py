"""FAULTS 11, 13, 15, 39: checkpoints are whole or refused, whatever they claim to hold; the file at fault is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_cli.errors import CheckpointError, UsageError
from janus_cli.files import whole_folder
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, STATE, newest_valid, verify
from janus_cli.training.inspect import describe, lines
from janus_cli.training.model import load_model
from tests.faults.processes import ENVIRONMENT, digest, go, relabel


@pytest.fixture
def last(trained: Path) -> Path:
    return (trained / "last").resolve()


@pytest.mark.parametrize("where", [0, -1, "flipped bit"])
@pytest.mark.parametrize("name", [MODEL, "optimizer.safetensors", STATE, "recipe.yaml", "manifest.json"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(last: Path, name: str, where: Any) -> None:
    data = bytearray((last / name).read_bytes())
    if where == "flipped bit":
        data[data.index(b"model.safetensors") if name == "manifest.json" else len(data) // 2] ^= 1
        (last / name).write_bytes(data)
    else:
        (last / name).write_bytes(data[:where])
    with pytest.raises(CheckpointError, match=name):
        verify(last)
    found = newest_valid(last.parent)
    assert found is not None
    assert found.folder.name == "step-000004"


@pytest.mark.parametrize("names", [(MODEL, STATE), ("manifest.json",)])
def test_resume_says_what_it_passes_over_and_ends_with_the_same_weights(
    last: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    whole = digest(last)
    for name in names:
        (last / name).write_bytes(b"{")
    go(Path(), "run", resume=True)
    said = capsys.readouterr().err
    assert f"step-000006/{names[0]} is damaged" in said
    assert "from update 4 to 6" in said
    assert verify(last).state["step"] == 6
    assert digest(last) == whole


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (1_000_000, 999_000, 5):
        checkpoint.step_folder(tmp_path, step).mkdir()
    (tmp_path / "step-notes").mkdir()
    assert [checkpoint.step_of(folder) for folder in checkpoint.steps(tmp_path)] == [5, 999_000, 1_000_000]


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


NAME = "decoder.0.cross.out.weight"
FOREIGN: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "missing": lambda weights: {name: weights[name] for name in weights if name != NAME},
    "extra": lambda weights: {**weights, f"{NAME}s": torch.zeros(1)},
    "shape": lambda weights: {**weights, NAME: weights[NAME][:-1].clone()},
    "dtype": lambda weights: {**weights, NAME: weights[NAME].half()},
    "nan": lambda weights: {**weights, NAME: weights[NAME] * float("nan")},
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_foreign_weights_are_refused(last: Path, fault: str) -> None:
    save_file(FOREIGN[fault](load_file(last / MODEL)), last / MODEL)
    relabel(last)
    with pytest.raises(CheckpointError, match=NAME):
        load_model(last)


@pytest.mark.parametrize("content", [pickle.dumps(Payload()), b""])
def test_a_pickle_never_runs(last: Path, content: bytes) -> None:
    (last / MODEL).write_bytes(content)
    relabel(last)
    with pytest.raises(CheckpointError, match=MODEL):
        load_model(last)
    assert not Path("pwned").exists()


def header(size: int, text: bytes) -> Callable[[Path], object]:
    """Makes a file that says its header has so many bytes."""
    return lambda file: file.write_bytes(struct.pack("<Q", size) + text)


def claims(shape: list[int], end: int) -> Callable[[Path], object]:
    """Makes a file that says it holds such a tensor."""
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(text), text)


MONSTERS: dict[str, Callable[[Path], object]] = {
    "header of a terabyte": header(1 << 40, b"{}"),
    "header of nearly 100 MB that is not there": header(99_000_000, b"{}"),
    "tensor of a terabyte": claims([1 << 38], 1 << 40),
    "shape that overflows": claims([1 << 62, 1 << 62], 4),
    "deep header": header(10**6, b"[" * 10**6),
    "100k tensors": lambda file: save_file({f"t{index}": torch.zeros(1) for index in range(100_000)}, file),
}


# Loads a checkpoint that is whole, and then the others; prints by how much each raised the peak of memory.
WEIGH = """
import resource, sys
from pathlib import Path
from typing import Any
from janus_cli.errors import CheckpointError
from janus_cli.training.model import load_model
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_model(Path(sys.argv[1]))
for name in sys.argv[2:]:
    begun = peak()
    try: load_model(Path(name))
    except CheckpointError as problem: print(peak() - begun, problem.message)
"""


def test_what_claims_to_be_huge_is_refused_in_little_memory(last: Path) -> None:
    for name, make in MONSTERS.items():
        shutil.copytree(last, name)
        make(Path(name, MODEL))
        relabel(Path(name))
    command = [sys.executable, "-c", WEIGH, str(last), *MONSTERS]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for name, line in zip(MONSTERS, done.stdout.splitlines(), strict=True):
        grown, message = line.split(maxsplit=1)
        assert f"{name}/{MODEL}" in message
        assert len(message) < 2000
        assert int(grown) < 200 * 1024, name  # KiB; a hundred thousand names take a few dozen MiB


def no_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "is not a checkpoint"


def file_outside(folder: Path) -> str:
    shutil.copy(folder / MODEL, "outside")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../outside"] = manifest["files"][MODEL]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return "not a plain file"


def another_format(folder: Path) -> str:
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "format": 99}), encoding="utf-8")
    return "has checkpoint format 99, this janus reads format 1"


def another_recipe(folder: Path) -> str:
    """A knob that this version does not know, as a later one may write it."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + "later: {knob: 1}\n", encoding="utf-8")
    relabel(folder)
    return "recipe.yaml"


@pytest.mark.parametrize("change", [no_manifest, file_outside, another_format, another_recipe])
def test_where_every_checkpoint_is_unusable_resume_ends_with_4(trained: Path, change: Callable[[Path], str]) -> None:
    for folder in checkpoint.steps(trained):
        words = change(folder)
        with pytest.raises(CheckpointError, match=words) as problem:
            verify(folder)
        assert problem.value.exit_code == 4
        assert ("use the janus version that wrote it" in problem.value.hint) == (
            change in (another_format, another_recipe)
        )
    with pytest.raises(CheckpointError, match="is whole") as problem:
        go(Path(), "run", "training.updates=7", resume=True)
    assert words in problem.value.hint


def test_a_checkpoint_that_is_pruned_while_it_is_read_is_missing(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = checkpoint._describe

    def prune(file: Path) -> object:
        file.unlink()  # behind the look whether it is there
        return plain(file)

    monkeypatch.setattr(checkpoint, "_describe", prune)
    with pytest.raises(CheckpointError, match="is missing"):
        verify(last)


def test_inspect(last: Path) -> None:
    text = "\n".join(lines(describe(Path("run"))))
    assert "name: janus" in text
    assert "last: step-000006" in text
    text = "\n".join(lines(describe(last)))
    assert "  step: 6" in text.split("\n")
    assert "sha256" in text
    assert "pairs: 64" in "\n".join(lines(describe(Path("data/tiny.src-tgt"))))
    with pytest.raises(UsageError, match="is not a run"):
        describe(Path("nowhere"))


def test_a_save_does_not_wait_for_ever(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.05)
    folder, saved, weights = last.parent / "step-000009", verify(last), load_file(last / MODEL)
    with (
        whole_folder(folder, force=True, is_ours=lambda _: True, what="a checkpoint"),
        pytest.raises(CheckpointError, match=f"pid {os.getpid()} on .* has been writing it for 0.05 seconds"),
    ):
        checkpoint.save(folder, saved.recipe, saved.vocabularies, saved.state, weights)
