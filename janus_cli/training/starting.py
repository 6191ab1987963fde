"""Beginning a training with the weights of another one, of whatever objective: fine-tuning, or AR first, then JANUS.

Only weights are taken over: updates, learning rate and moments begin anew. What the other model does not have (the
length table, where it was an AR model) stays as drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_cli import console
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.files import read_json
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from janus_cli.core.model import Transformer
    from janus_cli.data.prepared import Prepared
    from janus_cli.recipe import Recipe

Origin = dict[str, Any]  # plain values: they stand in the run's manifest
UNSEEN = ("heads", "activation", "norm")  # of the model section: other ones fit the same shapes and mean something else


def locate(named: Path) -> tuple[Run, Path]:
    """A run and the checkpoint to begin from. named: a run, of which the best is taken, or a checkpoint folder.

    Raises:
        UsageError, CheckpointError: it is neither.
    """
    if (named / MODEL).is_file():
        return checkpoint.find_checkpoint(None, named)
    return checkpoint.find_checkpoint(named, None)


def find(named: Path, recipe: Recipe, prepared: Prepared, run: Run) -> Origin:
    """Which weights `run` is to begin from; named: see `locate`.

    Raises:
        UsageError: it is no run or checkpoint, or one of `run` itself, which would be replaced.
        CheckpointError: it belongs to another tokenizer, does not fit the recipe's model, or is damaged.
    """
    theirs, folder = locate(named)
    if theirs.path.resolve() == run.path.resolve():
        raise UsageError(f"--from {named} lies in {run.path}, which a new run would replace", "choose another --run")
    for name in prepared.tokenizers.files:
        file = theirs.path / name
        if not file.is_file() or file.read_bytes() != (prepared.folder / name).read_bytes():
            raise CheckpointError(
                f"{theirs.path} has another tokenizer than {prepared.folder}: its weights mean other words",
                f"prepare the text with its tokenizer: "
                f"janus preprocess --set tokenizer.reuse={theirs.path} --out FOLDER",
            )
    found = checkpoint.verify(folder)
    unseen = UNSEEN + ("embedding_scale",) * (found.recipe.model.embedding == recipe.model.embedding)
    differing = [key for key in unseen if getattr(found.recipe.model, key) != getattr(recipe.model, key)]
    if differing:
        values = (f"model.{key} {getattr(found.recipe.model, key)}" for key in differing)
        words = " ".join(f"--set model.{key}={getattr(found.recipe.model, key)}" for key in differing)
        raise CheckpointError(f"{folder} was trained with {', '.join(values)}: here its weights mean nothing", words)
    train = prepared.train
    mine = checkpoint.build_model(recipe, train.source_vocabulary, train.target_vocabulary).weights()
    _must_fit(found, mine)
    return {"checkpoint": str(folder.resolve()), "sha256": checkpoint.fingerprint(folder)}


def _must_fit(found: Checkpoint, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights like those of the checkpoint, by name; those that are among `mine` as well have the same shape."""
    theirs = checkpoint.build_model(found.recipe, found.source_vocabulary, found.target_vocabulary).weights()
    for name in sorted(mine.keys() & theirs.keys()):
        if mine[name].shape != theirs[name].shape:
            raise CheckpointError(
                f"{found.folder} does not fit: {name} has shape {list(theirs[name].shape)}, "
                f"here {list(mine[name].shape)}",
                "the sections model and tokenizer must be those of its recipe.yaml",
            )
    return theirs


def take_over(run: Run, model: Transformer) -> None:
    """Puts the weights that the run's manifest names into a fresh model; nothing where it names none.

    Raises:
        CheckpointError: they are gone, changed or damaged, or of another shape.
    """
    origin = read_json(run.manifest).get("from")
    if origin is None:
        return
    found = checkpoint.verify(Path(origin["checkpoint"]))
    if checkpoint.fingerprint(found.folder) != origin["sha256"]:
        raise CheckpointError(f"{found.folder} has changed since {run.path} began from it", "--force begins anew")
    mine = model.weights()
    loaded = checkpoint.tensors(found.folder / MODEL, _must_fit(found, mine))
    model.load_weights({**mine, **{name: loaded[name] for name in mine if name in loaded}})
    missing, unused = sorted(mine.keys() - loaded.keys()), sorted(loaded.keys() - mine.keys())
    about = [f"fresh: {', '.join(missing)}"] * bool(missing) + [f"not used: {', '.join(unused)}"] * bool(unused)
    console.say("; ".join([f"weights from {found.folder}", *about]))
