"""Entry point of `janus` and of `python -m janus_cli`, which torchrun uses."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from janus_cli.errors import Interrupt
from janus_cli.system import stop_signals


def main() -> None:
    """Runs `cli.main`; a stop signal ends it without a traceback, even while modules are still being imported."""
    for number in stop_signals():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not if the caller ignores it
            signal.signal(number, _interrupt)
    from janus_cli import cli

    try:
        cli.main()
    except SystemExit as stop:
        if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
            raise
        # A rank does not wait for Python to end: threads of torch that let go of a tensor meanwhile abort the process.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(int(stop.code or 0))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises Interrupt; during an import, ends the process: some libraries swallow the exception, or break."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            with suppress(OSError):
                os.write(2, f"{Interrupt(number)}\n".encode())
            os._exit(128 + number)
        frame = frame.f_back
    raise Interrupt(number)


if __name__ == "__main__":
    main()
