"""Models and optimisers of torch beside the checkpoints that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from janus_cli.core.knobs import Precision
from janus_cli.core.model import Transformer
from janus_cli.errors import NonFiniteError
from janus_cli.recipe import Recipe
from janus_cli.training import size
from janus_cli.training.checkpoint import read_arrays, read_weights

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of each weight
EMA = "ema"  # exponential moving average of each weight, if training.ema is set


def build_model(recipe: Recipe, source_vocabulary: int, target_vocabulary: int) -> Transformer:
    """The recipe's model, with weights drawn from torch's global generator.

    Raises:
        OutOfMemoryError: the machine cannot hold it.
    """
    lengths = recipe.objective.lengths
    size.must_fit(recipe.model, (source_vocabulary, target_vocabulary), lengths=lengths)
    return Transformer(recipe.model, source_vocabulary, target_vocabulary, length_head=lengths)


def load_model(folder: Path, device: torch.device | str = "cpu", precision: Precision = "float32") -> Transformer:
    """The model of a checkpoint, in eval mode. Raises as `read_weights`."""
    return read_weights(folder).model(device, precision)


def read_tensors(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`read_arrays` as tensors; `expected` has tensors of the same shapes."""
    like = {name: value.shape for name, value in expected.items()}
    return {name: torch.from_numpy(value) for name, value in read_arrays(file, like)}


def must_be_finite(tensors: Mapping[str, Tensor], consequence: str) -> None:
    """Raises NonFiniteError if a value is NaN or infinite. Waits for the device once."""
    device = next(iter(tensors.values())).device  # AdamW's counts of steps may be elsewhere
    finite = torch.stack([torch.isfinite(value).all().to(device) for value in tensors.values()]).tolist()
    if wrong := [name for name, holds in zip(tensors, finite, strict=True) if not holds]:
        raise NonFiniteError(
            f"{wrong[0]} has values that are not finite: {consequence}",
            "earlier checkpoints are untouched; lower training.learning_rate or set training.clip",
        )


def optimizer_tensors(
    model: Transformer, state: Mapping[Tensor, Mapping[str, Tensor]], *, ema: bool
) -> dict[str, Tensor]:
    """AdamW's moments and the moving average by weight name; initial values before the first update.

    state: of the optimiser, by weight. ema: whether there is a moving average.
    """
    tensors = {}
    for name, weight in model.named_parameters():
        shapes = dict(zip(MOMENTS, ((), weight.shape, weight.shape), strict=True))
        # One zero each, which takes no memory on the device: frozen weights have such moments as well.
        new = {key: torch.zeros((), dtype=weight.dtype).expand(shape) for key, shape in shapes.items()}
        for key in (*MOMENTS, EMA) if ema else MOMENTS:
            tensors[f"{name}.{key}"] = {**new, EMA: weight, **state.get(weight, {})}[key].detach()
    return tensors
