"""log.jsonl, read back: curves, and what happened on the way. See `training/log.py` for the other direction."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from janus_cli.errors import DataError

BEGINS = ("start", "resumed")
Entry = dict[str, Any]
Curve = list[tuple[int, float]]  # update, value


@dataclass(frozen=True)
class Logbook:
    """entries: those in force, in order. damaged: lines that lost something. redone: entries that a resume undid."""

    entries: list[Entry]
    damaged: int
    redone: int

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] in kinds]

    def curves(self, kind: str) -> dict[str, Curve]:
        """Every number that entries of this kind carry, by its name, in the order of its first appearance; terms, too.

        Values may be NaN or infinite, as the training met them.
        """
        found: dict[str, Curve] = {}
        for entry in self.of(kind):
            terms = entry.get("terms")
            values = {**entry, **terms} if isinstance(terms, dict) else entry
            for name, value in values.items():
                if name not in ("kind", "step", "time") and _is_number(value):
                    found.setdefault(name, []).append((entry["step"], float(value)))
        return found

    @property
    def seconds(self) -> float:
        """Spent on the updates that are logged; a run's breaks do not count."""
        total, at = 0.0, 0
        for entry in self.of("train"):
            each = entry.get("seconds_per_update")
            total += max(0, entry["step"] - at) * each if _is_number(each) and math.isfinite(each) else 0.0
            at = entry["step"]
        return total

    @property
    def state(self) -> str:
        """What the last entry says of the training."""
        last = self.entries[-1] if self.entries else {"kind": ""}
        if last["kind"] == "done":
            return "done, early stop" if last.get("early") else "done"
        if last["kind"] == "stopped":
            return f"stopped by signal {last.get('signal')}"
        return "in training, or ended without a word"


def read(path: Path) -> Logbook:
    """A run's log. A line that a kill or a full disk cut short is passed over; what was written behind it is not.

    After a resume at update n, entries beyond n are those of a past that did not last: they are left out.

    Raises:
        DataError: there is no log, or it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "it is written by `janus train`") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from None
    entries: list[Entry] = []
    damaged = redone = 0
    for line in lines:
        entry, whole = _entry(line)
        damaged += not whole
        if entry is None:
            continue
        if entry["kind"] in BEGINS:
            lasting = [old for old in entries if old["step"] <= entry["step"] or old["kind"] in BEGINS]
            redone += len(entries) - len(lasting)
            entries = lasting
        entries.append(entry)
    return Logbook(entries, damaged, redone)


def _entry(line: bytes) -> tuple[Entry | None, bool]:
    """What a line says, and whether it is whole; a resumed run's first line may stand behind a torn one."""
    if not line.strip():
        return None, True
    for number, part in enumerate(_parts(line)):
        try:
            entry = json.loads(part)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            continue
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and type(entry.get("step")) is int:
            return entry, number == 0
    return None, False


def _parts(line: bytes) -> Iterator[bytes]:
    yield line
    if (start := line.rfind(b'{"kind"')) > 0:
        yield line[start:]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
