"""FAULTS 16: a signal finds a training at any of its works; the second one is obeyed at once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from processes import digest, ended, entries, go, read_until, start, state

from janus_cli import console
from janus_cli.device import StopSignal
from janus_cli.training import checkpoint

ROOT, LOG, LAST = Path("run/checkpoints"), Path("run/log.jsonl"), "step-000008"
# At its n-th call, a function gets a signal, and then waits for so many seconds before it does its work.
AT = """
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # however the tests were started
from janus_cli.training import checkpoint, trainer, validation
plain, calls = {of}, 0
def call(*arguments, **more):
    global calls
    calls += 1
    if calls == {at}:
        print("now", time.time(), flush=True)
        os.kill(os.getpid(), signal.{name})
        time.sleep({seconds})
    return plain(*arguments, **more)
{of} = call
"""


@pytest.mark.parametrize(
    ("of", "at", "name"),
    [
        pytest.param("trainer.Trainer.update", 3, "SIGHUP", id="training"),
        pytest.param("trainer.validate", 1, "SIGTERM", id="validation"),
        pytest.param("checkpoint._write_tensors", 3, "SIGTERM", id="save"),  # the weights of the second checkpoint
        pytest.param("checkpoint.move_link", 2, "SIGTERM", id="commit"),
    ],
)
def test_a_signal_finishes_the_step_and_saves_once(tiny_recipe: Path, whole: Path, of: str, at: int, name: str) -> None:
    code, said = ended(start(tiny_recipe, before=AT.format(of=of, at=at, name=name, seconds=0)))
    late = time.time() - float(said.split("now ")[1].split()[0])
    assert code == 128 + signal.Signals[name], said
    assert late < 10
    assert "Traceback" not in said
    saved, last = [line["step"] for line in entries(LOG, "saved")], entries(LOG)[-1]
    assert len(set(saved)) == len(saved)
    assert last["kind"] == "stopped"
    found = checkpoint.newest_valid(ROOT)
    assert found is not None
    assert found.state["step"] == last["step"] == saved[-1] < 8
    assert digest(go(tiny_recipe, "run", resume=True) / LAST) == digest(whole)


@pytest.mark.parametrize(("of", "at"), [("trainer.Trainer.update", 3), ("checkpoint._describe", 6)])
def test_the_second_signal_stops_at_once_and_damages_nothing(tiny_recipe: Path, whole: Path, of: str, at: int) -> None:
    process = start(tiny_recipe, before=AT.format(of=of, at=at, name="SIGTERM", seconds=60))
    read_until(process, "once more to stop at once")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM
    assert time.monotonic() - began < 5
    found = checkpoint.newest_valid(ROOT)
    assert found is not None
    assert found.state["step"] == 2
    assert digest(go(tiny_recipe, "run", resume=True) / LAST) == digest(whole)


@pytest.mark.parametrize("of", ["validation.load_batch", "validation.generate"])
def test_a_validation_is_interrupted_and_made_up_for(tiny_recipe: Path, of: str) -> None:
    small = ("decoding.batch_sentences=2", "training.batch_tokens=64", "training.updates=4")
    whole = go(tiny_recipe, "other", *small) / "step-000004"
    changes = [word for change in small for word in ("--set", change)]
    code, said = ended(start(tiny_recipe, *changes, before=AT.format(of=of, at=2, name="SIGTERM", seconds=0)))
    assert code == 143, said
    lines = entries(LOG)
    assert [line["kind"] for line in lines if line["step"] == lines[-1]["step"]][-2:] == ["saved", "stopped"]
    assert "valid" not in [line["kind"] for line in lines]
    resumed = go(tiny_recipe, "run", resume=True) / "step-000004"
    assert digest(resumed) == digest(whole)
    for key in ("best", "best_step", "since_best", "owed", "metrics"):
        assert state(resumed)[key] == state(whole)[key], key
    assert (ROOT / "best").readlink().name == "step-000004"


def test_a_signal_while_stderr_is_written_to_is_noted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(console, "warn", busy)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.number == signal.SIGUSR1
