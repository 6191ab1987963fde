"""In which precision a machine trains, and how fast it multiplies."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from janus_cli.recipe import Training

RATE_SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that the rate is measured with


def chosen(knobs: Training, device: torch.device) -> Literal["float32", "bf16"]:
    """What `precision: auto` means here: bf16 on CUDA and on CPUs that multiply it natively."""
    if knobs.precision != "auto":
        return knobs.precision
    return "bf16" if device.type == "cuda" or _cpu_multiplies_bf16() else "float32"


def _cpu_multiplies_bf16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.10
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(knobs: Training, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in the chosen precision; sums, norms and losses in float32."""
    return torch.autocast(device.type, torch.bfloat16) if chosen(knobs, device) == "bf16" else nullcontext()


def product_rate(precision: Literal["float32", "bf16"], device: torch.device) -> float:
    """FLOP/s of a large matrix product: what a step is measured against. Takes a fraction of a second."""
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
