"""Tokenizers of Hugging Face models, `tokenizer.kind: hf`; `hf_folder` makes their files of a model's folder.

A side's file, `.hf.json` (see `documents.HuggingFaceTokenizer`), holds either a `tokenizer.json` of the `tokenizers`
library, as it is (BART, mBART), or a SentencePiece model with the ids of its pieces (Marian, earlier mBART). The ids of
a model come in another order than ours, which begin with pad, unk, bos, eos, mask: `HuggingFace.order` is the map,
by which rows of its embeddings are moved as well. What a text begins with is in the folder's index (`begin`).

Ids and text are those of transformers with `split_special_tokens=True` and `skip_special_tokens=True`: the name of a
special token in the text, such as `<mask>` or `</s>`, is text like any other, and a special token among the ids is no
text, wherever it stands.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import sentencepiece

from janus_cli import documents, recipe
from janus_cli.core.symbols import NAMES, NO_TEXT, SPECIAL, UNK
from janus_cli.errors import DataError, check_machine, require

EXTRA = "hf"
ABSENT = -1  # in place of an id: the model has no such token
# What transformers makes of spaces where tokenizer_config.json sets clean_up_tokenization_spaces.
CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class HuggingFace:
    """The tokenizer of a Hugging Face model.

    order: for each of our ids, the model's, or ABSENT. Rows of the model's embeddings that no token has are ids, too.
    of_text: for the model's ids that it has in a text, ours.
    stored: what its file holds.
    begin: our ids that every text begins with, unless it is empty: <s> in BART, a language in mBART-50.
    """

    ending = "hf.json"  # suffix of its file

    def __init__(self, stored: Mapping[str, Any], name: str) -> None:
        self.stored = stored
        self.begin: list[int] = []
        special: list[int] = stored["special"]
        self.order = [*special, *(index for index in range(stored["rows"]) if index not in special)]
        self.size = len(self.order)
        self._ours = {theirs: ours for ours, theirs in enumerate(self.order) if theirs != ABSENT}
        self.of_text = dict(self._ours)
        for theirs in (*special, *stored["silent"]):  # unigram pieces of a text may be called so
            self.of_text[theirs] = UNK
        self._pieces = Library(stored, name) if stored["library"] else Sentences(stored, name)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        known = self.of_text
        rows = ([known.get(index, UNK) for index in self._pieces.encode(line)] for line in lines)
        return [[*self.begin, *row] if row else row for row in rows]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        frame = len(self.begin)
        bare = (row[frame:] if [*row[:frame]] == self.begin else row for row in rows)
        theirs = ([self.order[index] for index in row if index not in NO_TEXT] for row in bare)
        texts = (self._pieces.decode([index for index in row if index != ABSENT]) for row in theirs)
        return [text.replace("\n", " ") for text in texts]  # bytes can spell a line end

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [NAMES[index] if index < SPECIAL else self._name(self.order[index]) for index in map(int, ids)]

    def _name(self, theirs: int) -> str:
        name = self._pieces.name(theirs)
        return f"<unused {theirs}>" if name is None else name

    def beginning_with(self, begin: list[int]) -> Self:
        """The same tokenizer for texts that begin with these ids."""
        other = copy(self)
        other.begin = begin
        return other

    def ours(self, theirs: int) -> int:
        """Our id of a token of the model. Raises KeyError if the model has no such token."""
        return self._ours[theirs]

    @property
    def around(self) -> list[int] | None:
        """The model's ids that the model's own tokenizer puts around a text; None if that is not known."""
        return self._pieces.around

    def shares_ids(self, other: HuggingFace) -> bool:
        """Whether ids stand for the same tokens in both: Marian's sides may differ in how they cut text alone."""
        return all(self.stored[key] == other.stored[key] for key in ("special", "rows", "library", "ids"))

    @classmethod
    def load(cls, data: bytes, name: str, joiner: str) -> Self:
        try:
            return cls(documents.parse(data, documents.HuggingFaceTokenizer), name)
        except ValueError as problem:
            raise DataError(f"{name} is damaged: {problem}") from None

    @staticmethod
    def train(knobs: recipe.Tokenizer, lines: Iterable[str], text: str) -> bytes:
        raise DataError(
            "tokenizer.kind hf is the tokenizer of a Hugging Face model and is not trained",
            "name the folder of the model, or of a run that was made from one: --set tokenizer.reuse=FOLDER",
        )


def listed(config: Mapping[str, Any]) -> list[str]:
    """A tokenizer's special tokens besides the usual ones, in mBART its languages, by tokenizer_config.json."""
    lists = (config.get(f"{kind}_special_tokens") for kind in ("additional", "extra"))
    return next(([*map(content, tokens)] for tokens in lists if tokens and isinstance(tokens, list)), [])


def content(token: Any) -> str:
    """The text of a special token, which files hold as such or with its options."""
    return str(token["content"] if isinstance(token, dict) else token)


def library(text: str, name: str) -> Any:
    """The `tokenizers.Tokenizer` that a tokenizer.json describes. name: of the file.

    Raises DataError if it describes none; UsageError if the library is not installed.
    """
    tokenizers = require("tokenizers", EXTRA)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as problem:  # the library raises nothing narrower
        check_machine(problem, f"to load {name}")
        raise DataError(f"{name} is not a tokenizer that the library tokenizers can read: {problem}") from None


def sentence_pieces(data: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model that a file holds; raises DataError if it holds none. name: of the file."""
    try:
        if not data:
            raise ValueError("it is empty")
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        model.id_to_piece(list(range(model.get_piece_size())))  # some may be no UTF-8
        return model
    except (RuntimeError, OSError, ValueError) as problem:
        check_machine(problem, f"to load {name}")
        raise DataError(f"{name} is damaged, or not a SentencePiece model: {problem}") from None


# Both turn lines into ids of the model, without special tokens around them (ABSENT: unknown), and back; an id that no
# token has is called None.


class Library:
    """A tokenizer.json of the `tokenizers` library. engine: a `tokenizers.Tokenizer`."""

    def __init__(self, stored: Mapping[str, Any], name: str) -> None:
        self.engine = library(stored["library"], name)
        special = [index for index in (*stored["special"], *stored["silent"]) if index != ABSENT]
        more = [token for token in listed(stored["config"]) if self.engine.token_to_id(token) is not None]
        self.engine.add_special_tokens([*map(self.engine.id_to_token, special), *more])
        self.engine.encode_special_tokens = True  # their names in text are text
        self.engine.no_truncation()
        self.engine.no_padding()
        # transformers leaves the text of BPE as it is: this cleaning was made for WordPiece.
        self._clean = stored["clean"] and type(self.engine.model).__name__ != "BPE"

    def encode(self, line: str) -> list[int]:
        return list(self.engine.encode(line, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return _cleaned(self.engine.decode(ids, skip_special_tokens=True), self._clean)

    @property
    def around(self) -> list[int] | None:
        return list(self.engine.encode("").ids)

    def name(self, index: int) -> str | None:
        return self.engine.id_to_token(index)


class Sentences:
    """A SentencePiece model whose pieces have other ids than in the model itself."""

    around: list[int] | None = None

    def __init__(self, stored: Mapping[str, Any], name: str) -> None:
        self._model = sentence_pieces(b64decode(stored["sentencepiece"]), name)
        self._ids: dict[str, int] = stored["ids"]
        self._names = {index: piece for piece, index in self._ids.items()}
        more = (self._ids[token] for token in listed(stored["config"]) if token in self._ids)
        self._silent = {*stored["special"], *stored["silent"], *more}
        self._codes, self._clean = stored["codes"], stored["clean"]

    def encode(self, line: str) -> list[int]:
        code: list[str] = []
        if self._codes and line.startswith(">>") and "<<" in line:  # Marian: the language to be written
            end = line.index("<<") + 2
            code, line = [line[:end]], line[end:]
        # By name, because what this side's model does not know may be a piece of the other side's.
        return [self._ids.get(piece, ABSENT) for piece in [*code, *self._model.encode(line, out_type=str)]]

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self._names[index] for index in ids if index in self._names and index not in self._silent]
        return _cleaned(self._model.decode_pieces(pieces).replace("▁", " ").strip(), self._clean)

    def name(self, index: int) -> str | None:
        return self._names.get(index)


def _cleaned(text: str, clean: bool) -> str:
    for spaced, joined in CLEANED if clean else ():
        text = text.replace(spaced, joined)
    return text
