"""The results of one `janus score`: as JSON for programs, as a table and notes for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from janus_cli.console import counted
from janus_cli.data.references import by_column, texts_in, without_blank
from janus_cli.errors import DataError
from janus_cli.measures import MEASURES
from janus_cli.scoring.bootstrap import compare, intervals, says_little
from janus_cli.scoring.judge import Judge, doubts, without_reference


class Output(NamedTuple):
    """A system's N hypotheses, and the name of their file."""

    name: str
    lines: Sequence[str]


Named = tuple[str, list[list[str | None]]]  # a file, and `inputs.read_references` of it


def pooled(
    outputs: Sequence[Output], references: Sequence[Named], sources: Output, output: int = 0
) -> tuple[list[Output], list[Named]]:
    """A line for each source, as coco-caption scores: an output, and the references of all lines that have it.

    output: which of those that stand in these lines; 0 for the first, -1 for the last.

    Raises:
        DataError: line counts differ.
    """
    _must_align([*outputs, sources], references)
    rows = dict[str, list[int]]()
    for row, source in enumerate(sources.lines):
        rows.setdefault(source, []).append(row)
    kept = [Output(name, [lines[own[output]] for own in rows.values()]) for name, lines in outputs]
    texts = [
        (name, [texts_in(column[row] or "" for row in own for column in columns) for own in rows.values()])
        for name, columns in references
    ]
    return kept, [(name, by_column(each)) for name, each in texts]


def _must_align(outputs: Sequence[Output], references: Sequence[Named]) -> None:
    first, *others = ((name, len(lines)) for name, lines in outputs)
    for name, count in [*((name, len(columns[0])) for name, columns in references), *others]:
        if count != first[1]:
            message = f"{first[0]} has {counted(first[1], 'line')}, {name} has {count:,}"
            header = "; is the first line of the longer one a header?" if abs(count - first[1]) == 1 else ""
            raise DataError(message, f"score files that belong together{header}")


def measure(
    outputs: Sequence[Output], references: Sequence[Named],
    judge: Judge, metrics: Sequence[str], samples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The values of `janus score --json` for one output, or for two against the same references.

    judge: says how BLEU splits words. samples: of the bootstrap, 0 for none; it gives an interval for each score of a
    single output, or `comparisons` of two.

    Raises:
        DataError: line counts differ, there is nothing to score, or every reference is empty.
    """
    first = outputs[0]
    _must_align(outputs, references)
    columns = without_blank([column for _, file in references for column in file])
    if first.lines and without_reference(columns) == len(first.lines):
        names = ", ".join(name for name, _ in references)
        raise DataError(f"every reference in {names} is empty", "name the right file or column with --reference")
    scores = [judge.scores(output.lines, columns, metrics) for output in outputs]
    plain = [[{"name": s.name, "value": s.value, "signature": s.signature} for s in each] for each in scores]
    judged = zip(outputs, scores, strict=True)
    warnings = [text for output, each in judged for text in doubts(output.lines, columns, each, judge)]
    comparisons = []
    if samples and len(outputs) == 2:
        comparisons = compare(scores[0], scores[1], samples, seed)
        values = {one.name: [one.value, other.value] for one, other in zip(*scores, strict=True)}
        warnings += filter(None, [says_little(values, len(first.lines))])
    elif samples:
        for entry, interval in zip(plain[0], intervals(scores[0], samples, seed), strict=True):
            entry["interval"] = asdict(interval)
    return {
        "hypotheses": first.name,
        "references": [name for name, _ in references],
        "sentences": len(first.lines),
        "scores": plain[0],
        "against": outputs[1].name if len(outputs) == 2 else None,
        "against_scores": plain[1] if len(outputs) == 2 else [],
        "comparisons": [asdict(each) for each in comparisons],
        "bootstrap": {"samples": samples, "seed": seed} if samples else None,
        "warnings": list(dict.fromkeys(warnings)),
    }


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and cells of what `measure` found."""
    columns = ["metric", "score"]
    rows = [[score["name"] + MEASURES[score["name"]].mark, f"{score['value']:.2f}"] for score in found["scores"]]
    if found["against"] is not None:
        columns[1:] = ["first", "second", "difference"]
        for row, one, other in zip(rows, found["scores"], found["against_scores"], strict=True):
            row += [f"{other['value']:.2f}", f"{one['value'] - other['value']:+.2f}"]
    if found["bootstrap"]:
        columns += ["95 % interval"] + ["first better", "p"] * bool(found["comparisons"])
        for row, each in zip(rows, found["comparisons"] or found["scores"], strict=True):
            sign = "+" if found["comparisons"] else ""
            row.append(f"{each['interval']['low']:{sign}.2f} … {each['interval']['high']:{sign}.2f}")
            row += [f"{each['wins']:.1%}", f"{each['p']:.3f}"] if found["comparisons"] else []
    return columns, rows


def notes(found: Mapping[str, Any]) -> list[str]:
    """What belongs with the numbers: signatures, file names, the bootstrap."""
    width = max(len(score["name"]) for score in found["scores"])
    lines = [f"{score['name']:<{width}}  {score['signature']}" for score in found["scores"]]
    paired = found["against"] is not None
    if paired:
        lines += [f"first: {found['hypotheses']}", f"second: {found['against']}"]
    if drawn := found["bootstrap"]:
        kind = "paired bootstrap" if paired else "bootstrap"
        text = counted(found["sentences"], "line")
        lines.append(f"{kind}: {drawn['samples']:,} samples of {text}, seed {drawn['seed']}")
    return lines
