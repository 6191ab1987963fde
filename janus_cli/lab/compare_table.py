"""The results of a comparison: scores with a paired bootstrap, a Markdown table, JSON, and a plot with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from janus_cli import console
from janus_cli.errors import UsageError
from janus_cli.files import write_atomically
from janus_cli.lab.entries import Entry, Output
from janus_cli.lab.plots import bleu_against_passes
from janus_cli.lab.tables import json_file, markdown, render
from janus_cli.scoring.bootstrap import SAMPLES, SEED, compare
from janus_cli.scoring.metrics import Score, score

METRICS = ("bleu", "chrf")
BASELINES = ("ar ar.beam5", "ar ar.beam1")  # rows to compare with, where none is named
Scores = Mapping[int, Sequence[Score]]  # by seed


def scored(
    entries: Sequence[Entry], references: Sequence[str] | None, against: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A row for each system and mode, over its seeds, and the name of the row that the others are compared with.

    against: "SYSTEM MODE"; by default, or where that row failed, the AR baseline or the first row.
    """
    outputs: dict[tuple[str, str], dict[int, Output]] = {}
    for entry in entries:
        for label, output in entry.outputs.items():
            outputs.setdefault((entry.system.name, label), {})[entry.seed] = output
    scores: dict[str, Scores] = {
        " ".join(name): {seed: score(output.texts, [references], list(METRICS)) for seed, output in seeds.items()}
        if references is not None else {}
        for name, seeds in outputs.items()
    }  # fmt: skip
    base = next((name for name in (against, *BASELINES, *scores) if name in scores), None)
    rows = []
    for (system, label), seeds in outputs.items():
        name = f"{system} {label}"
        rows.append({
            "system": system, "label": label, "seeds": list(seeds),
            "passes": fmean(output.passes for output in seeds.values()), "scores": _values(scores[name]),
            "comparison": None if base is None or name == base else _compared(scores[name], scores[base]),
        })  # fmt: skip
    return rows, base


def _values(scores: Scores) -> dict[str, Any]:
    """Each metric's value for each seed, and its signature."""
    named: dict[str, Any] = {}
    for seed, metrics in scores.items():
        for metric in metrics:
            entry = named.setdefault(metric.name, {"signature": metric.signature, "values": {}})
            entry["values"][str(seed)] = metric.value
    return named


def _compared(ours: Scores, base: Scores) -> dict[str, Any] | None:
    """The first metric, seed by seed, where both have the seed: differences, and the largest p."""
    seeds = {
        seed: compare(metrics[:1], base[seed][:1], SAMPLES, SEED)[0] for seed, metrics in ours.items() if seed in base
    }
    if not seeds:
        return None
    return {
        "difference": fmean(each.difference for each in seeds.values()),
        "p": max(each.p for each in seeds.values()),
        "seeds": {str(seed): asdict(each) for seed, each in seeds.items()},
    }


def budget(settings: Mapping[str, Any]) -> str:
    """The equal condition, in words."""
    if settings["minutes"]:
        return f"{settings['minutes']:g} minutes of updates each"
    return f"{settings['steps']:,} updates each"


def table(results: Mapping[str, Any]) -> str:
    """The conditions, the trainings, the rows, and what must stand beside them; valid Markdown."""
    settings = results["settings"]
    trainings = ["system", "seed", "updates", "epochs", "minutes in updates", "ms an update", "parameters"]
    rows = ["system", "decoding", "BLEU", "chrF", "difference", "p", "passes", "one by one, ms", "sentences/s"]
    words = {
        "budget": budget(settings), "samples": SAMPLES,
        "signatures": {each["signature"]: name for row in results["rows"] for name, each in row["scores"].items()},
        "tables": [
            markdown(trainings, [_training_cells(entry) for entry in results["systems"]]),
            markdown(rows, [_row_cells(row) for row in results["rows"]]),
        ],
    }  # fmt: skip

    def had_budget(training: Mapping[str, Any]) -> bool:
        """An earlier call may have given it more, and patience may have ended it."""
        if settings["minutes"]:  # which one update more may exceed
            return bool(0.9 < training["seconds"] / (60 * settings["minutes"]) < 1.5)
        return bool(training["updates"] == settings["steps"])

    return render("compare.md", {**results, **words}, had_budget=had_budget)


def _training_cells(entry: Mapping[str, Any]) -> list[str]:
    training, name = entry["training"], [entry["system"], str(entry["seed"])]
    if training is None:
        return [*name, *["failed"] * 5]
    return [
        *name, f"{training['updates']:,}", str(training["epochs"]), f"{training['seconds'] / 60:.1f}",
        f"{1000 * training['seconds'] / max(1, training['updates']):.0f}",
        "–" if training["parameters"] is None else f"{training['parameters']:,}",
    ]  # fmt: skip


def _row_cells(row: Mapping[str, Any]) -> list[str]:
    speed, compared = row["speed"], row["comparison"]
    return [
        row["system"],
        row["label"],
        *(_mean(row["scores"].get(metric)) for metric in METRICS),
        *(["–", "–"] if compared is None else [f"{compared['difference']:+.2f}", f"{compared['p']:.3f}"]),
        f"{row['passes']:.1f}",
        "–" if speed is None else f"{1000 * speed['p50']['median']:.1f}",
        "–" if speed is None else f"{speed['sentences_per_second']['median']:,.0f}",
    ]


def _mean(metric: Mapping[str, Any] | None) -> str:
    """The mean over seeds, with its range where there are several."""
    if metric is None:
        return "–"
    values = list(metric["values"].values())
    mean = f"{fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}–{max(values):.1f})"


def write(folder: Path, results: Mapping[str, Any], text: str) -> None:
    """comparison.json, comparison.md and, with matplotlib, comparison.svg."""
    write_atomically(folder / "comparison.md", f"{text}\n".encode())
    written = ["comparison.md", "comparison.json"]
    try:
        plot = bleu_against_passes(results, f"{results['recipe']}: {budget(results['settings'])}")
        write_atomically(folder / "comparison.svg", plot)
        written.append("comparison.svg")
    except UsageError as problem:
        console.say(f"no plot: {problem.message}; {problem.hint}")
    write_atomically(folder / "comparison.json", json_file(results))
    console.say(f"kept as {', '.join(str(folder / name) for name in written)}")
