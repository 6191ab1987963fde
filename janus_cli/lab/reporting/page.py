"""Findings -> a page: a section a question, runs side by side in each."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from janus_cli import __version__, console
from janus_cli.lab.reporting import html, plots
from janus_cli.lab.reporting.findings import Findings
from janus_cli.lab.reporting.html import Html
from janus_cli.lab.reporting.logbook import Curve
from janus_cli.lab.reporting.parts import calibration, data, decodes, lengths
from janus_cli.lab.reporting.plots import Look
from janus_cli.training.validation import best_metric, better

NOT_TERMS = ("epoch", "lr", "norm", "tokens_per_second", "seconds_per_update", "utilisation")
SPEED = {"tokens_per_second": "target tokens a second", "utilisation": "utilisation"}
STEERING = {"lr": "learning rate", "norm": "gradient norm"}


def page(found: Sequence[Findings], when: datetime) -> bytes:
    """The whole page."""
    looks = [Look.of(index) for index in range(len(found))]
    legend = html.element(
        "ul",
        html.joined(
            html.element("li", Html(f"{look.sample}{html.text(each.label)}"))
            for look, each in zip(looks, found, strict=True)
        ),
        "legend",
    )
    made = (
        ("overview", "Runs", _overview(found)),
        ("terms", "Losses", _terms(found, looks)),
        ("bleu", "Validation BLEU", _bleu(found, looks)),
        ("speed", "Speed", _speed(found, looks)),
        ("data", "Data", data(found)),
        ("lengths", "Predicted lengths", lengths(found, looks)),
        ("calibration", "Calibration", calibration(found, looks)),
        ("decodes", "Decoded sentences", decodes(found)),
    )
    coloured = {"terms", "bleu", "speed", "lengths", "calibration"} if len(found) > 1 else set()
    sections = [
        (key, title, html.section(key, title, *([legend] if key in coloured else []), *parts))
        for key, title, parts in made
    ]
    title = f"{found[0].label}: janus report" if len(found) == 1 else f"janus report: {len(found)} runs"
    foot = html.text(f"written by janus {__version__} on {when:%Y-%m-%d %H:%M} UTC")
    return html.document(title, legend if len(found) > 1 else Html(""), sections, foot)


def gone(found: Iterable[Findings], *names: str) -> list[Html]:
    """For each run, why these could not be read."""
    return [html.missing(each.label, each.missing[name]) for each in found for name in names if name in each.missing]


def _overview(found: Sequence[Findings]) -> list[Html]:
    columns = [dict(_facts(each)) for each in found]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in names]
    return [html.table(["", *(each.label for each in found)], rows), *gone(found, "recipe", "log")]


def _facts(each: Findings) -> Iterable[tuple[str, str]]:
    yield "folder", str(each.run.path)
    recipe = each.recipe
    if recipe is not None:
        model = recipe.model
        yield "objective", recipe.objective.name
        yield "recipe", f"{recipe.name}, {recipe.data.source} to {recipe.data.target}, seed {recipe.seed}"
        layers = f"{model.encoder_layers}+{model.decoder_layers} layers"
        yield "model", f"{layers}, {model.width}/{model.feedforward}, {model.heads} heads"
    if each.log is not None:
        yield from _history(each)
    if recipe is not None and each.log is not None:
        metric = best_metric(recipe)
        best: tuple[int, float] | None = None
        for step, value in each.log.curves("valid").get(metric, []):
            if better(metric, value, None if best is None else best[1]):
                best = step, value
        if best is not None:
            yield "best checkpoint", f"{metric} {best[1]:.4g} at update {best[0]:,}"
    if each.probe is not None:
        at = "" if each.probe.step is None else f", update {each.probe.step:,}"
        yield "checkpoint read here", f"{each.probe.checkpoint}{at}"


def _history(each: Findings) -> Iterable[tuple[str, str]]:
    log = each.log
    if log is None or not log.entries:
        return
    begun = log.of("start", "resumed")
    about = begun[-1] if begun else {}
    if "parameters" in about:
        yield "parameters", f"{about['parameters']:,}" if isinstance(about["parameters"], int) else "–"
    keys = ("device", "ranks", "threads", "precision", "torch", "janus")
    yield "machine", ", ".join(f"{key} {about[key]}" for key in keys if key in about) or "–"
    updates = max(entry["step"] for entry in log.entries)
    yield "updates", f"{updates:,}" + ("" if each.recipe is None else f" of {each.recipe.training.updates:,}")
    yield "state", log.state + _last_word(log.entries[-1].get("time"))
    yield "time in updates, validating and saving", console.duration(log.seconds)
    resumed, skipped = log.of("resumed"), log.of("skipped")
    happened = [f"resumed at update {', '.join(format(entry['step'], ',') for entry in resumed)}"] if resumed else []
    if skipped:
        reasons = "; ".join(dict.fromkeys(str(entry.get("why", "no reason given")) for entry in skipped))
        happened.append(f"skipped updates: {len(skipped)} ({reasons})")
    if log.redone:
        happened.append(f"log entries of what was done over after a resume, left out: {log.redone}")
    if log.damaged:
        happened.append(f"damaged lines of the log: {log.damaged}")
    yield "on the way", "; ".join(happened) or "nothing special"


def _last_word(time: object) -> str:
    """When the log was written to last; time: seconds since 1970."""
    if not isinstance(time, int | float):
        return ""
    try:
        return f" (last word {datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC)"
    except (ValueError, OverflowError, OSError):
        return ""


def _all(found: Sequence[Findings], kind: str) -> list[dict[str, Curve]]:
    return [each.log.curves(kind) if each.log else {} for each in found]


def _drawn(looks: Sequence[Look], runs: Sequence[dict[str, Curve]], name: str) -> list[plots.Drawn]:
    return [(look, curves[name]) for look, curves in zip(looks, runs, strict=True) if name in curves]


def _terms(found: Sequence[Findings], looks: Sequence[Look]) -> list[Html]:
    train, valid = _all(found, "train"), _all(found, "valid")
    richest = sorted((*train, *valid), key=len, reverse=True)  # its order is that of the objective
    known = dict.fromkeys(name for curves in richest for name in curves)
    names = [name for name in known if name not in NOT_TERMS and not name.startswith("bleu")]
    drawn = [
        html.figure(name, plots.curves(_drawn(looks, train, name), _drawn(looks, valid, name), "nats", falling=True))
        for name in names
    ]
    steering = [
        html.figure(title, plots.curves(_drawn(looks, train, name), [], title))
        for name, title in STEERING.items()
        if any(name in curves for curves in train)
    ]
    words = (
        "Thin: training, with label smoothing and dropout. With dots: validation, without. Cross-entropies are a "
        "predicted token, length is a sentence. The first updates may lie above the frame."
    )
    return [html.paragraph(words, "note"), html.plots([*drawn, *steering]), *_nothing(found, train, "training")]


def _bleu_names(curves: Mapping[str, Curve]) -> set[str]:
    """Without the mean over sides where there is one side."""
    names = {name for name in curves if name.startswith("bleu")}
    return names if len(names) > 2 else names - {"bleu"}


def _bleu(found: Sequence[Findings], looks: Sequence[Look]) -> list[Html]:
    valid = _all(found, "valid")
    names = sorted(set().union(*map(_bleu_names, valid)))
    drawn = [html.figure(name, plots.curves([], _drawn(looks, valid, name), "BLEU")) for name in names]
    rows = []
    for each, curves in zip(found, valid, strict=True):
        for name in names:
            if name in _bleu_names(curves):
                (best_step, best), (step, last) = max(curves[name], key=lambda point: point[1]), curves[name][-1]
                rows.append(
                    [f"{each.label}, {name}", f"{best:.2f}", f"{best_step:,}", f"{last:.2f}", f"{step:,}"]
                )  # fmt: skip
    head = ["", "best", "at update", "last", "at update"]
    words = (
        "bleu_ar: greedy, left to right. bleu_nar: mask-predict with the recipe's iterations, one length. bleu: their "
        "mean. All on the "
        "first sentences of the validation split, as many as training.valid_sentences says."
    )
    return [
        html.paragraph(words, "note"), html.plots(drawn), html.table(head, rows, numbers=True) if rows else Html(""),
        *_nothing(found, valid, "validation"),
    ]  # fmt: skip


def _speed(found: Sequence[Findings], looks: Sequence[Look]) -> list[Html]:
    train = _all(found, "train")
    drawn = [
        html.figure(title, plots.curves(_drawn(looks, train, name), [], title, from_zero=True))
        for name, title in SPEED.items()
        if any(name in curves for curves in train)
    ]
    rows = []
    for each, curves in zip(found, train, strict=True):
        if "tokens_per_second" not in curves or each.log is None:
            continue
        tokens, seconds, used = (
            statistics.median(value for _, value in curves[name]) if name in curves else None
            for name in ("tokens_per_second", "seconds_per_update", "utilisation")
        )
        rows.append([
            each.label, f"{tokens:,.0f}", "–" if seconds is None else f"{seconds:.3f}",
            "not logged" if used is None else f"{used:.0%}", console.duration(each.log.seconds),
        ])  # fmt: skip
    head = ["median", "target tokens a second", "seconds an update", "utilisation", "all updates, validating, saving"]
    words = (
        "Measured by the training itself between two lines of its log, validation and saving included. Utilisation: "
        "the step's matrix products as a share of what the machine's own come to."
    )
    return [
        html.paragraph(words, "note"), html.plots(drawn), html.table(head, rows, numbers=True) if rows else Html(""),
        *_nothing(found, train, "training"),
    ]  # fmt: skip


def _nothing(found: Sequence[Findings], logged: Sequence[dict[str, Curve]], what: str) -> list[Html]:
    """For each run without curves, why."""
    return [
        html.missing(each.label, each.missing.get("log", f"its log has no {what} line yet"))
        for each, curves in zip(found, logged, strict=True)
        if not curves
    ]
