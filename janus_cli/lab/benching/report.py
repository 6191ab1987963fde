"""What a bench found, as plain JSON values and as a table that is valid Markdown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from janus_cli.errors import DataError
from janus_cli.files import write_atomically
from janus_cli.lab.benching.machine import in_words
from janus_cli.lab.benching.measure import Spread, Timed, percentile
from janus_cli.runs import Run

BASELINES = ("ar.beam1", "ar.beam5")
MEBI = 1 << 20


def timings(timed: Timed, sentences: int) -> dict[str, Any]:
    """Latency and throughput of a row: medians over the repeats with their range, and every raw number (seconds)."""
    p50, p95 = ([percentile(taken, percent) for taken in timed.singles] for percent in (50, 95))
    return {
        "latency": {"p50": asdict(Spread.of(p50)), "p95": asdict(Spread.of(p95)), "seconds": timed.singles},
        "throughput": {
            "batch": timed.batch,
            "sentences_per_second": asdict(Spread.of([sentences / seconds for seconds in timed.batched])),
            "seconds": timed.batched,
            "trials": {str(batch): seconds for batch, seconds in timed.trials.items()},
        },
    }


def ratios(found: Mapping[str, Timed], baselines: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as fast each row is as each baseline: by label, baseline, and latency (p50) or throughput.

    Rows of one repeat ran close together, so each is the median over the repeats of the ratio within a repeat.
    """

    def times(row: Timed) -> dict[str, list[float]]:
        return {"latency": [percentile(taken, 50) for taken in row.singles], "throughput": row.batched}

    return {
        label: {
            base: {
                kind: Spread.of(
                    [theirs / ours for ours, theirs in zip(values, times(found[base])[kind], strict=True)]
                ).median
                for kind, values in times(row).items()
            }
            for base in baselines
            if base in found
        }
        for label, row in found.items()
    }


def table(about: Mapping[str, Any]) -> str:
    """The head, the table, the speeds relative to peers where there are any, and what must stand with the numbers."""
    rows = about["rows"]
    bases = [base for base in BASELINES if any(base in row["ratios"] for row in rows)]
    columns = ["mode", "BLEU", "passes", "batch 1: p50 ms", "p95 ms", "sentences/s", "batch", "MiB"]
    cells = [_cells(row) + [_ratio(row, base) for base in bases] for row in rows]
    parts = [_head(about), markdown([*columns, *(f"× {base}" for base in bases)], cells)]
    others = [row["label"] for row in rows if row["mode"] == "peer"]
    if others:
        own = [[row["label"], *(_ratio(row, base) for base in others)] for row in rows if row["mode"] != "peer"]
        parts.append(markdown(["speed relative to", *others], own))
    return "\n\n".join([*parts, "\n".join(f"* {line}" for line in _notes(about, bool(bases or others)))])


def _head(about: Mapping[str, Any]) -> str:
    changes = "".join(f" --set {change}" for change in about["changes"])
    return (
        f"{about['run']}, checkpoint {about['checkpoint']}{changes}, {about['work']['sentences']:,} sentences of "
        f"{about['split']}; {in_words(about['machine'])}"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    latency, through = row["latency"], row["throughput"]
    memory = row["memory"]
    return [
        row["label"],
        "–" if row["quality"] is None else f"{row['quality']['value']:.2f}",
        "–" if row["passes"] is None else f"{row['passes']:.1f}",
        _range(latency["p50"], 1000),
        _range(latency["p95"], 1000),
        _range(through["sentences_per_second"], 1),
        str(through["batch"]),
        "–" if memory is None else f"{(memory['peak'] - memory['before']) / MEBI:,.0f}",
    ]


def _range(spread: Mapping[str, float], factor: float) -> str:
    values = [factor * spread[name] for name in ("median", "lowest", "highest")]
    digits = max(0, min(3, 2 - len(str(int(values[0]))) + 1))  # three figures tell rows apart
    middle, low, high = (f"{value:,.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def _ratio(row: Mapping[str, Any], base: str) -> str:
    found = row["ratios"].get(base)
    return "–" if found is None else f"{found['latency']:.2f} / {found['throughput']:.2f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column left-aligned, the others right-aligned, also where Markdown is read as it is."""
    widths = [max(len(line[place]) for line in [columns, *rows]) for place in range(len(columns))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [columns, rule, *rows])


def _notes(about: Mapping[str, Any], compared: bool) -> list[str]:
    work, on_gpu = about["work"], str(about["machine"]["device"]).startswith("cuda")
    of_process = "peak of a process that decodes at that batch size, above what the imports take"
    held = "the most that torch held on the GPU at that batch size" if on_gpu else of_process
    lines = [
        f"median (lowest–highest) of {work['repeats']} repeat{'s' * (work['repeats'] != 1)}, in which rows took turns",
        "times are from text to text: tokenising, encoding, decoding, detokenising",
        f"batch 1: {work['singles']:,} sentences one by one, median and 95th percentile over them; sentences/s: "
        f"{work['lines']:,} sentences at the best of the batch sizes {', '.join(map(str, work['batches']))}",
        f"passes: decoder passes a sentence; MiB: {held}",
    ]
    if compared:
        lines.append(
            "× and relative speed: batch 1 / best batch, medians of the ratios within a repeat; above 1 is faster"
        )
    signatures = {row["quality"]["signature"] for row in about["rows"] if row["quality"]}
    lines += [f"BLEU: {signature}" for signature in sorted(signatures)]
    for text, labels in _grouped({row["label"]: row["note"] for row in about["rows"] if row["note"]}).items():
        lines.append(f"{', '.join(labels)}: {text}")
    for text, labels in _grouped(about["left_out"]).items():
        lines.append(f"left out: {', '.join(labels)}: {text}")
    return lines + [f"warning: {text}" for text in about["warnings"]]


def _grouped(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Labels by text."""
    found: dict[str, list[str]] = {}
    for label, text in texts.items():
        found.setdefault(text, []).append(label)
    return found


def dump(about: Mapping[str, Any]) -> bytes:
    """As JSON."""
    return (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def keep(run: Run, about: Mapping[str, Any]) -> str:
    """Writes bench/<date>.json into the run, never over another, and returns its path.

    Raises:
        DataError: it cannot be written.
    """
    folder = run.path / "bench"
    stem = time.strftime("%Y%m%d-%H%M%S")
    try:
        folder.mkdir(exist_ok=True)
        number = 1
        while True:
            path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
            try:
                path.touch(exist_ok=False)  # ours from here on
                break
            except FileExistsError:
                number += 1
        write_atomically(path, dump(about))
    except OSError as problem:
        raise DataError(f"{folder} cannot be written: {problem.strerror}", "name a file with --json") from None
    return str(path)
