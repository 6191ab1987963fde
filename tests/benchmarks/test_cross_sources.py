"""Crossed sentences: each is the beginning of one and the end of another, and none is a line that is known."""

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

Called = Callable[..., SimpleNamespace]  # returncode, stdout, stderr
Crossed = Callable[..., tuple[list[str], str]]
TRAIN = [
    "a man sits on a red chair today", "the woman stands on a green hill alone", "two dogs lie on a blue sofa outside",
    "a child plays with a red ball there", "one girl runs with a green kite away", "short one",
]  # fmt: skip


@pytest.fixture
def crossed(called: Called) -> Crossed:
    """The lines that cross those of TRAIN, and stderr."""
    Path("train").write_text("".join(f"{line}\n" for line in TRAIN), encoding="utf-8")

    def run(*arguments: str) -> tuple[list[str], str]:
        done = called("cross_sources", "train", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    return run


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


def test_lines_are_crossed_new_and_the_same_for_a_seed(crossed: Crossed) -> None:
    lines, err = crossed("--lines", "7")
    assert (len(lines), err) == (7, "")
    assert len(set(lines)) == 7
    assert not set(lines) & set(TRAIN)
    assert all(map(is_crossed, lines))
    assert crossed("--lines", "7")[0] == lines
    assert crossed("--lines", "7", "--seed", "2")[0] != lines


@pytest.mark.slow
def test_known_lines_do_not_come_out_and_too_few_are_told(crossed: Crossed) -> None:
    lines, err = crossed("--lines", "1000")
    assert f"{len(lines)} lines instead of 1,000" in err
    with gzip.open("valid.gz", "wt", encoding="utf-8-sig") as file:  # no line end behind the last one
        file.write(f"{lines[0]}\n{lines[1]}")
    rest, _ = crossed("--lines", "1000", "--without", "valid.gz")
    assert sorted(rest) == sorted(lines[2:])
    short, _ = crossed("--lines", "1000", "--longest", "8")
    assert sorted(short) == sorted(line for line in lines if len(line.split()) <= 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["latin"], "latin:1"),
        (["train", "--without", "nowhere"], "nowhere does not exist"),
        (["train", "--lines", "0"], "above 0"),
    ],
)
def test_mistakes_are_named(called: Called, arguments: list[str], message: str) -> None:
    Path("latin").write_bytes("süß\n".encode("latin-1"))
    Path("train").touch()
    done = called("cross_sources", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
