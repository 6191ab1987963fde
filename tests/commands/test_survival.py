"""What text loses in the tokenizer or to a knob is counted and said, by `preprocess`, `inspect` and `report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from janus_cli.data import survival
from tests.data import small_corpus
from tests.helpers import Janus, Patch, edit_json, ends, read_json, sets

Preprocess = Callable[..., tuple[str, dict[str, Any]]]
WORDS = ("red", "green", "blue", "old", "new", "big", "small", "round")
PAIRS = [(f"der {a} Hund und {b} Katze", f"the {a} dog and {b} cat") for a in WORDS for b in WORDS]
OTHERS = [
    (PAIRS[number - 1][0], target) for number, (_, target) in enumerate(PAIRS)
]  # the same words, no pair of PAIRS
RECIPE = """
name: own
data: {source: de, target: en}
tokenizer: {vocabulary: 60}
"""


def put(split: str, pairs: Sequence[tuple[str, str]]) -> None:
    small_corpus.put(small_corpus.CORPUS, split, *map(list, zip(*pairs, strict=True)))


@pytest.fixture
def preprocess(empty_folder: Path, shell: Janus) -> Preprocess:
    """Prepares the text in `corpus`: stderr, and the splits of the manifest."""
    Path("own.yaml").write_text(RECIPE)
    for split in ("train", "valid", "test"):
        put(split, PAIRS if split == "train" else OTHERS[::8])

    def run(*changes: str) -> tuple[str, dict[str, Any]]:
        options = ("--data-dir", "corpus", "--force", *sets(*changes))
        err = ends(shell("preprocess", "--recipe", "own.yaml", *options), 0)
        return err, read_json("data/own.de-en/manifest.json")["splits"]

    return run


def test_text_that_survives_is_not_worth_a_word(preprocess: Preprocess, shell: Janus) -> None:
    said, splits = preprocess()
    assert "warning" not in said
    assert "unknown" not in said
    whole = {"unknown": 0, "normalisation": 0, "spaces": 0, "sampled": False}
    assert [split["round_trip"] for split in splits.values()] == [{"lines": n, **whole} for n in (64, 8, 8)]
    assert all(split["unknown"] == {"source": 0, "target": 0} for split in splits.values())
    code, out, _ = shell("inspect", "data/own.de-en")
    assert (code, "lost in the tokenizer:\n  test: nothing\n" in out or "  train: nothing\n" in out) == (0, True)
    assert len(out.split("\n")) < 40, "a page; the manifest is for --json"


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ((), "--set tokenizer.byte_fallback=true"),
        (("tokenizer.character_coverage=0.99",), "or raise tokenizer.character_coverage (now 0.99)"),
        (("tokenizer.kind=words",), "raise tokenizer.vocabulary (now 60), or --set tokenizer.kind=sentencepiece"),
        (("tokenizer.reuse=other",), "leave out tokenizer.reuse"),
        (("tokenizer.byte_fallback=true", "tokenizer.vocabulary=340"), ""),
    ],
)
def test_another_script_is_counted_and_the_knob_that_helps_is_named(
    preprocess: Preprocess, shell: Janus, changes: tuple[str, ...], advice: str
) -> None:
    preprocess("tokenizer.vocabulary=50")
    Path("data/own.de-en").rename("other")
    put("test", [("собака", "日本"), *PAIRS[:3]])
    said, splits = preprocess(*changes)
    warnings = [line for line in said.splitlines() if line.startswith("warning: test: unknown source tokens")]
    assert ["unknown target tokens" in line for line in warnings] == [True] * bool(advice), said
    assert advice in said
    lost = splits["test"]["unknown"]
    assert (lost["source"] > 0, lost["target"] > 0) == (bool(advice), bool(advice))
    assert splits["test"]["round_trip"]["unknown"] == (1 if advice else 0)
    shown = f"unknown source tokens: {lost['source']} of {splits['test']['tokens']['source']['sum']} ("
    assert (shown in shell("inspect", "data/own.de-en")[1]) == bool(advice)


def test_of_every_split_it_is_told_what_is_lost_but_once_what_helps(preprocess: Preprocess) -> None:
    preprocess("tokenizer.vocabulary=50")
    Path("data/own.de-en").rename("other")
    for split in ("train", "valid", "test"):
        put(split, [(f"собака {split}", f"日本 {split}"), *PAIRS[:3]])
    said, _ = preprocess("tokenizer.reuse=other")
    assert all(said.count(f"warning: {split}: unknown source") == 1 for split in ("train", "valid", "test"))
    assert said.count("hint: ") == said.count("leave out tokenizer.reuse") == 1


def test_normalisation_that_references_do_not_share_is_told(preprocess: Preprocess) -> None:
    odd = [(source, f"{target}， ﬁn ½!") for source, target in PAIRS[:16]]
    put("train", [*PAIRS, *odd])
    put("test", [*PAIRS[:3], odd[0], ("der  rote Hund ", "the  red dog ")])
    said, splits = preprocess("tokenizer.vocabulary=70")
    assert "warning: test: target lines with characters that are replaced: 1 of 5 (20.00%); target lines of" in said
    assert "--set tokenizer.normalisation=identity (now nmt_nfkc)" in said
    assert "; target lines of which only spaces change: 1 of 5" in said
    assert splits["train"]["round_trip"]["normalisation"] == 16
    assert splits["test"]["round_trip"] == {
        "lines": 5, "unknown": 0, "normalisation": 1, "spaces": 1, "sampled": False
    }  # fmt: skip
    said, splits = preprocess("tokenizer.vocabulary=70", "tokenizer.normalisation=identity")
    assert "that are replaced" not in said
    assert splits["train"]["round_trip"]["normalisation"] == 0


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_code_keeps_its_tabs_and_spaces_where_that_is_asked_for(preprocess: Preprocess, algorithm: str) -> None:
    code = [(source, f"\tif  {target}:\treturn   {number} ") for number, (source, target) in enumerate(PAIRS)]
    put("train", code)
    put("test", code[:5])
    said, _ = preprocess("tokenizer.vocabulary=45", "tokenizer.normalisation=identity")
    assert "test: target lines of which only spaces change: 5 of 5" in said
    keep = ("tokenizer.keep_spaces=true", f"tokenizer.algorithm={algorithm}")
    said, splits = preprocess("tokenizer.vocabulary=45", "tokenizer.normalisation=identity", *keep)
    assert "only spaces" not in said
    assert splits["test"]["round_trip"]["spaces"] == 0


def test_of_a_large_training_text_lines_are_sampled_evenly(preprocess: Preprocess, monkeypatch: Patch) -> None:
    monkeypatch.setattr(survival, "SAMPLED", 16)
    put("train", [*PAIRS[:32], *((source, f"{target}，") for source, target in PAIRS[32:])])
    said, splits = preprocess()
    assert splits["train"]["round_trip"]["normalisation"] == 8
    assert "train: target lines with characters that are replaced: 8 of 16 sampled (50.00%)" in said


def test_parts_of_words_are_compared_as_they_are_joined(preprocess: Preprocess) -> None:
    put("train", [(f"{a}@@ er", f"{b}@@ est {a}") for a, b in PAIRS])
    put("test", [("red@@ er", "the red@@ est dog"), ("red", "unheard@@ of")])
    _, splits = preprocess("tokenizer.kind=words", "tokenizer.joiner=@@", "tokenizer.vocabulary=500")
    found = splits["test"]["round_trip"]
    assert (found["unknown"], found["normalisation"], found["spaces"]) == (2, 0, 0)


@pytest.mark.parametrize("kind", ["sentencepiece", "words"])
def test_a_text_full_of_names_of_control_symbols_loses_nothing(preprocess: Preprocess, kind: str) -> None:
    """As Gigaword, which has an <unk> in every other line."""
    for split, pairs in (("train", PAIRS), ("valid", OTHERS), ("test", OTHERS)):
        put(split, [(f"{source} <unk> <s>", f"</s> {target} <unk><mask>") for source, target in pairs])
    said, splits = preprocess(f"tokenizer.kind={kind}")
    assert "warning" not in said
    assert {count for split in splits.values() for count in split["unknown"].values()} == {0}


def test_a_run_tells_what_its_data_lost(any_janus: Janus) -> None:
    manifest = Path("runs/janus/manifest.json")
    splits = read_json(manifest)["splits"]
    splits["valid"]["unknown"]["target"] = 2
    edit_json(manifest, splits=splits)
    code, out, _ = any_janus("inspect", "runs/janus")
    assert (code, "    valid: unknown target tokens: 2 of " in out, "    train: nothing\n" in out) == (0, True, True)
    splits["valid"]["unknown"] = 3
    edit_json(manifest, splits=splits)
    code, _, err = any_janus("inspect", "runs/janus")
    assert (code, "manifest" in err and "is damaged" in err) == (4, True)


LONG = (" ".join(["viel"] * 90), "much")


@pytest.mark.parametrize(
    ("changes", "kept", "words"),
    [
        (("max_tokens=40",), 64, "66.7% of the pairs are dropped: too_long 128 by data.max_tokens 40"),
        (("max_tokens=200",), 64, "ratio 128 by data.max_ratio 3"),
        (("task=generation",), 192, ""),
        (("task=generation", "max_source_tokens=40"), 64, "by data.max_source_tokens 40 and data.max_tokens 175"),
        (("task=generation", "max_source_tokens=40", "truncate_source=true"), 192,
         "sources cut to the 40 tokens of data.max_source_tokens: 128"),
    ],
)  # fmt: skip
def test_what_a_knob_drops_is_warned_of_with_its_name_and_value(
    preprocess: Preprocess, changes: tuple[str, ...], kept: int, words: str
) -> None:
    put("train", [*PAIRS, *[LONG] * 128])
    said, splits = preprocess("tokenizer.kind=words", *(f"data.{change}" for change in changes))
    assert (splits["train"]["in"], splits["train"]["kept"]) == (192, kept)
    assert words in said
    assert ("warning: train: " in said) == (kept < 192)


def test_valid_and_test_pairs_that_training_would_drop_are_named(preprocess: Preprocess) -> None:
    put("valid", [*PAIRS[:6], LONG, ("leer", "")])
    put("test", [*PAIRS[:3], LONG])
    said, splits = preprocess("tokenizer.kind=words", "data.max_tokens=40")
    assert "warning: valid: 25.0% of the pairs are left out of the losses: empty 1, too_long 1 by data.max_to" in said
    assert "test: 4 of 4 pairs kept; sources longer than the 40 tokens of data.max_tokens" in said
    assert (splits["test"]["long_sources"], splits["valid"]["left_out"]) == (1, {"empty": 1, "too_long": 1})


def test_pairs_that_are_also_in_train_and_copied_sources_are_told(preprocess: Preprocess) -> None:
    put("train", PAIRS)
    put("valid", PAIRS[:8])
    put("test", [("nie", "gesehen"), *((f"{a} x", b) for a, b in PAIRS[:30]), PAIRS[3]])
    said, _ = preprocess("tokenizer.vocabulary=50")
    assert "warning: valid: 8 of 8 pairs are also in train" in said
    assert "\ntest: 1 of 32 pairs are also in train" in said
    assert "equal their sources" not in said
    put("train", [(target, target) for _, target in PAIRS])
    put("valid", [("neu", "new")])
    said, _ = preprocess("tokenizer.vocabulary=35")
    assert f"warning: train: {len(PAIRS)} of {len(PAIRS)} targets equal their sources" in said
    assert "also in train" not in said
