"""Token ids that all vocabularies share. No torch here, so that the processes that encode text stay small."""

from collections.abc import Sequence

PAD, UNK, BOS, EOS, MASK = range(5)
SPECIAL = 5  # number of special ids; of these only UNK counts as text
NO_TEXT = frozenset((PAD, BOS, EOS, MASK))
NAMES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


def padded(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of ids, all as long as the longest, with PAD on the right."""
    longest = max(map(len, rows), default=0)
    return [[*row, *[PAD] * (longest - len(row))] for row in rows]
