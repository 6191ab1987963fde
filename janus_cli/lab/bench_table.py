"""The results of a bench as a table that is valid Markdown; `bench.md` holds the words around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_cli.lab.tables import markdown, render

BASELINES = ("ar.beam1", "ar.beam5")  # of the relative speeds
MEBI = 1 << 20


def table(results: Mapping[str, Any]) -> str:
    """The conditions, the table, the speeds relative to peers where there are any, and what must stand beside them."""
    rows = results["rows"]
    bases = [base for base in BASELINES if any(base in row["ratios"] for row in rows)]
    peers = [row["label"] for row in rows if row["mode"] == "peer"]
    columns = ["mode", "BLEU", "passes", "batch 1: p50 ms", "p95 ms", "sentences/s", "batch", "MiB"]
    columns += [f"× {base}" for base in bases]
    tables = [markdown(columns, [_cells(row) + [_ratio(row, base) for base in bases] for row in rows])]
    if peers:
        ours = [row for row in rows if row["mode"] != "peer"]
        cells = [[row["label"], *(_ratio(row, peer) for peer in peers)] for row in ours]
        tables.append(markdown(["speed relative to", *peers], cells))
    words = {
        "tables": tables, "compared": bool(bases or peers), "reasons": _labels_by_text(results["left_out"]),
        "notes": _labels_by_text({row["label"]: row["note"] for row in rows if row["note"]}),
    }  # fmt: skip
    return render("bench.md", {**results, **words})


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


def _labels_by_text(texts: Mapping[str, str]) -> dict[str, list[str]]:
    return {text: [label for label, each in texts.items() if each == text] for text in texts.values()}
