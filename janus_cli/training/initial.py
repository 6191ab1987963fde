"""`--from`: begins a training with the weights of another run; nothing else of that run's state is taken.

The model section and the tokenizer of that run come with them (`recipe_load.Basis`). Updates, learning rate and moments
start afresh. Weights that the other model lacks (the length table, if it was an AR model) stay as drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from janus_cli import console
from janus_cli.core.batch import MASK
from janus_cli.core.model import Transformer
from janus_cli.data.hf import ABSENT, HuggingFace
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.recipe import OUTSIDE_WEIGHTS, Recipe
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, Checkpoint
from janus_cli.training.model import build_model, read_tensors
from janus_cli.training.optimizer import FRESH_MASK

# Knobs of the model section that change what weights mean, but not their shape.
SHAPELESS = ("heads", "activation", "norm", "source_suffix")


def find(named: Path, run: Run, recipe: Recipe) -> Checkpoint:
    """The checkpoint that `--from` names (see `checkpoint.find_start`), verified, for a new run with this recipe.

    Raises:
        UsageError: it is no run or checkpoint, or one of `run` itself, which would be replaced.
        CheckpointError: it is damaged, its tokenizer is not the one that it was trained with, or the recipe's model
            has weights of the same name with other shapes or another meaning.
    """
    other, folder = checkpoint.find_start(named)
    if other.path.resolve() == run.path.resolve():
        raise UsageError(f"--from {named} lies in {run.path}, which a new run would replace", "choose another --run")
    saved = checkpoint.verify(folder)
    checkpoint.tokenizers_of(other, saved.state)
    _must_mean_the_same(saved, recipe)
    if _changed(saved, recipe):
        _must_have_shapes(saved, recipe, build_model(recipe, *saved.vocabularies).weights())
    console.say(f"the model section and the tokenizer are those of {named}")
    return saved


def again(noted: Mapping[str, Any], run: Run) -> Checkpoint:
    """The checkpoint that a run began with. noted: what `copy_weights` returned.

    Raises CheckpointError if it is gone, or another by now.
    """
    saved = checkpoint.verify(Path(noted["checkpoint"]))
    if checkpoint.fingerprint(saved.folder) != noted["sha256"]:
        raise CheckpointError(f"{saved.folder} has changed since {run.path} began from it", "--force starts over")
    return saved


def copy_weights(saved: Checkpoint, model: Transformer, recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """Copies into a fresh model the weights that it shares with a checkpoint, and says which it does not share.

    tokenizer: of both.

    Returns:
        What the run's manifest notes of the checkpoint; `fresh` is what `Shares.of` takes.

    Raises:
        CheckpointError: they do not fit, see `find`; or the file is damaged.
    """
    _must_mean_the_same(saved, recipe)
    fresh = model.weights()
    expected = _must_have_shapes(saved, recipe, fresh)
    shared, missing = fresh.keys() & expected.keys(), sorted(fresh.keys() - expected.keys())
    loaded, unused = read_tensors(saved.folder / MODEL, expected), sorted(expected.keys() - fresh.keys())
    model.load_weights({**fresh, **{name: loaded[name] for name in shared}})
    if _reads_mask(recipe) and not _knows_mask(saved.recipe, tokenizer):
        missing.append(FRESH_MASK)
    notes = [f"fresh: {', '.join(missing)}"] * bool(missing) + [f"not used: {', '.join(unused)}"] * bool(unused)
    console.say("; ".join([f"weights from {saved.folder}", *notes]))
    sha256 = checkpoint.fingerprint(saved.folder)
    return {"checkpoint": str(saved.folder.resolve()), "sha256": sha256, "fresh": missing}


def _reads_mask(recipe: Recipe) -> bool:
    """Whether a decoder reads MASKs, whose row is else never trained as input; or the encoder, from the same table."""
    decoder = recipe.objective.name != "ar" or recipe.ar_stream != "content"
    return decoder or (recipe.data.is_plain and recipe.model.tie == "all")


def _knows_mask(recipe: Recipe, tokenizer: Tokenizer) -> bool:
    """Whether a model has learnt its MASK, by its own training or, if its tokenizer is imported, before."""
    return _reads_mask(recipe) or (isinstance(tokenizer, HuggingFace) and tokenizer.order[MASK] != ABSENT)


def _changed(saved: Checkpoint, recipe: Recipe) -> dict[str, object]:
    """The knobs of the checkpoint's model that decide what its weights are, where the recipe has another value."""
    before, now = saved.recipe.plain()["model"], recipe.plain()["model"]
    return {key: before[key] for key in before if before[key] != now[key] and f"model.{key}" not in OUTSIDE_WEIGHTS}


def _must_mean_the_same(saved: Checkpoint, recipe: Recipe) -> None:
    before, now = saved.recipe.model, recipe.model
    keys = SHAPELESS + ("embedding_scale",) * (before.embedding == now.embedding)
    keys += ("positions",) * ("learned" not in (before.positions, now.positions))
    if differing := {key: value for key, value in _changed(saved, recipe).items() if key in keys}:
        values = ", ".join(f"model.{key} {value}" for key, value in differing.items())
        raise CheckpointError(
            f"{saved.folder} was trained with {values}: its weights do not fit this model",
            " ".join(f"--set model.{key}={value}" for key, value in differing.items()),
        )


def _must_have_shapes(saved: Checkpoint, recipe: Recipe, fresh: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The checkpoint's weights, drawn anew. Raises CheckpointError if `fresh` has some in another shape."""
    expected = build_model(saved.recipe, *saved.vocabularies).weights()
    for name in sorted(fresh.keys() & expected.keys()):
        if fresh[name].shape != expected[name].shape:
            values = ", ".join(f"model.{key} {value}" for key, value in _changed(saved, recipe).items())
            raise CheckpointError(
                f"{saved.folder} does not fit: {name} has shape {list(expected[name].shape)}, "
                f"here {list(fresh[name].shape)}",
                f"leave out changes of its model, which has {values}",
            )
    return expected
