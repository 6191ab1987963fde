"""From a chunk of lines to ids: which pairs stay, and why the others go."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.data import encode as module
from janus_cli.data.corpus import SIDES, Split
from janus_cli.data.encode import Encoded
from janus_cli.data.lines import BadUtf8, TextFile
from janus_cli.data.store import Ragged
from janus_cli.data.tokenizer import load_tokenizers, train_tokenizers
from janus_cli.errors import DataError
from janus_cli.recipe import Data, Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizers(Tokenizer(kind="words", vocabulary=8), ["a b"], ["a"], folder)
    return folder


def encode(
    folder: Path, split: str, pairs: Sequence[Sequence[bytes]], bad_utf8: BadUtf8 = "replace", deduplicate: bool = False
) -> Encoded:
    data = Data(min_tokens=2, max_tokens=6, max_ratio=2.0, deduplicate=deduplicate)
    return encode_with(data, folder, split, pairs, bad_utf8)


def encode_with(
    data: Data, folder: Path, split: str, pairs: Sequence[Sequence[bytes]], bad_utf8: BadUtf8 = "stop"
) -> Encoded:
    chunk = [b"".join(line.removesuffix(b"\n") + b"\n" for line in side) for side in zip(*pairs, strict=True)]
    texts = {side: TextFile(Path(side), len(pairs), 0, "") for side, _ in zip(SIDES, chunk, strict=False)}
    return module.encode(load_tokenizers(folder), data, bad_utf8, Split(split, texts), chunk)


# (source, target, the reason in training, the reason in validation)
PAIRS: list[tuple[bytes, bytes, str, str]] = [
    (b"a a", b"b b", "", ""),
    (b"", b"b b", "empty", "empty"),
    (b"a a", b"", "empty", "empty"),
    (b"a", b"b b", "too_short", ""),
    (b"a a", b"b", "too_short", ""),
    (b"a a a a a a a", b"b b b b b", "too_long", "too_long"),
    (b"a a a a a", b"b b b b b b b", "too_long", "too_long"),
    (b"a a a a a a", b"b b b b b b", "", ""),
    (b"a a", b"b b b b b", "ratio", ""),
    (b"a a a a a", b"b b", "ratio", ""),
    (b"a a", b"b b b b", "", ""),
    (b"a \xff", b"b b", "bad_utf8", "bad_utf8"),
    (b"a \xff", b"", "bad_utf8", "bad_utf8"),  # the first reason counts
]


@pytest.mark.parametrize(("split", "column"), [("train", 2), ("valid", 3)])
def test_every_reason_is_counted_and_the_others_stay_and_of_valid_all_with_good_bytes(
    folder: Path, split: str, column: int
) -> None:
    for pairs in (PAIRS, *([pair] for pair in PAIRS)):
        done = encode(folder, split, [pair[:2] for pair in pairs], "skip")
        expected = Counter(str(pair[column]) for pair in pairs if pair[column])
        gone = expected if split == "train" else Counter(bad_utf8=expected.pop("bad_utf8", 0))
        assert len(done.sources.lengths) == len(done.targets.lengths) == len(pairs) - gone.total()
        assert +done.dropped == +gone
        assert +Counter(done.left_out) == (Counter() if split == "train" else expected)
        assert (done.lines, done.replaced) == (len(pairs), 0)


@pytest.mark.parametrize("bad_utf8", ["skip", "replace"])
def test_a_test_split_keeps_every_line(folder: Path, bad_utf8: BadUtf8) -> None:
    done = encode(folder, "test", [pair[:2] for pair in PAIRS], bad_utf8)
    assert (len(done.sources.lengths), +done.dropped, done.replaced) == (len(PAIRS), Counter(), 2)
    assert done.texts[0][-1] == "a \ufffd"
    assert done.texts[1] == [pair[1].decode() for pair in PAIRS]
    done = encode(folder, "test", [(b"a\n",), (b"\n",), (b"b a",)])  # no target
    assert (done.sources.lengths.tolist(), done.targets.lengths.tolist()) == ([1, 0, 2], [0, 0, 0])


def test_replaced_lines_stay_and_are_counted_and_texts_are_those_of_all_pairs_but_skipped_ones(folder: Path) -> None:
    done = encode(folder, "train", [(b"a \xff\n", b"b b\n"), (b"a a\n", b"b \xc3\n"), (b"a a\n", b"b b")])
    assert (len(done.sources.lengths), done.replaced) == (3, 2)
    done = encode(folder, "valid", [(b"a a\r\n", b"b b\n"), (b"\n", b"x\n"), (b"b a\n", b"a a")])
    assert (done.texts, done.keys) == ((["a a", "", "b a"], ["b b", "x", "a a"]), [])
    done = encode(folder, "valid", [(b"a \xff\n", b"b b\n"), (b"a a\n", b"b b")], "skip")
    assert done.texts == (["a a"], ["b b"])


def test_sides_that_have_changed_are_named(folder: Path) -> None:
    split = Split("train", {side: TextFile(Path(side), 2, 0, "") for side in SIDES})
    with pytest.raises(DataError, match=r"^train: source or target was changed while it was read"):
        module.encode(load_tokenizers(folder), Data(), "stop", split, [b"a\na\n", b"b\n"])


def test_keys_tell_pairs_apart(folder: Path) -> None:
    pairs = [(b"a a", b"b b"), (b"a a", b"b a"), (b"a a", b"b b"), (b"", b"b b"), (b"a a\r\n", b"b b")]
    keys = encode(folder, "train", pairs, deduplicate=True).keys
    assert len(keys) == 4  # one for each kept pair
    assert keys[0] == keys[2] == keys[3] != keys[1]
    assert {len(key) for key in keys} == {16}
    assert encode(folder, "train", pairs).keys == []


@given(st.lists(st.lists(st.integers(0, 99), max_size=4)), st.data())
def test_ragged_rows_are_kept_whole(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept = Ragged.of(rows).keep(np.array(chosen, bool))
    parts = np.split(kept.values, np.cumsum(kept.lengths))[:-1]
    assert [part.tolist() for part in parts] == [row for row, choice in zip(rows, chosen, strict=True) if choice]


def test_worker_processes_stay_small() -> None:
    program = "import sys, janus_cli.data.encode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


SHORT, LONG = b"a a", b"a a a a a"


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({}, ["", "too_long", "too_long"]),
        ({"max_source_tokens": 5}, ["", "", "too_long"]),
        ({"max_target_tokens": 5}, ["", "too_long", ""]),
        ({"max_tokens": 9, "max_source_tokens": 3}, ["", "too_long", ""]),
        ({"truncate_source": True}, ["", "", "too_long"]),
        ({"max_ratio": 2.0, "max_tokens": 9}, ["", "ratio", "ratio"]),
        ({"max_ratio": 2.0, "max_tokens": 9, "max_source_tokens": 4, "truncate_source": True}, ["", "", "ratio"]),
    ],
)
def test_each_side_has_its_limit_and_long_sources_are_cut_on_request(
    folder: Path, limits: dict[str, Any], reasons: list[str]
) -> None:
    data = Data(**{"max_tokens": 4, "max_ratio": None, **limits})
    for pair, reason in zip([(SHORT, SHORT), (LONG, SHORT), (SHORT, LONG)], reasons, strict=True):
        done = encode_with(data, folder, "train", [pair])
        assert +done.dropped == ({reason: 1} if reason else {})
        cut = data.truncate_source and pair[0] is LONG
        assert done.long == cut
        kept = [data.source_limit if cut else len(pair[0].split())]
        assert done.sources.lengths.tolist() == ([] if reason else kept)


def test_long_sources_of_a_test_split_are_counted_and_cut_only_on_request(folder: Path) -> None:
    for truncate in (False, True):
        data = Data(max_source_tokens=3, truncate_source=truncate)
        done = encode_with(data, folder, "test", [(SHORT, b""), (LONG, LONG)])
        assert (done.long, done.sources.lengths.tolist()) == (1, [2, 3 if truncate else 5])
        assert done.texts[0] == [SHORT.decode(), LONG.decode()], "the text stays whole"


@given(st.lists(st.lists(st.integers(0, 99), max_size=6)), st.integers(1, 7))
def test_ragged_rows_are_cut_to_their_beginnings(rows: list[list[int]], most: int) -> None:
    cut = Ragged.of(rows).cut(most)
    parts = np.split(cut.values, np.cumsum(cut.lengths))[:-1]
    assert [part.tolist() for part in parts] == [row[:most] for row in rows]
