"""How answers and replies are scored: F1 of words as CoQA and SQuAD have it, BLEU of single sentences, and Distinct."""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import partial

from janus_cli.scoring.rouge155 import ngrams
from janus_cli.scoring.scores import Hypotheses, Metric, References, Score, mean_of_lines, percentage, summed

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _f1(hypothesis: str, reference: str) -> float:
    """F1 of words (Rajpurkar 2016)."""
    first, second = _answer(hypothesis), _answer(reference)
    common = (Counter(first) & Counter(second)).total()
    if not first or not second:
        return float(first == second)
    return 2 * common / (len(first) + len(second))


def _answer(text: str) -> list[str]:
    """Words in lower case, without ASCII punctuation and articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split()


def _sentence_bleu(order: int, hypothesis: str, references: list[str]) -> float:
    """BLEU-1 or BLEU-2 of a line with NLTK's smoothing method 7 (Chen and Cherry 2014)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    words = [other.strip().split(" ") for other in references]
    weights = [1 / order] * order + [0] * (4 - order)  # four, because the smoothing looks at all of them
    return float(sentence_bleu(words, hypothesis.strip().split(" "), weights, SmoothingFunction().method7))


def _distinct(order: int, name: str, hypotheses: Hypotheses, references: References, _: str) -> Score:
    """Different n-grams of all outputs over their number (Li 2016). In the row of a line, an n-gram that k lines have
    counts 1/k: the value is exact, an interval by the bootstrap only about right."""
    lines = [ngrams(order, line.strip().split(" ")) for line in hypotheses]
    having = Counter(ngram for line in lines for ngram in line)
    rows = [[line.total(), sum(1 / having[ngram] for ngram in line)] for line in lines]
    return summed(name, f"order:{order}|case:mixed|tok:spaces", rows, percentage)


METRICS: dict[str, Metric] = {
    "f1": mean_of_lines(
        lambda line, others: max(_f1(line, other) for other in others),
        "case:lower|punctuation:no|articles:no|version:SQuAD-1.1",
    ),
    **{
        f"bleu{order}-sentence": mean_of_lines(
            partial(_sentence_bleu, order), f"order:{order}|case:mixed|tok:spaces|smooth:method7", "nltk"
        )
        for order in (1, 2)
    },
    **{f"distinct{order}": partial(_distinct, order) for order in (1, 2)},
}
