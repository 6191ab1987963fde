"""What a resumed training with other knobs does to its learning rate."""

from __future__ import annotations

from math import isclose

from janus_cli.recipe import Training
from janus_cli.training.trainer import learning_rate

KNOBS = ("updates", "learning_rate", "schedule", "warmup")  # that the rate depends on


def jump(step: int, before: Training, now: Training) -> str:
    """What changed knobs do to the rate of the first update after `step` updates, in words; empty if nothing.

    A cosine that ended at almost 0 starts high again if it gets more updates.
    """
    rate, planned = learning_rate(step, now), learning_rate(step, before)
    if isclose(rate, planned, rel_tol=0.01):
        return ""
    pairs = [(key, getattr(before, key), getattr(now, key)) for key in KNOBS]
    changed = [f"training.{key} {old}, now {new}" for key, old, new in pairs if old != new]
    last = f"{learning_rate(step - 1, before):.3g} in update {step:,}, " if step else ""
    return f"the learning rate jumps: {last}{rate:.3g} in update {step + 1:,} ({'; '.join(changed)})"
