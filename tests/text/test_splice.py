"""Sentences crossed where they share two tokens: what comes out, and what does not."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from janus_cli.errors import DataError
from janus_cli.text import splice
from janus_cli.text.encode import Ragged
from janus_cli.text.splice import spliced


def of(rows: Sequence[Sequence[int]]) -> Callable[[int, int], Ragged]:
    return lambda start, stop: Ragged.of(rows[start:stop])


def make(
    rows: Sequence[Sequence[int]], count: int, seed: int = 1, longest: int = 99, never: Sequence[bytes] = ()
) -> list[tuple[int, ...]]:
    return [tuple(row) for row in spliced(of(rows), len(rows), count, seed, longest, never)]


TWO = [[1, 2, 7, 8, 3], [4, 5, 6, 7, 8, 9, 9]]


def test_two_sentences_cross_where_they_share_two_tokens() -> None:
    assert set(make(TWO, 2)) == {(1, 2, 7, 8, 9, 9), (4, 5, 6, 7, 8, 3)}


@pytest.mark.parametrize(
    "rows",
    [
        [[7, 8, 3], [4, 7, 8, 5]],  # the left part is shared as well
        [[1, 7, 8], [4, 7, 8, 5]],
        [[1, 7, 8, 3], [4, 7, 5, 8, 6]],  # no neighbours
        [[1, 7, 8, 3], [1, 7, 8, 3]],
        [[1, 7, 8, 2, 7, 8, 3]],  # with itself
        [[], [1]],
    ],
)
def test_what_cannot_be_crossed_is_said(rows: list[list[int]]) -> None:
    with pytest.raises(DataError, match="about 0 new ones, fewer than 1") as caught:
        make(rows, 1)
    assert "--splice" in caught.value.hint


def test_none_is_a_sentence_that_is_there_too_long_made_twice_or_forbidden() -> None:
    with pytest.raises(DataError, match="about 2 new ones, fewer than 3"):
        make(TWO, 3)
    with pytest.raises(DataError, match="about 0 new ones, fewer than 1"):
        make(TWO, 1, longest=5)
    never = [np.array([4, 5, 6, 7, 8, 3], np.int32).tobytes()]
    assert make(TWO, 1, never=never) == [(1, 2, 7, 8, 9, 9)]
    assert make(TWO, 0) == []


def some_text(count: int) -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(1, 9, size=draw.integers(4, 12)).tolist() for _ in range(count)]


def test_every_one_is_the_start_of_one_sentence_and_the_end_of_another() -> None:
    rows = some_text(60)
    made = make(rows, 200)
    assert len(set(made)) == 200
    for new in made:
        assert any(
            new[: cut + 2] == tuple(a[: cut + 2]) and len(a) > cut + 2
            and any(new[cut:] == tuple(b[-len(new) + cut :]) and len(b) > len(new) - cut for b in rows if b is not a)
            for cut in range(1, len(new) - 2)
            for a in rows
        )  # fmt: skip


def test_the_same_each_time_and_other_ones_with_another_seed() -> None:
    again = partial(make, some_text(40), 50)
    assert again() == again()
    assert again() != again(seed=2)


def test_no_sentence_of_the_text_comes_out() -> None:
    rows = some_text(60)
    assert not {tuple(row) for row in rows} & set(make(rows, 400))
    third = [1, 2, 7, 8, 9, 9]
    assert set(make([*TWO, third], 1)) == {(4, 5, 6, 7, 8, 3)}


def test_a_few_places_among_many_are_found() -> None:
    alone = [[number, number + 1, number + 2, number + 3] for number in range(100, 2000, 4)]
    assert len(make([*alone, *TWO], 2)) == 2


def test_more_than_there_are_is_said_soon() -> None:
    with pytest.raises(DataError, match="fewer than 1,000,000"):
        make(some_text(30), 1_000_000)


def test_blocks_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "BLOCK_ROWS", 25)
    rows = some_text(61)  # in blocks of 20, 20 and 21: none is too small
    made = make(rows, 31)
    assert len(made) == 31
    assert made[:10] == make(rows[:20], 10)  # as from the block alone
    ends = {tuple(row[-3:]) for row in rows[40:]}
    assert [new[-3:] in ends for new in made[20:]] == [True] * 11
