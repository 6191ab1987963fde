"""The speed in the log is that of updates."""

from __future__ import annotations

import pytest
import torch

from janus_cli.training import log
from janus_cli.training.log import Meter
from janus_cli.world import World


def test_validations_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(log.time, "perf_counter", lambda: float(next(clock)))
    speeds = []
    for validating in (False, True):
        meter = Meter(World(0, 1, torch.device("cpu")), 1.0)
        meter.end({"tokens": 100.0, "flops": 1.0}, 1.0)
        if validating:
            with meter.paused():
                log.time.perf_counter()
        speeds.append(meter.take()["tokens_per_second"])
    assert speeds[0] > 0
    assert speeds[1] == pytest.approx(speeds[0] * 30 / 40)  # entering and leaving takes a tick; what is inside none
