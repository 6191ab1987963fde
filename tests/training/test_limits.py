"""The limit of AR outputs: the line that training targets need, settled once, kept when a run is resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from janus_cli import recipe_load
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.training import limits
from janus_cli.training.limits import SPARE, fitted, settled
from tests.faults.processes import make_trainer
from tests.helpers import Janus, ends


def lets_through(source: np.ndarray, target: np.ndarray, ratio: float, extra: int) -> float:
    return float(np.mean(target <= np.floor(ratio * source) + extra))


@pytest.mark.parametrize(
    ("times", "more", "ratio", "extra"),
    [
        (1.0, 0, 1.0, 0),  # translation
        (0.0, 40, 0.0, 40),  # as many tokens, whatever the source
        (5.0, 3, 5.0, 3),  # every word becomes five letters
        (0.25, 2, 0.3, None),  # summaries; the ratio is one of tenths
    ],
)
def test_it_is_the_line_that_the_targets_need(times: float, more: int, ratio: float, extra: int | None) -> None:
    source = np.arange(1, 61).repeat(5)
    target = np.floor(times * source).astype(np.int64) + more
    found = fitted(source, target)
    assert found[0] == pytest.approx(ratio, abs=0.1)
    assert extra is None or found == (ratio, extra + SPARE)
    assert lets_through(source, target, *found) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_no_other_line_that_suffices_is_lower(seed: int) -> None:
    """But for one pair in a thousand; tried out over all lines of tenths."""
    draw = np.random.default_rng(seed)
    source = draw.integers(1, 50, 4100)
    target = np.maximum(1, (source * draw.uniform(0.5, 1.5 + seed, 4100)).astype(np.int64) + draw.integers(0, 9, 4100))
    target[7] = 5000  # a misaligned pair
    ratio, extra = fitted(source, target)
    assert 0.999 <= lets_through(source, target, ratio, extra - SPARE) < 1
    lowest = min(
        other * source.mean() + more
        for other in np.arange(101) / 10
        for more in [next(n for n in range(6000) if lets_through(source, target, other, n) >= 0.999)]
    )
    assert ratio * source.mean() + extra - SPARE == pytest.approx(lowest)


def test_a_number_that_is_given_stays_and_the_other_fits_it() -> None:
    source = np.arange(1, 61)
    assert fitted(source, 3 * source, ratio=2.0) == (2.0, 60 + SPARE)
    assert fitted(source, 3 * source, extra=30) == (2.5, 30)
    assert fitted(source, 30 * source, extra=0) == (10.0, 0), "the largest there is"


def test_of_many_pairs_only_some_are_looked_at(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_trainer(tiny_recipe).recipe
    store = open_prepared(settings, Path("data/tiny.src-tgt")).train
    for step in (1, 7, len(store)):
        for some, every in zip(store.lengths(step=step), store.lengths(), strict=True):
            assert some.tolist() == every[::step].tolist()
    monkeypatch.setattr(limits, "MOST_PAIRS", 10)
    lengths, steps = Store.lengths, list[int]()

    def noted(own: Store, *, step: int = 1) -> object:
        steps.append(step)
        return lengths(own, step=step)

    monkeypatch.setattr(Store, "lengths", noted)
    assert settled(settings, store).decoding.max_ratio is not None
    assert min(steps) > 1, "reads every pair"


def limits_of(recipe: str) -> list[object]:
    found = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))["decoding"]
    return [found["max_ratio"], found["max_extra"]]


def test_a_training_settles_the_limit_and_all_that_comes_after_has_it(tiny_recipe: Path, shell: Janus) -> None:
    err = ends(shell("train", "--recipe", "tiny.yaml", "--set", "training.updates=1"), 0)
    ratio, extra = limits_of("runs/tiny-janus/recipe.yaml")
    assert isinstance(ratio, float)
    assert isinstance(extra, int)
    assert f"AR outputs have at most {ratio:g} * source length + {extra} tokens" in err
    recipe = recipe_load.load("tiny.yaml")
    data = open_prepared(recipe, Path("data/tiny.src-tgt")).train
    assert [ratio, extra] == list(fitted(*data.lengths()))
    assert lets_through(*data.lengths(), ratio, extra) == 1.0
    assert limits_of("runs/tiny-janus/checkpoints/last/recipe.yaml") == [ratio, extra]
    assert f"max_ratio {ratio}, max_extra {extra}" in shell("decode", "--dry-run")[2]
    assert settled(recipe_load.load("runs/tiny-janus/recipe.yaml"), data).decoding.limit == (ratio, extra)


@pytest.mark.parametrize("own", [[1.2, 10], [0.5, 3]])
def test_a_resumed_run_keeps_its_limit_unless_told_otherwise(tiny_recipe: Path, shell: Janus, own: list[float]) -> None:
    """Runs of before have 1.2 and 10 in their recipe, where today's has nothing."""
    ratio, extra = own
    limit = ("--set", f"decoding.max_ratio={ratio}", "--set", f"decoding.max_extra={extra}")
    first = ("train", "--recipe", "tiny.yaml", "--set", "training.updates=1", *limit)
    assert shell(*first)[0] == 0
    again = ("train", "--recipe", "tiny.yaml", "--resume", "--run", "runs/tiny-janus")
    more = ("--set", "training.updates=2", "--allow-change", "training.updates")
    ends(shell(*again, *more), 0, f"at most {ratio:g} * source length + {extra} tokens")
    assert limits_of("runs/tiny-janus/recipe.yaml") == own
    other = ("--set", "decoding.max_extra=7", "--set", "training.updates=3", *more[2:])
    ends(shell(*again, *other), 4, "decoding.max_extra")
    assert shell(*again, *other, "--allow-change", "decoding.max_extra")[0] == 0
    assert limits_of("runs/tiny-janus/recipe.yaml") == [ratio, 7]


def test_a_validation_says_how_many_outputs_the_limit_has_shaped_and_how_many_have_an_unk(
    tiny_recipe: Path, shell: Janus
) -> None:
    """An untrained model seldom ends; a model that may write nothing at all always ends at its limit."""
    tight = ("--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=0", "--set", "decoding.unk=ban")
    assert shell("train", "--recipe", "tiny.yaml", "--set", "training.updates=1", *tight)[0] == 0
    log = [json.loads(line) for line in Path("runs/tiny-janus/log.jsonl").read_text().splitlines()]
    (valid,) = [line for line in log if line["kind"] == "valid"]
    assert [valid[name] for name in ("limited_ar", "limited_nar", "unk_ar", "unk_nar")] == [1.0, 0.0, 0.0, 0.0]
