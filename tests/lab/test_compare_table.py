"""What stands in the rows of `janus compare`: scores, differences and the row that the others are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli.lab.compare import table
from janus_cli.lab.entries import Entry, Output, scored
from janus_cli.lab.machine import describe
from janus_cli.lab.systems import System
from janus_cli.lab.tables import markdown, without_empty
from janus_cli.runs import Run
from janus_cli.scoring.judge import Judge

BLEU = Judge("bleu")
REFERENCES = [
    f"a sentence of {word} words and number {number}" for number, word in enumerate(["six", "ten", "two"] * 6)
]
WORSE = [line.replace("sentence", "phrase") if number % 2 else "nothing" for number, line in enumerate(REFERENCES)]


def entry(system: str, seed: int, passes: float = 1.0, **texts: list[str]) -> Entry:
    outputs = {label.replace("_", "."): Output(lines, passes) for label, lines in texts.items()}
    return Entry(System(system, "ar"), seed, Run(Path()), outputs=outputs)


def found(
    *entries: Entry, judge: Judge = BLEU, against: str | None = None
) -> tuple[dict[str, dict[str, Any]], str | None]:
    rows, base = scored(entries, [REFERENCES], judge, against)
    return {f"{row['system']} {row['label']}": row for row in rows}, base


def test_a_difference_is_ours_less_theirs_over_seeds_and_for_each_seed() -> None:
    rows, base = found(
        entry("ar", 1, ar_beam1=WORSE), entry("ar", 2, ar_beam1=REFERENCES),
        entry("janus", 1, 4.0, nar4_lb1=REFERENCES), entry("janus", 2, 5.0, nar4_lb1=REFERENCES),
    )  # fmt: skip
    assert (base, rows["ar ar.beam1"]["comparison"]) == ("ar ar.beam1", None)
    ours, theirs = rows["janus nar4.lb1"], rows["ar ar.beam1"]
    assert (ours["seeds"], ours["passes"]) == ([1, 2], 4.5)
    assert ours["scores"]["bleu"]["values"] == {"1": pytest.approx(100), "2": pytest.approx(100)}
    low = theirs["scores"]["bleu"]["values"]["1"]
    assert 0 < low < 60
    compared = ours["comparison"]
    assert compared["difference"] == pytest.approx((100 - low) / 2)
    assert [compared["seeds"][seed]["difference"] for seed in "12"] == [pytest.approx(100 - low), pytest.approx(0)]
    assert compared["seeds"]["1"]["p"] < 0.01
    assert compared["interval"]["low"] == 0, "both seeds drawn may be the one that is as good"
    assert compared["interval"]["high"] > 40
    assert compared["p"] > 0.1


def test_the_named_row_is_what_the_others_are_compared_with() -> None:
    both = entry("ar", 1, ar_beam1=WORSE), entry("janus", 1, nar4_lb1=REFERENCES, ar_beam1=WORSE)
    rows, base = found(*both, against="janus nar4.lb1")
    assert base == "janus nar4.lb1"
    assert rows["janus nar4.lb1"]["comparison"] is None
    assert rows["ar ar.beam1"]["comparison"]["difference"] < -40
    assert found(*both, against="janus nar9.lb1")[1] == "ar ar.beam1", "that row failed"
    assert found(entry("cmlm", 1, nar1_lb1=WORSE))[1] == "cmlm nar1.lb1"


@pytest.mark.parametrize(("seeds", "common"), [((1, 2), ["1"]), ((2,), None)])
def test_seeds_that_one_of_them_lacks_are_left_out(seeds: tuple[int, ...], common: list[str] | None) -> None:
    rows, _ = found(entry("ar", 1, ar_beam1=WORSE), *(entry("janus", seed, nar4_lb1=REFERENCES) for seed in seeds))
    comparison = rows["janus nar4.lb1"]["comparison"]
    assert (comparison and list(comparison["seeds"])) == common


def test_the_table_says_which_seeds_a_difference_is_of() -> None:
    rows, base = scored(
        [entry("ar", 1, ar_beam1=WORSE), *(entry("janus", seed, ar_beam1=REFERENCES) for seed in (1, 3))],
        [REFERENCES], BLEU, None,
    )  # fmt: skip
    results = {
        "rows": [{**row, "speed": None} for row in rows], "against": base, "systems": [], "scoring": BLEU.plain,
        "settings": {"steps": 9, "minutes": None, "average": 0, "jobs": 1}, "recipe": "demo", "changes": [],
        "sentences": 9, "split": "test", "machine": describe(torch.device("cpu")), "timed": None,
    }  # fmt: skip
    assert "janus ar.beam1: difference and p are of seed 1, which ar ar.beam1 has, too" in table(results)


def test_repeats_are_the_mean_over_seeds() -> None:
    twice, empty = ["a a"] * len(REFERENCES), [""] * len(REFERENCES)
    both = entry("ar", 1, ar_beam1=REFERENCES), entry("ar", 2, ar_beam1=twice)
    rows, _ = found(*both, entry("cmlm", 1, nar1_lb1=empty))
    length = 2 / 8  # of the words of a reference
    assert rows["ar ar.beam1"]["repeats"] == {
        "repeated_words": 0.25, "repeated_trigrams": 0, "length_ratio": pytest.approx((1 + length) / 2),
    }  # fmt: skip
    assert rows["cmlm nar1.lb1"]["repeats"]["repeated_words"] is None


def test_without_references_there_are_rows_and_no_scores() -> None:
    rows, base = scored([entry("ar", 1, ar_beam1=WORSE), entry("cmlm", 1, nar1_lb1=WORSE)], None, BLEU, None)
    assert [(row["scores"], row["comparison"]) for row in rows] == [({}, None)] * 2
    assert base is None


def test_columns_without_values_are_left_out() -> None:
    columns, rows = {"row": "", "a": ".1f", "b": ".1f"}, [["x", None, 1.0], ["y", None, None]]
    assert without_empty(columns, rows) == ({"row": "", "b": ".1f"}, [["x", 1.0], ["y", None]])
    assert without_empty(columns, []) == (columns, [])


def test_columns_of_words_are_left_aligned_and_those_of_numbers_right() -> None:
    rows = [["ar", "ar.beam1", 3.0, None], ["cmlm", "nar4", -1.0, "+0.1 to +0.3"]]
    rule = markdown({"system": "", "decoding": "", "BLEU": ".1f", "95 %": ""}, rows).split("\n")[1]
    assert [cell.strip()[-1] for cell in rule.strip("|").split("|")] == ["-", "-", ":", ":"]


def test_another_metric_judges_and_knows_which_way_is_better() -> None:
    both = entry("ar", 1, ar_beam1=WORSE), entry("janus", 1, nar4_lb1=REFERENCES)
    rows, _ = found(*both, judge=Judge("edit"))
    ours = rows["janus nar4.lb1"]
    assert {name: each["values"]["1"] for name, each in ours["scores"].items()} == {
        "edit": 0,
        "chrf": pytest.approx(100),
    }
    assert ours["comparison"]["difference"] < -5
    assert ours["comparison"]["seeds"]["1"]["wins"] == 1
    assert list(found(*both, judge=Judge("chrf"))[0]["ar ar.beam1"]["scores"]) == ["chrf"]


def test_outputs_that_are_one_text_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    junk, good = ["the the"] * len(REFERENCES), [f"{n} {text}" for n, text in enumerate(REFERENCES)]
    scored([entry("ar", 3, ar_beam1=junk), entry("cmlm", 3, nar1_lb1=good)], [REFERENCES], BLEU, None)
    said = capsys.readouterr().err
    assert f"ar ar.beam1, seed 3: {len(junk)} of {len(junk)} outputs are one text" in said
    assert "cmlm" not in said
