"""log.jsonl read back: after kills, resumes and skipped updates."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from janus_cli.errors import DataError
from janus_cli.lab.logbook import Logbook, read
from janus_cli.training.log import Log

RUNNING = "running, or ended without a final log entry"


def line(kind: str, step: int, **values: Any) -> str:
    return json.dumps({"kind": kind, "step": step, "time": 1.0, **values})


def train(step: int, loss: float) -> str:
    return line("train", step, loss=loss, terms={"ce_ar": loss / 2}, seconds_per_update=0.5)


def log(folder: Path, *lines: str) -> Logbook:
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read(path)


def test_what_a_training_logs_comes_back(tmp_path: Path) -> None:
    written = Log(tmp_path / "log.jsonl")
    written.write("start", 0, parameters=3)
    written.write("train", 2, loss=1.5, terms={"ce_ar": 1.0, "length": 5.0}, lr=0.1)
    written.write("valid", 2, loss=1.25, bleu_ar=30.0)
    written.write("skipped", 2, why="loss is nan", in_a_row=1, sentences=[4])
    written.write("done", 3, early=True)
    found = read(tmp_path / "log.jsonl")
    assert found.curves("train") == {"loss": [(2, 1.5)], "lr": [(2, 0.1)], "ce_ar": [(2, 1.0)], "length": [(2, 5.0)]}
    assert found.curves("valid") == {"loss": [(2, 1.25)], "bleu_ar": [(2, 30.0)]}
    assert [entry["why"] for entry in found.of("skipped")] == ["loss is nan"]
    assert (found.damaged, found.redone, found.state) == (0, 0, "done, early stop")


FIRST = line("start", 0)
CASES: dict[str, tuple[list[str], list[tuple[int, float]], int, int]] = {  # lines, losses, damaged, redone
    "torn last line": ([FIRST, train(50, 2.0), train(100, 1.0)[:-7]], [(50, 2.0)], 1, 0),
    "resume behind a torn line": ([FIRST, train(50, 2.0)[:30] + line("resumed", 0), train(50, 3.0)], [(50, 3.0)], 1, 0),
    "undone by a resume": (
        [FIRST, train(50, 3.0), train(100, 2.0), train(150, 1.0), line("resumed", 100), train(150, 1.1)],
        [(50, 3.0), (100, 2.0), (150, 1.1)], 0, 1,
    ),
    **{
        broken: ([broken, train(50, 3.0)], [(50, 3.0)], 1, 0)
        for broken in ("[1]", "3", '{"kind": 1, "step": 2}', '{"kind": "train", "step": "2"}', "\0\xff", "{")
    },
    "nothing but blank lines": (["", "  ", ""], [], 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_damage_and_resumes(name: str, tmp_path: Path) -> None:
    lines, losses, damaged, redone = CASES[name]
    found = log(tmp_path, *lines)
    assert found.curves("train").get("loss", []) == losses
    assert (found.damaged, found.redone) == (damaged, redone)
    assert len(found.of("start", "resumed")) == sum('"kind": "resumed"' in each or each == FIRST for each in lines)


def test_time_in_updates_leaves_breaks_out(tmp_path: Path) -> None:
    found = log(tmp_path, FIRST, train(50, 3.0), line("resumed", 50), train(100, 2.0))
    assert found.seconds == 50.0


def test_numbers_that_are_not_finite_are_kept_and_words_are_no_numbers(tmp_path: Path) -> None:
    found = log(tmp_path, line("train", 1, loss=math.nan, early=True, note="x", seconds_per_update=math.inf))
    (step, value) = found.curves("train")["loss"][0]
    assert step == 1
    assert math.isnan(value)
    assert list(found.curves("train")) == ["loss", "seconds_per_update"]
    assert found.seconds == 0.0


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (line("done", 9, early=False), "done"),
        (line("stopped", 9, signal=15), "stopped by signal 15"),
        (train(9, 1.0), RUNNING),
        ("", RUNNING),
    ],
)
def test_state(tmp_path: Path, last: str, state: str) -> None:
    assert log(tmp_path, last).state == state


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl does not exist"):
        read(tmp_path / "log.jsonl")
