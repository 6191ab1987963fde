"""Quality against latency as an SVG file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from janus_cli.errors import require

SIZE = (8.0, 5.0)  # inches
# Shape and filling tell the modes apart, so that the plot can be printed without colour.
MARKERS = {
    "ar": ("o", "black"), "nar": ("s", "white"), "semi": ("v", "white"), "spec": ("^", "0.6"), "peer": ("D", "white"),
}  # fmt: skip


def must_be_there() -> None:
    """Raises UsageError where matplotlib is not installed."""
    require("matplotlib", "bench")


def svg(about: Mapping[str, Any]) -> bytes:
    """Every row at its latency (batch 1, p50, with its range over the repeats) and BLEU; upper left is best.

    Rows whose quality says nothing (random weights) are lines at their latency.
    """
    figure = require("matplotlib.figure", "bench").Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    seen: set[str] = set()
    for row in about["rows"]:
        p50 = {name: 1000 * value for name, value in row["latency"]["p50"].items()}
        if row["quality"] is None:
            axes.axvline(p50["median"], color="0.6", linestyle=":")
            axes.annotate(
                row["label"], (p50["median"], 0.02), xycoords=("data", "axes fraction"), rotation=90,
                fontsize=7, color="0.4", ha="right", va="bottom",
            )  # fmt: skip
            continue
        shape, filling = MARKERS[row["mode"]]
        axes.errorbar(
            p50["median"], row["quality"]["value"],
            xerr=[[p50["median"] - p50["lowest"]], [p50["highest"] - p50["median"]]],
            marker=shape, markerfacecolor=filling, markeredgecolor="black", ecolor="0.5", linestyle="none",
            label=row["mode"] if row["mode"] not in seen else None,
        )  # fmt: skip
        seen.add(row["mode"])
        axes.annotate(
            row["label"], (p50["median"], row["quality"]["value"]), xytext=(4, 4), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.2)  # for the labels
    axes.set_xlabel("milliseconds a sentence at batch 1, from text to text (p50)")
    axes.set_ylabel("BLEU")
    threads = about["machine"]["threads"]
    title = f"{about['run']}: {about['machine']['cpu']}, {threads} thread{'s' * (threads != 1)}"
    axes.set_title(title, fontsize=9)
    axes.grid(visible=True, which="both", color="0.9")
    axes.set_axisbelow(True)
    if seen:
        axes.legend()
    return drawn(figure)


def drawn(figure: Any) -> bytes:
    """A figure of matplotlib as SVG; the same bytes at each call."""
    file = io.BytesIO()
    with require("matplotlib", "bench").rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "janus"}
    ):  # text stays text
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
