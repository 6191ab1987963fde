"""Files of `tokenizer.kind: hf`, made of the folder of a Hugging Face model; and that folder's files again."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from janus_cli import console, documents
from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.hf import ABSENT, EXTRA, HuggingFace, content, library, listed, sentence_pieces
from janus_cli.errors import DataError, check_machine, require

# The special tokens in the order of our ids: the keys that name them, and their usual names.
SPECIALS = (
    (("pad_token",), ("<pad>", "[PAD]")),
    (("unk_token",), ("<unk>", "[UNK]")),
    (("bos_token", "cls_token"), ("<s>", "[CLS]")),
    (("eos_token", "sep_token"), ("</s>", "[SEP]")),
    (("mask_token",), ("<mask>", "[MASK]")),
)
# mBART's languages in the order of their ids, behind the pieces (Liu et al. 2020); mBART-50's folder lists its own.
LANGUAGES = (
    *("ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX"),
    *("kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN"),
    "zh_CN",
)
MBART = "sentencepiece.bpe.model"
_NAME = re.compile(r"<.+>|\[.+\]")  # of a special token, which a piece of text hardly has
# Keys of tokenizer_config.json that name files of the machine that wrote it.
PLACES = ("name_or_path", "tokenizer_file", "special_tokens_map_file")


def take_over(folder: Path) -> dict[str, bytes]:
    """Contents of the files of kind hf: `tokenizer`, or `source` and `target`.

    Raises:
        DataError: the folder has no tokenizer that is known here, or a damaged one.
    """
    config = {
        key: value
        for name in ("special_tokens_map.json", "tokenizer_config.json")
        for key, value in _json(folder / name, documents.PretrainedTokenizer).items()
        if key not in PLACES
    }
    about = _json(folder / "config.json", documents.TokenTable)
    size = about.get("vocab_size")
    sizes = {"tokenizer": size, "source": size, "target": size and (about.get("decoder_vocab_size") or size)}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" in names:
        made = {"tokenizer": _library(_text(folder / "tokenizer.json"), folder, config)}
    elif {"vocab.json", "merges.txt"} <= names:
        made = {"tokenizer": _library(_byte_level(folder, config), folder, config)}
    elif {"source.spm", "target.spm", "vocab.json"} <= names:
        made = {side: _marian(folder, side, config) for side in ("source", "target")}
    elif MBART in names:
        made = {"tokenizer": _mbart(folder, config, size)}
    else:
        raise DataError(
            f"tokenizer.reuse: {folder} has no tokenizer of a Hugging Face model: tokenizer.json, vocab.json with "
            f"merges.txt, source.spm with target.spm and vocab.json, or {MBART}",
            "name the folder of a BART, mBART or Marian model, or of a run that was made from one; of other models, "
            "transformers' `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` may write a tokenizer.json",
        )
    contents = {}
    for side, (tokens, parts) in made.items():
        rows = sizes[side] or max(tokens.values()) + 1
        special = _special(tokens, config, rows, about)
        # Our BOS is what the model's decoder starts with, be that </s>, <pad> or a language; <s> is a token of texts.
        start, special[BOS] = special[BOS], ABSENT
        stored = {
            "special": special,
            "rows": rows,
            "clean": bool(config.get("clean_up_tokenization_spaces")),
            "config": config,
            **{"library": "", "sentencepiece": "", "ids": {}, "silent": [], "codes": False, **parts},
        }
        stored["silent"] += [start] * (start != ABSENT)
        contents[side] = _dumped(stored)
    return contents


def given_back(source: HuggingFace, target: HuggingFace) -> dict[str, bytes]:
    """Tokenizer files of a folder, by name, that transformers reads, and `take_over` as the same tokenizers."""
    stored, other = source.stored, target.stored
    files = {"tokenizer_config.json": _dumped(stored["config"])}
    if stored["library"]:
        return files | {"tokenizer.json": stored["library"].encode()}
    if not stored["codes"]:
        return files | {MBART: b64decode(stored["sentencepiece"])}
    for side, each in (("source", stored), ("target", other)):
        files[f"{side}.spm"] = b64decode(each["sentencepiece"])
    separate = {"target_vocab.json": _dumped(other["ids"])} if other["ids"] != stored["ids"] else {}
    return files | {"vocab.json": _dumped(stored["ids"])} | separate


Made = tuple[dict[str, int], dict[str, Any]]  # every token with its id; what the file says of the pieces


def _special(tokens: Mapping[str, int], config: Mapping[str, Any], rows: int, about: Mapping[str, Any]) -> list[int]:
    """The model's ids of pad, unk, bos, eos and mask. Each stands for one of them, for the end first.

    about: its config.json, which may tell the ids of tokens that have no name.
    """
    told = {EOS: about.get("eos_token_id"), PAD: about.get("pad_token_id")}
    found = dict.fromkeys(range(SPECIAL), ABSENT)
    for ours in (EOS, UNK, BOS, MASK, PAD):
        keys, usual = SPECIALS[ours]
        names = [content(config[key]) for key in keys if config.get(key)] or usual
        ids = [tokens[name] for name in names if tokens.get(name, rows) < rows]
        ids += [tokens[name] for name in tokens if tokens[name] == told.get(ours) and _NAME.fullmatch(name)]
        found[ours] = next((index for index in ids if index not in found.values()), ABSENT)
    return [*found.values()]


def _library(text: str, folder: Path, config: Mapping[str, Any]) -> Made:
    engine = library(text, str(folder / "tokenizer.json"))
    steps = json.loads(engine.to_str())
    for key, step, own, kind in (
        ("add_prefix_space", "pre_tokenizer", "add_prefix_space", "ByteLevel"),
        ("do_lower_case", "normalizer", "lowercase", "BertNormalizer"),
    ):
        made = steps[step] or {}
        if made.get("type") == kind and config.get(key, made[own]) not in (made[own], None):
            console.warn(
                f"{folder}: tokenizer_config.json has {key} {config[key]}, which transformers follows; janus follows "
                f"tokenizer.json, which has {made[own]}"
            )
    return engine.get_vocab(with_added_tokens=True), {"library": text}


def _byte_level(folder: Path, config: Mapping[str, Any]) -> str:
    """The tokenizer.json of a vocab.json and merges.txt, as BART's tokenizer makes it."""
    tokenizers = require("tokenizers", EXTRA)
    try:
        files = (str(folder / name) for name in ("vocab.json", "merges.txt"))
        model = tokenizers.models.BPE.from_file(*files)
    except Exception as problem:  # the library raises nothing narrower
        check_machine(problem, f"to read {folder}")
        raise DataError(f"vocab.json and merges.txt in {folder} are damaged: {problem}") from None
    engine, spaced = tokenizers.Tokenizer(model), bool(config.get("add_prefix_space"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    engine.decoder = tokenizers.decoders.ByteLevel()
    added = {int(index): token for index, token in config.get("added_tokens_decoder", {}).items()}
    added |= {index: {"content": name} for name, index in _added(folder).items() if index not in added}
    for _, token in sorted(added.items()):
        known = {key: value for key, value in token.items() if key in documents.AddedToken.model_fields}
        engine.add_tokens([tokenizers.AddedToken(**known)])
    special = _special(engine.get_vocab(), config, engine.get_vocab_size(), {})
    named = {index: engine.id_to_token(index) for index in special if index != ABSENT}
    engine.add_special_tokens([*named.values()])
    if {special[BOS], special[EOS]} <= named.keys():  # around a text; janus puts its own
        end, begin = ((named[special[ours]], special[ours]) for ours in (EOS, BOS))
        engine.post_processor = tokenizers.processors.RobertaProcessing(end, begin, add_prefix_space=spaced)
    return str(engine.to_str())


def _added(folder: Path) -> dict[str, int]:
    """The tokens of an added_tokens.json."""
    found = _json(folder / "added_tokens.json")
    if not all(type(index) is int and index >= 0 for index in found.values()):
        raise DataError(f"{folder / 'added_tokens.json'} is no object of tokens with their ids")
    return found


def _marian(folder: Path, side: str, config: Mapping[str, Any]) -> Made:
    own = side == "target" and config.get("separate_vocabs")
    file = folder / ("target_vocab.json" if own else "vocab.json")
    tokens = _json(file)
    if not tokens or not all(type(index) is int and index >= 0 for index in tokens.values()):
        raise DataError(f"{file} is not a vocabulary: an object of tokens with their ids")
    added = {content(token) for token in config.get("added_tokens_decoder", {}).values()} | _added(folder).keys()
    if strange := sorted(added - tokens.keys()):
        console.warn(f"{folder}: {file.name} has no {', '.join(strange[:3])}: such tokens are read as other text")
    model = (folder / f"{side}.spm").read_bytes()
    return tokens, {"sentencepiece": b64encode(model).decode(), "ids": tokens, "codes": True}


def _mbart(folder: Path, config: Mapping[str, Any], rows: int | None) -> Made:
    """Pieces from the fourth on, one higher than in the model, then languages and the mask, as fairseq numbers them."""
    data = (folder / MBART).read_bytes()
    model = sentence_pieces(data, str(folder / MBART))
    pieces = [model.id_to_piece(index) for index in range(3, model.get_piece_size())]
    languages = listed(config) or LANGUAGES
    names = ["<s>", "<pad>", "</s>", "<unk>", *pieces, *languages, "<mask>"]
    tokens = {name: index for index, name in enumerate(names)}
    if rows not in (None, len(names)):
        raise DataError(
            f"{folder} has {rows:,} embeddings, but {len(names):,} tokens with {len(languages)} languages",
            "name the languages in special_tokens_map.json, as additional_special_tokens in the order of their ids",
        )
    silent = [tokens[token] for token in languages]
    return tokens, {"sentencepiece": b64encode(data).decode(), "ids": tokens, "silent": silent}


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _json(file: Path, kind: type[documents.Document] = documents.Document) -> dict[str, Any]:
    """A JSON object of this kind; empty if there is no such file."""
    return documents.read(file, kind) if file.is_file() else {}


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} is damaged: it is not UTF-8, at byte {problem.start:,}") from None
