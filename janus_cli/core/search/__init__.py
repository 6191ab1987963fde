"""Search algorithms over callables: they do not know the model (`core/generate.py` connects the two)."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Iteration:
    """One pass of mask-predict: the tokens after it, their log-probabilities in nats, which are hidden next, and which
    of these because they repeat."""

    tokens: list[int]
    logps: list[float]
    hidden: list[bool]
    repeated: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Output:
    """One hypothesis.

    tokens: without BOS and EOS. logps: nats of each token; left-to-right search adds that of EOS at the end.
    score: what hypotheses of the sentence were ranked by, higher is better; see the search. If nobody asked for
        scores, logps may be empty, and the score NaN.
    passes: decoder passes that the sentence took part in. trace: these passes, if asked for.
    limited: whether the search went on up to the most tokens allowed, so that without that limit it might have found
        something longer.
    tried: with a trace, for the best hypothesis: the lengths among which it was chosen, likeliest first, each with its
        log-probability and the score of its text (None if the first pass left that length out).
    """

    tokens: list[int]
    logps: list[float]
    score: float
    passes: int
    trace: tuple[Iteration, ...] = ()
    limited: bool = False
    tried: tuple[tuple[int, float, float | None], ...] = ()

    @property
    def length(self) -> int:
        """The length that the length penalty counts: tokens, and EOS if it was predicted. 0 without logps."""
        return len(self.logps)


def different(outputs: Sequence[Output], most: int) -> list[Output]:
    """The first `most` with different tokens; without their repeats, hypotheses of several lengths may be equal."""
    found: dict[tuple[int, ...], Output] = {}
    for output in outputs:
        found.setdefault(tuple(output.tokens), output)
    return list(found.values())[:most]
