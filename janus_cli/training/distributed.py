"""Several processes on one training: `torchrun` starts them, this says who is who. One process needs none of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from janus_cli.errors import UsageError


@dataclass(frozen=True)
class World:
    """rank of size processes, each on its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums each named value over all ranks."""
        if self.size == 1:
            return dict(values)
        packed = torch.tensor(list(values.values()), dtype=torch.float64)
        if self.device.type == "cuda":
            packed = packed.to(self.device)
        dist.all_reduce(packed)
        return dict(zip(values, packed.tolist(), strict=True))

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the group."""
        if self.size > 1:
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device; a GPU then does without cuDNN's attention.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"--device {name}: no CUDA device is available to this torch ({torch.__version__})", "--device cpu"
        )
    device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape of a batch, which takes longer
    return device


def start_world(device: str) -> World:
    """Joins the group that torchrun describes in the environment, if it does. gloo on CPU, nccl on CUDA."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        # The others wait while the first rank prepares data or validates.
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    return World(rank, size, chosen)


def is_about_memory(problem: BaseException) -> bool:
    """Whether it says that there was too little memory, of a GPU or here."""
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(problem)


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory: a step frees and takes the same blocks again and again.

    It halves a step's page faults (system time 6 % -> 3 % of a small JANUS step). Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the largest that glibc takes
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def keep_few_shapes() -> None:
    """For trainings: oneDNN, which multiplies in bf16, is to keep code for 32 shapes, not for the last 1,024.

    Each takes about a megabyte, and batches hardly ever repeat a shape: a training stays a gigabyte smaller and takes
    2-4 % longer. Decoding, which meets the same shapes again, would take 10 % longer.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")  # read when the first product is made
