"""The YAML 1.2 core schema, place by place, and text that is no YAML."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from janus_cli import yaml_core


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5E-4", 5e-4), ("1.", 1.0), (".5", 0.5), ("-2.5e+3", -2500.0), ("+.inf", float("inf")),
        ("-.INF", -float("inf")), (".NaN", float("nan")), ("010", 10), ("-3", -3), ("+3", 3), ("0o17", 15),
        ("0x1F", 31), ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("tRue", "tRue"),
        ("2020-01-01", "2020-01-01"), ("12:30", "12:30"), ("1_000", "1_000"), ("0b1", "0b1"), ("1e", "1e"), (".", "."),
        ("١", "١"), ("@@", "@@"), ("<<", "<<"), ("=", "="), ("a: b # c", "a: b # c"),
    ],
)  # fmt: skip
def test_scalar(text: str, value: Any) -> None:
    """repr, because nan is not itself and True is 1."""
    assert repr(yaml_core.Document(text, plain=True).value) == repr(yaml_core.scalar(text)) == repr(value)


def test_values_and_the_line_of_every_path() -> None:
    parsed = yaml_core.Document("# head\na:\n  b: '1'\n\n  c:\n    - |\n      1\n    - {d: \"true\"}\n")
    assert parsed.value == {"a": {"b": "1", "c": ["1\n", {"d": "true"}]}}
    assert {path: line for path, line in parsed.lines.items() if "?" not in path} == {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1): 8, ("a", "c", 1, "d"): 8
    }  # fmt: skip
    assert parsed.complete
    parsed = yaml_core.Document("a: *x\nb: !t 1\nc: &y 2\n")
    assert (parsed.value, parsed.unread) == ({"a": None, "b": "1", "c": 2}, {("a",), ("b",)})
    parsed = yaml_core.Document("x\0", plain=True)
    assert (parsed.value, parsed.unread) == (None, {()})


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("a: 1\nb: 2\na: 3\n", [(3, ("a",), "stands here again, first in line 1")]),
        ("a: {b: 1, b: 1}", [(1, ("a", "b"), "stands here again")]),
        ("a: &x 1\n", [(1, ("a",), "anchors are not allowed (got &x)")]),
        ("a: 1\nb: *x\n", [(2, ("b",), "aliases are not allowed, write the value out (got *x)")]),
        ("*x : 1\n", [(1, ("?",), "aliases are not allowed"), (1, (), "a key must be plain text")]),
        ("a: !!python/object/apply:os.system [ls]", [(1, ("a",), "tags are not allowed")]),
        ("a: !!str 1", [(1, ("a",), "tags are not allowed")]),
        ("a: ! 1", [(1, ("a",), "tags are not allowed")]),
        ("1: a", [(1, (), "a key must be plain text (got 1)")]),
        ("true: a", [(1, (), "a key must be plain text (got true)")]),
        ("? [a]\n: b", [(1, (), "a key must be plain text")]),
        ("a: 1\n---\nb: 1\n", [(2, (), "a second document")]),
        ("a: 99999999999999999999", [(1, ("a",), "too large a number")]),
        ('a: "x\\0y"', [(1, ("a",), "character U+0000 is not allowed")]),
        ('a: "\\uD800"', [(1, ("a",), "character U+D800 is not allowed")]),
        ("a: *x\nb: !t 1\nc: 1\nc: 2\n", [(1, ("a",), "aliases"), (2, ("b",), "tags"), (4, ("c",), "stands here")]),
    ],
)  # fmt: skip
def test_mistakes_with_a_value(text: str, mistakes: list[tuple[int, yaml_core.Path, str]]) -> None:
    parsed = yaml_core.Document(text)
    assert parsed.complete
    for (line, path, mistake), (*place, words) in zip(parsed.mistakes, mistakes, strict=True):
        assert [line, path, mistake[: len(words)]] == [*place, words]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 'x\n", 2, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "character U+0007"),
        ('a: "\\UFFFFFFFF"', 1, "an escape names no character"),
        ("[" * 100_000, 1, "nested deeper"),
        ("a: " + "{b: " * 1000 + "}" * 1000, 1, "nested deeper"),
        ("a: *x\nb: [\n", 3, "not YAML"),  # behind another mistake
    ],
)
def test_text_that_is_no_yaml(text: str, line: int, words: str) -> None:
    parsed = yaml_core.Document(text)
    assert not parsed.complete
    *_, (at, _, mistake) = parsed.mistakes
    assert (at, len(parsed.mistakes)) == (line, 1 + text.count("*x"))
    assert words in mistake


_TRAPS = ["1e-4", "no", "0o17", "null", "~", "", ".5", "1_0", "2020-01-01", "true", "@@", "x\ny", "a\nb\n", " x",
          "a: b", "- a", "\x85", "one\u2028two\n\u2029\r\n"]  # fmt: skip
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(_TRAPS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{2,8}", fullmatch=True), inner),
    max_leaves=8,
)  # fmt: skip


_SHARED = {"b": [1, 2]}  # YAML would write an anchor and an alias


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), _PLAIN))
@example({"a": _SHARED, "c": _SHARED})
@example({f"key {number}": trap for number, trap in enumerate(_TRAPS)})
def test_dump_reads_back_unchanged(value: dict[str, Any]) -> None:
    parsed = yaml_core.Document(yaml_core.dump(value))
    assert parsed.mistakes == []
    assert repr(parsed.value) == repr(value)


@settings(max_examples=150)
@given(st.text(st.sampled_from(list("ab01:-{}[],&*!|>'\"\\#%?@\n \t\0\ufeff\ud800é")), max_size=60))
def test_no_text_makes_it_fall(text: str) -> None:
    parsed = yaml_core.Document(text)
    assert parsed.complete or parsed.mistakes
