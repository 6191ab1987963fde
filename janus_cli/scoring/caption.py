"""BLEU, ROUGE-L and METEOR as coco-caption computes them, which papers on question generation report.

BLEU is not smoothed, and a word is what stands between ASCII spaces. ROUGE-L weighs recall more (β 1.2), takes the best
precision and the best recall of all references, and splits at every single space. METEOR 1.5 (Denkowski and Lavie 2014)
is a Java program, which the extra `meteor` brings; it says what matches, and the score is computed here.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from janus_cli.errors import UsageError, require
from janus_cli.scoring.rouge155 import lcs, ngrams
from janus_cli.scoring.scores import (
    Hypotheses,
    Metric,
    References,
    Score,
    by_line,
    mean_of_lines,
    pairs,
    reference_count,
    summed,
)

ORDERS = range(1, 5)
BETA = 1.2
# Of METEOR for English (task rank); the weights are those of exact, stem, synonym and paraphrase matches.
ALPHA, PENALTY_POWER, PENALTY, CONTENT, MATCHES = 0.85, 0.2, 0.6, 0.75, np.array([1.0, 0.6, 0.8, 0.6])


def _counts(hypothesis: str, references: list[str]) -> list[float]:
    """Words of the hypothesis and of the reference of the nearest length; n-grams, then those that are right."""
    words, others = hypothesis.encode().split(), [other.encode().split() for other in references]
    nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    right = []
    for order in ORDERS:
        most = Counter[tuple[bytes, ...]]()
        for other in others:
            most |= ngrams(order, other)
        right.append((ngrams(order, words) & most).total())
    return [len(words), nearest, *(max(0, len(words) - order + 1) for order in ORDERS), *right]


def _bleu(order: int, total: NDArray[np.float64]) -> float:
    """The geometric mean of n-gram precisions up to an order, times the brevity penalty; of the sum of `_counts`."""
    words, nearest, *counts = map(float, total)
    ngrams, right = counts[: len(ORDERS)], counts[len(ORDERS) :]
    precisions = [(right[n] + 1e-15) / (ngrams[n] + 1e-9) for n in range(order)]  # the script's guards against 0
    ratio = (words + 1e-15) / (nearest + 1e-9)
    return float(100 * math.prod(precisions) ** (1 / order) * min(1.0, math.exp(1 - 1 / ratio)))


def _rouge_l(hypothesis: str, references: list[str]) -> float:
    words, others = hypothesis.split(" "), [other.split(" ") for other in references]
    common = [len(lcs(other, words)) for other in others]
    precision = max(common) / len(words)
    recall = max(count / len(other) for count, other in zip(common, others, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if recall else 0.0


def _meteor(name: str, hypotheses: Hypotheses, references: References, _: str) -> Score:
    """A row is what the program tells of a line: words, function words, matches of four kinds, chunks, matched words.

    Raises UsageError: Java or the program is missing, or fails.
    """
    jar = meteor_jar()
    questions = "".join(
        " ||| ".join(["SCORE", *others, line.replace("|||", "").replace("  ", " ")]).replace("\r", " ") + "\n"
        for line, others in pairs(hypotheses, references)
    )  # \r ends a line in Java
    java = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(java, input=questions, capture_output=True, encoding="utf-8", check=False)
    rows = [list(map(float, line.split())) for line in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(hypotheses):
        why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        answered = f"answered {len(rows)} of {len(hypotheses)} lines"
        raise UsageError(f"METEOR ({jar}) {answered}: {why}", "try it with another Java, 8 to 17")
    for row in rows:
        if row[20] == 1 and row[21:] == row[:2]:  # all in one chunk: no penalty
            row[20] = 0
    signature = f"nrefs:{reference_count(references)}|lang:en|norm:yes|task:rank|version:METEOR-1.5"
    return summed(name, signature, rows, _from_matches)


def meteor_jar() -> Path:
    """Where METEOR is. Raises UsageError: it is not installed, or there is no Java."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        require("pycocoevalcap", "meteor")
        raise UsageError("pycocoevalcap is a single file, and has no METEOR", "install it from PyPI")
    if shutil.which("java") is None:
        raise UsageError("METEOR needs Java, and there is no `java`", "install one, as in `apt install default-jre`")
    return Path(package.submodule_search_locations[0], "meteor", "meteor-1.5.jar")


def _from_matches(total: NDArray[np.float64]) -> float:
    """METEOR 1.5 from the sum of such rows: F of the weighted matches, less a penalty for their being scattered."""
    words, function_words, chunks, matched = total[:2], total[2:4], total[20], total[21:23].mean()
    content, function = (MATCHES @ total[4:20].reshape(4, 4)).reshape(2, 2)  # each: of hypothesis, of reference
    shares = CONTENT * content + (1 - CONTENT) * function
    lengths = CONTENT * (words - function_words) + (1 - CONTENT) * function_words
    if not shares.all():
        return 0.0
    precision, recall = shares / lengths
    f = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    return float(100 * f * (1 - PENALTY * (chunks / matched) ** PENALTY_POWER))


METRICS: dict[str, Metric] = {
    **{
        f"bleu{order}-coco": by_line(
            _counts, partial(_bleu, order),
            f"order:{order}|case:mixed|tok:spaces|smooth:none|ref:closest|version:coco-caption",
        )
        for order in ORDERS
    },
    "rougeL-coco": mean_of_lines(_rouge_l, f"beta:{BETA}|case:mixed|tok:spaces|version:coco-caption"),
    "meteor": _meteor,
}  # fmt: skip
