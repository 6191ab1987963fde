"""What a training says while it runs: log.jsonl always, TensorBoard where asked for."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from janus_cli import console
from janus_cli.errors import require


class Log:
    """Appends one JSON object a line. A full disk costs a warning, not the training."""

    def __init__(self, path: Path | None, tensorboard: Path | None = None) -> None:
        """path None logs nothing (ranks other than the first)."""
        self.path, self.broken = path, False
        self.board: Any = None
        if tensorboard is not None and path is not None:
            require("tensorboard", "tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(tensorboard))

    def write(self, kind: str, step: int, **values: Any) -> None:
        """kind: start, train, valid, skipped, saved, resumed, stopped or done."""
        if self.path is None:
            return
        line = json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line + "\n")
        except OSError as problem:
            if not self.broken:
                console.warn(f"{self.path} cannot be written ({problem.strerror}); training goes on without a log")
            self.broken = True
        try:
            for name, value in _flat(values) if self.board is not None else ():
                self.board.add_scalar(f"{kind}/{name}", value, step)  # raises what its writing thread met before
        except OSError as problem:
            console.warn(f"TensorBoard's folder cannot be written ({problem.strerror}); training goes on without it")
            self.board = None

    def close(self) -> None:
        if self.board is not None:
            with suppress(OSError):
                self.board.close()


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found
