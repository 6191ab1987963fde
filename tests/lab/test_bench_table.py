"""The table, the ratios, the plot, and the file that is kept; from made-up timings."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli.lab import machine, plots
from janus_cli.lab.bench import keep, table
from janus_cli.lab.labels import MODES
from janus_cli.lab.rows import Decoded, Row
from janus_cli.lab.threads import Threads
from janus_cli.runs import Run
from janus_cli.system import peak_bytes


def refuse(lines: Sequence[str], batch: int) -> Decoded:
    raise AssertionError("nothing is decoded here")


PEER = "slowpoke.beam1"
ONE, WORKERS = Threads(1, 1), Threads(2, 1)
AR = Row(
    "ar.beam1", "ar", refuse, {}, {8: 1.0, 16: 2.0}, 8, [2.0, 1.0, 4.0],
    [[0.02, 0.04], [0.01, 0.03], [0.05, 0.03]], one_by_one=ONE, in_batches={8: Threads(1, 2), 16: ONE},
    tried={0: {ONE: 0.1, Threads(1, 2): 0.2}, 8: {ONE: 0.5, Threads(1, 2): 0.4}, 16: {}},
)  # fmt: skip
NAR = Row(
    "nar4.lb1", "nar", refuse, {}, {8: 1.0, 16: 0.5}, 16, [1.0, 1.0, 4.0],
    [[0.004, 0.02], [0.01, 0.02], [0.01, 0.02]], one_by_one=ONE, in_batches={16: ONE},
)  # fmt: skip
SLOW = replace(AR, label=PEER, mode="peer", in_batches={8: WORKERS})
START = {name: {"median": median, "lowest": 0, "highest": 9} for name, median in (("seconds", 2.345), ("load", 0.5))}


def shown(row: Row, base: Row = AR, **changes: Any) -> dict[str, Any]:
    quality = {"metric": "bleu", "value": 30.126, "signature": "nrefs:1|tok:13a"}
    return {
        "label": row.label, "mode": row.mode, "options": {}, "quality": quality, "passes": 4.0,
        **row.timings(10), "memory": {"before": 1 << 20, "peak": 3 << 20}, "disk": 5 << 19, "start": START,
        "ratios": {base.label: row.speed_against(base)}, **changes,
    }  # fmt: skip


def results(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    where = {"device": "cpu", "cpu": "Abacus", "cores": 2, "threads": 1, "torch": "2", "load": 0.1}
    work = {
        "sentences": 1000,
        "lines": 10,
        "singles": 2,
        "batches": [8, 16],
        "repeats": 3,
        "warmup": 1,
        "threads": ["1", "2"],
    }
    return {
        "run": "runs/a", "checkpoint": "step-000001", "split": "test", "machine": where, "work": work,
        "scoring": {"metric": "bleu", "tokenize": "13a"},
        "rows": rows or (shown(AR), shown(NAR)),
        "left_out": {"spec": "no such side", "nar1": "no such side"}, "warnings": [], "changes": [], **changes,
    }  # fmt: skip


def cells(part: str) -> list[list[str]]:
    """Of a table, without the rule below its head."""
    lines = part.split("\n")
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_timings_are_medians_over_repeats_with_their_range_and_every_second() -> None:
    assert AR.timings(10) == {
        "latency": {
            "p50": {"median": 0.02, "lowest": 0.01, "highest": 0.03},
            "p95": {"median": 0.04, "lowest": 0.03, "highest": 0.05},
            "seconds": AR.singles,
            "threads": {"workers": 1, "each": 1},
            "tried": {"1": 0.1, "2": 0.2},
        },
        "throughput": {
            "batch": 8,
            "sentences_per_second": {"median": 5.0, "lowest": 2.5, "highest": 10.0},
            "seconds": [2.0, 1.0, 4.0],
            "trials": {"8": 1.0, "16": 2.0},
            "threads": {"workers": 1, "each": 2},
            "tried": {"8": {"1": 0.5, "2": 0.4}, "16": {}},
        },
    }


def test_ratios_are_medians_of_the_ratios_within_a_repeat() -> None:
    assert AR.speed_against(AR) == {"latency": 1.0, "throughput": 1.0}
    # Of 5, 1, 3 and of 2, 1, 1; the ratios of the medians would be 2 and 2.
    assert NAR.speed_against(AR) == {"latency": pytest.approx(3.0), "throughput": pytest.approx(1.0)}


def test_the_table_is_markdown_with_the_machine_above_and_the_conditions_below() -> None:
    head, drawn, notes = table(results(warnings=["too busy"], changes=["decoding.precision=bf16"])).split("\n\n")
    assert "runs/a, checkpoint step-000001 --set decoding.precision=bf16, " in head
    assert "Abacus, 2 cores, 1 thread, torch 2, load average before the start 0.1" in head
    assert cells(drawn) == [
        ["mode", "BLEU", "passes", "batch 1: p50 ms", "p95 ms", "sentences/s", "batch", "threads", "MiB", "disk MiB",
         "load s", "start s", "× ar.beam1"],
        ["ar.beam1", "30.13", "4.0", "20.0 (10.0–30.0)", "40.0 (30.0–50.0)", "5.00 (2.50–10.00)", "8", "1 / 2", "2",
         "2.5", "0.50", "2.35", "1.00 / 1.00"],
        ["nar4.lb1", "30.13", "4.0", "10.0 (4.0–10.0)", "20.0 (20.0–20.0)", "10.0 (2.5–10.0)", "16", "1", "2",
         "2.5", "0.50", "2.35", "3.00 / 1.00"],
    ]  # fmt: skip
    for words in ("text to text", "3 repeats", "nrefs:1|tok:13a", "left out: spec, nar1: no such side", "too busy"):
        assert words in notes


def test_rows_that_chose_their_threads_say_so_and_fixed_ones_stand_at_the_head() -> None:
    peer = shown(SLOW, SLOW)
    chosen = results(shown(NAR, SLOW), peer)
    chosen["machine"]["threads"], chosen["work"]["threads"] = None, ["1", "2", "2×1"]
    head, drawn, _, notes = table(chosen).split("\n\n")
    assert "Abacus, 2 cores, torch 2" in head
    assert [line[7] for line in cells(drawn)[1:]] == ["1", "1 / 2×1"]
    assert "1, 2, 2×1" in notes
    assert "1, 2" not in table(results())
    pytest.importorskip("matplotlib")
    assert "thread" not in plots.quality_against_latency(chosen).decode()


def test_a_start_that_failed_is_a_dash() -> None:
    _, drawn, _ = table(results(shown(AR), shown(NAR, start=None))).split("\n\n")
    assert [line[-3:-1] for line in cells(drawn)[1:]] == [["0.50", "2.35"], ["–", "–"]]


def test_a_metric_that_is_better_when_lower_is_marked() -> None:
    quality = {"metric": "edit", "value": 1.234, "signature": "nrefs:1|unit:characters"}
    _, drawn, notes = table(results(shown(AR, quality=quality), scoring={"metric": "edit"})).split("\n\n")
    assert cells(drawn)[0][1] == "edit distance (lower is better)"
    assert cells(drawn)[1][1] == "1.23"
    assert "* edit distance (lower is better): nrefs:1|unit:characters" in notes


def test_without_references_there_is_no_score_and_no_metric_is_named() -> None:
    rows = [shown(row, quality=None) for row in (AR, NAR)]
    text = table(results(*rows, scoring={"metric": "chrf"}))
    assert "| mode     | passes |" in text
    assert "chrF" not in text


def test_peers_get_a_table_of_their_own() -> None:
    peer = shown(SLOW, SLOW, quality=None, passes=None, memory=None)
    _, first, second, _ = table(results(shown(NAR, SLOW), peer)).split("\n\n")
    assert [line[:3] for line in cells(first)[2:]] == [[PEER, "–", "–"]]
    assert cells(second) == [["speed relative to", PEER], ["nar4.lb1", "3.00 / 1.00"]]


def test_what_is_kept_never_replaces_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20300101-000000")
    names = [keep(Run(tmp_path), {"number": number}).name for number in range(3)]
    assert names == ["20300101-000000.json", "20300101-000000-2.json", "20300101-000000-3.json"]
    assert [json.loads((tmp_path / "bench" / name).read_bytes())["number"] for name in names] == [0, 1, 2]


def test_the_plot_names_every_row() -> None:
    pytest.importorskip("matplotlib")
    assert set(plots.MODE_MARKERS) == {*MODES, "peer"}
    data = results(shown(AR), shown(NAR), shown(SLOW, quality=None))
    drawn = plots.quality_against_latency(data)
    text = drawn.decode()
    assert text.startswith("<?xml")
    for words in ("ar.beam1", "nar4.lb1", PEER, "BLEU", "Abacus, 1 thread<"):
        assert words in text
    assert plots.quality_against_latency(data) == drawn
    unscored = results(shown(AR, quality=None), scoring={"metric": "chrf"})
    text = plots.quality_against_latency(unscored).decode()
    assert ("chrF" in text, "BLEU" in text) == (True, False)


@pytest.mark.parametrize(("load", "busy"), [(None, False), (0.0, False), (1.0, False), (1.01, True), (9.0, True)])
def test_a_busy_machine_is_told(load: float | None, busy: bool) -> None:
    assert bool(machine.too_busy(load, 2)) == busy


def test_the_machine_is_described_and_memory_only_grows() -> None:
    found = machine.describe(torch.device("cpu"))
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    before = peak_bytes()
    held = bytearray(b"x" * (before + (64 << 20)))
    assert peak_bytes() >= len(held)
