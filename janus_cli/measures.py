"""The metrics by name: what each is, and which way is better.

Cheap to import: recipes, help texts and documents are made of it. `scoring/metrics.py` computes the metrics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

BOOTSTRAP_SEED = 1


@dataclass(frozen=True)
class Measure:
    """A metric; its lowest value is 0.

    title: in tables and plots. about: a line for help and documents. highest: None if there is no limit. words: whether
    it compares words, and needs text that can be split into some. tokenize: whether `scoring.tokenize` splits it.
    """

    title: str
    about: str
    higher_is_better: bool = True
    highest: float | None = 100.0
    words: bool = False
    tokenize: bool = False

    @property
    def mark(self) -> str:
        """What goes behind its name in a table."""
        return "" if self.higher_is_better else " (lower is better)"

    @property
    def head(self) -> str:
        return f"{self.title}{self.mark}"


_BLEU = "BLEU (Papineni 2002) of detokenised text, as WMT reports it"
_TOKENISED = "BLEU of text that is tokenised already"
_ROUGE = {  # Lin 2004
    "rouge1": ("ROUGE-1", "single words"),
    "rouge2": ("ROUGE-2", "pairs of words"),
    "rougeL": ("ROUGE-L", "the longest common subsequence"),
    "rougeLsum": ("ROUGE-Lsum", "the longest common subsequence, sentence by sentence"),
}
MEASURES: dict[str, Measure] = {
    "bleu": Measure("BLEU", _BLEU, words=True, tokenize=True),
    "bleu-tok": Measure("BLEU-tok", f"{_TOKENISED}: words are split at spaces", words=True),
    "bleu-compound": Measure("BLEU-compound", f"{_TOKENISED}, compounds split at hyphens", words=True),
    "chrf": Measure("chrF", "chrF2 (Popović 2015): F-score of character 1- to 6-grams; for any script and length"),
    "ter": Measure(
        "TER", "translation edit rate (Snover 2006): edits per 100 reference words", False, highest=None, words=True
    ),
    **{name: Measure(title, f"F1 of {what}; letters of every script") for name, (title, what) in _ROUGE.items()},
    **{
        f"{name}-stem": Measure(f"{title}, stemmed", f"F1 of {what}, English words stemmed")
        for name, (title, what) in _ROUGE.items()
    },
    "exact": Measure("exact match", "share of outputs that equal a reference, spaces at the ends aside"),
    "edit": Measure("edit distance", "mean edit distance to the nearest reference, in characters", False, highest=None),
    **{
        f"rouge155-{kind[5:]}": Measure(f"{title} (1.5.5)", f"F1 of {what}, as the script ROUGE-1.5.5 counts, stemmed")
        for kind, (title, what) in [*_ROUGE.items()][:3]
    },
    **{
        f"bleu{order}-coco": Measure(f"BLEU-{order} (coco)", f"BLEU-{order} as coco-caption, not smoothed", words=True)
        for order in range(1, 5)
    },
    "rougeL-coco": Measure(
        "ROUGE-L (coco)", "F of the longest common subsequence, β 1.2, as coco-caption", words=True
    ),
    "meteor": Measure("METEOR", "METEOR 1.5 (Denkowski 2014), English; extra `meteor`, and Java", words=True),
    "f1": Measure("F1", "F1 of words without articles and punctuation, as SQuAD and CoQA", words=True),
    **{
        f"bleu{order}-sentence": Measure(
            f"sentence BLEU-{order}", f"mean BLEU-{order} of lines, NLTK's smoothing 7", highest=None, words=True
        )
        for order in (1, 2)
    },
    **{
        f"distinct{order}": Measure(f"Distinct-{order}", f"share of different {what} among all (Li 2016)", words=True)
        for order, what in ((1, "words"), (2, "pairs of words"))
    },
}  # fmt: skip
GROUPS = {
    "rouge": tuple(_ROUGE),
    "rouge-stem": tuple(f"{name}-stem" for name in _ROUGE),
    **{
        group: tuple(name for name in MEASURES if re.fullmatch(pattern, name))
        for group, pattern in (
            ("rouge155", "rouge155-."), ("bleu-coco", "bleu.-coco"), ("bleu-sentence", "bleu.-sentence"),
            ("distinct", "distinct."),
        )
    },
}  # fmt: skip

GlgeTask = Literal["cnndm", "gigaword", "xsum", "msnews", "squad_qg", "msqg", "coqa", "personachat"]

# Of sacreBLEU. 13a and intl split European text, none splits at spaces; the others split scripts without spaces, too.
Tokenize = Literal["auto", "13a", "intl", "none", "zh", "char", "ja-mecab", "ko-mecab", "flores200"]
UNSPACED_TOKENIZERS = ("zh", "char", "ja-mecab", "ko-mecab", "flores200")

# What becomes of a line that has no reference to compare with.
NO_REFERENCE = "chrF leaves such lines out, most metrics count all that was put out there as wrong"


def short_names() -> list[str]:
    """What `--metrics` takes; the names of groups stand for their members."""
    members = {name for group in GROUPS.values() for name in group}
    return [*(name for name in MEASURES if name not in members), *GROUPS]


def measure_of(name: str) -> Measure | None:
    """The metric behind a number of a validation (METRIC, METRIC_ar, METRIC_nar); None if it is a loss."""
    return MEASURES.get(name.removesuffix("_ar").removesuffix("_nar"))


def higher_is_better(name: str) -> bool:
    """Whether a number of a validation is better the higher it is: not losses, and not every metric."""
    measure = measure_of(name)
    return measure is not None and measure.higher_is_better
