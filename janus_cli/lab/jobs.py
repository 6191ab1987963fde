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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess

from janus_cli import console
from janus_cli.device import StopSignal
from janus_cli.errors import JanusError, Stopped
from janus_cli.runs import Run

POLL_SECONDS = 1.0  # how often running trainings and signals are looked at
STEP = b'"step": '


@dataclass(frozen=True)
class Job:
    """What one process does.

    work: raises a JanusError where the training fails, for the caller to try it once more and say why; can be pickled.
    updates: how many the training may make, where that is known. force: it replaces an earlier training.
    """

    name: str
    run: Run
    work: Callable[[], object]
    updates: int | None
    force: bool

    def step(self, begun: float) -> int:
        """The last update in the log; 0 until a restarted run has its own log. begun: `time.time` at the start."""
        with suppress(OSError, ValueError), self.run.log.open("rb") as log:
            if self.force and os.fstat(log.fileno()).st_mtime < begun:
                return 0
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            *_, last = log.read().split(STEP)
            return int(last.split(b",")[0].split(b"}")[0])
        return 0

    def in_process(self) -> None:
        """Does the work, as the main function of a process."""
        os.setsid()  # Ctrl-C reaches the caller alone, which passes it on
        threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
        console.quiet = True
        try:
            self.work()
        except JanusError:  # also one that saved and stopped
            sys.exit(1)


def _end_with(parent: BaseProcess | None) -> None:
    """If the caller is killed, this process saves and stops, too."""
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _started(job: Job) -> BaseProcess:
    process = get_context("spawn").Process(target=job.in_process, name=job.name)  # CUDA does not survive a fork
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: no Ctrl-C before `setsid` either
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def run_jobs(jobs: Sequence[Job], at_once: int) -> set[str]:
    """Runs at most `at_once` jobs at a time until all have ended; returns the names of those that failed.

    Raises:
        Stopped: a signal came; it was passed on, and every training saved.
    """
    waiting, begun = deque(jobs), time.time()
    running: dict[BaseProcess, Job] = {}
    failed: set[str] = set()
    steps = {job.name: job.step(begun) for job in jobs}
    known = [job.updates for job in jobs if job.updates is not None]
    total = sum(known) if len(known) == len(jobs) else None
    try:
        with StopSignal() as stop, console.progress("updates", total, start=sum(steps.values())) as bar:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    running[_started(job)] = job
                connection.wait([process.sentinel for process in running], POLL_SECONDS)
                steps |= {job.name: job.step(begun) for job in running.values()}
                for process in [process for process in running if not process.is_alive()]:
                    name = running.pop(process).name
                    if process.exitcode:
                        failed.add(name)
                        console.warn(f"{name} ended with exit code {process.exitcode}; it is tried once more, alone")
                ended = len(jobs) - len(waiting) - len(running)
                now = [f"{job.name} {steps[job.name]:,}" for job in running.values()]
                note = ", ".join([f"{ended} of {len(jobs)} trainings ended", *now])
                bar.advance(sum(steps.values()) - bar.done, note)
                if stop.number:
                    again = " without --force" if any(job.force for job in jobs) else ""
                    raise Stopped(
                        stop.number, "stopped; every training that ran was saved", f"the same command{again} continues"
                    )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    return failed
