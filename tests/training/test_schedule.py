"""The learning rate of a training that is resumed with other knobs."""

import re
from pathlib import Path
from typing import Any

import pytest

from janus_cli.recipe import Training
from janus_cli.training.resume import jump
from tests.helpers import Janus

COSINE: dict[str, Any] = {"updates": 100, "warmup": 10, "learning_rate": 1.0, "schedule": "cosine"}


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        (100, {"updates": 200}, r"0\.000305 in update 100, 0\.541 in update 101 \(training\.updates 100, now 200\)"),
        (100, {"updates": 101}, r"0\.000305 in update 100, 0\.000298 in update 101"),
        (50, {"learning_rate": 2.0}, r"0\.604 in update 50, 1\.17 in update 51 \(training\.learning_rate 1\.0, now 2"),
        (50, {"warmup": 99}, r"0\.515 in update 51 \(training\.warmup 10, now 99\)"),
        (50, {"schedule": "linear", "updates": 60}, r"training\.updates 100, now 60; training\.schedule cosine, now"),
        (0, {"learning_rate": 3.0}, r"jumps: 0\.3 in update 1 \("),
        (100, {"keep_last": 3}, ""),
        (5, {"updates": 200}, ""),  # still warming up
        (100, {"updates": 300, "before": "inverse_sqrt"}, ""),  # which does not know the number of updates
    ],
)
def test_a_jump_is_told_with_the_rate_before_and_after(step: int, change: dict[str, Any], said: str) -> None:
    change = dict(change)
    before = {**COSINE, "schedule": change.pop("before", "cosine")}
    told = jump(step, Training(**before), Training(**{**before, **change}))
    assert re.search(said, told) if said else not told


def test_a_resumed_training_says_that_its_rate_jumps(janus: Janus, tiny_recipe: Path) -> None:
    words = ("train", "--run", "run", "--device", "cpu")
    made = janus(
        *words, "--recipe", str(tiny_recipe), "--set", "training.schedule=cosine", "--set", "training.updates=6"
    )
    assert made[0] == 0
    more = ("--resume", "--set", "training.updates=12", "--allow-change", "training.updates")
    code, _, err = janus(*words, *more)
    assert code == 0
    assert (
        "warning: the learning rate jumps: 0.0005 in update 6, 0.000854 in update 7 (training.updates 6, now 12)" in err
    )
    again = janus(*words, *more)
    assert "jumps" not in again[2]
