"""Ids that mean the same in every vocabulary. No torch here: the processes that encode text stay small."""

PAD, UNK, BOS, EOS, MASK = range(5)
SPECIAL = 5  # ids below are no text (UNK is)
