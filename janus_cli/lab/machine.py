"""Describes the machine that numbers were measured on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from janus_cli.console import counted
from janus_cli.system import cpu_name, load_average, usable_cores

BUSY = 0.5  # load average per core above which timings are unreliable


def describe(device: torch.device) -> dict[str, Any]:
    """The machine as plain values. load: average of the last minute; None if the system does not provide it."""
    values: dict[str, Any] = {
        "cpu": cpu_name(), "cores": usable_cores(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "load": load_average(), "device": str(device),
    }  # fmt: skip
    if device.type == "cuda":
        values["device"] = f"{device}, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return values


def in_words(values: Mapping[str, Any]) -> str:
    """What `describe` returned, for the head of a table. threads: None if there is no one number."""
    cores, threads, load = counted(values["cores"], "core"), values["threads"], values["load"]
    set_to = f"{counted(threads, 'thread')}, " if threads else ""
    return (
        f"{values['device']}, {values['cpu']}, {cores}, {set_to}"
        f"torch {values['torch']}, load average before the start {'unknown' if load is None else load}"
    )


def too_busy(load: float | None, cores: int) -> str:
    """Why timings cannot be trusted now; empty if they can."""
    if load is None or load <= BUSY * cores:
        return ""
    return f"this machine is busy (load average {load:.1f} on {counted(cores, 'core')}): timings will be unreliable"
