"""Which rows a run has, how rows are named, and, on a scripted clock, how they are timed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.errors import OutOfMemoryError, UsageError
from janus_cli.lab.labels import row_options
from janus_cli.lab.rows import Decoded, Row, Work, measure, select
from janus_cli.lab.threads import Threads

NAR = [f"nar{n}.lb{k}" for n in (1, 4, 10) for k in ("1", "5", "5.rerank")]
PLAIN_NAR = [label for label in NAR if not label.endswith("rerank")]
AR = ["ar.beam1", "ar.beam5"]
SPEC = ["spec", "spec.redraft-ar"]


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
    assert set(plans) | set(left_out) == set(row_options())
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
        (["nar1"], NAR[:3]),
        (["spec"], ["spec"]),
        (["nar4.lb5"], ["nar4.lb5"]),
        (["nar4.lb5.rerank", "ar.beam5"], ["ar.beam5", "nar4.lb5.rerank"]),
        (["nar6.lb3.rerank", "ar.beam4", "nar1.lb1"], ["nar1.lb1", "nar6.lb3.rerank", "ar.beam4"]),
        (["ar", "ar.beam12"], [*AR, "ar.beam12"]),
        (["nar20", "nar20.lb3"], ["nar20.lb1", "nar20.lb5", "nar20.lb5.rerank", "nar20.lb3"]),
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
        ("janus", "nar6.lb7.rerank.keep2",
         {"mode": "nar", "iters": 6, "length_beam": 7, "keep_lengths": 2, "rerank": "ar"}),
        ("janus", "nar4.lb5.rerank-nar.keep0",
         {"mode": "nar", "iters": 4, "length_beam": 5, "keep_lengths": 0, "rerank": "nar"}),
        ("bang", "semi7", {"mode": "semi", "block": 7}),
    ],
)  # fmt: skip
def test_a_row_may_have_any_numbers(objective: str, name: str, options: dict[str, object]) -> None:
    plan = select(recipe_load.load("demo", (), objective), [name]).plans[name]
    assert plan.label.removesuffix(".norepeats") == name  # what bang brings is no part of the row
    assert (plan.mode, *(getattr(plan.options, knob) for knob in list(options)[1:])) == tuple(options.values())


@pytest.mark.parametrize("name", ["nar0", "ar.beam1٣", "ar.beam", "nar4.lb3.", "na"])
def test_an_unknown_row_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such row") as caught:
        select(recipe_load.load("demo"), [name])
    assert "nar4.lb1" in caught.value.hint
    assert "nar6.lb3.rerank" in caught.value.hint


def test_a_run_that_can_do_none_of_the_rows() -> None:
    with pytest.raises(UsageError, match=r"supports none of ar.beam1, ar.beam5: .*cmlm"):
        select(recipe_load.load("demo", (), "cmlm"), ["ar"])


Call = tuple[str, int, int]


class Machine:
    """A clock that moves only while a row decodes, by `cost(label, lines, batch)` seconds; notes every call."""

    def __init__(self, costs: dict[str, dict[int, float]], fits: int = 10**6) -> None:
        self.now, self.costs, self.fits = 0.0, costs, fits
        self.calls: list[Call] = []

    def clock(self) -> float:
        return self.now

    def row(self, label: str) -> Row:
        def translate(lines: Sequence[str], batch: int) -> Decoded:
            self.calls.append((label, len(lines), batch))
            if batch > self.fits:
                raise OutOfMemoryError(f"a batch of {batch} does not fit")
            # Later calls take longer, so that an average over the wrong calls shows.
            self.now += self.costs[label][batch] * len(lines) + len(self.calls) / 1024
            return Decoded(list(lines), [1] * len(lines), len(lines))

        return Row(label, "ar", translate)


COSTS = {"a": {1: 4.0, 2: 3.0, 4: 1.0}, "b": {1: 5.0, 2: 1.0, 4: 2.0}, "c": {1: 6.0, 2: 9.0, 4: 8.0}}


def work(**changes: Any) -> Work:
    return replace(Work(list("stuvw"), list("xy"), batches=(2, 4), repeats=3, warmup=2), **changes)


def test_each_repeat_begins_with_the_next_row_and_uses_the_best_batch() -> None:
    machine = Machine(COSTS)
    advanced: list[tuple[int, str]] = []
    rows = [machine.row(label) for label in "abc"]
    asked = work()
    measure(rows, asked, lambda count, label: advanced.append((count, label)), machine.clock)
    best = {"a": 4, "b": 2, "c": 4}
    assert {row.label: row.batch for row in rows} == best
    trials = [("abc", 2), ("bca", 4)]
    expected = [(row, lines, batch) for order, batch in trials for row in order for lines in (2, 5)]
    expected += [(row, 2, best[row]) for row in "abc"]  # warm-up
    expected += [(row, 5, best[row]) for order in ("abc", "bca", "cab") for row in order]
    expected += [(row, 1, 1) for row in "abc" for _ in range(2)]  # warm-up
    expected += [(row, 1, 1) for order in ("abc", "bca", "cab") for row in order for _ in range(2)]
    assert machine.calls == expected
    assert (
        sum(count for count, _ in advanced) == 3 * asked.translations() == sum(lines for _, lines, _ in machine.calls)
    )


def test_seconds_are_those_of_the_call_and_warm_up_is_not_among_them() -> None:
    machine = Machine({"a": COSTS["a"]})
    row, call = machine.row("a"), 1 / 1024
    measure([row], work(), lambda *_: None, machine.clock)
    assert row.trials == {2: pytest.approx(15 + 2 * call), 4: pytest.approx(5 + 4 * call)}
    assert row.batched == pytest.approx([5 + n * call for n in (6, 7, 8)])
    assert row.singles == [pytest.approx([4 + n * call, 4 + (n + 1) * call]) for n in (11, 13, 15)]


def test_a_batch_that_does_not_fit_is_passed_over_and_none_that_fits_is_an_error() -> None:
    machine = Machine(COSTS, fits=2)
    row = machine.row("a")
    measure([row], work(batches=(4, 2)), lambda *_: None, machine.clock)
    assert (list(row.trials), row.batch) == ([2], 2)
    with pytest.raises(OutOfMemoryError, match="a, batch 4"):
        measure([machine.row("a")], work(batches=(4,)), lambda *_: None, machine.clock)


def test_without_warm_up_only_the_timed_lines_are_decoded() -> None:
    machine = Machine(COSTS)
    measure([machine.row("a")], work(warmup=0, repeats=1), lambda *_: None, machine.clock)
    assert machine.calls == [("a", 5, 2), ("a", 5, 4), ("a", 5, 4), ("a", 1, 1), ("a", 1, 1)]


ONE, TWO, WORKERS = Threads(1, 1), Threads(1, 2), Threads(2, 1)
FACTORS = {  # of a row's time, by its batch size and threads
    "alone": {1: {ONE: 1.0, TWO: 7.0}, 2: {ONE: 1.0, TWO: 7.0}, 4: {ONE: 2.0, TWO: 1.0}},
    "several": {
        1: {ONE: 2.0, TWO: 1.0, WORKERS: 0.1}, 2: {ONE: 2.0, TWO: 3.0, WORKERS: 1.0},
        4: {ONE: 2.0, TWO: 1.5, WORKERS: 3.0},
    },
}  # fmt: skip


def threaded(
    label: str,
    used: list[tuple[int, int, Threads]],
    machine: Machine | None = None,
    threads: list[Threads] | None = None,
) -> tuple[Row, Machine]:
    """A row whose speed depends on the last of the threads; notes batch size, lines and threads of every call."""
    machine, threads = machine or Machine({}), [ONE] if threads is None else threads

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        used.append((batch, len(lines), threads[-1]))
        machine.now += len(lines) / batch * FACTORS[label][batch][threads[-1]]
        return Decoded(list(lines), [1] * len(lines))

    return Row(label, "ar", translate, use=threads.append, several=label == "several"), machine


@pytest.mark.parametrize(
    ("label", "one_by_one", "in_batches"),
    [("alone", ONE, {2: ONE, 4: TWO}), ("several", TWO, {2: WORKERS, 4: TWO})],
)
def test_each_row_is_timed_with_the_threads_that_are_best_for_it(
    label: str, one_by_one: Threads, in_batches: dict[int, Threads]
) -> None:
    used: list[tuple[int, int, Threads]] = []
    row, machine = threaded(label, used)
    asked = work(lines=list("stuvwxyz"), threads=(ONE, TWO, WORKERS), repeats=2)
    measure([row], asked, lambda *_: None, machine.clock)
    assert (row.one_by_one, row.in_batches) == (one_by_one, in_batches)
    assert row.trials == {size: pytest.approx(8 / size * FACTORS[label][size][in_batches[size]]) for size in (2, 4)}
    assert used[-4:] == [(1, 1, one_by_one)] * 4
    whole = [threads for batch, lines, threads in used if (batch, lines) == (row.batch, 8)]
    assert whole[-2:] == [in_batches[row.batch]] * 2
    assert sum(lines for _, lines, _ in used) == asked.translations(row.several)
    found = row.timings(8)
    assert found["latency"]["threads"] == one_by_one._asdict()
    assert found["throughput"]["threads"] == in_batches[row.batch]._asdict()
    assert set(found["latency"]["tried"]) == {"1", "2"}, "single sentences leave other workers idle"
    assert set(found["throughput"]["tried"]["2"]) == ({"1", "2", "2×1"} if row.several else {"1", "2"})


def test_rows_that_share_a_process_have_their_own_threads_in_every_turn() -> None:
    machine, shared = Machine({}), [ONE]
    calls: dict[str, list[tuple[int, int, Threads]]] = {"alone": [], "several": []}
    rows = [threaded(label, used, machine, shared)[0] for label, used in calls.items()]
    asked = work(lines=list("stuvwxyz"), threads=(ONE, TWO, WORKERS), batches=(2,))
    measure(rows, asked, lambda *_: None, machine.clock)
    for used, one_by_one, in_batches in ((calls["alone"], ONE, ONE), (calls["several"], TWO, WORKERS)):
        assert [threads for batch, lines, threads in used if (batch, lines) == (2, 8)] == [in_batches] * 4
        assert used[-6:] == [(1, 1, one_by_one)] * 6


def test_threads_that_are_fixed_are_not_tried() -> None:
    used: list[tuple[int, int, Threads]] = []
    row, machine = threaded("alone", used)
    measure([row], work(threads=(TWO,)), lambda *_: None, machine.clock)
    assert {threads for *_, threads in used} == {TWO}
    assert (row.one_by_one, set(row.in_batches.values())) == (TWO, {TWO})
    assert len(used) == len(["warm", "trial"] * 2 + ["warm"] + ["turn"] * 3 + ["warm"] * 2 + ["turn"] * 3 * 2)


def test_torch_has_as_many_threads_afterwards_as_before() -> None:
    before = torch.get_num_threads()
    machine, seen = Machine(COSTS), set[int]()
    plain = machine.row("a")

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        seen.add(torch.get_num_threads())
        return plain.translate(lines, batch)

    measure([replace(plain, translate=translate)], work(threads=(TWO, Threads(1, 3))), lambda *_: None, machine.clock)
    assert seen == {2, 3}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("seconds", "percent", "expected"),
    [([3.0], 95, 3.0), ([4.0, 1.0, 3.0, 2.0], 50, 2.0), ([*range(1, 101)], 95, 95), ([*range(1, 22)], 95, 20)],
)
def test_percentiles_by_nearest_rank(seconds: list[float], percent: int, expected: float) -> None:
    row = Machine(COSTS).row("a")
    row.singles = [seconds]
    assert row.latencies(percent) == [expected]


def test_rows_of_another_engine_or_precision() -> None:
    recipe = recipe_load.load("demo", [])
    plans, left_out = select(recipe, ["ar.beam1", "ar.beam1.int8", "nar4.lb5.rerank.torch", "semi4.int8"])
    assert {name: (plan.options.engine, plan.options.precision) for name, plan in plans.items()} == {
        "ar.beam1": ("auto", "float32"), "ar.beam1.int8": ("auto", "int8"),
        "nar4.lb5.rerank.torch": ("torch", "float32"),
    }  # fmt: skip
    assert list(left_out) == ["semi4.int8"]
    for other in (["decoding.precision=bf16"], []):
        plans, left_out = select(
            recipe_load.load("demo", other), ["ar.beam1", "ar.beam1.int8"], "cpu" if other else "cuda"
        )
        assert (list(plans), list(left_out)) == (["ar.beam1"], ["ar.beam1.int8"])
