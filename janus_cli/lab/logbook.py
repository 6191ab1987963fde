"""Reads log.jsonl, which `training/log.py` writes: the curves and events of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from janus_cli.documents import LogEntry, parsed_line
from janus_cli.errors import DataError

BEGINS = ("start", "resumed")
Entry = dict[str, Any]
Curve = list[tuple[int, float]]  # update, value


@dataclass
class Logbook:
    """entries: those still valid, in order. damaged: number of damaged lines. redone: of entries undone by a resume."""

    entries: list[Entry] = field(default_factory=list)
    damaged: int = 0
    redone: int = 0

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] in kinds]

    def curves(self, kind: str) -> dict[str, Curve]:
        """Every number in the entries of this kind, by name, in order of first appearance; loss terms included.

        Values may be NaN or infinite, as the training met them.
        """
        curves: dict[str, Curve] = {}
        for entry in self.of(kind):
            terms = entry.get("terms")
            values = {**entry, **terms} if isinstance(terms, dict) else entry
            for name, value in values.items():
                if name not in ("kind", "step", "time") and _is_number(value):
                    curves.setdefault(name, []).append((entry["step"], float(value)))
        return curves

    @property
    def seconds(self) -> float:
        """Time spent on the updates that are logged; breaks between runs do not count."""
        total, before = 0.0, 0
        for entry in self.of("train"):
            each = entry.get("seconds_per_update")
            total += max(0, entry["step"] - before) * each if _is_number(each) and math.isfinite(each) else 0.0
            before = entry["step"]
        return total

    @property
    def state(self) -> str:
        """The state of the training, by the last entry."""
        last = self.entries[-1] if self.entries else {"kind": ""}
        if last["kind"] == "done":
            return "done, early stop" if last.get("early") else "done"
        if last["kind"] == "stopped":
            return f"stopped by signal {last.get('signal')}"
        return "running, or ended without a final log entry"


def read(path: Path) -> Logbook:
    """A run's log. A line cut short by a kill or a full disk is skipped; what follows it is read.

    Entries of updates beyond the one that a later resume started from were undone and are left out. Raises DataError if
    there is no log.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "it is written by `janus train`") from None
    book = Logbook()
    for line in filter(bytes.strip, lines):
        entry, intact = _entry(line)
        book.damaged += not intact
        if entry is None:
            continue
        if entry["kind"] in BEGINS:
            lasting = [old for old in book.entries if old["step"] <= entry["step"] or old["kind"] in BEGINS]
            book.redone += len(book.entries) - len(lasting)
            book.entries = lasting
        book.entries.append(entry)
    return book


def _entry(line: bytes) -> tuple[Entry | None, bool]:
    """The entry of a line, and whether the line is intact: a resumed run's first entry may follow a torn one."""
    for start in dict.fromkeys((0, max(0, line.rfind(b'{"kind"')))):
        if entry := parsed_line(line[start:], LogEntry):
            return entry, start == 0
    return None, False


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
