"""Several trainings of a comparison at once, each in a process of its own.

A process leaves all that it made on disk, where the comparison then finds it as after an earlier call. One small model
leaves a GPU idle most of the time; on a CPU, trainings at once share the cores.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
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
        """As a process of its own. What goes wrong is said by the comparison, which finds it, too; 1: no training."""
        os.setsid()  # Ctrl-C reaches the comparison alone, which passes it on
        threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
        console.quiet = True
        with suppress(Stopped):
            outcome = trained(self.entry, self.training, self.average)
            if outcome.checkpoint is None:
                sys.exit(1)
            with suppress(JanusError):
                decoded(outcome, self.modes, self.outputs, choose_device(self.training.device))


def _end_with(parent: BaseProcess | None) -> None:
    """If the comparison is killed, this process stops, too, and saves."""
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run(jobs: Sequence[Job], at_once: int) -> set[str]:
    """Works on at most `at_once` jobs at a time until all have ended; the names of those whose training failed.

    Raises:
        Stopped: a signal came; it was passed on, and every training saved.
    """
    for job in jobs:  # not by several of them at once
        with suppress(JanusError):  # said by the comparison
            prepare_data(job.training)
    running: dict[SpawnProcess, Job] = {}
    try:
        return _run(jobs, at_once, running)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _run(jobs: Sequence[Job], at_once: int, running: dict[SpawnProcess, Job]) -> set[str]:
    spawn, waiting = get_context("spawn"), deque(jobs)  # CUDA does not outlive a fork
    failed = set()
    with StopSignal() as stop, console.progress("trainings", len(jobs)) as bar:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                process = spawn.Process(target=job, name=job.entry.name)
                process.start()
                running[process] = job
            connection.wait([process.sentinel for process in running], LOOK_EVERY)
            for process in [process for process in running if not process.is_alive()]:
                name = running.pop(process).entry.name
                bar.advance(1)
                if process.exitcode:
                    failed.add(name)
                    console.warn(f"{name} ended with exit code {process.exitcode}; it is tried once more, alone")
            bar.advance(0, ", ".join(f"{job.entry.name} {_step(job.entry):,}" for job in running.values()))
            if stop.number:
                raise Stopped(stop.number, "stopped; every training that ran was saved", "the same command goes on")
    return failed


def _step(entry: Entry) -> int:
    """The last update that the log of a training tells of."""
    with suppress(OSError, ValueError), entry.run.log.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
        *_, last = log.read().split(STATED)
        return int(last.split(b",")[0].split(b"}")[0])
    return 0
