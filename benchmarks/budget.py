"""A paper calculation of a training: disk, memory and hours, from shapes alone. Nothing is measured.

    python benchmarks/budget.py --recipe wmt14_ende --pairs 4500000
    python benchmarks/budget.py --recipe wmt14_ende --pairs 1000000000 --epochs 1

Arithmetic: what `janus inspect` prints (`Plan.flops`), for sentences of the length given here. Disk: the store's 4
bytes a token and 16 a pair. Memory: weights, gradients and AdamW's two moments, without activations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shared

from janus_cli import console, recipe_load
from janus_cli.core.batch import SPECIAL, collate
from janus_cli.core.noise import Draws
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.recipe import Recipe
from janus_cli.training.model import build_model


def main(arguments: Sequence[str] | None) -> None:
    """Reads the options and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="wmt14_ende")
    parser.add_argument("--objective", help="another one than the recipe's")
    parser.add_argument("--pairs", type=int, default=4_500_000)
    parser.add_argument("--tokens", type=int, default=28, help="of each side of a pair, on the average")
    parser.add_argument("--epochs", type=float, help="in place of the recipe's training.updates")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=989.0, help="of one GPU, dense bf16, as its maker says")
    parser.add_argument("--utilisation", type=float, default=0.4, help="assumed share of it")
    options = parser.parse_args(arguments)
    recipe = recipe_load.load(options.recipe, None, options.objective)
    sentences, each = step(recipe, options.tokens)
    an_update = sentences * recipe.training.accumulate  # the recipe's accumulation is meant for one GPU
    count = options.pairs * options.epochs if options.epochs else recipe.training.updates * an_update
    total = count / sentences * each
    seconds = total / (options.gpus * options.tflops * 1e12 * options.utilisation)
    vocabulary = recipe.tokenizer.vocabulary
    weights = sum(weight.numel() for weight in build_model(recipe, vocabulary, vocabulary).parameters())
    rows = [
        ("disk, training split", f"{options.pairs * (16 + 8 * options.tokens) / 1e9:,.1f} GB"),
        ("parameters", f"{weights:,}"),
        ("weights, gradients, moments a rank", f"{16 * weights / 2**30:,.1f} GiB"),
        ("a batch", f"{each / 1e9:,.1f} GFLOP, {sentences:,} pairs of {options.tokens} tokens"),
        ("pairs seen", f"{count:,.0f}, {count / options.pairs:,.1f} epochs"),
        ("whole training", f"{total:.2e} FLOP"),
        (
            "time",
            f"{seconds / 3600:,.1f} h on {options.gpus} GPUs at {options.utilisation:.0%} of {options.tflops:,.0f}",
        ),
    ]
    title = f"{recipe.name}, {recipe.objective.name}: calculated, not measured"
    console.table(title, ("what", "calculated"), rows)


def step(recipe: Recipe, tokens: int) -> tuple[int, int]:
    """Pairs in a full batch of sentences of so many tokens, and FLOPs for it, forward and backward."""
    count = max(1, recipe.training.batch_tokens // (tokens + 2))
    rows = [[SPECIAL] * tokens] * count
    batch = collate(rows, rows, range(count))
    plan = OBJECTIVES[recipe.objective.name].plan(batch, Draws(recipe.seed, 0, batch.ids), recipe.objective)
    return count, plan.flops(recipe.model, recipe.tokenizer.vocabulary, tokens + 1)


if __name__ == "__main__":
    shared.run(main)
