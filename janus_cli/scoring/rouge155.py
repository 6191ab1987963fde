"""ROUGE-1.5.5 (Lin 2004), the Perl script that papers on summarisation report, as `-c 95 -r 1000 -n 2 -a -m` calls it.

It differs from `rouge`: a word is a run of a-z and 0-9; the stemmer is Porter's with a change of the script's own; F is
rounded to five digits for every line; several references are pooled; ROUGE-L unites the matches of all sentences (a
text's lines), and the average over lines is that of 1,000 bootstrap samples. WordNet's irregular forms are not looked
up: the file of them that files2rouge ships is empty, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from janus_cli.scoring.scores import Hypotheses, Metric, References, Score, mean_of_lines

Word = TypeVar("Word", str, bytes)
Words = list[str]
SAMPLES = 1000
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def _rouge(kind: str) -> Metric:
    """kind: 1 or 2 for ROUGE-N, L."""
    hits = _lcs_hits if kind == "L" else partial(_ngram_hits, int(kind))
    how = "f:1|stem:porter-1.5.5|irregular:no|tok:a-z0-9|sent:lines"
    mean = mean_of_lines(partial(_f, hits), f"{how}|average:{SAMPLES}-samples|version:ROUGE-1.5.5")

    def metric(name: str, hypotheses: Hypotheses, references: References, tokenize: str) -> Score:
        score = mean(name, hypotheses, references, tokenize)
        return replace(score, value=100 * average(score.statistics[:, 1]))

    return metric


def average(values: NDArray[np.float64]) -> float:
    """The mean over 1,000 bootstrap samples, (N,) to five digits, as the script prints it."""
    return round(float(_draws(len(values)) @ values) / len(values) / SAMPLES, 5)


@cache
def _draws(lines: int) -> NDArray[np.int64]:
    """How often all samples together draw each line.

    Sample k is seeded with k, and Perl's generator is drand48. Drawn are places in a list of lines that is sorted twice
    as text (1, 10, 100, 11, …): by the names of their files, which count from 0, and by the numbers that these then
    get, which count from 1.
    """
    by_name = sorted(range(lines), key=str)
    order = [by_name[number - 1] for number in sorted(range(1, lines + 1), key=str)]
    states = (np.arange(SAMPLES, dtype=np.uint64) << np.uint64(16)) + np.uint64(0x330E)  # of all samples
    drawn = np.zeros(lines, dtype=np.int64)
    for _ in range(lines):
        states = (states * np.uint64(0x5DEECE66D) + np.uint64(0xB)) & np.uint64((1 << 48) - 1)
        np.add.at(drawn, (lines * (states / 2.0**48)).astype(np.int64), 1)
    found = np.zeros(lines, dtype=np.int64)
    found[order] = drawn
    return found


Hits = Callable[[list[Words], list[Words]], tuple[int, int, int]]


def _f(hits: Hits, hypothesis: str, references: Sequence[str]) -> float:
    """hits: of the sentences of a reference and a hypothesis: what both have, what each has."""
    system = _sentences(hypothesis)
    matched, in_references, in_hypothesis = np.sum([hits(_sentences(other), system) for other in references], axis=0)
    recall, precision = (round(matched / count, 5) if count else 0.0 for count in (in_references, in_hypothesis))
    return round(precision * recall / (0.5 * precision + 0.5 * recall), 5) if matched else 0.0


def _ngram_hits(order: int, reference: list[Words], hypothesis: list[Words]) -> tuple[int, int, int]:
    first, second = (ngrams(order, [*chain(*each)]) for each in (reference, hypothesis))  # may span two sentences
    return (first & second).total(), first.total(), second.total()


def ngrams(order: int, words: Sequence[Word]) -> Counter[tuple[Word, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _lcs_hits(reference: list[Words], hypothesis: list[Words]) -> tuple[int, int, int]:
    """Words of each sentence of the reference that are in its longest common subsequence with any of the hypothesis; a
    word counts no more often than both texts have it."""
    left = [Counter(chain(*sentences)) for sentences in (reference, hypothesis)]
    counts, matched = [each.total() for each in left], 0
    for sentence in reference:
        places = set[int]().union(*(lcs(sentence, other) for other in hypothesis))
        for word in (sentence[place] for place in sorted(places)):
            if all(each[word] > 0 for each in left):
                matched += 1
                for each in left:
                    each[word] -= 1
    return matched, counts[0], counts[1]


def lcs(first: Words, second: Words) -> set[int]:
    """The places in `first` of the words of a longest common subsequence; of several, the one that the script finds."""
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        above, row = lengths[-1], [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        lengths.append(row)
    places, i, j = set[int](), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif lengths[i - 1][j] >= lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return places


def _sentences(text: str) -> list[Words]:
    return [
        [stem(word.decode()) for word in re.findall(rb"[a-z0-9]+", line.encode().lower())] for line in text.split("\n")
    ]


@cache
def stem(word: str) -> str:
    """Porter's stemmer (Porter 1980) of a word of more than three letters, as the script has it: with his later
    changes, and of the endings -ement, -ment and -ent, each is tried."""
    return _stemmer().stem(word) if len(word) > 3 else word


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer  # rouge-score needs it, too

    class Stemmer(PorterStemmer):  # type: ignore[misc]
        def _step4(self, word: str) -> str:
            for endings in (_STEP_4, ("ment",), ("ent", "sion", "tion")):
                ending = max((each for each in endings if word.endswith(each)), key=len, default="")
                root = word.removesuffix(ending) + ending[:1] * ending.endswith("ion")
                word = root if ending and self._measure(root) > 1 else word
            return word

    return Stemmer(PorterStemmer.MARTIN_EXTENSIONS)


METRICS: dict[str, Metric] = {f"rouge155-{kind}": _rouge(kind) for kind in "12L"}
