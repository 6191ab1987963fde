"""Sections of the page about the data and about what the model does with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from janus_cli.errors import DataError
from janus_cli.lab.reporting import html, plots
from janus_cli.lab.reporting.findings import Findings, splits
from janus_cli.lab.reporting.html import Html
from janus_cli.lab.reporting.plots import Look


def data(found: Sequence[Findings]) -> list[Html]:
    """Once for all runs that share their data."""
    groups: dict[str, list[Findings]] = {}
    parts: list[Html] = []
    for each in found:
        if each.manifest is None:
            parts.append(html.missing(each.label, each.missing["manifest"]))
        else:
            groups.setdefault(str(each.manifest.get("fingerprint", each.label)), []).append(each)
    for group in groups.values():
        parts += _data(group)
    return parts


def _data(group: Sequence[Findings]) -> list[Html]:
    first = group[0]
    about = first.manifest or {}
    names = ", ".join(each.label for each in group)
    tokenizer, vocabulary = about.get("tokenizer"), about.get("vocabulary")
    facts = {"recipe": about.get("recipe"), "prepared": about.get("prepared"), "made": about.get("created")}
    facts["fingerprint"] = about.get("fingerprint")
    if isinstance(tokenizer, dict) and isinstance(vocabulary, dict):
        kind = " ".join(str(tokenizer.get(key, "")) for key in ("kind", "algorithm"))
        facts["vocabulary"] = f"{kind}, {vocabulary.get('source')} source and {vocabulary.get('target')} target entries"
    listed = html.joined(
        Html(f"<dt>{html.text(key)}</dt><dd>{html.text(value)}</dd>") for key, value in facts.items() if value
    )
    parts = [html.element("h3", html.text(f"Data of {names}")), html.element("dl", listed)]
    try:
        head = ["tokens without EOS", "pairs read", "kept", "dropped", "tokens", "mean", "median", "95 %", "longest"]
        parts.append(html.table(head, splits(about), numbers=True))
    except DataError as problem:
        parts.append(html.missing(first.label, problem.message))
    there = next((each.lengths for each in group if each.lengths is not None), None)
    if there is None:
        return [*parts, html.missing(first.label, first.missing["lengths"])]
    title = "Lengths in the training split: source (grey), target (line)"
    return [*parts, html.plots([html.figure(title, plots.length_histogram(*there))])]


def _unread(found: Sequence[Findings]) -> list[Html]:
    return [html.missing(each.label, each.missing["probe"]) for each in found if "probe" in each.missing]


def lengths(found: Sequence[Findings], looks: Sequence[Look]) -> list[Html]:
    """What the length head says before anything is decoded."""
    rows, errors, pairs, parts = [], [], [], []
    for each, look in zip(found, looks, strict=True):
        if each.probe is None:
            continue
        if each.probe.lengths is None:
            why = f"{each.label} has no length head: its objective writes until EOS"
            parts.append(html.paragraph(why, "note"))
            continue
        guesses, real = each.probe.lengths
        off = guesses - real
        errors.append((look, off))
        pairs.append(html.figure(f"{each.label}: predicted and real", plots.length_pairs(look, guesses, real)))
        rows.append([
            each.label, f"{len(off):,}", f"{np.mean(off == 0):.1%}", f"{np.mean(abs(off) <= 2):.1%}",
            f"{np.mean(abs(off)):.2f}", f"{np.mean(off):+.2f}",
        ])  # fmt: skip
    head = ["", "sentences", "exact", "within 2", "mean distance", "mean difference"]
    words = "The likeliest length of each validation sentence, in tokens without EOS; a length beam tries more of them."
    if not rows:
        return [*parts, *_unread(found)]
    first = html.figure("Predicted less real length", plots.length_errors(errors))
    return [
        html.paragraph(words, "note"), html.plots([first, *pairs]), html.table(head, rows, numbers=True), *parts,
        *_unread(found),
    ]  # fmt: skip


def calibration(found: Sequence[Findings], looks: Sequence[Look]) -> list[Html]:
    """A diagram a distribution, and the numbers."""
    probes = [(each, look, each.probe) for each, look in zip(found, looks, strict=True) if each.probe is not None]
    names = dict.fromkeys(name for _, _, probe in probes for name in probe.reliability)
    drawn, rows = [], []
    for name in names:
        those = [(each, look, probe.reliability[name]) for each, look, probe in probes if name in probe.reliability]
        drawn.append(html.figure(name, plots.reliability([(look, sums.points) for _, look, sums in those])))
        for each, _, sums in those:
            rows.append([
                f"{each.label}, {name}", f"{sums.tokens:,}", f"{sums.accuracy:.1%}", f"{sums.mean_confidence:.1%}",
                f"{100 * sums.ece:.1f}", f"{sums.mean_nats:.3f}",
            ])  # fmt: skip
    if not probes:
        return _unread(found)
    counts = "; ".join(f"{each.label} {probe.sentences[0]:,} of {probe.sentences[1]:,}" for each, _, probe in probes)
    words = (
        "How often the likeliest token is right (accuracy) where the model is so sure of it (confidence), given the "
        "reference: ar sees the tokens before, nar all that the run's own noise leaves, any other what its objective "
        "lets it see. On the dotted line is right, below it is too sure. ECE: the mean distance from it, in points. "
        f"Sentences of the validation split: {counts}."
    )
    head = ["", "tokens", "accuracy", "confidence", "ECE", "nats a token"]
    return [html.paragraph(words, "note"), html.plots(drawn), html.table(head, rows, numbers=True), *_unread(found)]


def decodes(found: Sequence[Findings]) -> list[Html]:
    """The same sentences from all runs that share their data, in every way that each can decode."""
    sentences: dict[tuple[str, str], list[Html]] = {}
    heads: dict[tuple[str, str], Html] = {}
    for each in found:
        for sentence in each.probe.decoded if each.probe else ():
            key = sentence.source, sentence.reference
            facts = {"source": sentence.source, "reference": sentence.reference}
            listed = (Html(f'<dt>{k}</dt><dd dir="auto">{html.text(v)}</dd>') for k, v in facts.items())
            title = html.element("h3", html.text(f"Validation sentence {sentence.index + 1}"))
            heads.setdefault(key, Html(f"{title}{html.element('dl', html.joined(listed))}"))
            for label, result, lines in sentence.ways:
                summary = Html(
                    f'<b>{html.text(f"{each.label}, {label}")}</b>: <span dir="auto">{html.text(result)}</span>'
                )
                trace = html.element("pre", html.text("\n".join(lines)))
                sentences.setdefault(key, []).append(Html(f"<details><summary>{summary}</summary>{trace}</details>"))
    words = (
        "Open one to see how it came about. Left to right: each token and how sure the model was. Mask-predict: a "
        "block a pass, what it read (____ is hidden), wrote, how sure it was, and which tokens (^) are hidden again."
    )
    shown = [part for key, ways in sentences.items() for part in (heads[key], *ways)]
    return [html.paragraph(words, "note"), *shown, *_unread(found)] if shown else _unread(found)
