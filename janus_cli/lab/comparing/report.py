"""What a comparison found: scores with a paired bootstrap, a Markdown table, JSON, and a plot where matplotlib is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from janus_cli import console
from janus_cli.errors import UsageError
from janus_cli.files import write_atomically
from janus_cli.lab.comparing.entry import Outcome, Row
from janus_cli.lab.machine import in_words
from janus_cli.lab.plots import bleu_against_passes
from janus_cli.lab.tables import json_file as dump
from janus_cli.lab.tables import markdown
from janus_cli.recipe import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED
from janus_cli.scoring.bootstrap import compare
from janus_cli.scoring.metrics import Score, score

METRICS = ("bleu", "chrf")
BASELINES = ("ar ar.beam5", "ar ar.beam1")  # what rows are compared with, where nothing is named


def scored(
    done: Sequence[Outcome], references: Sequence[str] | None, against: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A row for each system and mode, over its seeds, and the name of the row that the others are compared with.

    against: "SYSTEM MODE"; by default, or where that row failed, the AR baseline or the first row.
    """
    found: dict[str, dict[int, Row]] = {}
    for outcome in done:
        for label, row in outcome.rows.items():
            found.setdefault(f"{outcome.entry.system.name} {label}", {})[outcome.entry.seed] = row
    base = next((name for name in (against, *BASELINES, *found) if name in found), None)
    scores: dict[str, dict[int, list[Score]]] = {}
    if references is not None:
        for name, rows in found.items():
            scores[name] = {seed: score(row.texts, [references], list(METRICS)) for seed, row in rows.items()}
    rows_found = [
        {
            "system": name.split()[0], "label": name.split()[1], "seeds": list(rows),
            "passes": fmean(row.passes for row in rows.values()),
            "scores": _values(scores.get(name, {})),
            "comparison": None if base is None or name == base else _compared(scores.get(name), scores.get(base)),
        }
        for name, rows in found.items()
    ]  # fmt: skip
    return rows_found, base


def _values(scores: Mapping[int, Sequence[Score]]) -> dict[str, Any]:
    """Each metric's value for each seed, and its signature."""
    named: dict[str, Any] = {}
    for seed, each in scores.items():
        for one in each:
            entry = named.setdefault(one.name, {"signature": one.signature, "values": {}})
            entry["values"][str(seed)] = one.value
    return named


def _compared(
    ours: Mapping[int, Sequence[Score]] | None, theirs: Mapping[int, Sequence[Score]] | None
) -> dict[str, Any] | None:
    """The first metric, seed by seed, where both have the seed: differences, and the largest p."""
    seeds = [seed for seed in ours or {} if seed in (theirs or {})]
    if not seeds or ours is None or theirs is None:
        return None
    found = {seed: compare(ours[seed][:1], theirs[seed][:1], BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED)[0] for seed in seeds}
    return {
        "difference": fmean(each.difference for each in found.values()),
        "p": max(each.p for each in found.values()),
        "seeds": {str(seed): asdict(each) for seed, each in found.items()},
    }


def budget(settings: Mapping[str, Any]) -> str:
    """The equal condition, in words."""
    if settings["minutes"]:
        return f"{settings['minutes']:g} minutes of updates each"
    return f"{settings['steps']:,} updates each"


def table(about: Mapping[str, Any]) -> str:
    """Head, trainings, rows, notes; valid Markdown."""
    average = about["settings"]["average"]
    which = f"mean of the last {average} checkpoints" if average else "last checkpoint"
    changes = "".join(f" --set {change}" for change in about["changes"])
    head = (
        f"recipe {about['recipe']}{changes}, {budget(about['settings'])}, {which}; {about['sentences']:,} sentences of "
        f"{about['split']}; {in_words(about['machine'])}"
    )
    parts = [head, _trainings(about), _rows(about)]
    return "\n\n".join([*parts, "\n".join(f"* {note}" for note in _notes(about))])


def _trainings(about: Mapping[str, Any]) -> str:
    columns = ["system", "seed", "updates", "epochs", "minutes in updates", "ms an update", "parameters"]
    cells = []
    for each in about["systems"]:
        one = each["training"]
        if one is None:
            cells.append([each["system"], str(each["seed"]), *["failed"] * 5])
            continue
        cells.append(
            [
                each["system"], str(each["seed"]), f"{one['updates']:,}", str(one["epochs"]),
                f"{one['seconds'] / 60:.1f}", f"{1000 * one['seconds'] / max(1, one['updates']):.0f}",
                "–" if one["parameters"] is None else f"{one['parameters']:,}",
            ]
        )  # fmt: skip
    return markdown(columns, cells)


def _rows(about: Mapping[str, Any]) -> str:
    columns = ["system", "decoding", "BLEU", "chrF", "difference", "p", "passes", "one by one, ms", "sentences/s"]
    cells = []
    for row in about["rows"]:
        speed, compared = row["speed"], row["comparison"]
        cells.append(
            [
                row["system"], row["label"], _value(row["scores"].get("bleu")), _value(row["scores"].get("chrf")),
                "–" if compared is None else f"{compared['difference']:+.2f}",
                "–" if compared is None else f"{compared['p']:.3f}",
                f"{row['passes']:.1f}",
                "–" if speed is None else f"{1000 * speed['p50']['median']:.1f}",
                "–" if speed is None else f"{speed['sentences_per_second']['median']:,.0f}",
            ]
        )  # fmt: skip
    return markdown(columns, cells)


def _value(found: Mapping[str, Any] | None) -> str:
    """The mean over seeds, with its range where there are several."""
    if found is None:
        return "–"
    values = list(found["values"].values())
    mean = f"{fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}–{max(values):.1f})"


def _notes(about: Mapping[str, Any]) -> list[str]:
    changed = {each["system"]: each for each in about["systems"] if each["changes"]}
    notes = [f"{name}: {each['objective']} with {' '.join(each['changes'])}" for name, each in changed.items()]
    signatures = {one["signature"]: name for row in about["rows"] for name, one in row["scores"].items()}
    notes += [f"{name}: {signature}" for signature, name in signatures.items()]
    if about["against"]:
        notes.append(
            f"difference: BLEU minus that of {about['against']}; p: paired bootstrap, {BOOTSTRAP_SAMPLES:,} samples, "
            "the largest of the seeds'"
        )
    notes.append("passes: decoder passes a sentence; minutes in updates: validating and saving not counted")
    if about["timed"]:
        timed = about["timed"]
        notes.append(
            f"speed, from text to text: median of {timed['repeats']} repeats in which all rows took turns; one by one: "
            f"median of {timed['singles']} sentences; sentences/s: {timed['sentences']} sentences in batches"
        )
    if about["settings"]["minutes"] and about["settings"]["jobs"] > 1:
        notes.append("trainings ran at the same time: minutes on a machine that others use, too, are not equal work")
    for each in about["systems"]:
        name, training = f"{each['system']}.seed{each['seed']}", each["training"]
        if training is not None:
            notes += _unequal(name, training, about["settings"])
        if each["from"]:
            notes.append(f"{name} began with the weights of {each['from']}")
        notes += [f"failed: {name} {what}: {why}" for what, why in each["failed"].items()]
    return notes


def _unequal(name: str, training: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """In what a training is not what the head of the table says."""
    notes = []
    if not _is_equal(training, settings):
        notes.append(f"not the same budget: {name}, trained before or stopped early")
    if training["averaged"] < settings["average"]:
        notes.append(f"{name}: the mean of {training['averaged']} checkpoints, all that there are")
    if training["risen"] < 1:
        notes.append(f"{name}: KLs came to {training['risen']:.0%} of their weights (objective.kl_start, .kl_warmup)")
    return notes


def _is_equal(training: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a training had the budget: an earlier call may have given it more, and patience may have ended it."""
    if settings["minutes"]:
        return bool(0.9 < training["seconds"] / (60 * settings["minutes"]) < 1.5)  # one update more than the time
    return bool(training["updates"] == settings["steps"])


def write(folder: Path, about: Mapping[str, Any], text: str) -> None:
    """comparison.json, comparison.md and, with matplotlib, comparison.svg."""
    write_atomically(folder / "comparison.md", f"{text}\n".encode())
    written = ["comparison.md", "comparison.json"]
    try:
        write_atomically(
            folder / "comparison.svg", bleu_against_passes(about, f"{about['recipe']}: {budget(about['settings'])}")
        )
        written.append("comparison.svg")
    except UsageError as problem:
        console.say(f"no plot: {problem.message}; {problem.hint}")
    write_atomically(folder / "comparison.json", dump(about))
    console.say(f"kept as {', '.join(str(folder / name) for name in written)}")
