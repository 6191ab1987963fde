"""Tokenizers of a text: trained on it, or taken over from an earlier one, here or of fairseq."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.tokenizer import INDEX, NAMES, Tokenizers, load_one, load_tokenizers
from janus_cli.errors import DataError
from janus_cli.files import read_json, write_atomically, write_json

if TYPE_CHECKING:
    from janus_cli import recipe

# Sums in unigram training run thread by thread: a fixed number gives the same model on every machine.
TRAIN_THREADS = 4
LONGEST_LINE = 4192  # bytes: SentencePiece's trainer leaves out what has more
PART = 1000  # characters, at most 4,000 bytes
Lines = Callable[[], Iterable[str]]  # starts the same lines again at each call


def train_tokenizers(
    knobs: recipe.Tokenizer, sources: Lines, targets: Lines, folder: Path, suffixes: tuple[str, str] = ("src", "tgt")
) -> Tokenizers:
    """Trains, or takes over (`knobs.reuse`), the tokenizers of both sides and writes their files into `folder`.

    Args:
        knobs: the recipe's tokenizer section.
        sources, targets: start the training text of a side, cleaned, already sampled.
        folder: gets tokenizer.json and the files.
        suffixes: names of the sides, for fairseq's dict.<suffix>.txt and for messages.

    Raises:
        DataError: the text does not allow this vocabulary, or the files to take over are unusable.
    """
    make = _train_pieces if knobs.kind == "sentencepiece" else _count_words
    ending = "model" if knobs.kind == "sentencepiece" else "vocab.txt"
    if knobs.reuse is not None:
        contents = _reuse(knobs, Path(knobs.reuse), suffixes)
    elif knobs.joint:
        both = make(knobs, _both(sources, targets), "+".join(suffixes))
        contents = {"tokenizer": both}
    else:
        contents = {
            side: make(knobs, lines(), suffix)
            for side, lines, suffix in zip(("source", "target"), (sources, targets), suffixes, strict=True)
        }
    files = {side: f"{side if side in contents else 'tokenizer'}.{ending}" for side in ("source", "target")}
    for stem, data in contents.items():
        write_atomically(folder / f"{stem}.{ending}", data)
    about = {"kind": knobs.kind, "joiner": knobs.joiner, "files": files}
    write_json(folder / INDEX, about)
    return load_tokenizers(folder)


def _both(sources: Lines, targets: Lines) -> Iterator[str]:
    yield from sources()
    yield from targets()


def _train_pieces(knobs: recipe.Tokenizer, lines: Iterable[str], what: str) -> bytes:
    """A SentencePiece model."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut(lines), model_writer=model, minloglevel=2,
            model_type=knobs.algorithm, vocab_size=knobs.vocabulary, byte_fallback=knobs.byte_fallback,
            character_coverage=knobs.character_coverage, normalization_rule_name=knobs.normalisation,
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_piece=NAMES[PAD], control_symbols=[NAMES[MASK]],
            num_threads=TRAIN_THREADS,
        )  # fmt: skip
    except RuntimeError as problem:
        if "KeyboardInterrupt" in str(problem):  # raised in the iterator, and wrapped
            raise KeyboardInterrupt from None
        raise _refused(knobs, what, str(problem)) from None
    return model.getvalue()


def _cut(lines: Iterable[str]) -> Iterator[str]:
    """The same text, long lines in several parts, cut at a space where there is one."""
    for line in lines:
        start = 0
        if len(line) > PART and len(line.encode()) > LONGEST_LINE:
            while len(line) - start > PART:
                space = line.rfind(" ", start + 1, start + PART)
                end = space if space > 0 else start + PART
                yield line[start:end]
                start = end
        yield line[start:]


def _refused(knobs: recipe.Tokenizer, what: str, reason: str) -> DataError:
    most, least = re.search(r"<= (\d+)", reason), re.search(r"required_chars\. \d+ vs (\d+)", reason)
    if "Vocabulary size too high" in reason and most:
        return DataError(
            f"tokenizer.vocabulary {knobs.vocabulary} is more than the text ({what}) allows: at most {most[1]}",
            f"--set tokenizer.vocabulary={most[1]}",
        )
    if least:
        bytes_too = " and bytes" if knobs.byte_fallback else ""
        return DataError(
            f"tokenizer.vocabulary {knobs.vocabulary} is too small: the text ({what}) alone has {least[1]} characters"
            f"{bytes_too}",
            f"--set tokenizer.vocabulary={least[1]} at least, or a lower tokenizer.character_coverage",
        )
    if "sentences_.empty()" in reason or "all_chars_count" in reason:
        return DataError(f"the training text ({what}) has no line to train a tokenizer on")
    return DataError(f"no tokenizer could be trained on the text ({what}): {reason}")


def _count_words(knobs: recipe.Tokenizer, lines: Iterable[str], what: str) -> bytes:
    """The most frequent words, one a line; equally frequent ones in code point order."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    if not counts:
        raise DataError(f"the training text ({what}) has no word")
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return "".join(f"{word}\n" for word in ordered[: knobs.vocabulary - SPECIAL]).encode()


def _reuse(knobs: recipe.Tokenizer, place: Path, suffixes: tuple[str, str]) -> dict[str, bytes]:
    """Files of an earlier preprocess; for words also fairseq's `dict.<suffix>.txt`: one file, or a folder with both."""
    if place.is_file():
        if not knobs.joint:
            raise DataError(f"tokenizer.reuse {place} is one file for both sides: set tokenizer.joint to True")
        if knobs.kind == "words":
            return {"tokenizer": _dictionary(place)}
        load_one(place, knobs.kind, knobs.joiner)
        return {"tokenizer": place.read_bytes()}
    if (place / INDEX).is_file():
        load_tokenizers(place)
        about = read_json(place / INDEX)
        if about["kind"] != knobs.kind:
            raise DataError(f"tokenizer.reuse {place} is of kind {about['kind']}, the recipe asks for {knobs.kind}")
        names = about["files"]
        same = names["source"] == names["target"]
        stems = {"tokenizer": names["source"]} if same else {side: names[side] for side in ("source", "target")}
        if same != knobs.joint:
            raise DataError(
                f"tokenizer.reuse {place} is {'joint' if same else 'separate'}: set tokenizer.joint to {same}"
            )
        return {stem: (place / name).read_bytes() for stem, name in stems.items()}
    found = [place / f"dict.{suffix}.txt" for suffix in suffixes]
    if knobs.kind != "words" or not all(file.is_file() for file in found):
        words = f" nor {found[0].name} and {found[1].name}" if knobs.kind == "words" else ""
        raise DataError(f"tokenizer.reuse: {place} has no {INDEX}{words}", "name a folder that `janus preprocess` made")
    source, target = (_dictionary(file) for file in found)
    if knobs.joint and source != target:
        raise DataError(f"{found[0]} and {found[1]} differ", "set tokenizer.joint to false (and model.tie to target)")
    return {"tokenizer": source} if knobs.joint else {"source": source, "target": target}


def _dictionary(path: Path) -> bytes:
    """The words of fairseq's `word count` lines, one a line; repeated ones once."""
    words: dict[bytes, None] = {}
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        word, _, count = line.partition(b" ")
        if not word or not count.split(b" ")[0].isdigit():
            raise DataError(f"{path}:{number}: {line[:60].decode(errors='replace')!r} is not `word count`")
        words[word] = None
    return b"".join(word + b"\n" for word in words)
