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
from janus_cli.lab import machine
from janus_cli.lab.entries import Entry, Output
from janus_cli.lab.plots import bleu_against_passes
from janus_cli.lab.tables import document, json_file, markdown
from janus_cli.recipe import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED
from janus_cli.scoring.bootstrap import compare
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
        seed: compare(metrics[:1], base[seed][:1], BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED)[0]
        for seed, metrics in ours.items()
        if seed in base
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
    """Head, trainings, rows, notes; valid Markdown."""
    average = results["settings"]["average"]
    which = f"mean of the last {average} checkpoints" if average else "last checkpoint"
    changes = "".join(f" --set {change}" for change in results["changes"])
    head = (
        f"recipe {results['recipe']}{changes}, {budget(results['settings'])}, {which}; {results['sentences']:,} "
        f"sentences of {results['split']}; {machine.in_words(results['machine'])}"
    )
    trainings = ["system", "seed", "updates", "epochs", "minutes in updates", "ms an update", "parameters"]
    rows = ["system", "decoding", "BLEU", "chrF", "difference", "p", "passes", "one by one, ms", "sentences/s"]
    tables = [
        markdown(trainings, [_training_cells(entry) for entry in results["systems"]]),
        markdown(rows, [_row_cells(row) for row in results["rows"]]),
    ]
    return document(head, tables, _notes(results))


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


def _notes(results: Mapping[str, Any]) -> list[str]:
    settings, timed = results["settings"], results["timed"]
    changed = {entry["system"]: entry for entry in results["systems"] if entry["changes"]}
    notes = [f"{name}: {entry['objective']} with {' '.join(entry['changes'])}" for name, entry in changed.items()]
    signatures = {one["signature"]: name for row in results["rows"] for name, one in row["scores"].items()}
    notes += [f"{name}: {signature}" for signature, name in signatures.items()]
    if results["against"]:
        notes.append(
            f"difference: BLEU minus that of {results['against']}; p: paired bootstrap, {BOOTSTRAP_SAMPLES:,} samples, "
            "the largest of the seeds'"
        )
    notes.append("passes: decoder passes a sentence; minutes in updates: validating and saving not counted")
    if timed:
        notes.append(
            f"speed, from text to text: median of {timed['repeats']} repeats in which all rows took turns; one by one: "
            f"median of {timed['singles']} sentences; sentences/s: {timed['sentences']} sentences in batches"
        )
    if settings["minutes"] and settings["jobs"] > 1:
        notes.append("trainings ran at the same time: minutes on a machine that others use, too, are not equal work")
    for entry in results["systems"]:
        name = f"{entry['system']}.seed{entry['seed']}"
        if entry["training"] is not None:
            notes += _unequal(name, entry["training"], settings)
        if entry["from"]:
            notes.append(f"{name} began with the weights of {entry['from']}")
        notes += [f"failed: {name} {what}: {reason}" for what, reason in entry["failed"].items()]
    return notes


def _unequal(name: str, training: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """In what a training is not what the head of the table says: an earlier call may have given it more updates, and

    patience may have ended it.
    """
    notes = []
    if settings["minutes"]:
        equal = 0.9 < training["seconds"] / (60 * settings["minutes"]) < 1.5  # one update more than the time
    else:
        equal = training["updates"] == settings["steps"]
    if not equal:
        notes.append(f"not the same budget: {name}, trained before or stopped early")
    if training["averaged"] < settings["average"]:
        notes.append(f"{name}: the mean of {training['averaged']} checkpoints, all that there are")
    if training["risen"] < 1:
        notes.append(f"{name}: KLs came to {training['risen']:.0%} of their weights (objective.kl_start, .kl_warmup)")
    return notes


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
