"""Repeats in texts whose tokens are written together: which to hide again between passes, which to drop at the end.

Places of one pass do not know of each other and may say the same: the main fault of non-autoregressive text
(Ghazvininejad 2019, section 5.1). A further pass that reads one of them knows better what belongs at the other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from janus_cli.core.batch import PAD


class Repeats(NamedTuple):
    """What counts as a repeat; false if nothing does.

    doubled: a token equal to the one before it. ngram: an n-gram of this size that occurs twice, wherever; 0: none.
    """

    doubled: bool = False
    ngram: int = 0

    def __bool__(self) -> bool:
        return self.doubled or self.ngram > 0

    def less_certain(self, tokens: Tensor, logps: Tensor) -> Tensor:
        """Of equal neighbours the less certain, of equal n-grams all but the most certain; the first of a tie stays.

        An n-gram is as certain as its log-probabilities together, and is no repeat of one that it shares tokens with.
        No row depends on another.
        tokens, logps: (R, T), PAD after the end of a row -> (R, T) bool.
        """
        found = torch.zeros_like(tokens, dtype=torch.bool)
        if self.doubled:
            equal = (tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != PAD)
            first = logps[:, :-1] < logps[:, 1:]
            found[:, :-1] |= equal & first
            found[:, 1:] |= equal & ~first
        count = tokens.shape[1] - self.ngram + 1
        if self.ngram and count > 1:
            repeated = _less_certain(tokens, logps, self.ngram)
            for place in range(self.ngram):
                found[:, place : place + count] |= repeated
        return found

    def without(self, tokens: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
        """Drops repeats, so that none are left, and closes the gaps. Both (R, T), PAD after the end of a row."""
        repeated = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, text in enumerate(tokens.tolist()):
            repeated[row, self.later(text)] = True
        repeated = repeated.to(tokens.device) & (tokens != PAD)
        order = repeated.int().sort(dim=1, stable=True).indices
        return tokens.masked_fill(repeated, PAD).gather(1, order), logps.masked_fill(repeated, 0.0).gather(1, order)

    def later(self, text: list[int]) -> list[int]:
        """The places of all repeats in a text, left to right; the first of its kind is none.

        A copy is dropped up to where it stops matching the earlier text; if it overlaps the first occurrence, only the
        part after the overlap is.
        """
        kept: list[int] = []
        ends: dict[tuple[int, ...], int] = {}  # how much was kept when this n-gram was complete
        after = len(text)  # a copy goes on like the text if the next token is that kept here
        for place, token in enumerate(text):
            if after < len(kept) and text[kept[after]] == token:
                after += 1
                continue
            after = len(text)
            if self.doubled and kept and text[kept[-1]] == token:
                continue
            kept.append(place)
            if not 0 < self.ngram <= len(kept):
                continue
            end = ends.setdefault(tuple(text[each] for each in kept[-self.ngram :]), len(kept))
            if end < len(kept):
                del kept[-min(self.ngram, len(kept) - end) :]
                after = end
                ends = {each: size for each, size in ends.items() if size <= len(kept)}
        return sorted({*range(len(text))} - {*kept})


NONE = Repeats()


def _less_certain(tokens: Tensor, logps: Tensor, ngram: int) -> Tensor:
    """The n-grams that a more certain one equals, by where they begin. (R, T) -> (R, W) bool, W = T - ngram + 1."""
    count = tokens.shape[1] - ngram + 1
    spans = [slice(place, place + count) for place in range(ngram)]
    equal = (tokens[:, :, None] == tokens[:, None]) & (tokens != PAD)[:, None]  # (R, T, T)
    same = equal[:, spans[0], spans[0]]
    for span in spans[1:]:
        same = same & equal[:, span, span]  # (R, W, W)
    sure = sum((logps[:, span] for span in spans[1:]), logps[:, spans[0]])
    one, other, place = sure[:, :, None], sure[:, None], torch.arange(count, device=tokens.device)
    same = same & ((place - place[:, None]).abs() >= ngram)  # of those that share tokens none could stay
    return (same & ((other > one) | ((other == one) & (place < place[:, None])))).any(2)
