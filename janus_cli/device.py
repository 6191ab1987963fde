"""The machine, for training and decoding: devices, memory, stop signals. Torch is imported when it must be asked."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING

from janus_cli import console
from janus_cli.errors import Interrupt, Stopped, UsageError
from janus_cli.system import c_function, is_device, may_have_gpu, stop_signals

if TYPE_CHECKING:
    import torch

SIGNALS = stop_signals()
TOGETHER = 1.0  # seconds within which several signals are one: a launcher and a terminal may both send it


def name_device(name: str) -> str:
    """The name that `choose_device` gives its device; torch is asked only where there may be a GPU. Raises as that."""
    return "cpu" if name == "cpu" or (name == "auto" and not may_have_gpu()) else str(choose_device(name))


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device named auto, cpu, cuda or cuda:N; for a GPU, cuDNN's attention is switched off.

    Raises:
        UsageError: there is no such name, or CUDA was asked for and is not there.
    """
    if not is_device(name):
        raise UsageError(f"there is no device {name!r}", "name one of auto, cpu, cuda, cuda:N")
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"--device {name}: no CUDA device is available to this torch ({torch.__version__})", "--device cpu"
        )
    if torch.cuda.device_count() == 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):
        local_rank = 0  # a cluster that shows each process its own GPU only
    device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a new plan for every batch shape, which takes longer
    return device


def keep_freed_memory() -> None:
    """Ask glibc, if it is the C library, to keep freed memory: every step frees and allocates the same blocks.

    That halves a step's page faults (system time 6 % -> 3 % of a small JANUS step).
    """
    mallopt = c_function("mallopt")
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the largest that glibc takes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def keep_few_shapes() -> None:
    """Make oneDNN, which multiplies in bf16, cache kernels for 32 shapes instead of 1,024. For training only.

    Each takes about a megabyte, and batches hardly ever repeat a shape: a training takes a gigabyte less and 2-4 %
    longer. Decoding, where shapes recur, would take 10 % longer.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")  # read when the first product is made


@contextmanager
def _heard_while_waiting() -> Iterator[None]:
    """End the process at its second stop signal also while torch waits for another rank: handlers do not run then."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        first = inf
        with reader:
            while number := reader.recv(1):
                now = time.monotonic()
                if number[0] in SIGNALS and now > first + TOGETHER:
                    os._exit(128 + number[0])
                first = min(first, now) if number[0] in SIGNALS else first

    Thread(target=listen, daemon=True).start()
    before = -1
    try:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.shutdown(socket.SHUT_RDWR)
        writer.close()


@contextmanager
def _on_signal(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle` for the first stop signal; a second one ends the process at once."""

    def first(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        handle(number)

    before = {number: signal.signal(number, first) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignal(ExitStack):
    """with StopSignal() as stop: ... stop.number is 0 until a signal comes; a second one ends the process at once.

    ranks: how many processes train together, and wait for each other.
    """

    number = 0

    def __init__(self, ranks: int = 1) -> None:
        super().__init__()
        self.ranks = ranks

    def __enter__(self) -> StopSignal:
        self.enter_context(_on_signal(self._note))
        if self.ranks > 1:
            self.enter_context(_heard_while_waiting())
        return self

    def _note(self, number: int) -> None:
        self.number = number
        with suppress(RuntimeError):  # stderr was being written to and cannot be re-entered
            what = "finishing this step and saving; once more to stop at once, without saving"
            console.warn(f"{signal.Signals(number).name}: {what}")


@contextmanager
def interruptible(hint: str = "") -> Iterator[None]:
    """Let the first stop signal raise Interrupt inside; a second one ends the process at once.

    hint: what to do after a stop.

    Raises:
        Stopped: for an Interrupt that nothing inside caught.
    """

    def interrupt(number: int) -> None:
        raise Interrupt(number)

    with _on_signal(interrupt):
        try:
            yield
        except Interrupt as stop:
            raise Stopped(stop.number, str(stop), hint) from None
        except Stopped as stop:
            stop.hint = hint or stop.hint
            raise
