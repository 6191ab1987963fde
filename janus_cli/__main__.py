"""Entry point of `janus` and of `python -m janus_cli`, which torchrun uses."""

import os
import signal
from contextlib import suppress
from types import FrameType


def main() -> None:
    """Runs `cli.main`; Ctrl-C ends it without a traceback even while modules are still being imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if the caller ignores SIGINT
        signal.signal(signal.SIGINT, _interrupt)
    from janus_cli import cli

    cli.main()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt; during an import, ends the process: some libraries swallow the exception, or break."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            with suppress(OSError):
                os.write(2, b"stopped\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
