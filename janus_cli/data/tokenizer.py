"""Text to ids and back: SentencePiece, or words split at white space. Ids 0-4 are pad, unk, bos, eos, mask everywhere.

A folder holds `tokenizer.json` (kind, joiner, which file serves which side) and either one file for both sides or
`source.*` and `target.*`: `.model` for SentencePiece, `.vocab.txt` (one word a line, the first is id 5) for words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sentencepiece

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.errors import DataError
from janus_cli.files import read_json

NO_TEXT = frozenset((PAD, BOS, EOS, MASK))
INDEX = "tokenizer.json"
NAMES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


class Tokenizer(Protocol):
    """Lines to ids and back."""

    size: int

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of each line, without BOS and EOS. Never PAD, BOS, EOS or MASK, whatever the line says."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        r"""Text of each row; PAD, BOS, EOS and MASK are left out. A result never holds "\n"."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for."""


class SentencePieces:
    """A SentencePiece model with the five fixed ids.

    Raises:
        DataError: no model, or one whose fixed ids differ.
    """

    def __init__(self, data: bytes, name: str = "the tokenizer") -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
        except (RuntimeError, OSError, ValueError) as problem:
            raise DataError(f"{name} is damaged or no SentencePiece model: {problem}") from None
        self.size = int(self._model.get_piece_size()) if data else 0
        fixed = [self._model.pad_id(), self._model.unk_id(), self._model.bos_id(), self._model.eos_id()] if data else []
        if fixed != [PAD, UNK, BOS, EOS] or self.size <= MASK or not self._model.is_control(MASK):
            raise DataError(
                f"{name} is no tokenizer of janus: its pad, unk, bos, eos are {fixed or 'missing'} instead of "
                f"{[PAD, UNK, BOS, EOS]}, or {MASK} is not the control symbol {NAMES[MASK]}",
                "train a new one: leave out tokenizer.reuse",
            )

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = self._model.encode(list(lines), num_threads=1) if lines else []
        return rows

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts = self._model.decode([_text_ids(row) for row in rows], num_threads=1) if rows else []
        return [text.replace("\n", " ") for text in texts]  # byte pieces can spell a line end

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._model.id_to_piece(int(index)) for index in ids]


class Words:
    """A list of words; the text is split at white space and unknown words become UNK.

    Args:
        words: the word of id 5, 6, ...
        joiner: taken out of decoded text together with the space behind it ("@@" for BPE text).
    """

    def __init__(self, words: Sequence[str], joiner: str = "") -> None:
        self._words = [*NAMES, *words]
        self._ids = {word: index for index, word in enumerate(words, SPECIAL)}
        self._joiner = joiner
        self.size = len(self._words)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        known = self._ids
        return [[known.get(word, UNK) for word in line.split()] for line in lines]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [join(" ".join(self.pieces(_text_ids(row))), self._joiner) for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._words[index] for index in ids]


def join(line: str, joiner: str) -> str:
    """Undoes a split into word parts: `new@@ er` with joiner `@@` is `newer`."""
    return f"{line} ".replace(f"{joiner} ", "").rstrip(" ") if joiner else line


def _text_ids(row: Sequence[int]) -> list[int]:
    return [index for index in map(int, row) if index not in NO_TEXT]


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of both sides (the same object where joint), and their files' plain names."""

    source: Tokenizer
    target: Tokenizer
    files: list[str]


def load_tokenizers(folder: Path) -> Tokenizers:
    """From a prepared folder or a run folder.

    Raises:
        DataError: files missing, damaged, or named outside the folder.
    """
    about = read_json(folder / INDEX)
    kind, joiner, names = about.get("kind"), about.get("joiner", ""), about.get("files")
    if kind not in ("sentencepiece", "words") or not isinstance(joiner, str) or not isinstance(names, dict):
        raise DataError(f"{folder / INDEX} is damaged", "run `janus preprocess` again with --force")
    loaded: dict[str, Tokenizer] = {}
    for side in ("source", "target"):
        name = names.get(side)
        if not isinstance(name, str) or Path(name).name != name or (folder / name).is_symlink():
            raise DataError(f"{folder / INDEX}: {side} file {name!r} is no plain file name in this folder")
        if name not in loaded:
            loaded[name] = load_one(folder / name, kind, joiner)
    return Tokenizers(loaded[names["source"]], loaded[names["target"]], [INDEX, *loaded])


def load_one(path: Path, kind: str, joiner: str) -> Tokenizer:
    """One file. Raises DataError: it cannot be read, or is damaged."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}", "run `janus preprocess` again") from None
    if kind == "sentencepiece":
        return SentencePieces(data, str(path))
    return Words(_word_list(path, data), joiner)


def _word_list(path: Path, data: bytes) -> list[str]:
    try:
        words = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: no list of words") from None
    if not all(words) or len(set(words)) != len(words):
        raise DataError(f"{path} is damaged: an empty or repeated word")
    return words
