"""Pieces of the page and its plots: escaped, repeatable, and without anything from elsewhere."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from janus_cli.lab.reporting import html, parts, plots
from janus_cli.lab.reporting.findings import Findings, labels, splits
from janus_cli.lab.reporting.probe import Probe, sampled, spread
from janus_cli.runs import Run

EVIL = "<script>alert('x')</script>&\"\0"
ID, USED = r'\bid="([^"]+)"', r'(?:href="|url\()#([^")]+)'
SAFE = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;·"


def test_everything_from_outside_is_escaped() -> None:
    svg = html.Html("<svg ></svg>")
    for made in (
        html.text(EVIL), html.paragraph(EVIL), html.missing(EVIL, EVIL), html.table([EVIL], [[EVIL, EVIL]]),
        html.figure(EVIL, svg), html.section("key", EVIL),
        html.document(EVIL, html.Html(""), [("key", EVIL, html.Html(""))], html.Html("")).decode(),
    ):  # fmt: skip
        assert SAFE in made
        assert "<script" not in made


def test_a_path_that_is_no_text_can_be_written() -> None:
    assert b"a?b" in html.document("a\udc80b", html.Html(""), [], html.Html(""))


def test_the_mark_stands_at_the_start() -> None:
    assert html.MARK in html.document("x" * 100, html.Html(""), [], html.Html(""))[:200]


def test_runs_of_one_name_are_told_apart_by_their_path() -> None:
    paths = [Path("a/run"), Path("b/run"), Path("b/other")]
    assert labels(paths) == ["a/run", "b/run", "other"]


def test_the_manifest_as_rows() -> None:
    tokens = {"mean": 2.5, "p50": 2, "p95": 4, "max": 5, "sum": 2500}
    split = {"in": 1002, "kept": 1000, "dropped": {"ratio": 2}, "tokens": {"source": tokens}}
    row = ["train, source", "1,002", "1,000", "ratio 2", "2,500", "2.5", "2", "4", "5"]
    assert splits({"splits": {"train": split}}) == [row]


def test_sentences_are_the_same_every_time_and_spread() -> None:
    assert sampled(5, 9).tolist() == [0, 1, 2, 3, 4]
    some = sampled(1000, 20)
    assert some.tolist() == sampled(1000, 20).tolist()
    assert len(set(some.tolist())) == 20
    assert spread(np.arange(8) * 10, 3) == [20, 40, 60]
    assert spread(np.array([7]), 3) == [7]
    assert spread(np.zeros(0, np.int64), 3) == []


def test_predicted_lengths_are_told_with_their_sign() -> None:
    pytest.importorskip("matplotlib")
    guesses, real = np.array([3, 5, 9, 4]), np.array([3, 7, 5, 4])
    probe = Probe("last", 1, (4, 4), {}, (guesses, real), [])
    drawn = parts.lengths([Findings("run", Run(Path("run")), probe=probe)], [plots.Look.of(0)])
    cells = re.findall(r"<td>(.*?)</td>", "".join(drawn))
    assert cells == ["4", "50.0%", "75.0%", "1.50", "+0.50"]


@pytest.fixture
def drawn() -> dict[str, tuple[str, str]]:
    """Every kind of plot, drawn twice."""
    pytest.importorskip("matplotlib")
    from janus_cli.lab.reporting import plots

    look, other = plots.Look.of(0), plots.Look.of(8)
    curve = [(step, 10 / step) for step in range(1, 100)]
    broken = [(1, math.nan), (2, math.inf), (3, 1.0)]
    lengths = np.array([3, 4, 4, 100]), np.array([4, 4, 5, 90])
    kinds = {
        "curves": lambda: plots.curves([(look, curve), (other, broken)], [(look, curve[::9])], "nats", falling=True),
        "point": lambda: plots.curves([(look, [(3, 1.0)])], [], "nats", falling=True, from_zero=True),
        "nan": lambda: plots.curves([(look, [(3, math.nan)])], [], "nats", falling=True),
        "reliability": lambda: plots.reliability([(look, [(0.1, 0.2, 0.5), (0.9, 1.0, 0.5)])]),
        "histogram": lambda: plots.length_histogram(*lengths),
        "errors": lambda: plots.length_errors([(look, lengths[0] - lengths[1])]),
        "pairs": lambda: plots.length_pairs(look, *lengths),
    }
    return {name: (draw(), draw()) for name, draw in kinds.items()}


def test_plots_repeat_and_bring_nothing_from_elsewhere(drawn: dict[str, tuple[str, str]]) -> None:
    for first, second in drawn.values():
        assert first == second
        assert first.startswith("<svg ")
        assert "<text" in first
        assert not re.findall(r'(?:href="|url\()(?!#)', first)
        assert "<style" not in first


def test_the_same_plot_twice_has_ids_of_its_own_in_each_figure(drawn: dict[str, tuple[str, str]]) -> None:
    figure = html.figure("a", html.Html(drawn["curves"][0]))
    page = html.document("page", html.Html(""), [("key", "Key", html.plots([figure, figure]))], html.Html(""))
    figures = page.decode().split("<figure>")[1:]
    names, used = ([set(re.findall(what, figure)) for figure in figures] for what in (ID, USED))
    assert all(names)
    assert all(used)
    assert not names[0] & names[1]
    assert all(wanted <= there for wanted, there in zip(used, names, strict=True))


def test_a_run_with_one_line_in_its_log_is_a_dot(drawn: dict[str, tuple[str, str]]) -> None:
    assert drawn["point"][0].count("<use ") > drawn["nan"][0].count("<use ")


def test_the_start_may_lie_above_the_frame_and_later_points_may_not() -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    from janus_cli.lab.reporting.plots import _frame

    def top(*values: float) -> float:
        axes = matplotlib.Figure().subplots()
        curve = [(10 * index, value) for index, value in enumerate(values)]
        axes.plot(*zip(*curve, strict=True))
        _frame(axes, [curve])
        return axes.get_ylim()[1]

    assert 2.0 < top(50.0, *[2.0, 1.0] * 20) < 3.0
    assert top(1.0, *[2.0, 1.0] * 19, 50.0) > 50.0


def test_colours_and_dashes_tell_twenty_runs_apart() -> None:
    from janus_cli.lab.reporting.plots import Look

    assert len({Look.of(index) for index in range(20)}) == 20
