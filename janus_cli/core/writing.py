"""What a search may write: which tokens, and how many. No torch here, so that what needs none starts fast."""

from __future__ import annotations

from typing import Any, NamedTuple

from janus_cli.core.knobs import Decoding
from janus_cli.core.symbols import BOS, EOS, MASK, PAD, UNK


class Unwritten(NamedTuple):
    """Tokens that are never written. The others share the probability of those in `shared`, not of those in `kept`."""

    shared: tuple[int, ...]
    kept: tuple[int, ...] = ()

    @property
    def or_eos(self) -> Unwritten:
        """EOS besides, where the length is known."""
        return self._replace(shared=(*self.shared, EOS))


NEVER_WRITTEN = Unwritten((PAD, BOS, MASK))


def never_written(options: Decoding) -> Unwritten:
    """What these options forbid; where the length is known, EOS comes to that."""
    every = (*NEVER_WRITTEN.shared, UNK) if options.unk == "ban" else NEVER_WRITTEN.shared
    return Unwritten(tuple(token for token in every if token not in options.unwritten), options.unwritten)


def most_tokens(lengths: Any, max_length: int, options: Decoding) -> Any:
    """The most tokens of an AR output, EOS included: max_ratio * source + max_extra, with room beyond `min_length`.

    lengths: (B,) of the sources, without EOS; a tensor, or an array of float32, in which the result is as well.
    max_length: the model's positions, within which it stays.
    """
    ratio, extra = options.limit
    return ((lengths * ratio // 1).clip(min=options.min_length) + (extra + 1)).clip(max=max_length - 1)
