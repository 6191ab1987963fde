"""Whether text can be split into words at its spaces, as BLEU needs it, and which scripts have no spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["spaced", "unspaced", "short"]

# Blocks of scripts that put no spaces between words.
UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao; Tibetan; Burmese; Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001b000-\U0001b16f"  # Hiragana and Katakana
    "]"
)
SHORT = 3  # words a line; most outputs then have no 4-gram, and BLEU prefers longer, wrong ones
UNSPACED_SHARE, UNSPACED_WORD = 0.3, 4  # of all characters; characters between spaces: Chinese words have about two
LONGEST_WORD = 20  # mean characters between spaces, in any script; of natural languages the longest have about ten
LINES = 2000  # of a text; evenly over it, they tell as much as all


@dataclass(frozen=True)
class Shape:
    """Of the lines of a text that are not empty: mean words a line, mean characters a word (both as split at spaces),
    and the share of characters that belong to scripts without spaces."""

    words: float
    characters: float
    unspaced: float

    @classmethod
    def of(cls, lines: Iterable[str]) -> Shape:
        count = words = characters = unspaced = 0
        for line in lines:
            parts = line.split()
            count, words = count + bool(parts), words + len(parts)
            characters += sum(map(len, parts))
            unspaced += 0 if line.isascii() else len(UNSPACED.findall(line))
        mean, length = words / max(1, count), characters / max(1, words)
        return cls(round(mean, 2), round(length, 2), round(unspaced / max(1, characters), 3))

    @classmethod
    def read(cls, manifest: Mapping[str, Any]) -> Shape | None:
        """What `janus preprocess` found in the training targets; None if the data was prepared before it did."""
        noted = manifest.get("target_text")
        values = [noted.get(name) for name in cls.__dataclass_fields__] if isinstance(noted, Mapping) else []
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        return cls(*numbers) if len(numbers) == len(cls.__dataclass_fields__) else None

    @property
    def kind(self) -> Kind:
        """unspaced: words are not split by spaces. short: so few words a line that n-grams of words say little."""
        unspaced = self.unspaced >= UNSPACED_SHARE and self.characters > UNSPACED_WORD
        if unspaced or self.characters > LONGEST_WORD:
            return "unspaced"
        return "short" if self.words <= SHORT else "spaced"

    @property
    def why(self) -> str:
        """What keeps BLEU from judging such text, as the end of a sentence about it; empty if nothing does."""
        return {
            "spaced": "",
            "unspaced": f"has no spaces between words ({self.characters:.1f} characters from space to space)",
            "short": f"is very short ({self.words:.1f} words a line)",
        }[self.kind]
