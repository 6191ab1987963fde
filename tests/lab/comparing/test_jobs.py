"""Several trainings at once: what comes of them is what comes of them one after the other."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from janus_cli.cli import main
from tests.faults import processes

ARGUMENTS = (
    "compare", "--recipe", "tiny.yaml", "--threads", "1", "--device", "cpu", "--no-speed",
    "--modes", "ar.beam1,nar4.lb1",
)  # fmt: skip


def compare(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*ARGUMENTS, *arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def found(folder: str) -> dict[str, Any]:
    about = json.loads(Path(folder, "comparison.json").read_bytes())
    assert isinstance(about, dict)
    return about


def test_the_table_is_that_of_one_after_the_other(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = ("--objectives", "ar,cmlm", "--steps", "3", "--average", "2", "--set", "training.save_every=1")
    assert compare(*what, "--out", "together", "--jobs", "2") == 0
    said = capsys.readouterr().err
    assert said.count("is finished after 3 updates") == 2
    outputs = {file.name: file.stat().st_mtime_ns for file in Path("together/outputs").iterdir()}
    assert set(outputs) == {
        f"{row}.{kind}" for row in ("ar.seed1.ar.beam1", "cmlm.seed1.nar4.lb1") for kind in ("txt", "json")
    }  # fmt: skip
    assert compare(*what, "--out", "apart") == 0
    assert found("together")["rows"] == found("apart")["rows"]
    for system in ("ar", "cmlm"):
        last = Path(f"{system}.seed1/checkpoints/step-000003")
        assert processes.digest("together" / last) == processes.digest("apart" / last)


def test_what_fails_in_a_process_is_a_row_that_says_why(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "broken: ar training.clip=0.0 training.learning_rate=1e30 training.warmup=1 training.max_bad_steps=1"
    assert compare("--objectives", "ar", "--variant", broken, "--steps", "9", "--jobs", "2") == 1
    out = capsys.readouterr().out
    assert "failed: broken.seed1 training" in out
    assert [row["system"] for row in found("runs/compare-tiny")["rows"]] == ["ar"]


def test_forced_trainings_that_fail_do_not_leave_the_old_ones_in_the_table(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--objectives", "ar", "--variant", "wide: ar model.width=24", "--steps", "2", "--jobs", "2")
    start = processes.go(tiny_recipe, "start", "training.updates=1").parent
    assert compare(*command) == 0
    assert [row["system"] for row in found("runs/compare-tiny")["rows"]] == ["ar", "wide"]
    capsys.readouterr()
    assert compare(*command, "--force", "--from", str(start)) == 1
    said = capsys.readouterr()
    assert "failed: wide.seed1 training" in said.out
    assert "wide.seed1 ended with exit code 1" in said.err
    assert [row["system"] for row in found("runs/compare-tiny")["rows"]] == ["ar"]


def test_a_signal_reaches_every_training_and_each_saves(tiny_recipe: Path) -> None:
    process = processes.janus(*ARGUMENTS, "--objectives", "ar,cmlm", "--steps", "100000", "--jobs", "2")
    logs = [Path(f"runs/compare-tiny/{name}.seed1/log.jsonl") for name in ("ar", "cmlm")]
    until = time.monotonic() + 100
    while not all(log.is_file() and b'"train"' in log.read_bytes() for log in logs):
        assert process.poll() is None, processes.ended(process)
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, said = processes.ended(process)
    assert code == 128 + signal.SIGTERM, said
    assert "every training that ran was saved" in said
    assert "Traceback" not in said
    for log in logs:
        saved, stopped = (json.loads(line) for line in log.read_text().splitlines()[-2:])
        assert (saved["kind"], stopped["kind"]) == ("saved", "stopped")
        assert (log.parent / f"checkpoints/step-{stopped['step']:06}").is_dir()
