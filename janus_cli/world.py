"""The processes of a training and what they compute with: ranks, precision."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

import torch
import torch.distributed as dist

from janus_cli import console
from janus_cli.device import SIGNALS, choose_device
from janus_cli.errors import UsageError

Precision = Literal["float32", "bf16"]
PrecisionKnob = Literal["auto", "float32", "bf16"]
RATE_SIZE = {"cpu": 1024, "cuda": 8192}  # side of the square matrices whose product measures a machine's FLOP/s
MEETING = timedelta(minutes=10)  # for which a rank waits for the others to start
PATIENCE = timedelta(hours=12)  # with which it waits for them later, while the first one validates
UPDATE = timedelta(minutes=20)  # which GPUs wait for each other's gradients: the ranks have just met
SILENCE = 5.0  # seconds after which a waiting rank says so
ONE_PROCESS = "several processes are started by torchrun (docs/scaling.md); for one: unset RANK WORLD_SIZE LOCAL_RANK"
# What gloo and NCCL say of a rank that is gone.
LOST = ("by peer", "Broken pipe", "remote process exited", "imed out")
# Values of ONEDNN_MAX_CPU_ISA that leave oneDNN no instructions that multiply bf16.
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass(frozen=True)
class World:
    """This process is rank `rank` of `size`, and computes on `device`.

    group: of the ranks' CPUs; None: the default one.
    """

    rank: int
    size: int
    device: torch.device
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each named value over all ranks. By gloo also beside GPUs: it notices a rank that is gone."""
        if self.size == 1:
            return dict(values)
        packed = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(packed, group=self.group)
        return dict(zip(values, packed.tolist(), strict=True))

    def agree(self, flag: bool) -> bool:
        """Whether all ranks say the same."""
        return self.sums({"flag": float(flag)})["flag"] in (0, self.size)

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(self.group)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()


def declared_ranks() -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this machine, as torchrun's environment variables say; 0, 1, 0 without them.

    Raises:
        UsageError: they are no numbers, or do not fit each other, as in a shell that inherited some of them.
    """
    rank, size, local = (_number(name, least) for name, least in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    for name, number in (("RANK", rank), ("LOCAL_RANK", local)):
        if number >= size:
            raise UsageError(
                f"the environment variable {name} is {number}, but WORLD_SIZE is {os.environ.get('WORLD_SIZE') or 1}: "
                "ranks are counted from 0",
                ONE_PROCESS,
            )
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 else ()
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise UsageError(f"the environment variable WORLD_SIZE is {size}, but {missing[0]} is not set", ONE_PROCESS)
    return rank, size, local


def _number(name: str, least: int) -> int:
    """The value of an environment variable; `least` if it is not set."""
    text = os.environ.get(name) or str(least)
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise UsageError(f"the environment variable {name} is {text[:20]!r}, not a number from {least} on", ONE_PROCESS)
    return int(text)


def start_world(device: str) -> World:
    """Join the group that torchrun describes in the environment, if any: gloo, and nccl for gradients on GPUs.

    Until `Trainer.fit`, a stop signal other than Ctrl-C ends any rank but the first at once: one that waits in torch
    would not hear a handler of Python's.

    Raises:
        UsageError: see `declared_ranks` and `choose_device`; or the other ranks did not come, or have other devices.
    """
    rank, size, local = declared_ranks()
    chosen, group = choose_device(device, local), None
    if local > 0 and ":" in device and torch.cuda.device_count() > 1:
        raise UsageError(f"--device {device} is one GPU, and several processes were started here", "--device cuda")
    if size > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        store = _meet(rank, size)
        _must_be_alike(store, chosen, rank, size)
        # The other ranks wait while the first one prepares data or validates.
        store.set_timeout(PATIENCE)
        backend, timeout = ("nccl", UPDATE) if chosen.type == "cuda" else ("gloo", PATIENCE)
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
            if backend == "nccl":
                group = dist.new_group(backend="gloo", timeout=PATIENCE)
        except RuntimeError as problem:
            reason = str(problem).split("\n")[0]
            hint = "name the network interface that machines share: GLOO_SOCKET_IFNAME, and NCCL_SOCKET_IFNAME on GPUs"
            raise UsageError(f"rank {rank} of {size} cannot talk to the others: {reason}", hint) from None
    if rank > 0:
        for number in {*SIGNALS} - {signal.SIGINT}:
            signal.signal(number, signal.SIG_DFL)
    return World(rank, size, chosen, group)


def _must_be_alike(store: Any, device: torch.device, rank: int, size: int) -> None:
    """Raises UsageError if some ranks compute on GPUs and some on CPUs: they would wait for each other in vain; or two
    on one GPU, which NCCL refuses in other words."""
    gpu = f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""
    store.set(f"device/{rank}", gpu)
    gpus = [store.get(f"device/{each}").decode() for each in range(size)]
    store.add("device/known", 1)
    shared = [str(each) for each in range(size) if gpus[each] and gpus.count(gpus[each]) > 1]
    without = [str(each) for each in range(size) if not gpus[each]]
    if not shared and len(without) in (0, size):
        return
    deadline = time.monotonic() + SILENCE  # the others need the store, which is gone with the first rank
    while rank == 0 and store.add("device/known", 0) < size and time.monotonic() < deadline:
        time.sleep(0.05)
    if without:
        raise UsageError(
            f"rank {', '.join(without[:9])} found no GPU and would compute on a CPU, the others on GPUs",
            "look at these ranks' machines (nvidia-smi), or give all of them --device cpu",
        )
    raise UsageError(f"ranks {', '.join(shared[:9])} share a GPU", "start one process for each GPU")


def _meet(rank: int, size: int) -> Any:
    """The store (torch.distributed.Store) through which all ranks find each other, once they are there.

    Torch waits in a thread of its own, because it would not hear Ctrl-C.
    """
    from torch.distributed.rendezvous import rendezvous

    answers: SimpleQueue[Any] = SimpleQueue()

    def wait() -> None:
        try:
            answers.put(next(rendezvous("env://", timeout=MEETING))[0])
        except (RuntimeError, ValueError, OSError) as problem:
            answers.put(problem)

    Thread(target=wait, daemon=True).start()
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} (MASTER_ADDR, MASTER_PORT)"
    others = f"{console.counted(size - 1, 'other rank')} at {place}"
    try:
        answer = answers.get(timeout=SILENCE)
    except Empty:
        console.say(f"rank {rank}: waiting up to {console.duration(MEETING.total_seconds())} for {others}")
        answer = answers.get()
    if isinstance(answer, Exception):
        reason = str(answer).split("\n")[0]
        raise UsageError(f"rank {rank} of {size} (RANK, WORLD_SIZE) did not meet {others}: {reason}", ONE_PROCESS)
    return answer


def lost_a_rank(problem: RuntimeError) -> bool:
    """Whether gloo or NCCL says that another rank went away."""
    return any(words in str(problem) for words in LOST) and ("gloo" in str(problem) or "NCCL" in str(problem))


def check_world(world: World, precision: PrecisionKnob, attention: str) -> None:
    """Raises UsageError for what these devices cannot do, or would each do in its own way."""
    if attention == "flex" and world.device.type != "cuda":
        raise UsageError("model.attention flex trains on a GPU only", _instead("model.attention", "sdpa"))
    if not world.agree(resolve_precision(precision, world.device) == "bf16"):
        raise UsageError(
            "training.precision auto is bf16 on some of the ranks' processors and float32 on others",
            _instead("training.precision", "float32"),
        )


def _instead(knob: str, value: str) -> str:
    return f"--set {knob}={value}; of a run that has begun, with --allow-change {knob}"


def resolve_precision(knob: PrecisionKnob, device: torch.device) -> Precision:
    """`auto` is bf16 on GPUs (of NVIDIA: Ampere, 2020, or newer) and CPUs that multiply it natively, else float32."""
    if knob != "auto":
        return knob
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bf16" if _multiplies_bf16() else "float32"


def _multiplies_bf16() -> bool:
    """Whether the CPU has instructions for bf16, and torch and oneDNN will use them: both can be told to use fewer."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.10
    has = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    torchs = torch.backends.cpu.get_cpu_capability() == "AVX512"  # lower with ATEN_CPU_CAPABILITY=avx2
    return bool(has) and onednn and torchs and limit.upper() not in WITHOUT_BF16


def autocast(knob: PrecisionKnob, device: torch.device) -> AbstractContextManager[object]:
    """A context with matrix products in this precision; sums, norms and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if resolve_precision(knob, device) == "bf16" else nullcontext()


def product_rate(precision: Precision, device: torch.device) -> float:
    """FLOP/s of a large matrix product, the measure of utilisation. Takes a fraction of a second."""
    size = RATE_SIZE[device.type]
    x = torch.ones(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        _ = x @ x
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(taken[1:])
