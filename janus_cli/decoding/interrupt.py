"""Ctrl-C, SIGTERM and SIGUSR1 while decoding: stop where it is; what is finished was written already."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from janus_cli.errors import Stopped
from janus_cli.training.signals import SIGNALS


class Interrupt(KeyboardInterrupt):
    """One of the signals came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@contextmanager
def interruptible() -> Iterator[None]:
    """Each signal raises Interrupt inside, once: the second one ends the process on the spot.

    Raises:
        Stopped: nobody inside had more to say about an Interrupt.
    """
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        yield
    except Interrupt as stop:
        raise Stopped(stop.number, str(stop)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Interrupt(number)
