"""The first weights of a training that begins with those of another one (`train --from`).

It takes these and nothing else: updates, learning rate and moments start afresh. Weights that the other model lacks
(the length table, if it was an AR model) stay as drawn from the seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from janus_cli import console
from janus_cli.core.batch import MASK
from janus_cli.core.model import Transformer
from janus_cli.data.hf import ABSENT, HuggingFace
from janus_cli.data.prepared import Prepared
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.terminal import command
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, Checkpoint
from janus_cli.training.optimizer import FRESH_MASK

# Knobs of the model section that change what weights mean, but not their shape.
SHAPELESS = ("heads", "activation", "norm", "source_suffix")


def start_from(named: Path, model: Transformer, recipe: Recipe, data: Prepared, run: Run) -> dict[str, Any]:
    """Load the weights named by `--from` (see `checkpoint.find_start`); returns their origin, for the run's manifest.

    Raises:
        UsageError: it is no run or checkpoint, or one of `run` itself, which would be replaced.
        CheckpointError: it belongs to another tokenizer, does not fit the recipe's model, or is damaged.
    """
    other, folder = checkpoint.find_start(named)
    if other.path.resolve() == run.path.resolve():
        raise UsageError(f"--from {named} lies in {run.path}, which a new run would replace", "choose another --run")
    for name in data.tokenizers.files:
        file = other.path / name
        if not file.is_file() or file.read_bytes() != (data.folder / name).read_bytes():
            raise CheckpointError(
                f"{other.path} has another tokenizer than {data.folder}: its token ids mean other words",
                "prepare the text with its tokenizer: "
                + command("janus", "preprocess", "--set", f"tokenizer.reuse={other.path}", "--out", "FOLDER"),
            )
    saved = checkpoint.verify(folder)
    checkpoint.tokenizers_of(other, saved.state)
    fresh = copy_shared_weights(saved, model, recipe, data.tokenizers.target)
    return {"checkpoint": str(folder.resolve()), "sha256": checkpoint.fingerprint(folder), "fresh": fresh}


def copy_shared_weights(saved: Checkpoint, model: Transformer, recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """Copy into a fresh model the weights that it shares with a checkpoint; returns what is fresh, see `Shares.of`.

    tokenizer: of both.

    Raises:
        CheckpointError: weights of the same name have other shapes or another meaning, or the file is damaged.
    """
    before, now = saved.recipe.model, recipe.model
    keys = SHAPELESS + ("embedding_scale",) * (before.embedding == now.embedding)
    keys += ("positions",) * ("learned" not in (before.positions, now.positions))
    differing = {key: value for key in keys if (value := getattr(before, key)) != getattr(now, key)}
    if differing:
        values = ", ".join(f"model.{key} {value}" for key, value in differing.items())
        raise CheckpointError(
            f"{saved.folder} was trained with {values}: its weights do not fit this model",
            " ".join(f"--set model.{key}={value}" for key, value in differing.items()),
        )
    fresh, expected = model.weights(), saved.build().weights()
    shared, missing = fresh.keys() & expected.keys(), sorted(fresh.keys() - expected.keys())
    for name in sorted(shared):
        if fresh[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{saved.folder} does not fit: {name} has shape {list(expected[name].shape)}, "
                f"here {list(fresh[name].shape)}",
                "the sections model and tokenizer must be those of its recipe.yaml",
            )
    loaded, unused = checkpoint.tensors(saved.folder / MODEL, expected), sorted(expected.keys() - fresh.keys())
    model.load_weights({**fresh, **{name: loaded[name] for name in shared}})
    if _reads_mask(recipe) and not _knows_mask(saved.recipe, tokenizer):
        missing.append(FRESH_MASK)
    notes = [f"fresh: {', '.join(missing)}"] * bool(missing) + [f"not used: {', '.join(unused)}"] * bool(unused)
    console.say("; ".join([f"weights from {saved.folder}", *notes]))
    return missing


def _reads_mask(recipe: Recipe) -> bool:
    """Whether a decoder reads MASKs, whose row is else never trained as input; or the encoder, from the same table."""
    decoder = recipe.objective.name != "ar" or recipe.ar_stream != "content"
    return decoder or (recipe.data.is_plain and recipe.model.tie == "all")


def _knows_mask(recipe: Recipe, tokenizer: Tokenizer) -> bool:
    """Whether a model has learnt its MASK, by its own training or, if its tokenizer is imported, before."""
    return _reads_mask(recipe) or (isinstance(tokenizer, HuggingFace) and tokenizer.order[MASK] != ABSENT)
