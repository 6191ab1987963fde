"""The plots of a report and the numbers beside them; `tests/commands/test_report.py` makes whole pages."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from janus_cli.lab import plots
from janus_cli.lab.plots import Look
from janus_cli.lab.probe import Probe, RunReport, labels, sampled, spread
from janus_cli.lab.report import page, splits
from janus_cli.runs import Run

LENGTHS = np.array([3, 4, 4, 100]), np.array([4, 4, 5, 90])
CURVE = [(step, 10 / step) for step in range(1, 100)]
BROKEN = [(1, math.nan), (2, math.inf), (3, 1.0)]
LOOK, OTHER = Look.of(0), Look.of(8)


def single(value: float) -> str:
    return plots.curves([(LOOK, [(3, value)])], [], "nats", falling=True, from_zero=True)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.curves([(LOOK, CURVE), (OTHER, BROKEN)], [(LOOK, CURVE[::9])], "nats", falling=True),
        lambda: plots.reliability([(LOOK, [(0.1, 0.2, 0.5), (0.9, 1.0, 0.5)])]),
        lambda: plots.length_histogram(*LENGTHS),
        lambda: plots.length_errors([(LOOK, LENGTHS[0] - LENGTHS[1])]),
        lambda: plots.length_pairs(LOOK, *LENGTHS),
        lambda: single(1.0),
        lambda: single(math.nan),
    ],
)
def test_plots_repeat_and_bring_nothing_from_elsewhere(draw: Callable[[], str]) -> None:
    pytest.importorskip("matplotlib")
    drawn = draw()
    assert drawn == draw()
    assert drawn.startswith("<svg ")
    assert "<text" in drawn
    assert not re.findall(r'(?:href="|url\()(?!#)', drawn)
    assert "<style" not in drawn


def test_a_run_with_one_line_in_its_log_is_a_dot() -> None:
    pytest.importorskip("matplotlib")
    dots = [len(re.findall(rf"<use [^>]*{LOOK.colour.lower()}", single(value))) for value in (1.0, math.nan)]
    assert dots == [1, 0]


def test_the_start_may_lie_above_the_frame_and_later_points_may_not() -> None:
    pytest.importorskip("matplotlib")

    def top(*values: float) -> float:
        """The highest label of the vertical axis."""
        drawn = plots.curves([(LOOK, [(10 * n, value) for n, value in enumerate(values)])], [], "nats", falling=True)
        return max(map(float, re.findall(r">([\d.]+)</text>", drawn.partition("ytick_1")[2])))

    assert 1.5 < top(50.0, *[2.0, 1.0] * 20) < 3.0
    assert top(1.0, *[2.0, 1.0] * 19, 50.0) >= 50.0


def test_predicted_lengths_are_told_with_their_sign_and_every_figure_has_ids_of_its_own() -> None:
    pytest.importorskip("matplotlib")
    probe = Probe("last", 1, (4, 4), {}, (np.array([3, 5, 9, 4]), np.array([3, 7, 5, 4])), [])
    reports = [RunReport(name, Run(Path(name)), Look.of(0), probe=probe) for name in ("a", "b")]
    text = page(reports, datetime.now(UTC)).decode()
    for name in "ab":
        row = re.search(rf"<tr><th>{name}</th>(<td>4</td>.*?)</tr>", text)
        assert row is not None
        assert re.findall(r"<td>(.*?)</td>", row[1]) == ["4", "50.0%", "75.0%", "1.50", "+0.50"]
    pairs = [each for each in text.split("<figure>")[1:] if "predicted and real" in each]
    ids, used = ([set(re.findall(what, each)) for each in pairs] for what in (r'\bid="([^"]+)"', r'href="#([^"]+)'))
    assert len(ids) == 2
    assert all(ids)
    assert not ids[0] & ids[1]
    assert all(wanted and wanted <= there for wanted, there in zip(used, ids, strict=True))


def test_a_path_that_is_no_text_can_be_written() -> None:
    assert rb"a\udc80b" in page(
        [RunReport("run", Run(Path("a\udc80b")), LOOK, missing={"log": "", "probe": ""})], datetime.now(UTC)
    )


def test_runs_of_one_name_are_told_apart_by_their_path() -> None:
    paths = [Path("a/run"), Path("b/run"), Path("b/other")]
    assert labels(paths) == ["a/run", "b/run", "other"]
    assert len({Look.of(index) for index in range(20)}) == 20


def test_the_manifest_as_rows() -> None:
    tokens = {"mean": 2.5, "p50": 2, "p95": 4, "max": 5, "sum": 2500}
    split = {"in": 1002, "kept": 1000, "dropped": {"ratio": 2}, "tokens": {"source": tokens}}
    row = ["train, source", 1002, 1000, "ratio 2", 2500, 2.5, 2, 4, 5]
    assert splits({"splits": {"train": split}}) == [row]
    valid = {**split, "dropped": {}, "left_out": {"empty": 3}}
    assert splits({"splits": {"valid": valid}})[0][3] == "without losses: empty 3"


def test_sentences_are_the_same_every_time_and_spread() -> None:
    assert sampled(5, 9).tolist() == [0, 1, 2, 3, 4]
    some = sampled(1000, 20)
    assert some.tolist() == sampled(1000, 20).tolist()
    assert len(set(some.tolist())) == 20
    assert spread(np.arange(8) * 10, 3) == [20, 40, 60]
    assert spread(np.array([7]), 3) == [7]
    assert spread(np.zeros(0, np.int64), 3) == []
