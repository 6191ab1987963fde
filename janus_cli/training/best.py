"""Which checkpoint is best: by one number of the validation; where that is equal, by the loss; else the later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, TypeGuard

from janus_cli.core.objectives import OBJECTIVES
from janus_cli.errors import UsageError
from janus_cli.measures import MEASURES, higher_is_better, measure_of
from janus_cli.recipe import Recipe
from janus_cli.scoring.judge import BEFORE, choose, named_metric

Rank = tuple[float, float]
NOWHERE: Rank = (-inf, -inf)


def best_metric(recipe: Recipe, metric: str) -> str:
    """The name of the number that decides. metric: that of the judge.

    Raises:
        UsageError: training.best_metric is not a number that this objective's validation gives.
    """
    objective, chosen = OBJECTIVES[recipe.objective.name], recipe.training.best_metric
    scores = [*(f"{metric}_{side}" for side in objective.sides), metric]
    names = [*scores, "loss", *objective.terms_with(recipe.objective)]
    if chosen != "auto" and chosen not in names:
        raise UsageError(
            f"training.best_metric {chosen} is not a validation metric of objective {recipe.objective.name}",
            f"choose one of {', '.join(names)}; {metric} is scoring.metric",
        )
    return names[0] if chosen == "auto" else chosen


def check_scoring(recipe: Recipe) -> None:
    """Finds mistakes before data is prepared. Raises UsageError: see `best_metric` and `must_be_at_hand`."""
    judge = choose(named_metric(recipe), recipe.scoring.tokenize, None)
    best_metric(recipe, judge.metric)
    judge.must_be_at_hand()


def rank(metric: str, metrics: Mapping[str, Any]) -> Rank | None:
    """What checkpoints are ordered by, the best one last; None if the validation has no such number, or NaN."""
    value, loss = metrics.get(metric), metrics.get("loss")
    if not _is_number(value):
        return None
    return value if higher_is_better(metric) else -value, -loss if _is_number(loss) else -inf


def label(metric: str, scoring: Mapping[str, Any]) -> str:
    """What values of a metric have in common that may be compared: bleu_ar (13a, 500 sentences), or a loss by its name.

    scoring: see `validation.scoring_of`.
    """
    how = [str(scoring["tokenize"])] if "tokenize" in scoring else []
    how += [f"{scoring['sentences']} sentences"] if "sentences" in scoring else []
    return f"{metric} ({', '.join(how)})" if how and measure_of(metric) else metric


def scoring_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """What judged a checkpoint (by its state) or a validation (by its line of the log); see `validation.scoring_of`."""
    found = record.get("scoring")
    return dict(found) if isinstance(found, Mapping) and isinstance(found.get("metric"), str) else dict(BEFORE)


def indifferent(metric: str, values: Sequence[float]) -> str:
    """A warning, after the second validation, if the metric was the same in both; else empty."""
    if len(values) != 2 or values[0] != values[1] or measure_of(metric) is None:
        return ""
    others = " or ".join(name for name in ("chrf", "exact", "edit") if measure_of(metric) is not MEASURES[name])
    return (
        f"{metric} was {values[0]:g} in both validations: where it does not tell checkpoints apart, the loss decides; "
        f"scoring.metric takes another one, such as {others}"
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and value == value
