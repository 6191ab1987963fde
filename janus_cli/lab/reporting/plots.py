"""Plots as SVG to be put into a page: one small plot each, text as text, the same bytes for the same numbers.

No text from outside is drawn: names of runs and terms stand around the plots, where the page escapes them.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from janus_cli.data.batching import Lengths
from janus_cli.errors import require
from janus_cli.lab.reporting.html import Html
from janus_cli.lab.reporting.logbook import Curve

SIZE = (4.2, 2.7)  # inches
SQUARE = (4.2, 3.6)
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "janus", "font.size": 8.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "0.9", "axes.edgecolor": "0.5",
    "xtick.color": "0.3", "ytick.color": "0.3", "axes.formatter.useoffset": False,
}  # fmt: skip
# Okabe and Ito's colours, told apart by most eyes, without yellow, which is none on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES = ("", "6 2", "2 2")  # beyond seven runs
START = 0.05  # the share of the updates that may lie above the frame


@dataclass(frozen=True)
class Look:
    """Of one run, in every plot."""

    colour: str
    dashes: str

    @classmethod
    def of(cls, index: int) -> Look:
        return cls(COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)])

    @property
    def line(self) -> dict[str, Any]:
        style: Any = (0, tuple(map(int, self.dashes.split()))) if self.dashes else "-"
        return {"color": self.colour, "linestyle": style}

    @property
    def sample(self) -> Html:
        """A piece of the line, for a legend."""
        dashes = f' stroke-dasharray="{self.dashes}"' if self.dashes else ""
        return Html(
            '<svg viewBox="0 0 34 12" aria-hidden="true">'
            f'<line x1="0" y1="6" x2="34" y2="6" stroke="{self.colour}" stroke-width="3"{dashes}/></svg>'
        )


Drawn = tuple[Look, Curve]


def must_be_there() -> None:
    """Raises UsageError where matplotlib is not installed."""
    require("matplotlib", "report")


class Plot:
    """with Plot("update", "nats") as plot: plot.axes.plot(…); then plot.svg."""

    def __init__(self, across: str, up: str, size: tuple[float, float] = SIZE) -> None:
        self.svg = Html("")
        self._settings = require("matplotlib", "report").rc_context(SETTINGS)
        self._labels, self._size = (across, up), size

    def __enter__(self) -> Plot:
        self._settings.__enter__()
        self.figure = require("matplotlib.figure", "report").Figure(figsize=self._size, layout="constrained")
        self.axes: Any = self.figure.subplots()
        self.axes.set_xlabel(self._labels[0])
        self.axes.set_ylabel(self._labels[1])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            drawn = io.BytesIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
            self.svg = inline(drawn.getvalue().decode())
        self._settings.__exit__(kind, *_)


def inline(svg: str) -> Html:
    """An SVG file as an element: without its head, and without styles, which would hold for the whole page."""
    return Html(re.sub(r"<style[^>]*>.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL))


def curves(
    lines: Sequence[Drawn], marked: Sequence[Drawn], up: str, *, falling: bool = False, from_zero: bool = False
) -> Html:
    """Over updates: `lines` thin, `marked` with dots. falling: the first updates may lie above the frame.

    from_zero: the frame begins at 0.
    """
    with Plot("update", up) as plot:
        for look, curve in lines:
            dot = "." if len(curve) == 1 else None
            plot.axes.plot(*_finite(curve), linewidth=1.0, marker=dot, alpha=0.7, **look.line)
        for look, curve in marked:
            plot.axes.plot(*_finite(curve), linewidth=1.5, marker="o", markersize=3.0, **look.line)
        if falling:
            _frame(plot.axes, [curve for _, curve in (*lines, *marked)])
        if from_zero:
            plot.axes.set_ylim(bottom=0)
        plot.axes.xaxis.set_major_formatter("{x:,.0f}")
        plot.axes.xaxis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(5, integer=True))
    return plot.svg


def _finite(curve: Curve) -> tuple[list[int], list[float]]:
    """Updates and values; what is not finite leaves a gap."""
    return [step for step, _ in curve], [value if math.isfinite(value) else math.nan for _, value in curve]


def _frame(axes: Any, curves: Iterable[Curve]) -> None:
    """Lets the highest values of the start lie above the frame where they would press the rest together."""
    points = [point for curve in curves for point in curve if math.isfinite(point[1])]
    last = max((step for step, _ in points), default=0)
    later = [value for step, value in points if step >= START * last]
    if not later or max(value for _, value in points) <= 1.2 * max(later):
        return
    low, high = min(value for _, value in points), max(later)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def reliability(rows: Sequence[tuple[Look, Sequence[tuple[float, float, float]]]]) -> Html:
    """Accuracy over confidence, a point a bin, larger where there are more predictions; on the diagonal is right."""
    with Plot("confidence", "accuracy", SQUARE) as plot:
        plot.axes.plot([0, 1], [0, 1], color="0.6", linewidth=1.0, linestyle=":")
        for look, points in rows:
            sure, right, share = zip(*points, strict=True)
            plot.axes.plot(sure, right, linewidth=1.2, **look.line)
            plot.axes.scatter(sure, right, [8 + 250 * part for part in share], look.colour, alpha=0.7, linewidths=0)
        plot.axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return plot.svg


def length_histogram(source: Lengths, target: Lengths) -> Html:
    """How many pairs have how many tokens, without EOS."""
    import numpy as np

    longest = int(max(source.max(initial=0), target.max(initial=0)))
    width = max(1, math.ceil(longest / 60))
    edges = np.arange(0, longest + 2 * width, width)
    with Plot("tokens", "pairs") as plot:
        plot.axes.stairs(np.histogram(source, edges)[0], edges, color="0.75", fill=True)
        plot.axes.stairs(np.histogram(target, edges)[0], edges, color="black", linewidth=1.2)
        plot.axes.yaxis.set_major_formatter("{x:,.0f}")
        plot.axes.yaxis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(5, integer=True))
    return plot.svg


def length_errors(rows: Sequence[tuple[Look, Lengths]], most: int = 12) -> Html:
    """The share of sentences whose predicted length is so many tokens too long; the ends hold all beyond."""
    import numpy as np

    edges = np.arange(-most, most + 2) - 0.5
    with Plot("tokens too short (-) or too long (+)", "share of sentences") as plot:
        for look, errors in rows:
            counts = np.histogram(errors.clip(-most, most), edges)[0]
            plot.axes.stairs(counts / max(1, len(errors)), edges, linewidth=1.3, **look.line)
        plot.axes.yaxis.set_major_formatter(require("matplotlib.ticker", "report").PercentFormatter(1.0, decimals=0))
    return plot.svg


def length_pairs(look: Look, guesses: Lengths, real: Lengths) -> Html:
    """Predicted over real length, larger where there are more sentences; on the diagonal is right."""
    counted = sorted(Counter(zip(real.tolist(), guesses.tolist(), strict=True)).items())
    top = max((max(pair) for pair, _ in counted), default=1) + 1
    with Plot("real tokens", "predicted tokens", SQUARE) as plot:
        plot.axes.plot([0, top], [0, top], color="0.6", linewidth=1.0, linestyle=":")
        plot.axes.scatter(
            [pair[0] for pair, _ in counted], [pair[1] for pair, _ in counted], [5 * count for _, count in counted],
            look.colour, alpha=0.5, linewidths=0,
        )  # fmt: skip
        plot.axes.set(xlim=(0, top), ylim=(0, top))
    return plot.svg
