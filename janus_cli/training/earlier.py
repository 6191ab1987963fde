"""What has changed for a resumed run that an earlier version began."""

from __future__ import annotations

from dataclasses import replace

from janus_cli import console
from janus_cli.core.knobs import ObjectiveKnobs, ProphetnetObjective, XlnetObjective
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.scoring.judge import named_metric
from janus_cli.training.best import best_metric


def still_valid(recipe: Recipe) -> Recipe:
    """The recipe of a run, with best_metric auto if an earlier version took one that there is no more."""
    try:
        best_metric(recipe, named_metric(recipe) or "bleu")
    except UsageError:
        return replace(recipe, training=replace(recipe.training, best_metric="auto"))
    return recipe


def with_a_metric(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe of a resumed run; auto decides where the run's own best_metric is none any more."""
    own = before.training.best_metric
    if recipe.training.best_metric != own or still_valid(before) == before:
        return recipe
    console.warn(
        f"training.best_metric {own}, of an earlier version, is not a validation metric any more: auto decides"
    )
    return still_valid(recipe)


def other_loss(objective: ObjectiveKnobs) -> str:
    """What an objective computes otherwise than the first version did; empty if nothing."""
    if isinstance(objective, ProphetnetObjective) and objective.ngram > 2:
        return f"objective.ngram {objective.ngram}: every stream weighs 1/{objective.ngram} of its own mean"
    if isinstance(objective, XlnetObjective) and objective.predicted < 1:
        return f"objective.predicted {objective.predicted:g}: tokens that are not predicted see each other"
    return ""
