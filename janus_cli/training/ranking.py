"""A run's checkpoints by how good they are; those that something else has judged do not compete (see `best.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from janus_cli.errors import DataError
from janus_cli.training.best import Rank, label, rank, scoring_in
from janus_cli.training.checkpoint import read_state, step_of, steps


class Ranked(NamedTuple):
    """A checkpoint that was validated. metrics: what the validation found."""

    place: Rank
    step: int
    folder: Path
    metrics: Mapping[str, Any]


def ranked(root: Path, metric: str, scoring: Mapping[str, Any]) -> list[Ranked]:
    """Checkpoints of training steps that were judged so, best first (see `best.rank`); ties go to the later one.

    scoring: see `validation.scoring_of`.
    """
    found = list[Ranked]()
    for folder, state in _validated(root):
        place = rank(metric, state["metrics"])
        if place is not None and _is_judged_by(state, metric, scoring):
            found.append(Ranked(place, step_of(folder), folder, state["metrics"]))
    return sorted(found, key=lambda each: each[:2], reverse=True)


def worth_keeping(root: Path, metric: str, scoring: Mapping[str, Any], count: int) -> set[Path]:
    """The `count` best checkpoints. Until there are so many, also those that something else has judged."""
    best = [each.folder for each in ranked(root, metric, scoring)]
    if len(best) >= max(1, count):
        return set(best[:count])
    return {*best, *(folder for folder, state in _validated(root) if not _is_judged_by(state, metric, scoring))}


def newest_scoring(root: Path) -> dict[str, Any]:
    """What judged the newest checkpoint that was validated."""
    validated = _validated(root)
    return scoring_in(validated[-1][1] if validated else {})


def _is_judged_by(state: Mapping[str, Any], metric: str, scoring: Mapping[str, Any]) -> bool:
    return metric in state["metrics"] and label(metric, scoring_in(state)) == label(metric, scoring)


def _validated(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Checkpoints of training steps that were validated, oldest first, and the state of each."""
    found = []
    for folder in steps(root):
        with suppress(DataError, OSError):  # damaged: reading it as a checkpoint reports that
            found.append((folder, read_state(folder)))
    return [(folder, state) for folder, state in found if state.get("metrics")]
