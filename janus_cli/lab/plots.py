"""Every plot of the lab, drawn with matplotlib as SVG: text stays text, and equal numbers give equal bytes.

The plots of a report are inside its page. They contain no text from outside: names of runs and terms are put around
them, where the page escapes them. The plots of `janus bench` and `janus compare` are files.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Concatenate, ParamSpec

import numpy as np

from janus_cli.console import counted
from janus_cli.data.batching import Lengths
from janus_cli.errors import require
from janus_cli.lab.logbook import Curve
from janus_cli.measures import MEASURES

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its advice on a cache where there is no home
SMALL, SQUARE, LARGE = (4.2, 2.7), (4.2, 3.6), (8.0, 5.0)  # inches
TEXT = {"svg.fonttype": "none", "svg.hashsalt": "janus"}
IN_A_PAGE = {
    **TEXT, "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "0.9", "axes.edgecolor": "0.5", "xtick.color": "0.3", "ytick.color": "0.3",
    "axes.formatter.useoffset": False,
}  # fmt: skip
# Okabe and Ito's colours, safe for colour-blind readers, without yellow, which does not show on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES = ("", "6 2", "2 2")  # beyond seven runs
START = 0.05  # share of the updates that may exceed the frame
# Shape and filling distinguish decoding modes, so that the plot can be printed without colour.
MODE_MARKERS = {
    "ar": ("o", "black"), "nar": ("s", "white"), "semi": ("v", "white"), "spec": ("^", "0.6"), "peer": ("D", "white"),
}  # fmt: skip
SYSTEM_MARKERS = "osD^vP*Xph<>"


@dataclass(frozen=True)
class Look:
    """Colour and dashes of one run, the same in every plot. dashes: in SVG's notation."""

    colour: str
    dashes: str

    @classmethod
    def of(cls, index: int) -> Look:
        return cls(COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)])

    @property
    def line(self) -> dict[str, Any]:
        style: Any = (0, tuple(map(int, self.dashes.split()))) if self.dashes else "-"
        return {"color": self.colour, "linestyle": style}


Line = tuple[Look, Curve]
Drawn = ParamSpec("Drawn")
Draw = Callable[Concatenate[Any, Drawn], None]


def in_a_page(
    across: str, up: str = "", size: tuple[float, float] = SMALL
) -> Callable[[Draw[Drawn]], Callable[Drawn, str]]:
    """Decorates a function that draws on given axes, so that it returns an SVG element.

    across, up: labels of the axes.
    """

    def decorate(draw: Draw[Drawn]) -> Callable[Drawn, str]:
        def drawn(*arguments: Drawn.args, **options: Drawn.kwargs) -> str:
            with require("matplotlib", "report").rc_context(IN_A_PAGE):
                axes = _axes(size)
                axes.set(xlabel=across, ylabel=up)
                draw(axes, *arguments, **options)
                nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
                svg = _saved(axes.figure, transparent=True, metadata=nothing).decode()
            # Without a file header and without styles, which would apply to the whole page.
            return re.sub(r"<style[^>]*>.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)

        return drawn

    return decorate


def _axes(size: tuple[float, float] = LARGE) -> Any:
    return require("matplotlib.figure", "bench").Figure(figsize=size, layout="constrained").subplots()


def _saved(figure: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", **options)
    return file.getvalue()


def _counted(axis: Any) -> None:
    """A few whole numbers, with commas, as ticks of an axis."""
    axis.set_major_formatter("{x:,.0f}")
    axis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(5, integer=True))


@in_a_page("update")
def curves(
    axes: Any, lines: Sequence[Line], marked: Sequence[Line], up: str, *, falling: bool = False, from_zero: bool = False
) -> None:
    """Values over updates: `lines` thin, `marked` with dots. falling: the first updates may exceed the frame.

    from_zero: the frame begins at 0.
    """
    axes.set_ylabel(up)
    for look, curve in lines:
        axes.plot(*_finite(curve), linewidth=1.0, marker="." if len(curve) == 1 else None, alpha=0.7, **look.line)
    for look, curve in marked:
        axes.plot(*_finite(curve), linewidth=1.5, marker="o", markersize=3.0, **look.line)
    if falling:
        _cut_off_start(axes, [curve for _, curve in (*lines, *marked)])
    if from_zero:
        axes.set_ylim(bottom=0)
    _counted(axes.xaxis)


def _finite(curve: Curve) -> tuple[list[int], list[float]]:
    """Updates and values; a value that is not finite leaves a gap."""
    return [step for step, _ in curve], [value if math.isfinite(value) else math.nan for _, value in curve]


def _cut_off_start(axes: Any, curves: Iterable[Curve]) -> None:
    """Lets the highest values of the start exceed the frame if they would flatten the rest."""
    points = [point for curve in curves for point in curve if math.isfinite(point[1])]
    last = max((step for step, _ in points), default=0)
    later = [value for step, value in points if step >= START * last]
    if not later or max(value for _, value in points) <= 1.2 * max(later):
        return
    low, high = min(value for _, value in points), max(later)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


@in_a_page("confidence", "accuracy", SQUARE)
def reliability(axes: Any, rows: Sequence[tuple[Look, Sequence[tuple[float, float, float]]]]) -> None:
    """Reliability diagram: a point for each bin, larger for more predictions; on the diagonal a model is calibrated."""
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1.0, linestyle=":")
    for look, points in rows:
        confidence, accuracy, shares = zip(*points, strict=True)
        axes.plot(confidence, accuracy, linewidth=1.2, **look.line)
        sizes = [8 + 250 * share for share in shares]
        axes.scatter(confidence, accuracy, sizes, look.colour, alpha=0.7, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


@in_a_page("tokens", "pairs")
def length_histogram(axes: Any, source: Lengths, target: Lengths) -> None:
    """Histogram of the tokens of each pair's two sides, without EOS."""
    longest = int(max(source.max(initial=0), target.max(initial=0)))
    width = max(1, math.ceil(longest / 60))
    edges = np.arange(0, longest + 2 * width, width)
    axes.stairs(np.histogram(source, edges)[0], edges, color="0.75", fill=True)
    axes.stairs(np.histogram(target, edges)[0], edges, color="black", linewidth=1.2)
    _counted(axes.yaxis)


@in_a_page("tokens too short (-) or too long (+)", "share of sentences")
def length_errors(axes: Any, rows: Sequence[tuple[Look, Lengths]], most: int = 12) -> None:
    """Histogram of the error of predicted lengths, in tokens; the outermost bins hold all beyond."""
    edges = np.arange(-most, most + 2) - 0.5
    for look, errors in rows:
        counts = np.histogram(errors.clip(-most, most), edges)[0]
        axes.stairs(counts / max(1, len(errors)), edges, linewidth=1.3, **look.line)
    axes.yaxis.set_major_formatter(require("matplotlib.ticker", "report").PercentFormatter(1.0, decimals=0))


@in_a_page("real tokens", "predicted tokens", SQUARE)
def length_pairs(axes: Any, look: Look, predicted: Lengths, real: Lengths) -> None:
    """Predicted over real length, with larger dots for more sentences; the diagonal is right."""
    counts = sorted(Counter(zip(real.tolist(), predicted.tolist(), strict=True)).items())
    top = max((max(pair) for pair, _ in counts), default=1) + 1
    axes.plot([0, top], [0, top], color="0.6", linewidth=1.0, linestyle=":")
    across, up = [pair[0] for pair, _ in counts], [pair[1] for pair, _ in counts]
    axes.scatter(across, up, [5 * count for _, count in counts], look.colour, alpha=0.5, linewidths=0)
    axes.set(xlim=(0, top), ylim=(0, top))


def quality_against_latency(bench: Mapping[str, Any]) -> bytes:
    """Every row of a bench at its latency (batch 1, p50, with its range over the repeats) and its score; left is fast.

    Where nothing can be scored, a row is a line at its latency.
    """
    axes, modes, metric = _axes(), set[str](), bench["scoring"]["metric"]
    for row in bench["rows"]:
        label, mode, quality = row["label"], row["mode"], row["quality"]
        p50, low, high = (1000 * row["latency"]["p50"][name] for name in ("median", "lowest", "highest"))
        if quality is None:
            axes.axvline(p50, color="0.6", linestyle=":")
            inside = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "va": "bottom"}
            axes.annotate(label, (p50, 0.02), fontsize=7, color="0.4", **inside)
            continue
        marker, filling = MODE_MARKERS[mode]
        axes.errorbar(
            p50, quality["value"], xerr=[[p50 - low], [high - p50]], marker=marker, markerfacecolor=filling,
            markeredgecolor="black", ecolor="0.5", linestyle="none", label=mode if mode not in modes else None,
        )  # fmt: skip
        modes.add(mode)
        axes.annotate(label, (p50, quality["value"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.margins(x=0.2)  # for the labels
    threads = bench["machine"]["threads"]
    title = f"{bench['run']}: {bench['machine']['cpu']}" + (f", {counted(threads, 'thread')}" if threads else "")
    return _quality_file(axes, metric, "milliseconds a sentence at batch 1, from text to text (p50)", title)


def quality_against_passes(comparison: Mapping[str, Any], title: str) -> bytes:
    """Every row of a comparison, a marker for each system, with the range over its seeds."""
    axes, metric = _axes(), comparison["scoring"]["metric"]
    scored = [row for row in comparison["rows"] if metric in row["scores"]]
    for number, system in enumerate(dict.fromkeys(row["system"] for row in scored)):
        rows = [row for row in scored if row["system"] == system]
        values = [list(row["scores"][metric]["values"].values()) for row in rows]
        means = [fmean(seeds) for seeds in values]
        below, above = np.subtract(means, list(map(min, values))), np.subtract(list(map(max, values)), means)
        axes.errorbar(
            [row["passes"] for row in rows], means, yerr=[below, above], label=system, linestyle="none",
            marker=SYSTEM_MARKERS[number % len(SYSTEM_MARKERS)], markersize=7, capsize=2,
        )  # fmt: skip
    return _quality_file(axes, metric, "decoder passes a sentence", title)


def _quality_file(axes: Any, metric: str, across: str, title: str) -> bytes:
    """An SVG file: a metric against a cost on a logarithmic scale."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=across, ylabel=MEASURES[metric].head)
    axes.set_title(title, fontsize=9)
    axes.grid(visible=True, which="both", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    return svg_file(axes.figure)


def svg_file(figure: Any) -> bytes:
    """A figure of matplotlib as an SVG file; the same bytes each time."""
    with require("matplotlib", "bench").rc_context(TEXT):
        return _saved(figure, metadata={"Date": None})
