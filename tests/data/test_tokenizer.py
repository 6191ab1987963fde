"""Tokenizers: fixed ids, round trips, refusals, what may be taken over."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.tokenizer import SentencePieces, Tokenizers, Words, join, load_tokenizers, train_tokenizers
from janus_cli.errors import DataError
from janus_cli.recipe import Tokenizer

SOURCES = [f"der {word} sieht {number} große Hunde." for word in ("Mann", "Junge", "Koch") for number in range(20)]
TARGETS = [f"the {word} sees {number} big dogs." for word in ("man", "boy", "cook") for number in range(20)]
NO_TEXT = {PAD, BOS, EOS, MASK}
LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
SPECIALS = st.lists(st.sampled_from(["<mask>", "<s>", "</s>", "<pad>", "<unk>", " ", "der", "▁", "⁇"])).map("".join)


def trained(folder: Path, **knobs: Any) -> Tokenizers:
    folder.mkdir(exist_ok=True)
    return train_tokenizers(Tokenizer(**knobs), SOURCES, TARGETS, folder, ("de", "en"))


KINDS: dict[str, dict[str, Any]] = {
    "bpe": {"vocabulary": 90},
    "unigram": {"vocabulary": 45, "algorithm": "unigram"},
    "bytes": {"vocabulary": 340, "byte_fallback": True},
    "separate": {"vocabulary": 60, "joint": False},
    "words": {"kind": "words", "vocabulary": 1000},
    "separate words": {"kind": "words", "vocabulary": 1000, "joint": False},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizers]:
    return {name: trained(tmp_path_factory.mktemp("made") / "t", **knobs) for name, knobs in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_the_training_kind_comes_back(made: dict[str, Tokenizers], kind: str) -> None:
    for tokenizer, lines in ((made[kind].source, SOURCES), (made[kind].target, TARGETS)):
        rows = tokenizer.encode(lines)
        assert tokenizer.decode(rows) == lines
        assert {index for row in rows for index in row} <= set(range(SPECIAL, tokenizer.size))
        assert tokenizer.pieces(range(SPECIAL)) == ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
        for long in ("word " * 200_000, "x" * 1_000_000, "\0" * 100_000) if kind in ("bpe", "words") else ():
            (row,) = tokenizer.encode([long])
            assert row
            assert len(tokenizer.decode([row])) == 1


@pytest.mark.parametrize("kind", KINDS)
@given(line=LINES | SPECIALS, data=st.data())
def test_no_text_becomes_a_special_symbol_and_any_ids_are_one_line_without_them(
    made: dict[str, Tokenizers], kind: str, line: str, data: st.DataObject
) -> None:
    for tokenizer in (made[kind].source, made[kind].target):
        (row,) = tokenizer.encode([line])
        assert not NO_TEXT & set(row)
        assert all(0 < index < tokenizer.size for index in row)
    rows = data.draw(st.lists(st.lists(st.integers(0, tokenizer.size - 1), max_size=20), max_size=4))
    texts = tokenizer.decode(rows)
    assert len(texts) == len(rows)
    assert not any("\n" in text for text in texts)
    assert texts == tokenizer.decode([[index for index in row if index not in NO_TEXT] for row in rows])


LITERALS = ["the <unk> sees <s> and </s>", "<pad> the <mask> <unk>s", "the <unk><unk> the"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_control_symbols_in_the_text_are_text(tmp_path: Path, kind: str) -> None:
    """They come back as they were, and as tokens of the text: whether the tokenizer was trained or reused."""
    knobs = KINDS[kind] | ({"vocabulary": 50} if kind == "unigram" else {})
    for name, more in (("new", {}), ("again", {"reuse": str(tmp_path / "new")})):
        (tmp_path / name).mkdir()
        text = [*SOURCES, *LITERALS * 9], [*TARGETS, *LITERALS * 9]
        made = train_tokenizers(Tokenizer(**knobs, **more), *text, tmp_path / name)
        for tokenizer in (made.source, made.target):
            rows = tokenizer.encode(LITERALS)
            assert tokenizer.decode(rows) == LITERALS
            assert min(min(row) for row in rows) >= SPECIAL
            assert tokenizer.pieces(range(SPECIAL)) == ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def test_a_model_of_an_earlier_version_reads_and_writes_as_before() -> None:
    """It was trained without the literals, whose characters it may not know."""
    model = SentencePieces(foreign())
    (row, *rows) = model.encode(["the <unk> man", *SOURCES])
    assert UNK in row
    assert not NO_TEXT & set(row)
    assert model.decode(rows) == SOURCES
    assert model.decode([[BOS, *rows[0], UNK, MASK, EOS]]) == [f"{SOURCES[0]} ⁇ "]
    assert model.pieces([UNK, MASK]) == ["<unk>", "<mask>"]


def test_every_knob_of_the_training_does_what_it_says(tmp_path: Path) -> None:
    def encoded(name: str, line: str, text: list[str], **knobs: Any) -> tuple[list[int], str]:
        (tmp_path / name).mkdir()
        tokenizer = train_tokenizers(Tokenizer(**knobs), text, TARGETS, tmp_path / name).source
        (row,) = tokenizer.encode([line])
        return row, tokenizer.decode([row])[0]

    bpe, unigram = (encoded(name, SOURCES[0], SOURCES, vocabulary=45, algorithm=name) for name in ("bpe", "unigram"))
    assert bpe[0] != unigram[0]
    rare = [*SOURCES * 10, "ж"]  # once among 18,000 characters
    for coverage in (1.0, 0.99):
        row, _ = encoded(f"coverage {coverage}", "ж", rare, vocabulary=60, character_coverage=coverage)
        assert (UNK in row) == (coverage < 1)
    for rule, same in (("identity", "ﬁn"), ("nmt_nfkc", "fin")):
        assert encoded(rule, "ﬁn", [*SOURCES, "ﬁn fin"], vocabulary=70, normalisation=rule)[1] == same


def test_byte_fallback_knows_every_character_and_cannot_break_a_line(made: dict[str, Tokenizers]) -> None:
    tokenizer = made["bytes"].source
    assert UNK not in tokenizer.encode(["日本 😀"])[0]
    assert tokenizer.decode(tokenizer.encode(["日本 😀"])) == ["日本 😀"]
    newline = tokenizer.pieces(range(tokenizer.size)).index("<0x0A>")
    assert tokenizer.decode([[newline, newline]]) == ["  "]


@pytest.mark.parametrize("kind", KINDS)
def test_files_load_to_the_same_and_are_the_same_when_trained_again_elsewhere_and_reused(
    made: dict[str, Tokenizers], kind: str, tmp_path: Path
) -> None:
    here, there, reused = (tmp_path / name for name in ("here", "there", "reused"))
    ending = "vocab.txt" if "words" in kind else "model"
    stems = ["source", "target"] if "separate" in kind else ["tokenizer"]
    files = ["tokenizer.json", *(f"{stem}.{ending}" for stem in stems)]
    assert trained(here, **KINDS[kind]).files == files
    assert sorted(path.name for path in here.iterdir()) == sorted(files)
    index = {"source": f"{stems[0]}.{ending}", "target": f"{stems[-1]}.{ending}"}
    expected = {"kind": Tokenizer(**KINDS[kind]).kind, "joiner": "", "files": index}
    assert json.loads((here / "tokenizer.json").read_text()) == expected
    loaded = load_tokenizers(here)
    assert loaded.source.encode(SOURCES) == made[kind].source.encode(SOURCES)
    assert loaded.target.encode(TARGETS) == made[kind].target.encode(TARGETS)
    assert (loaded.source is loaded.target) == ("separate" not in kind)
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_tokenizer as t;"
        "t.trained(Path(sys.argv[2]), **t.KINDS[sys.argv[3]])"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(there), kind]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"})
    trained(reused, **{**KINDS[kind], "vocabulary": 8}, reuse=str(here))
    for name in files:
        assert (here / name).read_bytes() == (there / name).read_bytes() == (reused / name).read_bytes()


def test_a_reused_tokenizer_joins_pieces_as_before(tmp_path: Path) -> None:
    trained(tmp_path / "first", kind="words", joiner="@@")
    again = trained(tmp_path / "again", kind="words", reuse=str(tmp_path / "first"))
    assert again.joiner == "@@"


def test_words_are_ordered_by_frequency_then_code_point_and_cut(tmp_path: Path) -> None:
    knobs = Tokenizer(kind="words", vocabulary=9)
    made = train_tokenizers(knobs, ["b a ä c", "b <mask> d"], ["d d"], tmp_path)
    assert (tmp_path / "tokenizer.vocab.txt").read_text("utf-8") == "d\nb\n<mask>\na\n"
    assert made.source.size == 9
    assert made.source.encode(["d b\u2028a  <mask> ä ", ""]) == [[5, 6, 8, 7, UNK], []]
    assert made.source.decode([[BOS, 5, MASK, UNK, EOS, PAD]]) == ["d <unk>"]


def test_word_parts_are_joined() -> None:
    for line, joiner, expected in (
        ("new@@ er th@@ ing", "@@", "newer thing"), ("cut@@", "@@", "cut"), ("a@b @@", "@@", "a@b"),
        ("x@@ y", "", "x@@ y"), ("", "@@", ""),
    ):  # fmt: skip
        assert join(line, joiner).strip() == expected
        words = Words(sorted(set(line.split())), joiner)
        assert words.decode(words.encode([line]))[0].strip() == expected


@pytest.mark.parametrize(
    ("knobs", "sources", "message"),
    [
        ({"vocabulary": 8000}, SOURCES, r"vocabulary 8000 is more than the text \(de\+en\) allows: at most \d+"),
        ({"vocabulary": 8000, "algorithm": "unigram"}, SOURCES, r"allows: at most \d+"),
        ({"vocabulary": 8000, "joint": False}, SOURCES, r"the text \(de\) allows: at most \d+"),
        ({"vocabulary": 10}, SOURCES, r"vocabulary 10 is too small: .* alone has \d+"),
        ({"joint": False}, [], "no line to train"),
        ({"joint": False}, [" "], "no line to train"),
        ({"kind": "words", "joint": False}, [" "], r"the training text \(de\) has no word"),
    ],
)
def test_vocabularies_that_the_text_does_not_allow(
    tmp_path: Path, knobs: dict[str, Any], sources: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        train_tokenizers(Tokenizer(**knobs), sources, sources, tmp_path, ("de", "en"))
    if sources is SOURCES and "at most" in message:
        most = int(caught.value.hint.split("=")[1])
        knobs |= {"vocabulary": most}
        assert train_tokenizers(Tokenizer(**knobs), sources, sources, tmp_path, ("de", "en")).source.size == most


# --- what may be taken over ---


def put_dictionary(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def test_reuse_takes_fairseq_dictionaries_and_a_single_model(tmp_path: Path) -> None:
    put_dictionary(tmp_path / "dict.de.txt", "ein@@ 7", "er 5", "madeupword0000 0")
    put_dictionary(tmp_path / "dict.en.txt", "a 3", "one 2 #fairseq:overwrite", "a 1")
    both = trained(tmp_path / "both", kind="words", joint=False, joiner="@@", reuse=str(tmp_path))
    assert both.source.encode(["ein@@ er Hund"]) == [[5, 6, UNK]]
    assert both.target.encode(["a one"]) == [[5, 6]]
    assert both.target.size == 7
    one = trained(tmp_path / "one", kind="words", joiner="@@", reuse=str(tmp_path / "dict.de.txt"))
    assert one.source is one.target
    assert one.source.decode([[5, 6]]) == ["einer"]
    trained(tmp_path / "first", vocabulary=90)
    assert trained(tmp_path / "second", reuse=str(tmp_path / "first" / "tokenizer.model")).source.size == 90


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"reuse": "first", "kind": "words"}, "of kind sentencepiece"),
        ({"reuse": "first", "joint": False}, "is joint: set tokenizer.joint to True"),
        ({"reuse": "first/tokenizer.model", "joint": False}, "one file for both sides: set tokenizer.joint to True"),
        ({"reuse": "damaged.model"}, r"damaged\.model is damaged"),
        ({"reuse": "nowhere"}, "has no tokenizer.json"),
        ({"reuse": "nowhere", "kind": "words"}, r"nor dict\.de\.txt and dict\.en\.txt"),
        ({"reuse": "two", "kind": "words"}, "differ"),
        *(({"reuse": f"{number}.txt", "kind": "words"}, rf"{number}\.txt:2: ") for number in range(4)),
    ],
)
def test_reuse_of_what_does_not_fit_is_refused(empty_folder: Path, knobs: dict[str, Any], message: str) -> None:
    trained(Path("first"), vocabulary=90)
    Path("damaged.model").write_bytes(b"no model")
    Path("two").mkdir()
    for suffix in ("de", "en"):
        put_dictionary(Path(f"two/dict.{suffix}.txt"), f"{suffix} 1")
    for number, line in enumerate(("", "word", "word x", " 3")):
        put_dictionary(Path(f"{number}.txt"), "a 1", line)
    with pytest.raises(DataError, match=message):
        trained(Path("second"), **knobs)


@pytest.mark.parametrize("space", [" ", ""])
def test_long_lines_take_part(tmp_path: Path, space: str) -> None:
    """Each letter stands but in one part of one line."""
    lines = [space.join(["x"] * 5000 + [letter] * 1000) for letter in "abcdefgh"]
    knobs = Tokenizer(vocabulary=16, byte_fallback=False)
    made = train_tokenizers(knobs, lines, lines, tmp_path)
    assert all(UNK not in row for row in made.source.encode(lines))


# --- damage ---


def foreign(**changes: Any) -> bytes:
    """A SentencePiece model that janus did not make."""
    model = io.BytesIO()
    options = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "control_symbols": ["<mask>"], **changes}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SOURCES), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2, **options
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2},  # SentencePiece's own default
        {"pad_id": 1, "unk_id": 0},
        {"control_symbols": []},
        {"control_symbols": [], "user_defined_symbols": ["<mask>"]},  # text could then hold it
    ],
)
def test_a_model_with_other_fixed_ids_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="m is not a tokenizer of janus"):
        SentencePieces(foreign(**changes), "m")


def test_a_damaged_model_never_crashes() -> None:
    for data in (b"", b"no model", b"\0" * 100):
        with pytest.raises(DataError, match=r"^m is"):
            SentencePieces(data, "m")
    rng, good = random.Random(1), foreign()
    for _ in range(60):
        damaged = bytearray(good[: rng.randrange(1, len(good))] if rng.random() < 0.5 else good)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with suppress(DataError):
            assert SentencePieces(bytes(damaged)).size > MASK


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "does not exist"),
        ("{", "is damaged"),
        ('{"kind": "pickle", "files": {}}', "is damaged"),
        ('{"kind": "words", "files": {"source": "../x", "target": "../x"}}', "is not the name of a file"),
        ('{"kind": "words", "files": {}}', "is not the name of a file"),
        ('{"kind": "words", "files": {"source": "link", "target": "link"}}', "is not the name of a file"),
        ('{"kind": "words", "files": {"source": "gone", "target": "gone"}}', "cannot be read"),
        ('{"kind": "words", "files": {"source": "twice", "target": "twice"}}', "empty or repeated"),
        ('{"kind": "words", "files": {"source": "binary", "target": "binary"}}', "not UTF-8"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: str | None, message: str) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (tmp_path / "x").write_text("a\n")
    (folder / "link").symlink_to(tmp_path / "x")
    (folder / "twice").write_text("a\na\n")
    (folder / "binary").write_bytes(b"\xff\n")
    if index is not None:
        (folder / "tokenizer.json").write_text(index)
    with pytest.raises(DataError, match=message):
        load_tokenizers(folder)
