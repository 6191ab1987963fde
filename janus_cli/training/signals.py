"""Ctrl-C, SIGTERM and SIGUSR1 while training: note it, let the step finish; the second time, stop at once."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from janus_cli import console

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """with StopSignal() as stop: ... stop.number is 0 until a signal came."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # the second signal needs no patience
        with suppress(RuntimeError):  # stderr was being written to, and cannot be entered again
            console.warn(f"{signal.Signals(number).name}: finishing this step and saving; once more to stop at once")
