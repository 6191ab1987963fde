"""The YAML 1.2 core schema, place by place, and text that is no YAML."""

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from janus_cli import yaml_core


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5E-4", 5e-4), ("1.", 1.0), (".5", 0.5), ("-2.5e+3", -2500.0), ("+.inf", math.inf),
        ("-.INF", -math.inf), ("010", 10), ("-3", -3), ("+3", 3), ("0o17", 15), ("0x1F", 31),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("tRue", "tRue"),
        ("2020-01-01", "2020-01-01"), ("12:30", "12:30"), ("1_000", "1_000"), ("0b1", "0b1"), ("1e", "1e"), (".", "."),
        ("١", "١"), ("@@", "@@"), ("<<", "<<"), ("=", "="),
    ],
)  # fmt: skip
def test_scalar(text: str, value: Any) -> None:
    made = yaml_core.scalar(text)
    assert (type(made), made) == (type(value), value)


def test_nan_is_read_as_a_number() -> None:
    assert math.isnan(yaml_core.scalar(".NaN"))


def test_quotes_make_text() -> None:
    assert yaml_core.parse("a: '1'\nb: \"true\"\nc: |\n  1\n").value == {"a": "1", "b": "true", "c": "1\n"}


def test_every_path_has_its_line() -> None:
    parsed = yaml_core.parse("# head\na:\n  b: 1\n\n  c:\n    - x\n    - {d: 2}\n")
    assert parsed.value == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    assert parsed.lines == {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1): 7, ("a", "c", 1, "d"): 7
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, ("a",), "stands here again, first in line 1"),
        ("a: {b: 1, b: 1}", 1, ("a", "b"), "stands here again"),
        ("a: &x 1\n", 1, ("a",), "anchors are not allowed (got &x)"),
        ("a: 1\nb: *x\n", 2, ("b",), "aliases are not allowed, write the value out (got *x)"),
        ("a: !!python/object/apply:os.system [ls]", 1, ("a",), "tags are not allowed"),
        ("a: !!str 1", 1, ("a",), "tags are not allowed"),
        ("a: ! 1", 1, ("a",), "tags are not allowed"),
        ("1: a", 1, (), "a key must be plain text (got 1)"),
        ("true: a", 1, (), "a key must be plain text"),
        ("? [a]\n: b", 1, ("?",), "a key must be text"),
        ("a: 1\n---\nb: 1\n", 2, (), "a second document"),
        ("a: 99999999999999999999", 1, ("a",), "too large a number"),
        ('a: "x\\0y"', 1, ("a",), "character U+0000 is not allowed"),
        ('a: "\\uD800"', 1, ("a",), "character U+D800 is not allowed"),
    ],
)
def test_mistakes_with_a_value(text: str, line: int, path: yaml_core.Path, words: str) -> None:
    parsed = yaml_core.parse(text)
    assert [(at, where) for at, where, _ in parsed.mistakes] == [(line, path)]
    assert words in parsed.mistakes[0][2]
    assert parsed.complete


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
    ],
)
def test_text_that_is_no_yaml(text: str, line: int, words: str) -> None:
    parsed = yaml_core.parse(text)
    assert not parsed.complete
    assert [at for at, _, _ in parsed.mistakes] == [line]
    assert words in parsed.mistakes[0][2]


def test_mistakes_are_collected() -> None:
    parsed = yaml_core.parse("a: *x\nb: !t 1\nc: 1\nc: 2\n")
    assert [line for line, _, _ in parsed.mistakes] == [1, 2, 4]
    assert parsed.value == {"a": None, "b": "1", "c": 1}
    assert parsed.unread == {("a",), ("b",)}


def test_one_unquoted_scalar() -> None:
    assert yaml_core.parse_scalar("@@").value == "@@"
    assert yaml_core.parse_scalar("a: b # c").value == "a: b # c"
    assert yaml_core.parse_scalar("1e-3").value == 1e-3
    assert yaml_core.parse_scalar("x\0").mistakes


@pytest.mark.parametrize(
    "text", ["1e-4", "no", "0o17", "null", "~", "", ".5", "1_0", "2020-01-01", "true", "@@", "x\ny"]
)
def test_dump_keeps_text_text(text: str) -> None:
    assert yaml_core.parse(yaml_core.dump({"a": text})).value == {"a": text}


def test_dump_writes_shared_values_out() -> None:
    shared = {"b": [1, 2]}
    text = yaml_core.dump({"a": shared, "c": shared})
    assert "&" not in text
    assert yaml_core.parse(text).value == {"a": shared, "c": shared}


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_TRAPS = st.sampled_from(["1e-4", "no", "0o17", "null", "~", "1_0", "2020-01-01", "a\nb\n", " x", "@@", "- a", "a: b"])
_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
    | _TRAPS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{2,8}", fullmatch=True), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), _PLAIN))
@example({"a": "\x85"})
@example({"a": "one\u2028two\n\u2029\r\n"})
def test_dump_reads_back_unchanged(value: dict[str, Any]) -> None:
    parsed = yaml_core.parse(yaml_core.dump(value))
    assert parsed.mistakes == []
    assert repr(parsed.value) == repr(value)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from(list("ab01:-{}[],&*!|>'\"\\#%?@\n \t\0\ufeff\ud800é")), max_size=60))
def test_no_text_makes_it_fall(text: str) -> None:
    parsed = yaml_core.parse(text)
    assert parsed.complete or parsed.mistakes
