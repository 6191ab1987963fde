"""Whether this machine can hold a model at all, asked before anything of it is allocated."""

from __future__ import annotations

from collections.abc import Collection

from janus_cli.core.knobs import Model
from janus_cli.errors import OutOfMemoryError
from janus_cli.system import usable_memory

WEIGHT, TRAINED = 4, 16  # bytes: a weight in float32; with its gradient and the two moments of Adam
PARTS = frozenset(("embeddings", "encoder", "decoder", "output"))


def parts(model: Model, source_vocabulary: int, target_vocabulary: int) -> dict[str, int]:
    """The number of weights of each part's large matrices; norms, biases and positions are left out."""
    attention, feedforward = 4 * model.width**2, 2 * model.width * model.feedforward
    source, output = source_vocabulary * (model.tie != "all"), target_vocabulary * (model.tie == "none")
    return {
        "embeddings": model.width * (source + target_vocabulary),
        "encoder": model.encoder_layers * (attention + feedforward),
        "decoder": model.decoder_layers * (2 * attention + feedforward),
        "output": model.width * output,
    }


def weights(model: Model, source_vocabulary: int, target_vocabulary: int) -> int:
    """The number of weights of all parts."""
    return sum(parts(model, source_vocabulary, target_vocabulary).values())


def must_fit(
    model: Model, source_vocabulary: int, target_vocabulary: int, trained: Collection[str] = frozenset()
) -> None:
    """Raises OutOfMemoryError if the weights are larger than the memory of this machine.

    trained: the parts for which gradient and moments are counted as well.
    """
    counts, memory = parts(model, source_vocabulary, target_vocabulary), usable_memory()
    needed = sum(count * (TRAINED if part in trained else WEIGHT) for part, count in counts.items())
    if memory is not None and needed > memory:
        gibibytes = [f"{size / 2**30:,.0f} GiB" for size in (needed, memory)]
        raise OutOfMemoryError(
            f"a model of {sum(counts.values()):,} weights takes {gibibytes[0]}, and this machine has {gibibytes[1]} of "
            "memory",
            "lower model.width, model.feedforward, the layers, or tokenizer.vocabulary",
        )
