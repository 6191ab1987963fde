"""Whether this machine can hold a model at all, asked before anything of it is allocated."""

from __future__ import annotations

from janus_cli.core.knobs import Model
from janus_cli.errors import OutOfMemoryError
from janus_cli.system import usable_memory

WEIGHT, TRAINED = 4, 16  # bytes: a weight in float32; with its gradient and the two moments of Adam


def weights(model: Model, source_vocabulary: int, target_vocabulary: int) -> int:
    """The number of weights of the large matrices; norms, biases and positions are left out."""
    attention, feedforward = 4 * model.width**2, 2 * model.width * model.feedforward
    tables = {"all": target_vocabulary, "target": source_vocabulary + target_vocabulary}
    entries = tables.get(model.tie, source_vocabulary + 2 * target_vocabulary)
    encoder = model.encoder_layers * (attention + feedforward)
    return encoder + model.decoder_layers * (2 * attention + feedforward) + model.width * entries


def must_fit(model: Model, source_vocabulary: int, target_vocabulary: int, each: int = WEIGHT) -> None:
    """Raises OutOfMemoryError if the weights, of `each` so many bytes, are larger than the memory of this machine."""
    count, memory = weights(model, source_vocabulary, target_vocabulary), usable_memory()
    if memory is not None and count * each > memory:
        gibibytes = [f"{size / 2**30:,.0f} GiB" for size in (count * each, memory)]
        raise OutOfMemoryError(
            f"a model of {count:,} weights takes {gibibytes[0]}, and this machine has {gibibytes[1]} of memory",
            "lower model.width, model.feedforward, the layers, or tokenizer.vocabulary",
        )
