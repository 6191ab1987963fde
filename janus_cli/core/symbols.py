"""Token ids that all vocabularies share. No torch here, so that the processes that encode text stay small."""

PAD, UNK, BOS, EOS, MASK = range(5)
SPECIAL = 5  # number of special ids; of these only UNK counts as text
NO_TEXT = frozenset((PAD, BOS, EOS, MASK))
NAMES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
