"""What stands in the rows of `janus compare`: scores, differences and the row that the others are compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from janus_cli.lab.comparing.entry import Outcome, Row
from janus_cli.lab.comparing.report import scored

REFERENCES = [
    f"a sentence of {word} words and number {number}" for number, word in enumerate(["six", "ten", "two"] * 6)
]
WORSE = [line.replace("sentence", "phrase") if number % 2 else "nothing" for number, line in enumerate(REFERENCES)]


def outcome(system: str, seed: int, passes: float = 1.0, **rows: list[str]) -> Outcome:
    made = {label.replace("_", "."): Row(label.replace("_", "."), texts, passes) for label, texts in rows.items()}
    entry = SimpleNamespace(system=SimpleNamespace(name=system), seed=seed)
    return cast(Outcome, SimpleNamespace(entry=entry, rows=made))


def found(*done: Outcome, against: str | None = None) -> tuple[dict[str, dict[str, Any]], str | None]:
    rows, base = scored(done, REFERENCES, against)
    return {f"{row['system']} {row['label']}": row for row in rows}, base


def test_a_difference_is_ours_less_theirs_and_p_is_that_of_the_least_certain_seed() -> None:
    rows, base = found(
        outcome("ar", 1, ar_beam1=WORSE), outcome("ar", 2, ar_beam1=REFERENCES),
        outcome("janus", 1, 4.0, nar4_lb1=REFERENCES), outcome("janus", 2, 5.0, nar4_lb1=REFERENCES),
    )  # fmt: skip
    assert (base, rows["ar ar.beam1"]["comparison"]) == ("ar ar.beam1", None)
    ours, theirs = rows["janus nar4.lb1"], rows["ar ar.beam1"]
    assert (ours["seeds"], ours["passes"]) == ([1, 2], 4.5)
    assert ours["scores"]["bleu"]["values"] == {"1": pytest.approx(100), "2": pytest.approx(100)}
    low = theirs["scores"]["bleu"]["values"]["1"]
    assert 0 < low < 60
    compared = ours["comparison"]
    assert compared["difference"] == pytest.approx((100 - low) / 2)
    assert compared["seeds"]["1"]["difference"] == pytest.approx(100 - low)
    assert compared["seeds"]["2"]["difference"] == pytest.approx(0)
    assert compared["seeds"]["1"]["p"] < 0.01
    assert compared["p"] == compared["seeds"]["2"]["p"] > 0.9


def test_the_named_row_is_what_the_others_are_compared_with() -> None:
    done = outcome("ar", 1, ar_beam1=WORSE), outcome("janus", 1, nar4_lb1=REFERENCES, ar_beam1=WORSE)
    rows, base = found(*done, against="janus nar4.lb1")
    assert base == "janus nar4.lb1"
    assert rows["janus nar4.lb1"]["comparison"] is None
    assert rows["ar ar.beam1"]["comparison"]["difference"] < -40
    assert found(*done, against="janus nar9.lb1")[1] == "ar ar.beam1", "that row failed"
    assert found(outcome("cmlm", 1, nar1_lb1=WORSE))[1] == "cmlm nar1.lb1"


def test_seeds_that_one_of_them_lacks_are_left_out() -> None:
    rows, _ = found(
        outcome("ar", 1, ar_beam1=WORSE), outcome("janus", 1, nar4_lb1=REFERENCES), outcome("janus", 2, nar4_lb1=WORSE)
    )
    assert list(rows["janus nar4.lb1"]["comparison"]["seeds"]) == ["1"]
    rows, _ = found(outcome("ar", 1, ar_beam1=WORSE), outcome("janus", 2, nar4_lb1=WORSE))
    assert rows["janus nar4.lb1"]["comparison"] is None


def test_without_references_there_are_rows_and_no_scores() -> None:
    rows, base = scored([outcome("ar", 1, ar_beam1=WORSE), outcome("cmlm", 1, nar1_lb1=WORSE)], None, None)
    assert [(row["scores"], row["comparison"]) for row in rows] == [({}, None)] * 2
    assert base == "ar ar.beam1"
