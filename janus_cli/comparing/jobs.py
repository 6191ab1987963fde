"""Several trainings of a comparison at once, each in a process of its own.

A process leaves all that it made on disk, where the comparison then finds it as after an earlier call. One small model
leaves a GPU idle most of the time; on a CPU, trainings at once share the cores.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING

from janus_cli import console
from janus_cli.comparing.entry import Entry, decoded, trained
from janus_cli.errors import JanusError, Stopped
from janus_cli.training.distributed import choose_device
from janus_cli.training.session import Request, prepare_data
from janus_cli.training.signals import StopSignal

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LOOK_EVERY = 1.0  # seconds, at running trainings and for signals
STATED = b'"step": '


@dataclass(frozen=True)
class Job:
    """What one process does: trains an entry and decodes it. average, modes, outputs, device: as in `entry`."""

    entry: Entry
    training: Request
    average: int
    modes: Sequence[str]
    outputs: Path

    def __call__(self) -> None:
        """As a process of its own; what goes wrong is said again by the comparison, which tries it once more."""
        os.setsid()  # Ctrl-C reaches the comparison alone, which passes it on
        with suppress(AttributeError, OSError):  # Linux: if the comparison is killed, this ends too, and saves
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        console.quiet = True
        with suppress(Stopped):
            outcome = trained(self.entry, self.training, self.average)
            if outcome.checkpoint is not None:
                decoded(outcome, self.modes, self.outputs, choose_device(self.training.device))


def run(jobs: Sequence[Job], at_once: int) -> None:
    """Works on at most `at_once` jobs at a time until all have ended.

    Raises:
        Stopped: a signal came; it was passed on, and every training saved.
    """
    for job in jobs:  # not by several of them at once
        with suppress(JanusError):  # said by the job
            prepare_data(job.training)
    spawn, waiting = get_context("spawn"), deque(jobs)  # CUDA does not outlive a fork
    running: dict[SpawnProcess, Job] = {}
    with StopSignal() as stop, console.progress("trainings", len(jobs)) as bar:
        while (waiting or running) and not stop.number:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                process = spawn.Process(target=job, name=job.entry.name)
                process.start()
                running[process] = job
            connection.wait([process.sentinel for process in running], LOOK_EVERY)
            for process in [process for process in running if not process.is_alive()]:
                del running[process]
                bar.advance(1)
            bar.advance(0, ", ".join(f"{job.entry.name} {_step(job.entry):,}" for job in running.values()))
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    if stop.number:
        raise Stopped(stop.number, "stopped; every training that ran was saved", "the same command goes on")


def _step(entry: Entry) -> int:
    """The last update that the log of a training tells of."""
    with suppress(OSError, ValueError), entry.run.log.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
        *_, last = log.read().split(STATED)
        return int(last.split(b",")[0].split(b"}")[0])
    return 0
