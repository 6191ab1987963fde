"""Metrics by sacrebleu and rouge-score, and exact match, each with a signature that says exactly how it was computed.

Every metric is a function of a sum: each sentence gives a row of counts (its sufficient statistics), and
`Score.aggregate` turns the sum of the rows into the score. So a bootstrap sample only adds up rows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from janus_cli.console import counted
from janus_cli.errors import DataError, UsageError

Hypotheses = Sequence[str]
References = Sequence[Sequence[str | None]]  # R lists of N lines; None if a line has fewer than R references
Aggregate = Callable[[NDArray[np.float64]], float]
Metric = Callable[[str, Hypotheses, References], "Score"]  # first the name


@dataclass(frozen=True)
class Score:
    """One metric's score of a whole text.

    value: 0 to 100 (TER may pass 100). statistics: (N, K), one row a sentence, in input order. aggregate: from the sum
    of the rows, (K,), to the value.
    """

    name: str
    value: float
    signature: str
    statistics: NDArray[np.float64]
    aggregate: Aggregate
    higher_is_better: bool = True


def score(hypotheses: Hypotheses, references: References, metrics: Sequence[str]) -> list[Score]:
    """Scores in the order of the names; see `METRICS`.

    Args:
        hypotheses: N lines; a line may be empty.
        references: R lists of N lines, None if a line has fewer references than others.

    Raises:
        UsageError: there is no such metric.
        DataError: no line, no reference, a line without any reference, or line counts that differ.
    """
    names = expand(metrics)
    _must_align(hypotheses, references)
    return [METRICS[name](name, hypotheses, references) for name in names]


def corpus_bleu(hypotheses: Hypotheses, references: References) -> float:
    """BLEU of detokenised text (sacrebleu, 13a), 0 to 100; arguments and errors as `score`."""
    return score(hypotheses, references, ["bleu"])[0].value


def expand(metrics: Sequence[str]) -> list[str]:
    """Names of `METRICS`, groups replaced by their members, each once.

    Raises:
        UsageError: there is no such metric.
    """
    known = [*METRICS, *GROUPS]
    hint = f"metrics: {', '.join(known)}"
    if not metrics:
        raise UsageError("no metric was named", hint)
    for name in metrics:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"no metric is called {name!r}{guess}", hint)
    return list(dict.fromkeys(each for name in metrics for each in GROUPS.get(name, [name])))


def looks_tokenised(lines: Hypotheses) -> bool:
    """Whether most lines end in a full stop that stands alone: 13a expects detokenised text."""
    return 2 * sum(line.endswith(" .") for line in lines) > len(lines)


def split_compounds(line: str) -> str:
    """`rich-text` -> `rich ##AT##-##AT## text`; as in the usual script, matches do not overlap."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def _sacrebleu(
    kind: str, *, prepare: Callable[[str], str] = str, note: str = "", higher_is_better: bool = True,
    **options: str | bool,
) -> Metric:  # fmt: skip
    """A metric of sacrebleu. prepare: applied to each line. note: added to the signature for it."""

    def metric(name: str, hypotheses: Hypotheses, references: References) -> Score:
        from sacrebleu import metrics  # costs 0.1 s

        scorer = getattr(metrics, kind)(**options)
        prepared = [[line if line is None else prepare(line) for line in lines] for lines in references]
        # sacrebleu's own significance tests call these two underscored methods, because `corpus_score` does not return
        # the rows. They accept None for a missing reference, although their type hints do not say so.
        rows = scorer._extract_corpus_statistics([prepare(line) for line in hypotheses], prepared)
        signature = f"{scorer.get_signature()}{note}"

        def aggregate(total: NDArray[np.float64]) -> float:
            return float(scorer._compute_score_from_stats(list(total)).score)

        return _score(name, signature, rows, aggregate, higher_is_better)

    return metric


def _rouge(kind: str, *, stem: bool) -> Metric:
    """ROUGE (Lin 2004), F1: the mean over lines of the best reference's F1."""

    def metric(name: str, hypotheses: Hypotheses, references: References) -> Score:
        from importlib.metadata import version

        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        scorer = RougeScorer([kind], tokenizer=DefaultTokenizer(stem))
        prepare = _one_sentence_a_line if kind == "rougeLsum" else str
        rows = [
            [1.0, scorer.score_multi([prepare(other) for other in others], prepare(line))[kind].fmeasure]
            for line, others in _pairs(hypotheses, references)
        ]
        sentences = "|sent:punctuation" if kind == "rougeLsum" else ""
        signature = f"nrefs:{_reference_count(references)}|f:1|stem:{'yes' if stem else 'no'}|tok:a-z0-9{sentences}"
        return _score(name, f"{signature}|version:rouge-score-{version('rouge-score')}", rows, _percentage)

    return metric


def _one_sentence_a_line(text: str) -> str:
    """ROUGE-Lsum matches sentence by sentence, and takes line ends as their borders."""
    return re.sub(r"(?<=[.!?]) +", "\n", text)


def _exact(name: str, hypotheses: Hypotheses, references: References) -> Score:
    """Share of lines that equal one of their references, spaces at the ends aside."""
    rows = [
        [1.0, float(line.strip() in {other.strip() for other in others})]
        for line, others in _pairs(hypotheses, references)
    ]
    return _score(name, f"nrefs:{_reference_count(references)}|case:mixed|space:stripped", rows, _percentage)


def _score(
    name: str, signature: str, rows: Sequence[Sequence[float]], aggregate: Aggregate, higher_is_better: bool = True
) -> Score:
    statistics = np.array(rows, dtype=np.float64)
    return Score(name, aggregate(statistics.sum(axis=0)), signature, statistics, aggregate, higher_is_better)


def _percentage(total: NDArray[np.float64]) -> float:
    return float(100 * total[1] / total[0])


def _pairs(hypotheses: Hypotheses, references: References) -> Iterator[tuple[str, list[str]]]:
    """Each line with the references that it has."""
    for line, others in zip(hypotheses, zip(*references, strict=True), strict=True):
        yield line, [other for other in others if other is not None]


def _reference_count(references: References) -> str:
    counts = {sum(line is not None for line in lines) for lines in zip(*references, strict=True)}
    return str(counts.pop()) if len(counts) == 1 else "var"


def _must_align(hypotheses: Hypotheses, references: References) -> None:
    if not references:
        raise DataError("there is no reference to compare with", "name one with --reference FILE")
    for number, lines in enumerate(references, 1):
        if len(lines) != len(hypotheses):
            which = "the reference" if len(references) == 1 else f"reference {number}"
            raise DataError(f"the hypotheses have {counted(len(hypotheses), 'line')}, {which} has {len(lines):,}")
    if not hypotheses:
        raise DataError("there are no lines to score")
    for number, (_, others) in enumerate(_pairs(hypotheses, references), 1):
        if not others:
            raise DataError(f"line {number} has no reference")


_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRICS: dict[str, Metric] = {
    # BLEU (Papineni 2002) as WMT reports it: detokenised text, tokenised by mteval-v13a.
    "bleu": _sacrebleu("BLEU", force=True),
    # For text that is tokenised already: words are split at spaces.
    "bleu-tok": _sacrebleu("BLEU", tokenize="none", force=True),
    # With hyphenated compounds split as well, as much of the NAR literature reports for WMT14 En-De. Higher than
    # `bleu-tok` on the same text, so never compare the two.
    "bleu-compound": _sacrebleu(
        "BLEU", prepare=split_compounds, note="|compound:split", tokenize="none", force=True
    ),
    "chrf": _sacrebleu("CHRF"),  # chrF2 (Popović 2015): F-score of character 1- to 6-grams
    # Translation edit rate (Snover 2006): edits per 100 reference words, shifts included.
    "ter": _sacrebleu("TER", higher_is_better=False),
    **{kind: _rouge(kind, stem=False) for kind in _ROUGE},
    **{f"{kind}-stem": _rouge(kind, stem=True) for kind in _ROUGE},
    "exact": _exact,
}  # fmt: skip
GROUPS = {"rouge": _ROUGE, "rouge-stem": tuple(f"{kind}-stem" for kind in _ROUGE)}
