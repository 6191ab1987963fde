"""A machine that several users share: what is another's is named and passed over, and one's own work goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from processes import NO_PRIVILEGES, ended
from processes import janus as child
from test_odd_paths import EACH

from janus_cli.data import encode
from janus_cli.training import checkpoint
from tests.helpers import Janus, Patch, edit_json, ends

HEADER = {"format": 3, "files": ["x"], "replace": [False], "checkpoint": "x", "sha256": "x", "options": {}}
PARTIAL = f'{json.dumps(HEADER)}\n{{"done": 1, "tokens": 2, "passes": 1, "seconds": 1}}\n'
KEEP = "--set training.updates=8 --set training.keep_last=1 --allow-change training.updates training.keep_last"
COMMANDS = [  # with the exit code, and what is said
    ("inspect", 0, "passing over "),
    ("average --last 1", 0, "passing over "),
    ("decode --input tiny.yaml", 0, "passing over "),
    ("decode --split valid", 0, "8 sentences in"),  # where the data was recorded, it may not be read
    ("train --resume --run runs/other", 2, "locked/data\nhint: ask its owner to copy it to data/other.src-tgt"),
    ("inspect locked", 2, "locked/"),
    ("preprocess --recipe tiny.yaml --out new", 2, ".new.making cannot be removed"),
    ("decode --run run --input tiny.yaml --out x", 2, ".x.partial"),
    ("decode --run run --input tiny.yaml --out x --resume", 2, ".x.partial"),
    ("decode --run run --input tiny.yaml --out x --force", 2, ".x.partial"),
    ("average run --last 2 --force", 0, ".average-last2.making cannot be removed"),
    ("average run --last 2 --force", 2, ".average-last2.making cannot be removed"),
    (f"train --resume run {KEEP.replace('updates training', 'updates --allow-change training')}", 0,
     ".step-000004.making cannot be removed"),
]  # fmt: skip


def test_what_is_anothers_is_named_or_passed_over(trained: Path, janus: Janus) -> None:
    assert janus("average", "run", "--last", "2")[0] == 0
    Path("runs").mkdir()
    Path("run").rename("runs/run")
    edit_json("runs/run/manifest.json", prepared=str(Path("locked/data").absolute()))
    shutil.copytree("runs/run", "runs/other", symlinks=True)
    recipe = Path("runs/other/recipe.yaml")
    recipe.write_text(recipe.read_text().replace("name: tiny", "name: other"))
    os.utime(recipe, (1, 1))
    os.utime("runs/other/log.jsonl", (1, 1))
    for folder in ("locked", "runs/private", ".new.making"):
        Path(folder).mkdir()
        (Path(folder) / "recipe.yaml").write_text("name: x")
    Path(".x.partial").write_text(PARTIAL)
    mine = Path("runs/run/checkpoints")
    closed = {
        Path("locked"): 0, Path("runs/private"): 0, Path(".new.making"): 0o555, Path(".x.partial"): 0o444,
        mine / "average-last2": 0o555, mine / "step-000004": 0o555,
    }  # fmt: skip
    for path, mode in closed.items():
        path.chmod(mode)
    _, said = ended(
        child("--version", before=NO_PRIVILEGES + EACH.format(commands=[each[0] for each in COMMANDS])), 300
    )
    for (words, code, named), each in zip(COMMANDS, said.split("$ ")[1:], strict=True):
        assert each.startswith(words)
        assert f"\ncode {code}\n" in each, each
        assert each.count(named) == 1, each
        assert "Traceback" not in each


@pytest.mark.parametrize(
    ("number", "name", "code", "words"),
    [
        (errno.EACCES, "tiny.yaml", 2, "tiny.yaml: Permission denied\nhint: it belongs to "),
        (errno.EACCES, None, 2, "Permission denied"),
        (errno.EIO, None, 1, "Input/output error"),
    ],
)
def test_no_failure_of_the_system_is_a_bug(
    trained: Path, janus: Janus, monkeypatch: Patch, number: int, name: str | None, code: int, words: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(checkpoint, "load_tokenizers", fail)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    ends(janus("decode", "run", "--input", "tiny.yaml"), code, words)


def test_a_file_system_without_modes_holds_checkpoints(trained: Path, janus: Janus, monkeypatch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert janus("average", "run")[0] == 0


def test_without_locks_between_processes_one_encodes(tiny_recipe: Path, janus: Janus, monkeypatch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(encode, "ProcessPoolExecutor", refuse)
    ends(janus("preprocess", "--recipe", "tiny.yaml", "--out", "new", "--workers", "2"), 0, "Permission denied")
