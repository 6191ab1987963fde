"""The results of a bench as a table that is valid Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_cli.lab import machine
from janus_cli.lab.tables import document, markdown

BASELINES = ("ar.beam1", "ar.beam5")  # of the relative speeds
MEBI = 1 << 20


def table(results: Mapping[str, Any]) -> str:
    """The head, the table, the speeds relative to peers where there are any, and what must stand with the numbers."""
    bases = [base for base in BASELINES if any(base in row["ratios"] for row in results["rows"])]
    columns = ["mode", "BLEU", "passes", "batch 1: p50 ms", "p95 ms", "sentences/s", "batch", "MiB"]
    columns += [f"× {base}" for base in bases]
    cells = [_cells(row) + [_ratio(row, base) for base in bases] for row in results["rows"]]
    parts = [markdown(columns, cells)]
    others = [row["label"] for row in results["rows"] if row["mode"] == "peer"]
    if others:
        ours = [row for row in results["rows"] if row["mode"] != "peer"]
        relative = [[row["label"], *(_ratio(row, base) for base in others)] for row in ours]
        parts.append(markdown(["speed relative to", *others], relative))
    changes = "".join(f" --set {change}" for change in results["changes"])
    head = (
        f"{results['run']}, checkpoint {results['checkpoint']}{changes}, {results['work']['sentences']:,} sentences of "
        f"{results['split']}; {machine.in_words(results['machine'])}"
    )
    return document(head, parts, _notes(results, bool(bases or others)))


def _cells(row: Mapping[str, Any]) -> list[str]:
    latency, throughput, memory = row["latency"], row["throughput"], row["memory"]
    return [
        row["label"],
        "–" if row["quality"] is None else f"{row['quality']['value']:.2f}",
        "–" if row["passes"] is None else f"{row['passes']:.1f}",
        _range(latency["p50"], 1000),
        _range(latency["p95"], 1000),
        _range(throughput["sentences_per_second"], 1),
        str(throughput["batch"]),
        "–" if memory is None else f"{(memory['peak'] - memory['before']) / MEBI:,.0f}",
    ]


def _range(spread: Mapping[str, float], factor: float) -> str:
    values = [factor * spread[name] for name in ("median", "lowest", "highest")]
    digits = max(0, min(3, 3 - len(str(int(values[0])))))  # three figures tell rows apart
    middle, low, high = (f"{value:,.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def _ratio(row: Mapping[str, Any], base: str) -> str:
    ratio = row["ratios"].get(base)
    return "–" if ratio is None else f"{ratio['latency']:.2f} / {ratio['throughput']:.2f}"


def _notes(results: Mapping[str, Any], compared: bool) -> list[str]:
    work, on_gpu = results["work"], str(results["machine"]["device"]).startswith("cuda")
    of_process = "peak of a process that decodes at that batch size, above what the imports take"
    held = "the most that torch held on the GPU at that batch size" if on_gpu else of_process
    notes = [
        f"median (lowest–highest) of {work['repeats']} repeat{'s' * (work['repeats'] != 1)}, in which rows took turns",
        "times are from text to text: tokenising, encoding, decoding, detokenising",
        f"batch 1: {work['singles']:,} sentences one by one, median and 95th percentile over them; sentences/s: "
        f"{work['lines']:,} sentences at the best of the batch sizes {', '.join(map(str, work['batches']))}",
        f"passes: decoder passes a sentence; MiB: {held}",
    ]
    if compared:
        notes.append(
            "× and relative speed: batch 1 / best batch, medians of the ratios within a repeat; above 1 is faster"
        )
    signatures = {row["quality"]["signature"] for row in results["rows"] if row["quality"]}
    notes += [f"BLEU: {signature}" for signature in sorted(signatures)]
    notes += _grouped({row["label"]: row["note"] for row in results["rows"] if row["note"]})
    notes += [f"left out: {note}" for note in _grouped(results["left_out"])]
    return notes + [f"warning: {text}" for text in results["warnings"]]


def _grouped(texts: Mapping[str, str]) -> list[str]:
    """Each text once, behind the labels that it belongs to."""
    labels: dict[str, list[str]] = {}
    for label, text in texts.items():
        labels.setdefault(text, []).append(label)
    return [f"{', '.join(each)}: {text}" for text, each in labels.items()]
