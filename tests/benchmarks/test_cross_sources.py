"""Crossed sentences: each is the beginning of one and the end of another, and none is a line that is known."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = [
    "a man sits on a red chair today", "the woman stands on a green hill alone", "two dogs lie on a blue sofa outside",
    "a child plays with a red ball there", "one girl runs with a green kite away", "short one",
]  # fmt: skip


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    Path("train").write_text("".join(f"{line}\n" for line in TRAIN), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "cross_sources.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def crossed(*arguments: str) -> tuple[list[str], str]:
    done = called("train", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def is_crossed(line: str) -> bool:
    """Whether two words in a row, in the middle of two different sentences, join a beginning to an end."""
    words = line.split()
    for first in map(str.split, TRAIN):
        for second in map(str.split, TRAIN):
            for cut in range(1, len(first) - 2):
                for at in range(1, len(second) - 2):
                    same = first != second and first[cut : cut + 2] == second[at : at + 2]
                    if same and words == first[:cut] + second[at:]:
                        return True
    return False


@pytest.mark.usefixtures("empty_folder")
def test_lines_are_crossed_new_and_the_same_for_a_seed() -> None:
    lines, err = crossed("--lines", "7")
    assert (len(lines), err) == (7, "")
    assert len(set(lines)) == 7
    assert not set(lines) & set(TRAIN)
    assert all(map(is_crossed, lines))
    assert crossed("--lines", "7")[0] == lines
    assert crossed("--lines", "7", "--seed", "2")[0] != lines


@pytest.mark.usefixtures("empty_folder")
def test_known_lines_do_not_come_out_and_too_few_are_told() -> None:
    lines, err = crossed("--lines", "1000")
    assert f"{len(lines)} lines instead of 1,000" in err
    with gzip.open("valid.gz", "wt", encoding="utf-8-sig") as file:  # no line end behind the last one
        file.write(f"{lines[0]}\n{lines[1]}")
    rest, _ = crossed("--lines", "1000", "--without", "valid.gz")
    assert sorted(rest) == sorted(lines[2:])
    short, _ = crossed("--lines", "1000", "--longest", "8")
    assert sorted(short) == sorted(line for line in lines if len(line.split()) <= 8)


@pytest.mark.usefixtures("empty_folder")
def test_sentences_that_share_nothing() -> None:
    Path("lonely").write_text("one two three four five\nsix seven eight nine ten\n", encoding="utf-8")
    done = called("lonely", "--lines", "10")
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 lines instead of 10" in done.stderr


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["latin"], "latin:1"),
        (["train", "--without", "nowhere"], "nowhere does not exist"),
        (["train", "--lines", "0"], "above 0"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    Path("latin").write_bytes("süß\n".encode("latin-1"))
    done = called(*arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
