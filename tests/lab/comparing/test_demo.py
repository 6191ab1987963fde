"""`janus demo`: three trainings, together or one after the other, and one table."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from janus_cli.errors import CheckpointError, DataError
from janus_cli.lab import machine
from janus_cli.lab.comparing import jobs
from janus_cli.lab.comparing.demo import TITLES, run_demo
from janus_cli.training.trainer import Trainer
from tests.faults import processes

SMALL = (
    "data.synthetic={train: 64, valid: 8, test: 8}", "tokenizer.vocabulary=120", "model.width=16",
    "model.feedforward=32", "model.heads=2", "training.updates=3", "training.warmup=1", "training.save_every=3",
)  # fmt: skip


def quality(table: str) -> list[list[str]]:
    """The rows of the table without their speed."""
    return [[cell.strip() for cell in line.split("│")[1:-2]] for line in table.splitlines() if line.startswith("│")]


def test_together_or_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, weights = [], []
    for cores in (1, 2):
        (tmp_path / str(cores)).mkdir()
        monkeypatch.chdir(tmp_path / str(cores))
        monkeypatch.setattr(machine, "usable_cores", lambda cores=cores: cores)
        run_demo(changes=SMALL, seed=None, threads=None, force=False)
        said = capsys.readouterr()
        tables.append(quality(said.out))
        weights.append([processes.digest(Path(f"runs/demo-{name}/checkpoints/last")) for name in TITLES])
        assert ("2 at a time" in said.err) == (cores == 2)
        assert ("[1 of 3]" in said.err) == (cores == 1)
    assert [row[:2] for row in tables[0]] == [
        ["Transformer", "AR, greedy"],
        *(["CMLM", f"NAR, {passes}"] for passes in ("1 pass", "4 passes", "10 passes")),
        ["JANUS", "AR, greedy"],
        *(["JANUS", f"NAR, {passes}"] for passes in ("1 pass", "4 passes", "10 passes")),
    ]
    assert all(re.fullmatch(r"\d+\.\d", row[2]) for row in tables[0])
    assert tables[0] == tables[1]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("change", "force"), [("tokenizer.vocabulary=100", True), ("model.width=32", False)])
def test_mistakes_are_found_before_anything_is_trained(
    change: str, force: bool, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    run_demo(changes=SMALL, seed=None, threads=None, force=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(jobs, "run", lambda *_: pytest.fail("trains"))
    logs = [Path(f"runs/demo-{name}/log.jsonl").read_bytes() for name in TITLES]
    with pytest.raises((CheckpointError, DataError)) as caught:
        run_demo(changes=(*SMALL, change), seed=None, threads=None, force=force)
    assert "janus demo --force" in caught.value.hint
    assert [Path(f"runs/demo-{name}/log.jsonl").read_bytes() for name in TITLES] == logs


@pytest.mark.parametrize("force", [False, True])
def test_a_process_that_died_is_made_up_for(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], force: bool
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError

    def died(work: Sequence[jobs.Job], at_once: int) -> set[str]:
        for job in work[1:]:
            job.work()
        with monkeypatch.context() as patch, suppress(RuntimeError):
            patch.setattr(Trainer, "windows", die)  # recipe.yaml is there, no update is made
            work[0].work()
        assert work[0].run.recipe.exists()
        return {work[0].name}

    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(jobs, "run", died)
    run_demo(changes=SMALL, seed=None, threads=None, force=force)
    assert len(quality(capsys.readouterr().out)) == 8
