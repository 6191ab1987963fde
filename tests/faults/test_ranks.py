"""FAULTS 17, 18, 19: several processes stop together, share every sentence, and skip together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import ENVIRONMENT, ended

from janus_cli import recipe_load
from janus_cli.data.batching import epoch_batches
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import open_prepared
from janus_cli.device import World
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.trainer import Trainer


def torchrun(recipe: Path, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """Two ranks, in a process group of their own, as a shell starts them."""
    script = Path("ranks.py")
    script.write_text(f"import os, sys\n{before}\nfrom janus_cli.cli import main\nmain(['train', *sys.argv[1:]])\n")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", str(script),
        "--recipe", str(recipe), "--run", "run", "--device", "cpu", "--set", "training.save_every=1", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, start_new_session=True
    )


def wait_for(pattern: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not list(Path().glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.05)


def gone(group: int) -> bool:
    """Whether no process of the group is left."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_ctrl_c_under_torchrun(tiny_recipe: Path) -> None:
    process = torchrun(tiny_recipe, "--set", "training.updates=100000", "--set", "training.validate_every=100000")
    wait_for("run/checkpoints/step-*/manifest.json")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    code, said = ended(process)
    assert code != 0
    assert gone(process.pid), said
    last = Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert '"kind": "stopped"' in last, "it finished its update and saved"
    assert checkpoint.newest_valid(Path("run/checkpoints")) is not None


def test_one_rank_dies(tiny_recipe: Path) -> None:
    die = """
from janus_cli.training.trainer import Trainer
plain, count = Trainer.update, 0
def update(*arguments):
    global count
    count += 1
    if count == 4 and os.environ["RANK"] == "1":
        os._exit(9)
    plain(*arguments)
Trainer.update = update
"""
    process = torchrun(tiny_recipe, "--set", "training.updates=100000", before=die)
    code, said = ended(process)
    assert code != 0
    assert gone(process.pid), said
    found = checkpoint.newest_valid(Path("run/checkpoints"))
    assert found is not None
    assert found.state["step"] == 3


def test_a_bad_gradient_on_one_rank_is_skipped_on_both(tiny_recipe: Path) -> None:
    poison = """
import torch
from janus_cli.training.trainer import LossModule
plain = LossModule.forward
count = 0
def forward(self, *arguments):
    global count
    count += 1
    terms = plain(self, *arguments)
    if count == 2 and os.environ["RANK"] == "1":
        terms = {name: term._replace(total=term.total * float("nan")) for name, term in terms.items()}
    return terms
LossModule.forward = forward
"""
    code, said = ended(torchrun(tiny_recipe, "--set", "training.updates=4", before=poison))
    assert code == 0, said
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    (skipped,) = [line for line in lines if line["kind"] == "skipped"]
    assert skipped["step"] == 1
    recipe = recipe_load.load(str(tiny_recipe))
    batches = epoch_batches(open_prepared(recipe, Path("data/tiny.src-tgt")).train, 256, recipe.seed, 0)
    assert skipped["sentences"] == [int(row) for rows in list(batches)[2:4] for row in rows]  # of both ranks
    assert checkpoint.newest_valid(Path("run/checkpoints")) is not None


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_sentence_once_an_epoch_and_as_many_steps_on_every_rank(
    tiny_recipe: Path, size: int, accumulate: int
) -> None:
    recipe = recipe_load.load(str(tiny_recipe), [f"training.accumulate={accumulate}"])
    prepare(recipe, Path("data/tiny"), workers=1, force=False)
    prepared = open_prepared(recipe, Path("data/tiny"))
    model = checkpoint.build_model(recipe, prepared.train.source_vocabulary, prepared.train.target_vocabulary)
    seen: list[int] = []
    steps = []
    for rank in range(size):
        trainer, count = Trainer(recipe, model, prepared, World(0, 1, torch.device("cpu")), Run(Path("run"))), 0
        trainer.world = World(rank, size, torch.device("cpu"))
        for window in trainer.windows():
            if trainer.position.epoch:
                break
            count += 1
            assert window.micros
            mine = [int(i) for batch, _, weight in window.micros if weight for i in batch.ids]
            assert set(mine) <= {int(row) for rows in window.rows for row in rows}
            seen += mine
        steps.append(count)
    assert sorted(seen) == list(range(len(prepared.train)))
    assert len(set(steps)) == 1
