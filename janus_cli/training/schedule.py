"""The learning rate at each update."""

from __future__ import annotations

from math import cos, pi

from janus_cli.recipe import Training


def learning_rate(step: int, knobs: Training) -> float:
    """The rate for update number `step` (from 0): linear warm-up to `learning_rate`, then the schedule.

    inverse_sqrt: falls with 1/sqrt(step) (Vaswani 2017). linear, cosine: would reach 0 right after the last update.
    """
    done = step + 1
    if done < knobs.warmup:
        return knobs.learning_rate * done / knobs.warmup
    if knobs.schedule == "inverse_sqrt":
        return knobs.learning_rate * (max(1, knobs.warmup) / done) ** 0.5
    left = min(1.0, max(0.0, (knobs.updates - step) / max(1, knobs.updates - knobs.warmup)))
    return knobs.learning_rate * (left if knobs.schedule == "linear" else 0.5 - 0.5 * cos(pi * left))
