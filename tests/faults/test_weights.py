"""FAULTS 11, 13, 15, 39: files that are no weights of ours are named and refused, whatever they claim to hold."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import ENVIRONMENT, go
from safetensors.torch import save_file

from janus_cli.cli import main
from janus_cli.errors import CheckpointError
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, verify


@pytest.fixture
def last(tiny_recipe: Path) -> Path:
    """The newest of two checkpoints."""
    return go(tiny_recipe, "run", "training.updates=4", "training.validate_every=100") / "step-000004"


def relabel(folder: Path) -> None:
    """Makes the manifest agree with changed files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: checkpoint._describe(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    torch.set_num_threads(1)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def header(size: int, text: bytes) -> Callable[[Path], object]:
    """Makes a file that says its header has so many bytes."""
    return lambda file: file.write_bytes(struct.pack("<Q", size) + text)


def claims(shape: list[int], end: int) -> Callable[[Path], object]:
    """Makes a file that says it holds such a tensor."""
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(text), text)


def many(file: Path) -> None:
    one = torch.zeros(1)
    save_file({f"t{index}": one.clone() for index in range(100_000)}, file)


MONSTERS: dict[str, Callable[[Path], object]] = {
    "header of a terabyte": header(1 << 40, b"{}"),
    "header of nearly 100 MB that is not there": header(99_000_000, b"{}"),
    "tensor of a terabyte": claims([1 << 38], 1 << 40),
    "shape that overflows": claims([1 << 62, 1 << 62], 4),
    "deep header": header(10**6, b"[" * 10**6),
    "100k tensors": many,
}


# Loads a checkpoint that is whole, and then the others; prints by how much each raised the peak of memory.
WEIGH = """
import resource, sys
from pathlib import Path
from janus_cli.errors import CheckpointError
from janus_cli.training.checkpoint import load_model
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_model(Path(sys.argv[1]))
for name in sys.argv[2:]:
    begun = peak()
    try: load_model(Path(name))
    except CheckpointError as problem: print(peak() - begun, problem.message)
"""


def test_what_claims_to_be_huge_is_refused_in_little_memory(last: Path) -> None:
    folders = []
    for name, make in MONSTERS.items():
        folder = Path(name)
        shutil.copytree(last, folder)
        make(folder / MODEL)
        relabel(folder)
        folders.append(str(folder))
    command = [sys.executable, "-c", WEIGH, str(last), *folders]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(folders)
    for folder, line in zip(folders, lines, strict=True):
        grown, message = line.split(maxsplit=1)
        assert f"{folder}/{MODEL}" in message
        assert len(message) < 2000
        assert int(grown) < 200 * 1024, folder  # KiB; a hundred thousand names take a few dozen MiB


@pytest.mark.parametrize("name", [MODEL, "manifest.json"])
def test_resume_says_which_checkpoint_it_passed_over(last: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    data = bytearray((last / name).read_bytes())
    data[0 if name == "manifest.json" else len(data) // 2] ^= 4
    (last / name).write_bytes(data)
    allow = ("--set", "training.updates=5", "--allow-change", "training.updates")
    assert run("train", "--resume", "--run", "run", "--device", "cpu", *allow) == 0
    said = capsys.readouterr().err
    assert f"step-000004/{name} is damaged" in said.replace("\n", "")
    assert "trying the checkpoint before it" in said
    assert "from update 2 to 5" in said
    assert verify(Path("run/checkpoints/step-000004")).state["step"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("tokenizer.vocabulary=100", "differ in their source vocabulary"),
        ("model.feedforward=48", "differ in their model"),
        ("model.norm=post", "differ in their model"),
    ],
)
def test_averaging_checkpoints_of_different_runs_ends_with_4(
    last: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    Path("data").rename("data of the first")
    other = go(tiny_recipe, "other", change, "training.updates=5", "training.validate_every=100")
    shutil.copytree(other / "step-000005", last.with_name("step-000005"))
    assert run("average", "run", "--last", "2") == 4
    assert words in capsys.readouterr().err
    assert not list(last.parent.glob("average*"))


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


@pytest.mark.parametrize("change", [another_format, another_recipe])
def test_a_checkpoint_of_another_version_ends_with_4(
    last: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], str]
) -> None:
    words = change(last)
    with pytest.raises(CheckpointError) as problem:
        verify(last)
    assert words in problem.value.message
    assert "use the janus version that wrote it" in problem.value.hint
    more = ("--set", "training.updates=6", "--allow-change", "training.updates")
    change(last.with_name("step-000002"))
    assert run("train", "--resume", "--run", "run", "--device", "cpu", *more) == 4
    assert words in capsys.readouterr().err.replace("\n", "")
