"""What outputs repeat, counted by hand."""

import pytest

from janus_cli.scoring.repeats import NOTHING, in_words, rates


def test_words_and_trigrams_that_stand_twice() -> None:
    # "the" and "b b" repeat the word before: 3 of 11 words. Of 3 and 4 trigrams, "a b b" and none stand before.
    found = rates(["the the cat sat on", "a b b b a b"], [["the cat sat on it", "a b"], [None, "a b c d"]])
    assert found == {
        "repeated_words": pytest.approx(3 / 11),
        "repeated_trigrams": 0,
        "length_ratio": pytest.approx(11 / (5 + 3)),
    }
    assert rates(["a b c a b c"], None) == {"repeated_words": 0, "repeated_trigrams": 1 / 4, "length_ratio": None}


def test_a_script_without_spaces_is_counted_by_character() -> None:
    assert rates(["狗狗跑"], [["一二三四五六"]]) == {
        "repeated_words": pytest.approx(1 / 3), "repeated_trigrams": 0, "length_ratio": 0.5,
    }  # fmt: skip


def test_punctuation_of_such_a_script_is_counted_too() -> None:
    assert rates(["狗。。。", "！！"], [["狗跑。", "好！"]]) == {
        "repeated_words": 3 / 6, "repeated_trigrams": 0, "length_ratio": 6 / 5,
    }  # fmt: skip
    assert rates(["wait... what?!"], [["wait... what?!"]])["length_ratio"] == 1


def test_nothing_has_no_rates() -> None:
    assert rates(["", " "], [["", ""]]) == NOTHING
    assert in_words(NOTHING) == ""
    assert in_words(rates(["a a", "b"], [["c", "d"]])) == (
        "33.3% of words repeat the one before, length 1.50 of the references'"
    )
