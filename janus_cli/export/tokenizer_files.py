"""Files of a run's tokenizers that `AutoTokenizer.from_pretrained` of transformers loads.

SentencePiece: the models themselves, for MarianTokenizer, the class of transformers that asks sentencepiece both ways.
(A tokenizer.json of the `tokenizers` library would not be exact: it normalises by graphemes, where SentencePiece takes
the longest match, and it breaks ties between segmentations in another way.) Words: a tokenizer.json. Tokenizers of
Hugging Face models: the files that they were made of.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.corpus import SIDES
from janus_cli.data.hf import ABSENT, EXTRA, HuggingFace, library
from janus_cli.data.hf_folder import MBART, SPECIALS, given_back
from janus_cli.data.tokenizer import INDEX, INSIDE, SentencePieces, Tokenizer, Words
from janus_cli.documents import TokenizerIndex, read
from janus_cli.errors import UsageError, require
from janus_cli.export.source import Source
from janus_cli.recipe import Recipe

CONFIG, VOCABULARY, TARGET_VOCABULARY = "tokenizer_config.json", "vocab.json", "target_vocab.json"
ENGINE, TARGET_ENGINE = "tokenizer.json", "target_tokenizer.json"
LANGUAGE = re.compile("[a-z]{2,3}_[A-Z]{2}")
# All that str.split() splits at.
SPACES = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace())


def must_fit(recipe: Recipe) -> None:
    """Raises UsageError if what writes these files is not installed."""
    if recipe.tokenizer.kind == "words":
        require("tokenizers", EXTRA)


def files(source: Source, start: int | None = None) -> dict[str, bytes]:
    """The files by name. Special tokens are called as no text can be: names in text are text.

    start: the id of what the decoder starts with, if an imported model's tokenizer has no such token.
    """
    both = source.tokenizers.source, source.tokenizers.target
    if isinstance(both[0], HuggingFace) and isinstance(both[1], HuggingFace):
        return _given_back(both[0], both[1], source.recipe.model.source_suffix, start)
    config: dict[str, Any] = {
        "pad_token": INSIDE[PAD], "bos_token": INSIDE[BOS], "eos_token": INSIDE[EOS], "mask_token": INSIDE[MASK],
        "split_special_tokens": True, "clean_up_tokenization_spaces": False,
        "model_max_length": source.recipe.reads + 1, "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    if isinstance(both[0], SentencePieces):
        return _marian(source, config)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    joiner = source.tokenizers.joiner
    found = {ENGINE: _words(both[0], joiner), CONFIG: _dumped(config)}
    return found if both[0] is both[1] else {**found, TARGET_ENGINE: _words(both[1], joiner)}


def notes(source: Source) -> list[str]:
    """How texts differ there from janus's, a sentence each."""
    found, tokenizer = [], source.tokenizers.source
    if steps := ", ".join(source.recipe.data.clean):
        found.append(f"clean text first ({steps}), as generate.py does: the tokenizer does not")
    if isinstance(tokenizer, HuggingFace):
        found.append("the name of a special token in a text is that token; split_special_tokens=True makes it text")
    if not isinstance(tokenizer, SentencePieces):
        return found
    found.append("skip_special_tokens leaves out unknown tokens, which are ⁇ in the text of janus")
    found.append("the tokenizer strips white space from both ends of an output")
    if keeps_spaces(tokenizer):
        found.append("a line that begins with >>…<< is taken for a language")
    if "<0x0A>" in source.tokenizers.target.pieces(range(source.tokenizers.target.size)):
        found.append("line ends that byte pieces spell stay, where janus writes spaces")
    return found


def keeps_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a space at the beginning of a line is text."""
    bare, spaced = tokenizer.encode(["a", " a"])
    return bare != spaced


def _given_back(source: HuggingFace, target: HuggingFace, suffix: int, start: int | None) -> dict[str, bytes]:
    """Their files, which put around a source what the model reads: mBART's language is that of the import.

    Raises:
        UsageError: the model reads no language, and transformers has no way to leave out that of an mBART tokenizer.
    """
    found = given_back(source, target)
    if MBART in found and not source.begin and not suffix:
        raise UsageError(
            "this model's tokenizer is mBART's, with which transformers adds a language to every text, but the "
            "model was trained without one",
            "use --format safetensors, or train --from a model that `janus import` made of the mBART",
        )
    config = json.loads(found[CONFIG])
    ends = [EOS, suffix] if suffix else [EOS]
    languages = {"src_lang": [*source.begin, *ends[1:]], "tgt_lang": target.begin}
    named = {key: source.pieces(ids)[0] for key, ids in languages.items() if ids}
    spoken = {key: name for key, name in named.items() if LANGUAGE.fullmatch(name)}
    config |= spoken
    if ENGINE in found:
        engine = library(found[ENGINE].decode(), ENGINE)
        framed = [source.order[index] for index in [*source.encode(["a"])[0], *ends]]
        fits = engine.encode("a").ids == framed
        if not fits:
            _frame(source, engine, ends)
            found[ENGINE] = str(engine.to_str()).encode()
        if not spoken and not (fits and "tokenizer_class" in config):  # a class puts its own frame, or a type its class
            config = _named(source, engine) | config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    elif MBART not in found:
        config.setdefault("tokenizer_class", "MarianTokenizer")
        if start is not None:  # MarianTokenizer fails at ids without a name
            config["bos_token"] = INSIDE[BOS]
            for name in {VOCABULARY, TARGET_VOCABULARY} & found.keys():
                ids = {INSIDE[BOS]: start, **json.loads(found[name])}
                found[name] = json.dumps(ids, ensure_ascii=False).encode()
    found[CONFIG] = json.dumps(config, ensure_ascii=False).encode()
    return found


def _frame(source: HuggingFace, engine: Any, ends: list[int]) -> None:
    """Makes a tokenizer put around a text what the model reads. ends: our ids that follow a text."""
    begin, end = ([engine.id_to_token(source.order[index]) for index in ids] for ids in (source.begin, ends))
    ids = [(name, engine.token_to_id(name)) for name in {*begin, *end}]
    template = require("tokenizers", EXTRA).processors.TemplateProcessing
    engine.post_processor = template(single=[*begin, "$A", *end], special_tokens=ids)


def _named(source: HuggingFace, engine: Any) -> dict[str, Any]:
    """What a tokenizer_config.json says of a tokenizer's special tokens, which classes know by themselves."""
    special = zip(SPECIALS, source.stored["special"], strict=True)
    named = {keys[0]: engine.id_to_token(index) for (keys, _), index in special if index != ABSENT}
    return named | {"model_input_names": ["input_ids", "attention_mask"]}


def _marian(source: Source, config: dict[str, Any]) -> dict[str, bytes]:
    """Two models, and ids for their pieces: the same as in the models."""
    index = read(source.run / INDEX, TokenizerIndex)["files"]
    config |= {"tokenizer_class": "MarianTokenizer", "unk_token": INSIDE[UNK]}
    found = {f"{side}.spm": (source.run / index[side]).read_bytes() for side in SIDES}
    found[VOCABULARY] = _dumped(_ids(source.tokenizers.source))
    if index["source"] != index["target"]:
        config["separate_vocabs"] = True
        found[TARGET_VOCABULARY] = _dumped(_ids(source.tokenizers.target))
    return {**found, CONFIG: _dumped(config)}


def _ids(tokenizer: Tokenizer) -> dict[str, int]:
    names = [*INSIDE, *tokenizer.pieces(range(SPECIAL, tokenizer.size))]
    return {name: index for index, name in enumerate(names)}


def _words(tokenizer: Tokenizer, joiner: str) -> bytes:
    """A tokenizer.json that splits as str.split() and joins as `Words.decode`."""
    assert isinstance(tokenizer, Words)
    tokenizers = require("tokenizers", EXTRA)
    decoders, pattern = tokenizers.decoders, tokenizers.Regex
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(_ids(tokenizer), unk_token=INSIDE[UNK]))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern(f"[{_escaped(SPACES)}]+"), "removed")
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single=["$A", INSIDE[EOS]], special_tokens=[(INSIDE[EOS], EOS)]
    )
    engine.add_special_tokens([INSIDE[index] for index in (PAD, BOS, EOS, MASK)])
    spaced = [decoders.WordPiece(prefix=INSIDE[PAD], cleanup=False), decoders.Fuse()]  # spaces between, no prefix
    if joiner:
        spaced += [
            decoders.Replace(pattern(f"{_escaped(joiner)}( |\\z)"), ""), decoders.Replace(pattern(" +\\z"), ""),
        ]  # fmt: skip
    engine.decoder = decoders.Sequence([decoders.Replace(INSIDE[UNK], tokenizer.pieces([UNK])[0]), *spaced])
    return str(engine.to_str()).encode()


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)


def _dumped(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
