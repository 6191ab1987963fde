"""How much memory one row needs, measured in a process of its own: `python -m janus_cli.benching.child`.

A JSON object on stdin says what to decode, one on stdout what it took. Within one process the peaks of several rows
could not be told apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from janus_cli.benching import machine, peers
from janus_cli.benching.contestant import Contestant, own
from janus_cli.benching.modes import select
from janus_cli.decoding.where import own_recipe
from janus_cli.errors import JanusError
from janus_cli.text.tokenizer import load_tokenizers
from janus_cli.training.checkpoint import load_model
from janus_cli.training.distributed import keep_freed_memory


def peak_memory(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `main` in a new process.

    Raises:
        JanusError: it failed; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", "janus_cli.benching.child"]
    ended = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise JanusError((ended.stderr.strip() or f"exit code {ended.returncode}").split("\n")[-1])
    return json.loads(ended.stdout.split("\n")[-2])


def asked_of(
    run: Path, folder: Path, changes: Sequence[str], device: torch.device, lines: Sequence[str]
) -> dict[str, Any]:
    """What every child is told; `label`, `batch` and, for a peer, its fields come on top."""
    return {
        "run": str(run), "folder": str(folder), "changes": list(changes), "device": str(device),
        "threads": torch.get_num_threads(), "lines": list(lines),
    }  # fmt: skip


def main() -> None:
    """Decodes what stdin asks for and writes `before` and `peak`, in bytes.

    before: of the process (imports) before anything is loaded; on CUDA, where torch's allocator is asked, 0.
    """
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    device = torch.device(asked["device"])
    keep_freed_memory()
    if asked.get("peer"):
        peers.load(asked["peer"])
    before = machine.peak_bytes() if device.type == "cpu" else 0
    row = _row(asked, device)
    _forget_peak(device)
    row.translate(asked["lines"], asked["batch"])
    peak = machine.peak_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    sys.stdout.write(json.dumps({"before": before, "peak": peak}) + "\n")


def _row(asked: Mapping[str, Any], device: torch.device) -> Contestant:
    recipe, tokenizers = own_recipe(Path(asked["folder"]), asked["changes"]), load_tokenizers(Path(asked["run"]))
    if not asked.get("peer"):
        plan = select(recipe, [asked["label"]]).plans[asked["label"]]
        model = load_model(Path(asked["folder"]), device, plan.options.precision)
        return own(asked["label"], plan, model, tokenizers)
    setting = peers.Setting(
        asked["peer"], recipe, tokenizers, device, dict(zip(asked["lines"], asked["lengths"], strict=True)), "",
        Path(asked["exported"]), asked["own_weights"],
    )  # fmt: skip
    return next(row for row in peers.contestants(setting) if row.label == asked["label"])


def _forget_peak(device: torch.device) -> None:
    """Loading holds the weights twice for a moment; what counts is the peak of decoding."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # only Linux can
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


if __name__ == "__main__":
    main()
