"""The terminal's view of a decoded sentence, character by character."""

from collections.abc import Sequence
from math import log

from janus_cli.core.search import Iteration, Output
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Result

WORDS = {5: "a", 6: "man", 7: "walks", 8: "a\x1b", 9: "日本"}


class Names:
    """A tokenizer that only knows names."""

    size = 10

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        return [[index for word in line.split() for index, name in WORDS.items() if name == word] for line in lines]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(self.pieces(row)) for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [WORDS[index] for index in ids]


def sure(*values: float) -> list[float]:
    return [log(value) for value in values]


def test_two_passes() -> None:
    passes = (
        Iteration([5, 5, 7], sure(0.9, 0.3, 0.42), [False, True, True]),
        Iteration([5, 6, 7], sure(0.9, 0.8, 1.0), [False, False, False]),
    )
    output = Output([5, 6, 7], sure(0.9, 0.8, 1.0), -0.125, 2, passes)
    lines = list(shown(Result(0, "ein mann geht", [output], ["a man walks"], Names()), 80))
    assert lines == [
        "sentence 1: ein mann geht",
        "pass 1 of 2",
        "  reads   ____ ____ ____",
        "  writes  a    a    walks",
        "  sure    90%  30%  42%",
        "  hides        ^    ^",
        "pass 2 of 2",
        "  reads   a   ____ ____",
        "  writes  a   man  walks",
        "  sure    90% 80%  100%",
        "result, score -0.125: a man walks",
    ]


def test_the_lengths_of_which_one_was_chosen() -> None:
    tried = ((2, log(0.6), -0.5), (1, log(0.3), None))
    output = Output([5, 6], sure(0.9, 0.8), -0.5, 1, (Iteration([5, 6], sure(0.9, 0.8), [False] * 2),), tried=tried)
    line = list(shown(Result(0, "x", [output], ["a man"], Names()), 80))[1]
    assert [part in line for part in ("2 (60%", "-0.500", "1 (30%)")] == [True] * 3


def test_left_to_right_shows_the_end_too_and_long_lines_are_broken() -> None:
    output = Output([5, 9, 7], sure(0.9, 0.8, 0.7, 1.0), -0.5, 4)
    lines = list(shown(Result(4, "x", [output], ["a 日本 walks"], Names()), 22))
    assert lines == [
        "sentence 5: x",
        "  writes  a   日本",
        "  sure    90% 80%",
        "  writes  walks </s>",
        "  sure    70%   100%",
        "result, score -0.500: a 日本 walks",
    ]


def test_control_characters_do_not_reach_the_terminal_and_an_empty_output_is_shown() -> None:
    lines = list(shown(Result(0, "\x1b[2J", [Output([8], sure(0.5), 0.0, 1)], ["a\x1b"], Names()), 80))
    assert not any("\x1b" in line for line in lines)
    assert list(shown(Result(0, "", [Output([], [], 0.0, 0)], [""], Names()), 80))[-1] == "result, score 0.000: "
