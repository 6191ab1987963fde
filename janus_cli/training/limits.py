"""How long an AR output may get: `decoding.max_ratio` and `max_extra`, from the lengths of the training pairs.

A training settles them once and keeps them in its recipe. So validation, decoding and distilling have one limit, and so
has a run that was begun when they had fixed defaults.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from janus_cli.data.store import Store
from janus_cli.recipe import Recipe

COVERED = 0.999  # share of the training pairs whose target must fit; the rest are outliers, or misaligned
SPARE = 10  # tokens more than these need: an output may be longer than any of them
RATIOS = np.arange(101) / 10
MOST_PAIRS = 100_000  # looked at, evenly over the data


def settled(recipe: Recipe, store: Store) -> Recipe:
    """The recipe with numbers for max_ratio and max_extra where it has null. store: the training pairs."""
    options = recipe.decoding
    if options.max_ratio is not None and options.max_extra is not None:
        return recipe
    source, target = store.lengths(step=max(1, len(store) // MOST_PAIRS))
    ratio, extra = fitted(source, target, options.max_ratio, options.max_extra)
    extra = min(extra, recipe.model.max_length)  # more would change nothing
    return replace(recipe, decoding=replace(options, max_ratio=ratio, max_extra=extra))


def fitted(
    source: np.ndarray, target: np.ndarray, ratio: float | None = None, extra: int | None = None
) -> tuple[float, int]:
    """The lowest limit, on average, of max_ratio * source + max_extra tokens that lets the targets through.

    source, target: (pairs,) token counts. ratio, extra: the one that is given.
    """
    ratios = RATIOS if ratio is None else np.array([ratio])
    needed = [np.quantile(target - np.floor(each * source), COVERED, method="inverted_cdf") for each in ratios]
    if extra is not None:
        enough = np.flatnonzero(np.array(needed) <= extra)
        return float(ratios[enough[0] if len(enough) else -1]), extra
    extras = np.maximum(0, needed) + SPARE
    best = int(np.argmin(ratios * source.mean() + extras))
    return float(ratios[best]), int(extras[best])


def kept(now: Recipe, before: Recipe) -> Recipe:
    """The recipe of a resumed run: where it has null, the run's own limit stays."""
    limits = {
        name: getattr(before.decoding, name)
        for name in ("max_ratio", "max_extra")
        if getattr(now.decoding, name) is None
    }
    return replace(now, decoding=replace(now.decoding, **limits))
