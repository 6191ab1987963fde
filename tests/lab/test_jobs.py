"""Several trainings at once: what comes of them is what comes of them one after the other."""

import json
import signal
import time
from pathlib import Path

import pytest
from comparisons import QUICK, Compare, found, names, outputs

from tests.faults import processes

MODES = ("--modes", "ar.beam1,nar4.lb1")
BROKEN = "broken: ar training.clip=0.0 training.learning_rate=1e30 training.warmup=1 training.max_bad_steps=1"


def test_the_table_is_that_of_one_after_the_other(compare: Compare) -> None:
    what = ("--objectives", "ar,cmlm", "--steps", "3", "--average", "2", "--set", "training.save_every=1", *MODES)
    code, _, err = compare(*what, "--out", "together", "--jobs", "2")
    assert code == 0, err
    assert err.count("is finished after 3 updates") == 2
    assert set(outputs("together")) == {
        f"{row}.{kind}" for row in ("ar.seed1.ar.beam1", "cmlm.seed1.nar4.lb1") for kind in ("txt", "json")
    }
    assert compare(*what, "--out", "apart")[0] == 0
    assert found("together")["rows"] == found("apart")["rows"]
    for system in ("ar", "cmlm"):
        last = Path(f"{system}.seed1/checkpoints/step-000003")
        assert processes.digest("together" / last) == processes.digest("apart" / last)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_training_that_fails_is_a_row_that_says_why(compare: Compare, jobs: str) -> None:
    code, out, err = compare("--objectives", "ar", "--variant", BROKEN, "--steps", "9", "--jobs", jobs, *MODES)
    assert code == 1
    assert "1 of the rows failed" in err
    assert "failed: broken.seed1 training" in out
    assert ("tried once more" in err) == (jobs == "2")
    assert names(found()) == ["ar ar.beam1"]


def test_forced_trainings_that_fail_do_not_leave_the_old_ones_in_the_table(compare: Compare, tiny_recipe: Path) -> None:
    command = ("--objectives", "ar", "--variant", "wide: ar model.width=24", "--steps", "2", "--jobs", "2", *MODES)
    start = processes.go(tiny_recipe, "start", "training.updates=1").parent
    assert compare(*command)[0] == 0
    assert names(found()) == ["ar ar.beam1", "wide ar.beam1"]
    code, out, err = compare(*command, "--force", "--from", str(start))
    assert code == 1
    assert "failed: wide.seed1 training" in out
    assert "wide.seed1 ended with exit code 1" in err
    assert names(found()) == ["ar ar.beam1"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_reaches_every_training_and_each_saves(tiny_recipe: Path, jobs: int) -> None:
    process = processes.janus(*QUICK, "--objectives", "ar,cmlm", "--steps", "100000", "--jobs", str(jobs))
    logs = [Path(f"runs/compare-tiny/{name}.seed1/log.jsonl") for name in ("ar", "cmlm")][:jobs]
    until = time.monotonic() + 100
    while not all(log.is_file() and b'"train"' in log.read_bytes() for log in logs):
        assert process.poll() is None, processes.ended(process)
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, said = processes.ended(process)
    assert code == 128 + signal.SIGTERM, said
    assert "every training that ran was saved" in said or jobs == 1
    assert "Traceback" not in said
    assert "rows" not in found()
    for log in logs:
        saved, stopped = (json.loads(line) for line in log.read_text().splitlines()[-2:])
        assert (saved["kind"], stopped["kind"]) == ("saved", "stopped")
        assert (log.parent / f"checkpoints/step-{stopped['step']:06}").is_dir()
