"""Describes the machine that numbers were measured on; measures the memory of this process."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from janus_cli.console import counted

BUSY = 0.5  # load average per core above which timings are unreliable


def describe(device: torch.device) -> dict[str, Any]:
    """The machine as plain values. load: average of the last minute; None if the system does not provide it."""
    values: dict[str, Any] = {
        "cpu": _in_file("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine(),
        "cores": usable_cores(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "load": load_average(), "device": str(device),
    }  # fmt: skip
    if device.type == "cuda":
        values["device"] = f"{device}, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return values


def in_words(values: Mapping[str, Any]) -> str:
    """What `describe` returned, for the head of a table."""
    cores, threads, load = counted(values["cores"], "core"), counted(values["threads"], "thread"), values["load"]
    return (
        f"{values['device']}, {values['cpu']}, {cores}, {threads}, "
        f"torch {values['torch']}, load average before the start {'unknown' if load is None else load}"
    )


def _in_file(path: str, pattern: str) -> str | None:
    """The group of the first matching line; None if there is no such line or file."""
    with suppress(OSError):
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)
        return found[1].strip() if found else None
    return None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """The load average of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def too_busy(load: float | None, cores: int) -> str:
    """Why timings cannot be trusted now; empty if they can."""
    if load is None or load <= BUSY * cores:
        return ""
    return f"other work runs here (load average {load:.1f} on {counted(cores, 'core')}): the timings will be off"


def forget_peak() -> bool:
    """Resets `peak_bytes`; False if the system cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The peak memory of this process.

    ru_maxrss is the last resort: on Linux a process inherits that of the parent that started it.
    """
    kibibytes = _in_file("/proc/self/status", r"^VmHWM:\s*(\d+) kB")
    if kibibytes:
        return int(kibibytes) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
