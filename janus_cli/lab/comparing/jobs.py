"""Several trainings at once, each in a process of its own.

A process leaves all that it made on disk, where the caller then finds it as after an earlier call. One small model
leaves a GPU idle most of the time, and a second CPU core, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from janus_cli import console
from janus_cli.device import StopSignal
from janus_cli.errors import JanusError, Stopped
from janus_cli.runs import Run
from janus_cli.training.run import prepare_data, train

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LOOK_EVERY = 1.0  # seconds, at running trainings and for signals
STATED = b'"step": '


@dataclass(frozen=True)
class Job:
    """What one process does. training: the keywords of `train`; updates: how many it may make, where that is known."""

    name: str
    training: Mapping[str, Any]
    updates: int | None

    @property
    def run(self) -> Run:
        return Run(self.training["run"])

    def work(self) -> None:
        """Raises a JanusError where the training fails; the caller, who tries once more, says it."""
        train(**self.training)

    def step(self, begun: float) -> int:
        """The last update that the log tells of; of a training begun anew, once its own log is there.

        begun: when the jobs did, in seconds as `time.time` has them.
        """
        with suppress(OSError, ValueError), self.run.log.open("rb") as log:
            if self.training["force"] and os.fstat(log.fileno()).st_mtime < begun:
                return 0
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            *_, last = log.read().split(STATED)
            return int(last.split(b",")[0].split(b"}")[0])
        return 0


def _process(job: Job) -> None:
    os.setsid()  # Ctrl-C reaches the caller alone, which passes it on
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    console.quiet = True
    try:
        job.work()
    except JanusError:  # also one that saved and stopped
        sys.exit(1)


def _end_with(parent: BaseProcess | None) -> None:
    """If the caller is killed, this process stops, too, and saves."""
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run(jobs: Sequence[Job], at_once: int) -> set[str]:
    """Works on at most `at_once` jobs at a time until all have ended; the names of those whose training failed.

    Raises:
        Stopped: a signal came; it was passed on, and every training saved.
    """
    for job in jobs:  # not by several of them at once
        with suppress(JanusError):  # said by the caller
            prepare_data(**job.training)
    running: dict[SpawnProcess, Job] = {}
    try:
        return _run(jobs, at_once, running)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _started(job: Job) -> SpawnProcess:
    process = get_context("spawn").Process(target=_process, args=(job,), name=job.name)  # CUDA does not outlive a fork
    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which it inherits: not before `setsid` either
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run(jobs: Sequence[Job], at_once: int, running: dict[SpawnProcess, Job]) -> set[str]:
    waiting, begun = deque(jobs), time.time()
    failed = set()
    steps = {job.name: job.step(begun) for job in jobs}
    known = [job.updates for job in jobs if job.updates is not None]
    total = sum(known) if len(known) == len(jobs) else None
    with StopSignal() as stop, console.progress("updates", total, start=sum(steps.values())) as bar:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running[_started(job)] = job
            connection.wait([process.sentinel for process in running], LOOK_EVERY)
            steps |= {job.name: job.step(begun) for job in running.values()}
            for process in [process for process in running if not process.is_alive()]:
                name = running.pop(process).name
                if process.exitcode:
                    failed.add(name)
                    console.warn(f"{name} ended with exit code {process.exitcode}; it is tried once more, alone")
            ended = len(jobs) - len(waiting) - len(running)
            now = [f"{job.name} {steps[job.name]:,}" for job in running.values()]
            bar.advance(sum(steps.values()) - bar.done, ", ".join([f"{ended} of {len(jobs)} trainings ended", *now]))
            if stop.number:
                again = " without --force" if any(job.training["force"] for job in jobs) else ""
                raise Stopped(
                    stop.number, "stopped; every training that ran was saved", f"the same command{again} goes on"
                )
    return failed
