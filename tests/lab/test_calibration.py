"""Reliability by hand, and on every objective against the losses that it trains with."""

import math
from dataclasses import replace

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.core.batch import Batch
from janus_cli.core.knobs import ArObjective, JanusObjective
from janus_cli.core.model import Transformer
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.lab.probe import Reliability, reliability
from janus_cli.recipe import Recipe


def test_the_means_by_hand() -> None:
    # Two bins: half of the tokens at 71 % of which 50 % are right, half at 97.5 % of which all are.
    confidence, nats = [0.7, 0.72, 0.95, 1.0], [math.log(1 / p) for p in (0.7, 0.28, 0.95, 1.0)]
    made = torch.tensor([confidence, [1.0, 0.0, 1.0, 1.0], nats], dtype=torch.float64).T
    found = Reliability.of(made)
    assert (found.tokens, found.accuracy) == (4, 0.75)
    assert (found.confidence, found.nats) == (pytest.approx(sum(confidence) / 4), pytest.approx(sum(nats) / 4))
    assert found.ece == pytest.approx(0.5 * 0.21 + 0.5 * 0.025)
    assert found.points == [pytest.approx((0.71, 0.5, 0.5)), pytest.approx((0.975, 1.0, 0.5))]


def recipe(name: str) -> Recipe:
    changes = ["objective.replaced=1.0", "objective.noise={fixed: 1.0, share: 0.4}"] if name == "cmlmc" else []
    return recipe_load.load("demo", changes, name)


@pytest.mark.parametrize("stream", ["content", "query"])
@pytest.mark.parametrize("name", ["ar", "cmlm", "cmlmc", "cemat", "janus"])
def test_each_distribution_has_the_cross_entropy_that_it_is_trained_with(
    name: str, stream: str, model: Transformer, ragged: Batch
) -> None:
    whole = recipe(name)
    if isinstance(whole.objective, ArObjective | JanusObjective):
        whole = replace(whole, objective=replace(whole.objective, ar_stream=stream))
    found = reliability(model, whole, [ragged])
    objective, knobs = OBJECTIVES[name], replace(whole.objective, label_smoothing=0.0)
    plan = objective.plan(ragged, Draws(whole.seed, -1, ragged.ids), knobs)
    with torch.no_grad():
        terms = objective.loss(model, ragged, plan, knobs)
    # That of the encoder is none of the decoder's distributions.
    expected = {key.removeprefix("ce_"): term for key, term in terms.items() if key.startswith("ce_")}
    expected.pop("encoder", None)
    assert set(found) == set(expected)
    for key, term in expected.items():
        assert found[key].tokens == plan.counts[term.unit]
        assert found[key].nats * found[key].tokens == pytest.approx(float(term.total), rel=1e-5)
        assert 0.0 <= found[key].ece <= 1.0


def test_two_passes_of_r_drop_are_calibrated_as_one(model: Transformer, ragged: Batch) -> None:
    whole = recipe("ar")
    twice = replace(whole, objective=replace(whole.objective, rdrop=2.0))
    assert reliability(model, twice, [ragged]) == reliability(model, whole, [ragged])


def test_batches_add_up(model: Transformer, ragged: Batch) -> None:
    once, twice = (reliability(model, recipe("janus"), [ragged] * count) for count in (1, 2))
    for name, sums in once.items():
        assert twice[name].tokens == 2 * sums.tokens
        assert twice[name].ece == pytest.approx(sums.ece)


@pytest.mark.parametrize(
    ("stream", "names"),
    [("draft_fix", {"ar", "draft", "fix"}), ("both", {"ar", "both, key slots", "both, query slots"})],
)
def test_an_objective_that_nobody_here_knows(
    stream: str, names: set[str], model: Transformer, ragged: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = OBJECTIVES["janus"]

    def plan(batch: Batch, draws: Draws, knobs: JanusObjective) -> object:
        made = theirs.plan(batch, draws, knobs)
        return replace(made, streams={"ar": made.streams["ar"], stream: made.streams["nar_aux"]})

    monkeypatch.setitem(OBJECTIVES, "janus", replace(theirs, plan=plan))
    assert set(reliability(model, recipe("janus"), [ragged])) == names
