"""`janus report`: one run, or several side by side, as an HTML page that needs no network.

`probe.py` reads the runs; here is a section for each question. `report.html` is the template, with the explanation of
each section.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from janus_cli import __version__, console, runs
from janus_cli.data import references, survival
from janus_cli.device import choose_device
from janus_cli.errors import UsageError, require
from janus_cli.files import write_atomically
from janus_cli.lab import plots
from janus_cli.lab.logbook import BEGINS, Entry, Logbook
from janus_cli.lab.plots import Look
from janus_cli.lab.probe import RunReport, gather, labels
from janus_cli.lab.tables import cells, must_be_free, printable, render
from janus_cli.measures import measure_of
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring.repeats import NOTHING
from janus_cli.training.best import NOWHERE, best_metric, figure, label, rank, scoring_in

NAME = "report.html"
MARK = '<meta name="generator" content="janus report">'  # marks a file as a report
STEERING = {"lr": "learning rate", "norm": "gradient norm"}
SPEED = {"tokens_per_second": "target tokens a second", "utilisation": "utilisation"}
NOT_TERMS = ("epoch", "seconds_per_update", *STEERING, *SPEED)


@dataclass
class Block:
    """A part of a section, shown in the order of its fields; empty fields are left out.

    figures: caption and SVG. columns, rows: see `tables.cells`; the first value of a row names it. decodes: label, text
    and trace. missing: label of a run, and why something cannot be shown of it.
    """

    heading: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    figures: Sequence[tuple[str, str]] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Sequence[Any]] = ()
    decodes: Sequence[tuple[str, str, Sequence[str]]] = ()
    missing: Sequence[tuple[str, str]] = ()


Reports = Sequence[RunReport]


def write_report(
    paths: Sequence[Path], out: Path | None, sentences: int, *, device: str, threads: int | None, force: bool
) -> tuple[Path, list[str]]:
    """Writes the page; returns its path, and the problems of checkpoints that could not be read.

    The options are those of `janus report`.

    Raises:
        UsageError: no such run, an extra that is missing, or a file in the way.
    """
    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device)
    chosen = _runs(paths)
    out = out or (chosen[0].path / NAME if len(chosen) == 1 else Path(NAME))
    must_be_free(out, force=force, mark=MARK)
    require("matplotlib", "report")
    reports: list[RunReport] = []
    with console.progress("reading runs", len(chosen)) as bar:
        for label, run in zip(labels([run.path for run in chosen]), chosen, strict=True):
            reports.append(gather(label, run, Look.of(len(reports)), where, sentences))
            bar.advance(1, label)
    for each in reports:
        for reason in dict.fromkeys(each.missing.values()):
            if reason != each.damage:
                console.warn(f"{each.label}: {reason}")
    write_atomically(out, page(reports, datetime.now(UTC)))
    return out, [each.damage for each in reports if each.damage]


def _runs(paths: Sequence[Path]) -> list[Run]:
    """Each run once, in the order given; by default the newest."""
    if not paths:
        run = runs.find_run(None)
        console.say(f"no run named: taking {run.path}, the newest")
        return [run]
    named = [runs.find_run(path) for path in paths]
    return list({run.path.resolve(): run for run in named}.values())


def page(reports: Reports, when: datetime) -> bytes:
    """The whole page."""
    numbers = count(1)

    def in_figure(svg: str, caption: str) -> Markup:
        """The plot with a name for screen readers, and with ids that no other plot of the page has."""
        start = Markup('<svg role="img" aria-label="{}" ').format(printable(caption))
        own_ids = re.sub(r'(\bid="|href="#|url\(#)', rf"\1figure{next(numbers)}-", svg)
        return start + Markup(own_ids.removeprefix("<svg "))

    values = {
        "mark": Markup(MARK), "reports": reports,
        "title": f"{reports[0].label}: janus report" if len(reports) == 1 else f"janus report: {len(reports)} runs",
        "footer": f"written by janus {__version__} on {when:%Y-%m-%d %H:%M} UTC",
        "sections": [
            (key, title, [*blocks(reports), Block(missing=_missing(reports, *needed))])
            for key, title, blocks, *needed in (
                ("overview", "Runs", _overview, "recipe", "log"),
                ("terms", "Losses", _losses, "train"),
                ("scores", "Validation scores", _scores, "valid"),
                ("speed", "Speed", _speed, "train"),
                ("data", "Data", _data, "manifest"),
                ("lengths", "Predicted lengths", _lengths, "probe"),
                ("calibration", "Calibration", _calibration, "probe"),
                ("outputs", "Outputs", _outputs, "decoded"),
                ("decodes", "Decoded sentences", _decodes, "probe"),
            )
        ],
    }  # fmt: skip
    return render("report.html", values, in_figure=in_figure, cells=cells).encode(
        "utf-8", "replace"
    )  # a path may be no text


def _missing(reports: Reports, *names: str) -> list[tuple[str, str]]:
    """Each run's label and reason for each of these that could not be read, or is not in its log."""
    found = [(each.label, each.missing[name]) for each in reports for name in names if name in each.missing]
    for kind, called in (("train", "training"), ("valid", "validation")):
        reason = f"its log has no {called} line yet"
        without = [each for each in reports if kind in names and not getattr(each, kind)]
        found += [(each.label, each.missing.get("log", reason)) for each in without]
    return found


def _overview(reports: Reports) -> list[Block]:
    facts = [_facts(each) for each in reports]
    names = dict.fromkeys(name for column in facts for name in column)
    rows = [[name, *(column.get(name) for column in facts)] for name in names]
    columns = dict.fromkeys(["", *(each.label for each in reports)], "")
    return [Block(columns=columns, rows=rows)]


def _facts(report: RunReport) -> dict[str, str]:
    facts, recipe, probe = {"folder": str(report.run.path)}, report.recipe, report.probe
    if recipe is not None:
        model = recipe.model
        facts["objective"] = recipe.objective.name
        facts["recipe"] = f"{recipe.name}, {recipe.data.source} to {recipe.data.target}, seed {recipe.seed}"
        layers = f"{model.encoder_layers}+{model.decoder_layers} layers"
        facts["model"] = f"{layers}, {model.width}/{model.feedforward}, {model.heads} heads"
    if report.log.entries:
        facts |= _history(report.log, recipe)
    if recipe is not None and (best := _best(report.log, recipe)):
        facts["best checkpoint"] = best
    if probe is not None:
        update = f", update {probe.step:,}" if isinstance(probe.step, int) else ""
        facts["checkpoint read here"] = f"{probe.checkpoint}{update}"
    return facts


def _best(log: Logbook, recipe: Recipe) -> str | None:
    """The best validation among those that were judged as the last one, in words."""
    entries = log.of("valid")
    scoring = scoring_in(entries[-1] if entries else {})
    try:
        metric = best_metric(recipe, scoring["metric"])
    except UsageError:  # the recipe has changed since
        return None
    title = label(metric, scoring)
    alike = [entry for entry in entries if label(metric, scoring_in(entry)) == title and rank(metric, entry)]
    if not alike:
        return None
    best = _highest(metric, alike)
    return f"{title} {figure(metric, best[metric])} at update {best['step']:,}"


def _highest(metric: str, entries: Sequence[Entry]) -> Entry:
    """The best validation, the later one of equals."""
    return max(entries, key=lambda entry: (rank(metric, entry) or NOWHERE, entry["step"]))


def _history(log: Logbook, recipe: Recipe | None) -> dict[str, str]:
    starts, resumed, skipped = log.of(*BEGINS), log.of("resumed"), log.of("skipped")
    start = starts[-1] if starts else {}
    keys = ("device", "ranks", "threads", "precision", "torch", "janus")
    updates = max(entry["step"] for entry in log.entries)
    state = log.state
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):  # no time, or an invalid one
        last = datetime.fromtimestamp(log.entries[-1]["time"], UTC)
        state += f" (last entry {last:%Y-%m-%d %H:%M} UTC)"
    events = [f"resumed at update {', '.join(format(entry['step'], ',') for entry in resumed)}"] if resumed else []
    if skipped:
        reasons = "; ".join(dict.fromkeys(str(entry.get("why", "no reason given")) for entry in skipped))
        events.append(f"skipped updates: {len(skipped)} ({reasons})")
    if log.redone:
        events.append(f"log entries of what was done over after a resume, left out: {log.redone}")
    if log.damaged:
        events.append(f"damaged lines of the log: {log.damaged}")
    return {
        "parameters": f"{start['parameters']:,}" if "parameters" in start else "–",
        "machine": ", ".join(f"{key} {start[key]}" for key in keys if key in start) or "–",
        "updates": f"{updates:,}" + ("" if recipe is None else f" of {recipe.training.updates:,}"),
        "state": state,
        "time in updates, validating and saving": console.duration(log.seconds),
        "on the way": "; ".join(events) or "nothing special",
    }


def _lines(reports: Reports, kind: str, name: str) -> list[plots.Line]:
    """The curve of this name of every run that logged it."""
    return [(each.look, getattr(each, kind)[name]) for each in reports if name in getattr(each, kind)]


def _train_figures(reports: Reports, titles: Mapping[str, str], *, from_zero: bool = False) -> list[tuple[str, str]]:
    """A plot for each of these training values that any run logged."""
    lines = {title: _lines(reports, "train", name) for name, title in titles.items()}
    return [(title, plots.curves(each, [], title, from_zero=from_zero)) for title, each in lines.items() if each]


def _losses(reports: Reports) -> list[Block]:
    richest = sorted([each.train for each in reports] + [each.valid for each in reports], key=len, reverse=True)
    names = dict.fromkeys(name for curves in richest for name in curves)  # in the order of the objective
    figures = [
        (name, plots.curves(_lines(reports, "train", name), _lines(reports, "valid", name), "nats", falling=True))
        for name in names
        if name not in NOT_TERMS and measure_of(name) is None and not name.startswith(("unk_", "limited_"))
    ]
    figures += _train_figures(reports, STEERING)
    return [Block(figures=figures)]


def _scores(reports: Reports) -> list[Block]:
    rows, lines = [], dict[str, list[plots.Line]]()
    judged = [_judged(each.log) for each in reports]
    names = [_name(title) for title in {title for found in judged for title in found}]
    for each, found in zip(reports, judged, strict=True):
        for full, entries in sorted(found.items()):
            name = _name(full)
            title = name if names.count(name) == 1 else full  # all runs agree on what judges
            best, last = _highest(name, entries), entries[-1]
            rows.append([f"{each.label}, {title}", best[name], best["step"], last[name], last["step"]])
            curve = [(entry["step"], float(entry[name])) for entry in entries]
            lines.setdefault(title, []).append((each.look, curve))
    figures = [(title, plots.curves([], lines[title], _head(title))) for title in sorted(lines)]
    columns = {"": "", "best": ".2f", "at update": ",", "last": ".2f", "last update": ","}
    return [Block(figures=figures, columns=columns, rows=rows)]


def _judged(log: Logbook) -> dict[str, list[Entry]]:
    """The validations with a score, by its `label`."""
    found = dict[str, list[Entry]]()
    for entry in log.of("valid"):
        names = [name for name, value in entry.items() if measure_of(name) and isinstance(value, int | float)]
        for name in names:
            if sum(other.startswith(f"{name}_") for other in names) == 1:
                continue  # one side needs no mean over sides
            found.setdefault(label(name, scoring_in(entry)), []).append(entry)
    return found


def _name(title: str) -> str:
    """Of the number, without what says how it was judged (see `label`)."""
    return title.split()[0]


def _head(title: str) -> str:
    measure = measure_of(_name(title))
    return measure.head if measure else title


def _speed(reports: Reports) -> list[Block]:
    rows = []
    for each in (each for each in reports if "tokens_per_second" in each.train):
        tokens, seconds, used = (
            statistics.median(value for _, value in each.train[name]) if name in each.train else None
            for name in ("tokens_per_second", "seconds_per_update", "utilisation")
        )
        utilisation, taken = "not logged" if used is None else used, console.duration(each.log.seconds)
        rows.append([each.label, tokens, seconds, utilisation, taken])
    columns = {
        "median": "", "target tokens a second": ",.0f", "seconds an update": ".3f", "utilisation": ".0%",
        "all updates, validating, saving": "",
    }  # fmt: skip
    return [Block(figures=_train_figures(reports, SPEED, from_zero=True), columns=columns, rows=rows)]


def _data(reports: Reports) -> list[Block]:
    """One block for all runs that share their data."""
    sharing: dict[str, list[RunReport]] = {}
    for each in (each for each in reports if each.manifest is not None):
        sharing.setdefault(str((each.manifest or {}).get("fingerprint", each.label)), []).append(each)
    return [block for group in sharing.values() for block in _shared_data(group, group[0].manifest or {})]


def _shared_data(group: Reports, manifest: Mapping[str, Any]) -> list[Block]:
    tokenizer, vocabulary = manifest.get("tokenizer"), manifest.get("vocabulary")
    named = {"recipe": "recipe", "prepared": "prepared", "made": "created", "fingerprint": "fingerprint"}
    facts = {name: manifest[key] for name, key in named.items() if manifest.get(key)}
    if tokenizer and vocabulary:
        kind = str(tokenizer.get("kind", ""))
        kind += f" {tokenizer.get('algorithm', '')}" * (kind == "sentencepiece")
        facts["vocabulary"] = f"{kind}, {vocabulary.get('source')} source and {vocabulary.get('target')} target entries"
    lost = survival.in_words(manifest)
    facts |= {f"lost in the tokenizer, {split}": words for split, words in lost.items()}
    several = {split: about.get("references") for split, about in manifest.get("splits", {}).items()}
    facts |= {f"references, {split}": references.in_words(found) for split, found in several.items() if found}
    columns = {
        "tokens without EOS": "", "pairs read": ",", "kept": ",", "dropped": "", "tokens": ",", "mean": ",.1f",
        "median": ",", "95 %": ",", "longest": ",",
    }  # fmt: skip
    heading = f"Data of {', '.join(each.label for each in group)}"
    block = Block(heading, facts, columns=columns, rows=splits(manifest))
    lengths = next((each.lengths for each in group if each.lengths is not None), None)
    if lengths is None:
        return [block, Block(missing=_missing(group[:1], "lengths"))]
    title = "Lengths in the training split: source (grey), target (line)"
    return [block, Block(figures=[(title, plots.length_histogram(*lengths))])]


def splits(manifest: Mapping[str, Any]) -> list[list[Any]]:
    """A row for each split and side: pairs read, kept and dropped, and token counts."""
    rows = []
    for name, split in manifest.get("splits", {}).items():
        left_out = {f"without losses: {why}": count for why, count in split.get("left_out", {}).items()}
        lost = split.get("dropped", {}) | left_out
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in lost.items()) or "none"
        for side, tokens in split.get("tokens", {}).items():
            counts = (tokens.get(key) for key in ("sum", "mean", "p50", "p95", "max"))
            rows.append([f"{name}, {side}", split.get("in"), split["kept"], dropped, *counts])
    return rows


def _lengths(reports: Reports) -> list[Block]:
    """Lengths predicted by the length head, against the real ones."""
    rows, errors, pairs, without = [], [], [], []
    for each in reports:
        if each.probe is None:
            continue
        if each.probe.lengths is None:
            without.append(Block(note=f"{each.label} has no length head: its objective writes until EOS"))
            continue
        predicted, real = each.probe.lengths
        off = predicted - real
        errors.append((each.look, off))
        pairs.append((f"{each.label}: predicted and real", plots.length_pairs(each.look, predicted, real)))
        distance = abs(off)
        rows.append([each.label, len(off), np.mean(off == 0), np.mean(distance <= 2), np.mean(distance), np.mean(off)])
    columns = {
        "": "", "sentences": ",", "exact": ".1%", "within 2": ".1%", "mean distance": ".2f", "mean difference": "+.2f"
    }  # fmt: skip
    figures = [("Predicted less real length", plots.length_errors(errors)), *pairs] if rows else []
    return [Block(figures=figures, columns=columns, rows=rows), *without]


def _calibration(reports: Reports) -> list[Block]:
    """A reliability diagram for each distribution, and a table."""
    probes = [(each, each.probe.reliability) for each in reports if each.probe is not None]
    figures, rows = [], []
    for name in dict.fromkeys(name for _, found in probes for name in found):
        having = [(each, found[name]) for each, found in probes if name in found]
        figures.append((name, plots.reliability([(each.look, found.points) for each, found in having])))
        rows += [
            [f"{each.label}, {name}", found.tokens, found.accuracy, found.confidence, 100 * found.ece, found.nats]
            for each, found in having
        ]
    columns = {"": "", "tokens": ",", "accuracy": ".1%", "confidence": ".1%", "ECE": ".1f", "nats a token": ".3f"}
    return [Block(figures=figures, columns=columns, rows=rows)]


def _outputs(reports: Reports) -> list[Block]:
    """What `janus decode` wrote of splits, its score, and how much of it repeats."""
    scores = [about["score"] for each in reports for about in each.decoded if about["score"]]
    titles = list(dict.fromkeys(score.measure.head for score in scores))
    columns = {
        "": "", "checkpoint": "", "update": ",", "sentences": ",", **dict.fromkeys(titles, ".2f"), "passes": ".1f",
        "sentences/s": ",.1f",
        "words that equal the one before": ".1%", "trigrams that stand twice": ".1%", "length / references": ".2f",
    }  # fmt: skip
    rows = [
        [
            ", ".join([each.label, about.get("split", ""), about.get("label", "")]),
            *(about.get(name) for name in ("checkpoint", "step", "sentences")),
            *(score.value if (score := about["score"]) and score.measure.head == title else None for title in titles),
            *(about.get(name) for name in ("passes_mean", "sentences_per_second")),
            *{**NOTHING, **about.get("repeats", {})}.values(),
        ]
        for each in reports
        for about in each.decoded
    ]  # fmt: skip
    note = "; ".join(dict.fromkeys(f"{score.measure.head}: {score.signature}" for score in scores))
    return [Block(note=note, columns=columns, rows=rows)] if rows else [Block(note="nothing yet: see janus decode")]


def _decodes(reports: Reports) -> list[Block]:
    """The same sentences of all runs that share their data, in every way that each can decode."""
    sentences: dict[tuple[str, str], Block] = {}
    for each in reports:
        for sentence in each.probe.traced if each.probe else ():
            facts = {"source": sentence.source, "reference": sentence.reference}
            title = f"Validation sentence {sentence.index + 1}"
            block = sentences.setdefault((sentence.source, sentence.reference), Block(title, facts))
            decodes = [(f"{each.label}, {mode}", text, trace) for mode, text, trace in sentence.decodes]
            block.decodes = [*block.decodes, *decodes]
    return list(sentences.values())
