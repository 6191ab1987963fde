"""Tokenizers of Hugging Face models: ids and text are those of transformers, in another order of ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from janus_cli.core.symbols import EOS, MASK, NAMES, NO_TEXT, SPECIAL, UNK
from janus_cli.data.hf import ABSENT, HuggingFace
from janus_cli.data.hf_folder import LANGUAGES, given_back
from janus_cli.data.tokenizer import Tokenizers, load_tokenizers, train_tokenizers
from janus_cli.errors import DataError, UsageError
from janus_cli.recipe import Tokenizer
from tests.data import hf_models
from tests.data.hf_models import golden, unpack

LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


def taken_over(place: Path, out: Path, **knobs: Any) -> Tokenizers:
    out.mkdir()
    return train_tokenizers(Tokenizer(kind="hf", reuse=str(place), **knobs), (), (), out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizers]:
    root = tmp_path_factory.mktemp("hf")
    return {name: taken_over(unpack(name, root / name), root / f"{name}.made") for name in hf_models.MODELS}


def side_of(both: Tokenizers, side: str) -> HuggingFace:
    tokenizer = getattr(both, side)
    assert isinstance(tokenizer, HuggingFace)
    return tokenizer


def check(tokenizer: HuggingFace, expected: dict[str, Any]) -> None:
    """Special tokens that a tokenizer of pieces finds in the text are unknown here; elsewhere there are none."""
    for line, ids in zip(expected["lines"], expected["ids"], strict=True):
        special = {*tokenizer.stored["special"], *tokenizer.stored["silent"]}
        wanted = [UNK if index in special else tokenizer.ours(index) for index in ids]
        assert tokenizer.encode([line]) == [wanted], line
    rows = [[tokenizer.ours(index) for index in row] for row in expected["rows"]]
    assert tokenizer.decode(rows) == [text.replace("\n", " ") for text in expected["texts"]]


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_ids_and_text_are_those_of_transformers(made: dict[str, Tokenizers], name: str) -> None:
    for side, expected in golden(name)["sides"].items():
        check(side_of(made[name], side), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", hf_models.MODELS)
@pytest.mark.filterwarnings("ignore")
def test_so_they_are_on_a_thousand_odd_lines_also_of_folders_that_transformers_and_janus_write(
    tmp_path: Path, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "model").mkdir()
    hf_models.MODELS[name](tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "saved")
    (tmp_path / "back").mkdir()
    first = taken_over(tmp_path / "model", tmp_path / "first")
    for file, data in given_back(side_of(first, "source"), side_of(first, "target")).items():
        (tmp_path / "back" / file).write_bytes(data)
    for folder in (tmp_path / "model", tmp_path / "saved", tmp_path / "back"):
        both = taken_over(folder, folder.with_suffix(".made"))
        for side in ("source", "target"):
            check(side_of(both, side), hf_models.transformers_says(folder, side, hf_models.odd_lines(1000, seed=7)))


def test_our_ids_are_the_special_tokens_then_the_others_in_their_order(made: dict[str, Tokenizers]) -> None:
    special = {"bart": [1, 3, ABSENT, 2, 400], "wordpiece": [0, 1, ABSENT, 3, 4], "marian": [82, 1, ABSENT, 0, ABSENT]}
    for name, ids in special.items():
        tokenizer = side_of(made[name], "source")
        assert tokenizer.order[:SPECIAL] == ids
        rest = tokenizer.order[SPECIAL:]
        assert rest == sorted(rest)
        assert {*tokenizer.order} - {ABSENT} == {*range(tokenizer.size - ids.count(ABSENT))}
        assert tokenizer.pieces(range(SPECIAL)) == [*NAMES]


@pytest.mark.parametrize("name", hf_models.MODELS)
@given(line=LINES, data=st.data())
def test_no_text_becomes_a_special_token_and_any_ids_are_one_line(
    made: dict[str, Tokenizers], name: str, line: str, data: st.DataObject
) -> None:
    tokenizer = made[name].source
    (row,) = tokenizer.encode([line])
    assert not NO_TEXT & set(row)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    (text,) = tokenizer.decode([ids])
    assert "\n" not in text
    assert tokenizer.decode([[index for index in ids if index not in NO_TEXT]]) == [text]


def test_names_of_special_tokens_in_byte_level_text_are_text(made: dict[str, Tokenizers]) -> None:
    tokenizer, lines = made["bart"].source, ["the <mask> and </s>", "<s><pad>  <unk>", "é\t日本 😀 "]
    rows = tokenizer.encode(lines)
    assert tokenizer.decode(rows) == lines
    assert all(index >= SPECIAL for row in rows for index in row)


def test_what_a_frame_holds_is_text_behind_it(made: dict[str, Tokenizers]) -> None:
    """A token that is not special is shown wherever else it stands, as in transformers."""
    tokenizer = side_of(made["bart"], "source")
    (row,) = tokenizer.encode(["the man sees"])
    framed = tokenizer.beginning_with(row[:1])
    assert framed.decode([row, [*row, row[0]]]) == tokenizer.decode([row[1:], [*row[1:], row[0]]])


@pytest.mark.parametrize("name", ["mbart", "marian"])
def test_tokens_that_a_folder_lists_as_special_are_no_text_anywhere(tmp_path: Path, name: str) -> None:
    unpack(name, tmp_path)
    usual = side_of(taken_over(tmp_path, tmp_path / "usual"), "target")
    (row,) = usual.encode(["the man sees 3 big dogs"])
    hf_models.write(tmp_path, "tokenizer_config.json", {"additional_special_tokens": usual.pieces(row[1:2])})
    listing = side_of(taken_over(tmp_path, tmp_path / "listing"), "target")
    assert listing.decode([row, row[1:2]]) == usual.decode([[row[0], *row[2:]], []])


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_files_are_taken_over_again_as_they_are(made: dict[str, Tokenizers], tmp_path: Path, name: str) -> None:
    """From prepared data or a run, and so a run that starts from it knows its tokenizer again."""
    first = taken_over(unpack(name, tmp_path / "model"), tmp_path / "first")
    second = taken_over(tmp_path / "first", tmp_path / "second")
    assert first.joint
    assert len(first.files) == (3 if name == "marian" else 2)
    for file in first.files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    lines = hf_models.odd_lines(20)
    loaded = load_tokenizers(tmp_path / "second")
    for again in (first, second, loaded):
        assert again.source.encode(lines) == made[name].source.encode(lines)
        assert again.target.encode(lines) == made[name].target.encode(lines)


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_a_folder_that_is_given_back_is_taken_over_as_the_same_files(tmp_path: Path, name: str) -> None:
    model, back = unpack(name, tmp_path / "model"), tmp_path / "back"
    back.mkdir()
    first = taken_over(model, tmp_path / "first")
    for file, data in given_back(side_of(first, "source"), side_of(first, "target")).items():
        (back / file).write_bytes(data)
    (back / "config.json").write_bytes((model / "config.json").read_bytes() if name != "mbart" else b"{}")
    second = taken_over(back, tmp_path / "second")
    for file in second.files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_rows_of_the_model_decide_how_many_ids_there_are(tmp_path: Path) -> None:
    """More rows than tokens are ids that no text has; where the last token has no row, it is absent."""
    unpack("bart", tmp_path)
    hf_models.write(tmp_path, "config.json", {"vocab_size": 410})
    padded = side_of(taken_over(tmp_path, tmp_path / "padded"), "source")
    assert padded.size == 411
    assert padded.pieces([410]) == ["<unused 409>"]
    assert padded.decode([[409]]) == [""]
    hf_models.write(tmp_path, "config.json", {"vocab_size": 400})
    without = side_of(taken_over(tmp_path, tmp_path / "without"), "source")
    assert without.size == 402
    assert without.order[MASK] == ABSENT


def test_a_token_that_ends_texts_and_fills_them_up_is_the_end(tmp_path: Path) -> None:
    unpack("wordpiece", tmp_path)
    names = {"pad_token": "[SEP]", "eos_token": "[SEP]", "bos_token": "[CLS]", "unk_token": {"content": "[UNK]"}}
    hf_models.write(tmp_path, "tokenizer_config.json", names)
    assert side_of(taken_over(tmp_path, tmp_path / "made"), "source").order[:SPECIAL] == [ABSENT, 1, ABSENT, 3, 4]


def test_what_ends_texts_is_told_by_its_name_or_else_by_the_models_config(tmp_path: Path) -> None:
    """But a piece of text stays one, whatever config.json says; ids below 0 say nothing."""
    unpack("wordpiece", tmp_path)
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    cls, piece, size = engine.token_to_id("[CLS]"), 9, engine.get_vocab_size()
    for number, (name, told, expected) in enumerate(
        [("[SEP]", piece, 3), ("[END]", cls, cls), ("[END]", piece, ABSENT), ("[END]", -1, ABSENT)]
    ):
        hf_models.write(tmp_path, "tokenizer_config.json", {"eos_token": name, "bos_token": "[BOS]"})
        about = {"vocab_size": size, "eos_token_id": told, "pad_token_id": piece}
        hf_models.write(tmp_path, "config.json", about)
        source = side_of(taken_over(tmp_path, tmp_path / str(number)), "source")
        assert source.order[EOS] == expected
        assert source.ours(piece) >= SPECIAL


def test_tokens_that_were_added_to_byte_level_files_are_read(tmp_path: Path) -> None:
    unpack("bart", tmp_path)
    (tmp_path / "config.json").unlink(missing_ok=True)
    before = side_of(taken_over(tmp_path, tmp_path / "before"), "source")
    new = max(before.order) + 1
    hf_models.write(tmp_path, "added_tokens.json", {"[NEW]": new})
    after = side_of(taken_over(tmp_path, tmp_path / "after"), "source")
    assert after.ours(new) in after.encode(["the [NEW] cook"])[0]
    hf_models.write(tmp_path, "added_tokens.json", {"[NEW]": "x"})
    with pytest.raises(DataError, match="added_tokens"):
        taken_over(tmp_path, tmp_path / "damaged")


def test_what_is_given_back_of_byte_level_files_frames_texts_and_says_nothing_of_the_machine(tmp_path: Path) -> None:
    source = side_of(taken_over(unpack("bart", tmp_path / "model"), tmp_path / "made"), "source")
    files = given_back(source, source)
    assert b"/home/me" not in b"".join(files.values())
    engine = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert engine.encode("x</s>").tokens == ["<s>", "x", "</s>", "</s>"]


def test_marian_with_a_vocabulary_of_its_own_for_each_side_is_not_joint(tmp_path: Path) -> None:
    unpack("marian", tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_bytes())
    first, second = [name for name in ids if name.startswith("▁")][:2]
    swapped = {**ids, first: ids[second], second: ids[first], "more": len(ids)}
    hf_models.write(tmp_path, "target_vocab.json", swapped)
    hf_models.write(tmp_path, "tokenizer_config.json", {"separate_vocabs": True})
    hf_models.write(tmp_path, "config.json", {"vocab_size": len(ids), "decoder_vocab_size": len(swapped)})
    with pytest.raises(DataError, match=r"is separate: set tokenizer\.joint to False"):
        taken_over(tmp_path, tmp_path / "joint")
    both = taken_over(tmp_path, tmp_path / "separate", joint=False)
    assert (both.source.size, both.target.size) == (len(ids) + 2, len(swapped) + 2)
    assert both.source.pieces([10]) != both.target.pieces([10]) or both.source.pieces([11]) != both.target.pieces([11])


def test_mbart_of_sentencepiece_has_fairseqs_ids(tmp_path: Path) -> None:
    data = hf_models.pieces(hf_models.TEXT, 300)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data)
    tokenizer = side_of(taken_over(tmp_path, tmp_path / "made"), "source")
    model = hf_models.sentencepiece.SentencePieceProcessor(model_proto=data)
    assert tokenizer.size == model.get_piece_size() + 1 + 25 + 1 + 1  # BOS, too
    assert tokenizer.order[:SPECIAL] == [1, 3, ABSENT, 2, tokenizer.size - 2]
    for line in hf_models.odd_lines(50):
        ids = [index + 1 if index else 3 for index in model.encode(line)]
        assert [tokenizer.order[index] for index in tokenizer.encode([line])[0]] == ids
    hf_models.write(tmp_path, "config.json", {"vocab_size": tokenizer.size})
    with pytest.raises(DataError, match="with 25 languages"):
        taken_over(tmp_path, tmp_path / "more")
    hf_models.write(tmp_path, "special_tokens_map.json", {"additional_special_tokens": [*LANGUAGES, "af_ZA"]})
    assert side_of(taken_over(tmp_path, tmp_path / "named"), "source").order[MASK] == tokenizer.size - 1
    assert tokenizer.pieces([tokenizer.ours(model.get_piece_size() + 1)]) == ["ar_AR"]
    assert tokenizer.decode([[tokenizer.ours(model.get_piece_size() + 1)]]) == [""]


def _damage(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def _spoil(file: Path) -> None:
    """Puts a byte that is no UTF-8 into the name of a piece."""
    file.write_bytes(file.read_bytes().replace("▁".encode(), "▁".encode() + b"\xff"))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("bart", lambda folder: (folder / "merges.txt").unlink(), "has no tokenizer of a Hugging Face model"),
        ("bart", _damage("vocab.json", b"{}"), "merges.txt"),
        ("bart", _damage("tokenizer.json", b'{"version": "1.0"}'), "tokenizer.json"),
        ("bart", _damage("tokenizer_config.json", b"x"), "tokenizer_config.json"),
        ("bart", _damage("config.json", b"[[]]"), "config.json"),
        ("bart", _damage("config.json", b'{"vocab_size": "404"}'), "vocab_size"),
        ("bart", _damage("tokenizer_config.json", b'{"eos_token": {}}'), "eos_token"),
        ("bart", _damage("special_tokens_map.json", b'{"additional_special_tokens": 3}'), "additional_special_tokens"),
        ("bart", _damage("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}'), "added_tokens_decoder"),
        ("marian", _damage("source.spm", b"x"), "not a SentencePiece model"),
        ("marian", _damage("vocab.json", b"{}"), "vocab.json is not a vocabulary"),
        ("marian", _damage("vocab.json", b'{"a": -1}'), "vocab.json is not a vocabulary"),
        ("mbart", _damage("tokenizer.json", b"\xff"), "tokenizer.json"),
        ("mbart", lambda folder: _spoil(folder / "tokenizer.json"), "UTF-8"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    unpack(name, tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        taken_over(tmp_path, tmp_path / "made")


def test_without_the_library_its_extra_is_named_and_no_file_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack("mbart", tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match="tokenizers is not installed") as problem:
        taken_over(tmp_path, tmp_path / "made")
    assert "[hf]" in problem.value.hint


def test_it_is_not_trained() -> None:
    with pytest.raises(DataError, match="is not trained"):
        train_tokenizers(Tokenizer(kind="hf"), ["a"], ["b"], Path())
