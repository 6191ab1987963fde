"""Work in processes of their own: trainings, several at a time, and rows of a bench.

Peers are timed in their own processes, because libraries in one process disturb each other (their idle threads wait for
work in different ways); so is every row's memory measured, because peaks within one process cannot be told apart, and
its start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from janus_cli import console
from janus_cli.device import StopSignal, choose_device, keep_freed_memory
from janus_cli.errors import JanusError, OutOfMemoryError, Stopped, is_about_memory
from janus_cli.lab import startup
from janus_cli.lab.rows import Decoded, Row
from janus_cli.lab.threads import Threads, current
from janus_cli.runs import Run
from janus_cli.system import ctrl_c_blocked, forget_peak, leave_terminal, peak_bytes, stop_signals

POLL_SECONDS = 1.0  # between looks at running trainings and signals
SPAWN = get_context("spawn")  # CUDA does not survive a fork


def continues(*, force: bool) -> str:
    """The hint for work that the same command continues; force: as given to --force."""
    if force:
        return "the same command without --force continues; trainings that were not reached stay as they were before"
    return "the same command continues"


def _started(name: str, work: Callable[[], object]) -> BaseProcess:
    """A process that does `work`, which can be pickled, quietly; its exit code is 1 if `work` fails."""
    process = SPAWN.Process(target=_do, args=(work,), name=name)
    with ctrl_c_blocked(*stop_signals()):  # a signal would leave it half started
        process.start()
    return process


def _do(work: Callable[[], object]) -> None:
    leave_terminal()  # Ctrl-C reaches the caller alone, which passes it on
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    console.quiet = True
    try:
        work()
    except JanusError:  # also Stopped, after saving
        sys.exit(1)


def _end_with(parent: BaseProcess | None) -> None:
    """Makes this process save and stop if the caller is killed."""
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class Job(NamedTuple):
    """A training, whose results are all on disk.

    updates: that it is to have, None if time decides. work: raises a JanusError if the training fails; the caller then
    tries it once more, and reports why.
    """

    name: str
    run: Run
    updates: int | None
    work: Callable[[], object]


def _step(run: Run, since: float) -> int:
    """The last update in the log; 0 if nothing was logged since then."""
    with suppress(OSError, ValueError), run.log.open("rb") as log:
        if os.fstat(log.fileno()).st_mtime < since:
            return 0
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
        *_, last = log.read().split(b'"step": ')
        return int(last.split(b",")[0].split(b"}")[0])
    return 0


def run_jobs(jobs: Sequence[Job], at_once: int, *, force: bool) -> set[str]:
    """Runs at most `at_once` jobs at a time until all have ended; returns the names of those that failed.

    A single small model leaves a GPU, or a second CPU core, idle most of the time. Raises Stopped after a signal, which
    is passed on to the trainings, so that each saves. force: each replaces an earlier training, whose log does not
    count.
    """
    waiting, since = deque(jobs), time.time() if force else 0.0
    running: dict[BaseProcess, Job] = {}
    failed: set[str] = set()
    steps = {job.name: _step(job.run, since) for job in jobs}
    known = [job.updates for job in jobs if job.updates is not None]
    total = sum(known) if len(known) == len(jobs) else None
    try:
        with StopSignal() as stop, console.progress("updates", total, start=sum(steps.values())) as bar:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    running[_started(job.name, job.work)] = job
                connection.wait([process.sentinel for process in running], POLL_SECONDS)
                steps |= {job.name: _step(job.run, since) for job in running.values()}
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
                    raise Stopped(stop.number, "stopped; every training that ran was saved")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    return failed


@contextmanager
def remote(
    label: str, build: Callable[[], Row], device: torch.device, imports: Callable[[], object] | None = None
) -> Iterator[tuple[Row, int]]:
    """A row that decodes in a process of its own, and the bytes that the process takes before it is built.

    build: makes the row, can be pickled. imports: the libraries that the row needs. Errors there, now or when the row
    decodes, are raised here; if the process ended, a JanusError.
    """
    ours, theirs = SPAWN.Pipe()
    threads = current()

    def answer() -> Any:
        try:
            found = ours.recv()
        except (EOFError, OSError):
            process.join()
            raise JanusError(f"{label}: its process ended with exit code {process.exitcode}") from None
        if isinstance(found, JanusError):
            raise found
        return found

    def use(chosen: Threads) -> None:
        nonlocal threads
        threads = chosen

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        with suppress(OSError):  # the process ended, which `answer` says
            ours.send((list(lines), batch, threads))
        return answer()

    process = _started(label, partial(serve, theirs, build, str(device), threads, imports))
    try:
        theirs.close()
        before, described = answer()
        yield Row(translate=translate, use=use, **described), before
    finally:
        process.kill()
        process.join()
        ours.close()


DESCRIBED = ("label", "mode", "options", "engine", "several")  # what a remote row says of itself


def serve(
    pipe: Connection, build: Callable[[], Row], device: str, threads: Threads, imports: Callable[[], object] | None
) -> None:
    """Builds a row and decodes what the pipe asks for, until the other end is closed."""
    os.dup2(2, 1)  # stdout is the caller's, for its results alone
    torch.set_num_threads(threads.each)
    where = choose_device(device)  # switches off for peers, too, what slows our rows
    keep_freed_memory()
    if imports is not None:
        imports()
    forget_peak()  # of the imports
    before = peak_bytes() if where.type == "cpu" else 0
    try:
        row = build()
    except JanusError as problem:
        pipe.send(problem)
        return
    pipe.send((before, {name: getattr(row, name) for name in DESCRIBED}))
    with suppress(EOFError):
        while True:
            lines, batch, threads = pipe.recv()
            try:
                row.use(threads)
                pipe.send(timed(row, lines, batch, where))
            except JanusError as problem:
                pipe.send(problem)


def timed(row: Row, lines: Sequence[str], batch: int, device: torch.device) -> Decoded:
    """The outputs, with the seconds and the memory that they took; OutOfMemoryError if they do not fit."""
    if device.type == "cuda":
        torch.zeros(1, device=device)  # nothing can be reset before something was allocated
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()  # loading holds the weights twice for a moment; what counts is the peak of decoding
    begun = time.perf_counter()
    try:
        decoded = row.translate(lines, batch)
    except (MemoryError, RuntimeError) as problem:
        if not is_about_memory(problem):
            raise
        raise OutOfMemoryError(str(problem).split("\n")[0] or "out of memory") from None
    seconds = time.perf_counter() - begun
    peak = peak_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return replace(decoded, seconds=seconds, peak=peak)


def peak_memory(
    row: Row, build: Callable[[], Row], lines: Sequence[str], device: torch.device,
    imports: Callable[[], object] | None = None,
) -> dict[str, int | None]:  # fmt: skip
    """Decodes the lines in a new process, see `remote`, in batches and with threads as the row was timed.

    Returns the bytes of that process before the row was built, and at the peak.
    """
    with remote(row.label, build, device, imports) as (fresh, before):
        fresh.use(row.in_batches[row.batch])
        return {"before": before, "peak": fresh.translate(lines, row.batch).peak}


def first_sentence(label: str, engine: str, about: Mapping[str, Any]) -> dict[str, float]:
    """Starts a process that decodes one sentence, see `startup`: seconds until it has, and those of reading the model.

    Raises a JanusError that says how the process ended if it did not decode.
    """
    home = str(Path(startup.__file__).parents[2])
    places = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", startup.__name__, engine, json.dumps(about)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "PYTHONPATH": places},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            answer = process.stdout.readline()
            seconds = time.perf_counter() - begun
        finally:
            process.kill()
            process.communicate()
        if not answer.endswith(b"\n"):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().split("\n")[-1]
            raise JanusError(f"{label}: its start could not be measured: {said or 'its process ended'}")
    return {"seconds": seconds, "load": json.loads(answer)["load"]}
