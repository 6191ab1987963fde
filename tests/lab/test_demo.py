"""`janus demo`: three trainings, together or one after the other, and one table."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from janus_cli.errors import CheckpointError, DataError
from janus_cli.lab import demo
from janus_cli.lab.demo import SYSTEMS, run_demo
from janus_cli.lab.processes import Job
from tests.faults import processes

SMALL = (
    "data.synthetic={train: 64, valid: 8, test: 8}", "tokenizer.vocabulary=120", "model.width=16",
    "model.feedforward=32", "model.heads=2", "training.updates=3", "training.warmup=1", "training.save_every=3",
)  # fmt: skip
NAR = ("NAR, 1 pass", "NAR, 4 passes", "NAR, 10 passes")


def run(monkeypatch: pytest.MonkeyPatch, cores: int, *changes: str, force: bool = False) -> None:
    monkeypatch.setattr(demo, "usable_cores", lambda: cores)
    run_demo(changes=(*SMALL, *changes), seed=None, threads=None, force=force)


def quality(table: str) -> list[list[str]]:
    """The rows of the table without their speed."""
    return [[cell.strip() for cell in line.split("│")[1:-2]] for line in table.splitlines() if line.startswith("│")]


def runs(what: str) -> list[Path]:
    return [Path(f"runs/demo-{objective}/{what}") for objective in SYSTEMS]


def test_together_or_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, weights = [], []
    for cores in (1, 2):
        (tmp_path / str(cores)).mkdir()
        monkeypatch.chdir(tmp_path / str(cores))
        run(monkeypatch, cores)
        said = capsys.readouterr()
        tables.append(quality(said.out))
        weights.append([processes.digest(folder) for folder in runs("checkpoints/last")])
        assert ("2 at a time" in said.err) == (cores == 2)
        assert ("[1 of 3]" in said.err) == (cores == 1)
        assert said.err.count("right would be:") > 1
        assert all(int(done) <= int(all_) for done, all_ in re.findall(r"updates: (\d+) / (\d+)", said.err))
    assert [row[:2] for row in tables[0]] == [
        ["Transformer", "AR, greedy"], *(["CMLM", way] for way in NAR),
        ["JANUS", "AR, greedy"], *(["JANUS", way] for way in NAR),
    ]  # fmt: skip
    assert all(re.fullmatch(r"\d+\.\d", row[2]) for row in tables[0])
    assert tables[0] == tables[1]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("change", "force"), [("tokenizer.vocabulary=100", True), ("model.width=32", False)])
def test_mistakes_are_found_before_anything_is_trained(
    change: str, force: bool, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, 1)
    logs = [log.read_bytes() for log in runs("log.jsonl")]
    with pytest.raises((CheckpointError, DataError)) as caught:
        run(monkeypatch, 2, change, force=force)
    assert "janus demo --force" in caught.value.hint
    assert [log.read_bytes() for log in runs("log.jsonl")] == logs


@pytest.mark.parametrize("force", [False, True])
def test_a_process_that_died_is_made_up_for(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], force: bool
) -> None:
    def one_dies(jobs: Sequence[Job], *_: int, **__: bool) -> set[str]:
        """After it wrote its recipe and before its first checkpoint."""
        for job in jobs:
            job.work()
        shutil.rmtree(jobs[0].run.checkpoints)
        return {jobs[0].name}

    monkeypatch.setattr(demo, "run_jobs", one_dies)
    run(monkeypatch, 2, force=force)
    assert len(quality(capsys.readouterr().out)) == 8
