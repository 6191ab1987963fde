"""What outputs repeat and how long they are: where non-autoregressive text fails first.

A word is what stands between spaces; of scripts that have none, a character, their punctuation included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from operator import eq
from statistics import fmean

from janus_cli.data.spacing import UNSPACED
from janus_cli.scoring.scores import References

Rates = Mapping[str, float | None]
# Also the punctuation of Chinese and Japanese, wide or not.
CHARACTER = re.compile(f"{UNSPACED.pattern}|[\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")
NOTHING: Rates = {"repeated_words": None, "repeated_trigrams": None, "length_ratio": None}


def rates(outputs: Iterable[str], references: References | None) -> Rates:
    """Of all words, the share that equal the one before (Ghazvininejad 2019); of all trigrams, those that their output
    has had before, which `--no-repeat-ngram 3` never writes; and the words of all outputs over those of their
    references (the mean, where a line has several). None where there is nothing to divide by."""
    words = doubled = trigrams = again = 0
    for text in outputs:
        line = _words(text)
        triples = list(zip(line, line[1:], line[2:], strict=False))
        words, doubled = words + len(line), doubled + sum(map(eq, line, line[1:]))
        trigrams, again = trigrams + len(triples), again + len(triples) - len(set(triples))
    whole = sum(map(_length, zip(*references, strict=True))) if references else 0
    shares = (doubled / words if words else None, again / trigrams if trigrams else None)
    return dict(zip(NOTHING, (*shares, words / whole if whole else None), strict=True))


def in_words(found: Rates) -> str:
    """Rates for people; empty if there are none."""
    words, trigrams, length = (found[name] for name in NOTHING)
    said = [f"{words:.1%} of words repeat the one before"] if words is not None else []
    said += [f"{trigrams:.1%} of trigrams an earlier one"] if trigrams is not None else []
    return ", ".join(said + ([f"length {length:.2f} of the references'"] if length is not None else []))


def _words(text: str) -> list[str]:
    return CHARACTER.sub(r" \g<0> ", text).split()


def _length(references: Iterable[str | None]) -> float:
    return fmean(len(_words(text)) for text in references if text is not None)
