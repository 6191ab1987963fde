"""What the numbers were measured on, and how much memory a process took."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from janus_cli.recipe import BENCH_BUSY


def describe(device: torch.device) -> dict[str, Any]:
    """The machine as plain values. load: average of the last minute; None where the system does not tell."""
    about: dict[str, Any] = {
        "cpu": processor(), "cores": usable_cores(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "load": load_average(), "device": str(device),
    }  # fmt: skip
    if device.type == "cuda":
        about["device"] = f"{device}, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return about


def in_words(about: Mapping[str, Any]) -> str:
    """`describe` as the head of a table."""
    threads, load = about["threads"], about["load"]
    return (
        f"{about['device']}, {about['cpu']}, {about['cores']} cores, {threads} thread{'s' * (threads != 1)}, "
        f"torch {about['torch']}, load average before the start {'unknown' if load is None else load}"
    )


def processor() -> str:
    """Name of the CPU."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def too_busy(load: float | None, cores: int) -> str:
    """Why timings cannot be trusted now; empty where they can."""
    if load is None or load <= BENCH_BUSY * cores:
        return ""
    return f"other work runs here (load average {load:.1f} on {cores} cores): the timings will be off"


def forget_peak() -> bool:
    """From now on `peak_bytes` counts anew; False where the system cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most memory that this process has held at once.

    ru_maxrss is the way of last resort: on Linux a process inherits that of the parent that started it.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
