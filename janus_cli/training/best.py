"""Which checkpoint is best: by one number of the validation; where that is equal, by the loss; else the later one.

Checkpoints that something else has judged do not compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf, log
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeGuard

from janus_cli.core.objectives import OBJECTIVES
from janus_cli.documents import Position
from janus_cli.errors import DataError, UsageError
from janus_cli.measures import MEASURES, higher_is_better, measure_of
from janus_cli.recipe import Recipe
from janus_cli.scoring.judge import BEFORE, choose, named_metric
from janus_cli.training.checkpoint import read_state, steps

Rank = tuple[float, float]
NOWHERE: Rank = (-inf, -inf)
DIVERGED = 3.0  # nats above equal probabilities; fresh weights are less than one above


def best_metric(recipe: Recipe, metric: str) -> str:
    """The name of the number that decides. metric: that of the judge.

    Raises:
        UsageError: training.best_metric is not a number that this objective's validation gives.
    """
    objective, chosen = OBJECTIVES[recipe.objective.name], recipe.training.best_metric
    scores = [*(f"{metric}_{side}" for side in recipe.objective.sides), metric]
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
    """What checkpoints are ordered by, the best one last; None if the validation has no such number, or a NaN."""
    value, loss = metrics.get(metric), metrics.get("loss")
    if not _is_number(value) or loss != loss:
        return None
    return value if higher_is_better(metric) else -value, -loss if _is_number(loss) else -inf


def note_validation(position: Position, metric: str, value: float, loss: float) -> None:
    """Notes a validation. An equal one takes over, because it is the later one, but is no improvement."""
    before = rank(metric, {"loss": position.best_loss, metric: position.best})
    now = rank(metric, {"loss": loss, metric: value})
    position.validation_due, position.since_best = False, position.since_best + 1
    if now is not None and (before is None or now >= before):
        position.best, position.best_loss, position.best_step = value, loss, position.step
        position.since_best = 0 if before is None or now > before else position.since_best


def label(metric: str, scoring: Mapping[str, Any]) -> str:
    """What values of a metric have in common that may be compared: bleu_ar (13a, 500 sentences), or a loss by its name.

    scoring: see `validation.scoring_of`.
    """
    how = [str(scoring[key]) for key in ("tokenize", "task") if key in scoring]
    how += [f"{scoring['sentences']} sentences"] if "sentences" in scoring else []
    return f"{metric} ({', '.join(how)})" if how and measure_of(metric) else metric


def figure(metric: str, value: float) -> str:
    """A number of a validation, as every message shows it: a score with two decimals, a loss with four digits."""
    return f"{value:.2f}" if measure_of(metric) else f"{value:.4g}"


def in_words(position: Position, metric: str, value: float) -> str:
    """What the validation of this update found: the number that decides, and whether it is the best so far."""
    best = "the best so far"
    if position.best is not None and position.best_step != position.step:
        best = f"the best was {figure(metric, position.best)} at update {position.best_step:,}"
    return f"validation after update {position.step:,}: {metric} {figure(metric, value)}, {best}"


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
        f"{metric} was {figure(metric, values[0])} in both validations: where it does not tell checkpoints apart, "
        f"the loss decides; scoring.metric takes another one, such as {others}"
    )


def diverged(found: Mapping[str, float], vocabulary: int) -> str:
    """A warning if a validation found that equal probabilities would be much better; else empty.

    vocabulary: of the target, over which these cross-entropies are.
    """
    for name in ("ce_ar", "ce_nar", "ce_permuted", "ce_semi"):
        value, known = found.get(name, 0.0), log(vocabulary)
        if not value <= known + DIVERGED:
            return (
                f"{name} is {value:,.1f} nats a token, where a model that knows nothing has {known:.1f}: this training "
                "diverges; start over with a lower training.learning_rate or a longer training.warmup"
            )
    return ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and value == value


def ranked(root: Path, metric: str, scoring: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Checkpoints of training steps that were judged so, best first (see `rank`); ties go to the later one.

    scoring: see `validation.scoring_of`. Values: what each one's validation found.
    """
    judged = [(folder, state["metrics"]) for folder, state in _validated(root) if _is_judged_by(state, metric, scoring)]
    known = [(place, each) for each in reversed(judged) if (place := rank(metric, each[1]))]  # equal ones: later first
    return dict(each for _, each in sorted(known, key=itemgetter(0), reverse=True))


def worth_keeping(root: Path, metric: str, scoring: Mapping[str, Any], count: int) -> set[Path]:
    """The `count` best checkpoints. Until there are so many, also those that something else has judged."""
    best = list(ranked(root, metric, scoring))
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
