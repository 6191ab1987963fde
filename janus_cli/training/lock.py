"""One training in a run's folder at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from janus_cli import console
from janus_cli.device import World
from janus_cli.errors import RunInUseError
from janus_cli.runs import Run

LOCK = ".lock"


@contextmanager
def locked(run: Run, world: World) -> Iterator[None]:
    """One training in a folder; the kernel frees the lock when its process ends, however it ends.

    The file names the process while it is at work: a name that is left in a free lock is that of one that was killed.

    Raises:
        RunInUseError: another process has it.
    """
    if not world.first:
        yield
        return
    with (run.path / LOCK).open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(
                f"{run.path} is in use by {file.read().strip() or 'another process'}", "wait for it, or choose --run"
            ) from None
        if before := file.read().strip():
            console.say(f"{before} left {run.path} without ending its training; taken over")
        _write(file, f"pid {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            _write(file, "")


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
