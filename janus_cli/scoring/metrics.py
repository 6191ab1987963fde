"""From hypotheses and references to numbers, each with the signature that says exactly how it was computed.

Every metric here is a function of a sum: each sentence gives a row of counts (its sufficient statistics), the rows are
added up, and `Score.aggregate` turns the total into the number. So a bootstrap sample costs one addition of rows.
BLEU, chrF and TER are sacrebleu's, ROUGE is rouge-score's; nothing of them is computed anew.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from janus_cli.errors import DataError, UsageError

if TYPE_CHECKING:  # costs 0.1 s
    from sacrebleu.metrics.base import Metric as SacreMetric

Hypotheses = Sequence[str]
References = Sequence[Sequence[str | None]]  # R lists of N lines; None where a line has fewer than R references
Metric = Callable[[Hypotheses, References], "Score"]


@dataclass(frozen=True)
class Score:
    """One number for a whole text.

    value: 0 to 100 (TER may pass 100).
    statistics: (N, K), one row a sentence, in input order.
    aggregate: from the sum of rows, (K,), to the value.
    """

    name: str
    value: float
    signature: str
    statistics: NDArray[np.float64]
    aggregate: Callable[[NDArray[np.float64]], float]
    higher_is_better: bool = True


def score(hypotheses: Hypotheses, references: References, metrics: Sequence[str]) -> list[Score]:
    """Scores in the order of the names; see `METRICS`.

    Args:
        hypotheses: N lines; a line may be empty.
        references: R lists of N lines, None where a line has fewer references than others.

    Raises:
        UsageError: there is no such metric.
        DataError: no line, no reference, a line without any reference, or line counts that differ.
    """
    names = expand(metrics)
    _must_align(hypotheses, references)
    return [METRICS[name](hypotheses, references) for name in names]


def corpus_bleu(hypotheses: Hypotheses, references: References) -> float:
    """BLEU of detokenised text (sacrebleu, 13a), 0 to 100; arguments and errors as `score`."""
    return score(hypotheses, references, ["bleu"])[0].value


def expand(metrics: Sequence[str]) -> list[str]:
    """Names of `METRICS`, groups replaced by their members, each once.

    Raises:
        UsageError: there is no such metric.
    """
    names: dict[str, None] = {}
    for name in metrics:
        if name not in METRICS and name not in GROUPS:
            close = difflib.get_close_matches(name, [*METRICS, *GROUPS], n=1)
            raise UsageError(
                f"no metric is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
                f"metrics: {', '.join([*METRICS, *GROUPS])}",
            )
        names.update(dict.fromkeys(GROUPS.get(name, (name,))))
    if not names:
        raise UsageError("no metric was named", f"metrics: {', '.join([*METRICS, *GROUPS])}")
    return list(names)


def looks_tokenised(lines: Hypotheses) -> bool:
    """Whether most lines end in a full stop that stands alone: 13a expects detokenised text."""
    return 2 * sum(line.endswith(" .") for line in lines) > len(lines)


def bleu(hypotheses: Hypotheses, references: References) -> Score:
    """BLEU (Papineni 2002) as WMT reports it: detokenised text, tokenised by mteval-v13a."""
    from sacrebleu.metrics.bleu import BLEU

    return _sacrebleu("bleu", BLEU(force=True), hypotheses, references)


def bleu_tok(hypotheses: Hypotheses, references: References) -> Score:
    """BLEU of text that is tokenised already: words are what stands between spaces."""
    from sacrebleu.metrics.bleu import BLEU

    return _sacrebleu("bleu-tok", BLEU(tokenize="none", force=True), hypotheses, references)


def bleu_compound(hypotheses: Hypotheses, references: References) -> Score:
    """Tokenised BLEU with hyphenated compounds split: what much of the NAR literature reports on WMT14 En-De.

    Higher than `bleu-tok` on the same text, so the two never belong in one comparison.
    """
    from sacrebleu.metrics.bleu import BLEU

    split = [split_compounds(line) for line in hypotheses]
    split_references = [[line if line is None else split_compounds(line) for line in lines] for lines in references]
    metric = BLEU(tokenize="none", force=True)
    return _sacrebleu("bleu-compound", metric, split, split_references, note="compound:split")


def split_compounds(line: str) -> str:
    """`rich-text` -> `rich ##AT##-##AT## text`; as in the customary script, a match does not share its letters."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def chrf(hypotheses: Hypotheses, references: References) -> Score:
    """chrF2 (Popović 2015): F-score of character 1- to 6-grams."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu("chrf", CHRF(), hypotheses, references)


def ter(hypotheses: Hypotheses, references: References) -> Score:
    """Translation edit rate (Snover 2006): edits per 100 reference words, shifts included. Lower is better."""
    from sacrebleu.metrics.ter import TER

    return _sacrebleu("ter", TER(), hypotheses, references, higher_is_better=False)


def _sacrebleu(
    name: str,
    metric: SacreMetric,
    hypotheses: Hypotheses,
    references: References,
    *,
    note: str = "",
    higher_is_better: bool = True,
) -> Score:
    # The two underscored methods are what sacrebleu's own significance tests call: `corpus_score` hides the rows.
    # They take None for a missing reference, which their hints do not say.
    rows = metric._extract_corpus_statistics(hypotheses, cast("Sequence[Sequence[str]]", references))
    signature = str(metric.get_signature())

    def aggregate(total: NDArray[np.float64]) -> float:
        return float(metric._compute_score_from_stats(list(total)).score)

    return _score(name, f"{signature}|{note}" if note else signature, rows, aggregate, higher_is_better)


def exact(hypotheses: Hypotheses, references: References) -> Score:
    """Share of lines that equal one of their references, spaces at the ends aside."""
    rows = [
        [1.0, float(line.strip() in {other.strip() for other in others if other is not None})]
        for line, others in zip(hypotheses, zip(*references, strict=True), strict=True)
    ]
    return _score("exact", f"nrefs:{_reference_count(references)}|case:mixed|space:stripped", rows, _percentage)


def _rouge(name: str, kind: str, *, stem: bool) -> Metric:
    """ROUGE (Lin 2004), F1: the mean over lines of the best reference's F1."""

    def metric(hypotheses: Hypotheses, references: References) -> Score:
        from importlib.metadata import version

        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        scorer = RougeScorer([kind], tokenizer=DefaultTokenizer(stem))
        prepare = _one_sentence_a_line if kind == "rougeLsum" else str
        rows = []
        for line, others in zip(hypotheses, zip(*references, strict=True), strict=True):
            targets = [prepare(other) for other in others if other is not None]
            rows.append([1.0, scorer.score_multi(targets, prepare(line))[kind].fmeasure])
        signature = f"nrefs:{_reference_count(references)}|f:1|stem:{'yes' if stem else 'no'}|tok:a-z0-9"
        signature += "|sent:punctuation" if kind == "rougeLsum" else ""
        return _score(name, f"{signature}|version:rouge-score-{version('rouge-score')}", rows, _percentage)

    return metric


def _one_sentence_a_line(text: str) -> str:
    """ROUGE-Lsum matches sentence by sentence, and takes line ends as their borders."""
    return re.sub(r"(?<=[.!?]) +", "\n", text)


def _percentage(total: NDArray[np.float64]) -> float:
    return float(100 * total[1] / total[0])


def _score(
    name: str,
    signature: str,
    rows: Sequence[Sequence[float]],
    aggregate: Callable[[NDArray[np.float64]], float],
    higher_is_better: bool = True,
) -> Score:
    statistics = np.array(rows, dtype=np.float64)
    return Score(name, aggregate(statistics.sum(axis=0)), signature, statistics, aggregate, higher_is_better)


def _reference_count(references: References) -> str:
    counts = {sum(line is not None for line in lines) for lines in zip(*references, strict=True)}
    return str(counts.pop()) if len(counts) == 1 else "var"


def _must_align(hypotheses: Hypotheses, references: References) -> None:
    if not references:
        raise DataError("there is no reference to compare with", "name one with --reference FILE")
    for number, lines in enumerate(references):
        if len(lines) != len(hypotheses):
            which = "the reference" if len(references) == 1 else f"reference {number + 1}"
            raise DataError(f"the hypotheses have {len(hypotheses):,} lines, {which} has {len(lines):,}")
    if not hypotheses:
        raise DataError("there are no lines to score")
    for number, lines in enumerate(zip(*references, strict=True)):
        if all(line is None for line in lines):
            raise DataError(f"line {number + 1} has no reference")


METRICS: dict[str, Metric] = {
    "bleu": bleu,
    "bleu-tok": bleu_tok,
    "bleu-compound": bleu_compound,
    "chrf": chrf,
    "ter": ter,
    "rouge1": _rouge("rouge1", "rouge1", stem=False),
    "rouge2": _rouge("rouge2", "rouge2", stem=False),
    "rougeL": _rouge("rougeL", "rougeL", stem=False),
    "rougeLsum": _rouge("rougeLsum", "rougeLsum", stem=False),
    "rouge1-stem": _rouge("rouge1-stem", "rouge1", stem=True),
    "rouge2-stem": _rouge("rouge2-stem", "rouge2", stem=True),
    "rougeL-stem": _rouge("rougeL-stem", "rougeL", stem=True),
    "rougeLsum-stem": _rouge("rougeLsum-stem", "rougeLsum", stem=True),
    "exact": exact,
}
GROUPS = {
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    "rouge-stem": ("rouge1-stem", "rouge2-stem", "rougeL-stem", "rougeLsum-stem"),
}
DEFAULT = ("bleu", "chrf", "ter")
