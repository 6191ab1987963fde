"""Whether this machine can hold a model at all, asked before anything of it is allocated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import prod

from janus_cli.core.knobs import Model
from janus_cli.core.shapes import part_of, shapes
from janus_cli.errors import OutOfMemoryError
from janus_cli.system import usable_memory

WEIGHT, TRAINED = 4, 16  # bytes: a weight in float32; with its gradient and the two moments of Adam


def parts(model: Model, vocabularies: tuple[int, int], *, lengths: bool) -> Counter[str]:
    """The number of weights of each part (see `training.freeze`). lengths: whether there is a length head."""
    found = Counter[str]()
    for name, shape in shapes(model, vocabularies, lengths=lengths).items():
        found[part_of(name, model)[0]] += prod(shape)
    return found


def must_fit(
    model: Model, vocabularies: tuple[int, int], *, lengths: bool, frozen: Collection[str] | None = None
) -> None:
    """Raises OutOfMemoryError if the weights are larger than the memory of this machine.

    frozen: for all parts but these, gradient and moments are counted as well; None: for none.
    """
    counts, memory = parts(model, vocabularies, lengths=lengths), usable_memory()
    needed = sum(count * (WEIGHT if frozen is None or part in frozen else TRAINED) for part, count in counts.items())
    if memory is not None and needed > memory:
        gibibytes = [f"{size / 2**30:,.0f} GiB" for size in (needed, memory)]
        raise OutOfMemoryError(
            f"a model of {counts.total():,} weights takes {gibibytes[0]}, this machine has {gibibytes[1]} of memory",
            "lower model.width, model.feedforward, the layers, or tokenizer.vocabulary",
        )
