"""How many threads a row is timed with: those that are best for it, tried on a few sentences.

Equal numbers would be unfair: on two virtual cores of one physical core a second thread helps one engine and slows
another down sevenfold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from janus_cli.system import usable_cores


class Threads(NamedTuple):
    """workers: batches that are decoded at once. each: threads that every one of them uses."""

    workers: int
    each: int

    def __str__(self) -> str:
        return str(self.each) if self.workers == 1 else f"{self.workers}×{self.each}"


def current() -> Threads:
    """What torch is set to."""
    return Threads(1, torch.get_num_threads())


def set_torch(threads: Threads) -> None:
    """Sets the threads of torch in this process; workers are not torch's."""
    torch.set_num_threads(threads.each)


def candidates(cores: int) -> list[Threads]:
    """What is tried: one thread, all cores, and halves in between; then several workers that fill all cores or half.

    Half, because two virtual cores may be one physical core.
    """
    counts = sorted({cores >> halvings for halvings in range(cores.bit_length())})
    alone = [Threads(1, count) for count in counts]
    several = [
        Threads(workers, filled // workers)
        for filled in (cores // 2, cores)
        for workers in counts
        if 1 < workers <= filled
    ]
    return list(dict.fromkeys(alone + several))


def to_try(fixed: int | None, device: torch.device) -> list[Threads]:
    """The settings to choose from: the one that the user fixed, else the candidates; on a GPU there is one as well."""
    if fixed:
        return [Threads(1, fixed)]
    return candidates(usable_cores()) if device.type == "cpu" else [current()]


def in_words(one_by_one: Mapping[str, int], in_batches: Mapping[str, int]) -> str:
    """Two settings as plain values; once if they are equal."""
    return " / ".join(dict.fromkeys(str(Threads(**each)) for each in (one_by_one, in_batches)))


class Loaded:
    """A model that takes its number of threads when it is loaded: only the one in use is held."""

    def __init__(self, load: Callable[[Threads], Any]) -> None:
        self._load = load
        self._threads: Threads | None = None
        self._model: Any = None

    def use(self, threads: Threads) -> None:
        """Loads the model for this setting, unless it is the one in use."""
        if threads != self._threads:
            self._model = None  # before the next one takes its memory
            self._threads, self._model = threads, self._load(threads)

    @property
    def model(self) -> Any:
        """The model in use; the first time, for as many threads as torch has."""
        if self._model is None:
            self.use(current())
        return self._model
