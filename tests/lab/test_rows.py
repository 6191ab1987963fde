"""Which rows a run has, and how rows are named."""

import pytest

from janus_cli import recipe_load
from janus_cli.errors import UsageError
from janus_cli.lab.rows import known, select

NAR = [f"nar{n}.lb{k}" for n in (1, 4, 10) for k in ("1", "5", "5.rerank")]
PLAIN_NAR = [label for label in NAR if not label.endswith("rerank")]
AR = ["ar.beam1", "ar.beam5"]
SPEC = ["spec", "spec.redraft-ar", "spec.redraft-joint"]


@pytest.mark.parametrize(
    ("objective", "rows", "reason"),
    [
        ("janus", AR + NAR + SPEC, "predicts lengths|in blocks"),
        ("ar", AR, "cannot decode"),
        ("cmlm", PLAIN_NAR, "cannot decode|has none|predicts lengths"),
        ("mpnet", AR + NAR, "cannot decode|predicts lengths"),
        ("bang", [*AR, "nar.eos", "semi2", "semi4"], "would change nothing|speculatively"),
    ],
)
def test_a_run_has_the_rows_that_it_can_do_and_says_why_not_the_others(
    objective: str, rows: list[str], reason: str
) -> None:
    plans, left_out = select(recipe_load.load("demo", (), objective), ())
    assert list(plans) == rows
    assert set(plans) | set(left_out) == set(known())
    for why in left_out.values():
        assert any(part in why for part in reason.split("|"))
    if objective == "janus":
        assert rows == [plan.label for plan in plans.values()]


def test_the_recipe_fills_in_the_rest_and_its_n_best_is_one() -> None:
    changes = ["decoding.nbest=2", "decoding.beam=2", "decoding.update=all", "decoding.max_extra=3"]
    ar, nar = select(recipe_load.load("demo", changes), ["ar.beam1", "nar4.lb1"]).plans.values()
    assert (ar.options.nbest, nar.options.nbest) == (1, 1)
    assert (ar.options.max_extra, nar.options.update) == (3, "all")


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["ar"], AR),
        (["nar"], NAR),
        (["spec"], SPEC),
        (["nar4"], NAR[3:6]),
        (["nar1"], NAR[:3]),
        (["nar4.lb5"], ["nar4.lb5"]),
        (["nar4.lb5.rerank", "ar.beam5"], ["ar.beam5", "nar4.lb5.rerank"]),
        (["ar", "ar.beam1"], AR),
        (["nar6.lb3.rerank", "ar.beam4", "nar1.lb1"], ["nar1.lb1", "nar6.lb3.rerank", "ar.beam4"]),
        (["ar", "ar.beam12"], [*AR, "ar.beam12"]),
    ],
)
def test_rows_are_picked_by_mode_label_or_start_and_keep_their_order(names: list[str], rows: list[str]) -> None:
    assert list(select(recipe_load.load("demo"), names).plans) == rows


@pytest.mark.parametrize(
    ("objective", "name", "options"),
    [
        ("janus", "ar.beam12", {"mode": "ar", "beam": 12}),
        ("janus", "nar20.lb3", {"mode": "nar", "iters": 20, "length_beam": 3, "rerank": "none"}),
        ("janus", "nar6.lb3.rerank", {"mode": "nar", "iters": 6, "length_beam": 3, "rerank": "ar"}),
        ("bang", "semi7", {"mode": "semi", "block": 7}),
    ],
)
def test_a_row_may_have_any_numbers(objective: str, name: str, options: dict[str, object]) -> None:
    plan = select(recipe_load.load("demo", (), objective), [name]).plans[name]
    assert plan.label.removesuffix(".norepeats") == name  # what bang brings is no part of the row
    assert (plan.mode, *(getattr(plan.options, knob) for knob in list(options)[1:])) == tuple(options.values())


@pytest.mark.parametrize(
    "name",
    ["nar5", "nar4.lb0", "ar.beam1٣", "ar.beam05", "nar4.lb3.", "semi0", "ar.beam", "nar4.lb5.rerankk", "*", "na"],
)
def test_an_unknown_row_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such row") as caught:
        select(recipe_load.load("demo"), [name])
    assert "nar4.lb1" in caught.value.hint
    assert "nar6.lb3.rerank" in caught.value.hint


def test_a_run_that_can_do_none_of_the_rows() -> None:
    with pytest.raises(UsageError, match=r"can do none of ar.beam1, ar.beam5: .*cmlm"):
        select(recipe_load.load("demo", (), "cmlm"), ["ar"])
