"""Text to ids and back: SentencePiece, words split at white space, or the tokenizer of a Hugging Face model. Ids 0-4
are pad, unk, bos, eos, mask everywhere; no text is ever looked up among their names, so a literal `<unk>` or `</s>` is
text like any other.

A folder holds `tokenizer.json` (kind, joiner, which file serves which side) and either one file for both sides or
`source.*` and `target.*`: `.model` for SentencePiece, `.vocab.txt` (one word a line, the first is id 5) for words,
`.hf.json` for Hugging Face. They are trained on the text, or reused: from an earlier run of janus, from fairseq, from a
model's folder. A kind of tokenizer is a class that trains, loads, encodes and decodes, and an entry of `KINDS`.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, Self

import sentencepiece

from janus_cli import documents, recipe
from janus_cli.core.symbols import BOS, EOS, MASK, NAMES, NO_TEXT, PAD, SPECIAL, UNK
from janus_cli.data.corpus import SIDES
from janus_cli.data.hf import HuggingFace, sentence_pieces
from janus_cli.data.hf_folder import take_over
from janus_cli.errors import DataError, Interrupt, check_machine
from janus_cli.files import MANIFEST, sha256, write_atomically, write_json
from janus_cli.runs import pretrained
from janus_cli.system import stop_signals

INDEX = "tokenizer.json"
# The names inside a SentencePiece model. Its trainer takes text of these names out of the corpus, so that a literal
# "<unk>" would leave "<" and ">" unknown; no text holds these names, because its spaces become "▁" first.
INSIDE = tuple(f"{name[:-1]} >" for name in NAMES)
# Unigram training adds up sums per thread: a fixed number of threads gives the same model on every machine.
TRAIN_THREADS = 4
LONGEST_LINE = 4192  # bytes: SentencePiece's trainer skips longer lines
PART = 1000  # characters of a part of a longer line, at most 4,000 bytes


class Tokenizer(Protocol):
    """Lines to ids and back."""

    size: int

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of each line, without BOS and EOS. Never PAD, BOS, EOS or MASK, whatever the line says."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        r"""Text of each row; PAD, BOS, EOS and MASK are left out. A result never holds "\n"."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece or word of each id; text may have pieces that are called as one of NAMES is."""


class SentencePieces:
    """A SentencePiece model with the five fixed ids; raises DataError for anything else."""

    ending = "model"  # suffix of its file

    def __init__(self, data: bytes, name: str = "the tokenizer") -> None:
        self._model = sentence_pieces(data, name)
        self.size = int(self._model.get_piece_size())
        fixed = [self._model.pad_id(), self._model.unk_id(), self._model.bos_id(), self._model.eos_id()]
        if fixed != [PAD, UNK, BOS, EOS] or self.size <= MASK or not self._model.is_control(MASK):
            raise DataError(
                f"{name} is not a tokenizer of janus: its pad, unk, bos, eos are {fixed} instead of "
                f"{[PAD, UNK, BOS, EOS]}, or {MASK} is not the control symbol {NAMES[MASK]}",
                "train a new one: leave out tokenizer.reuse",
            )

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        return [self._model.encode(line) for line in lines]  # given a list, it starts threads: half a millisecond

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        kept = ([index for index in map(int, row) if index not in NO_TEXT] for row in rows)
        return [self._model.decode(row).replace("\n", " ") for row in kept]  # byte pieces can spell a line end

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [NAMES[index] if index < SPECIAL else self._model.id_to_piece(index) for index in map(int, ids)]

    @classmethod
    def load(cls, data: bytes, name: str, joiner: str) -> Self:
        return cls(data, name)

    @staticmethod
    def train(knobs: recipe.Tokenizer, lines: Iterable[str], text: str) -> bytes:
        """A model file; text: the name of the text, for messages."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_in_parts(lines), model_writer=model, minloglevel=2,
                model_type=knobs.algorithm, vocab_size=knobs.vocabulary, byte_fallback=knobs.byte_fallback,
                character_coverage=knobs.character_coverage, normalization_rule_name=knobs.normalisation,
                remove_extra_whitespaces=not knobs.keep_spaces, allow_whitespace_only_pieces=knobs.keep_spaces,
                pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
                pad_piece=INSIDE[PAD], unk_piece=INSIDE[UNK], bos_piece=INSIDE[BOS], eos_piece=INSIDE[EOS],
                control_symbols=[INSIDE[MASK]], num_threads=TRAIN_THREADS,
            )  # fmt: skip
        except RuntimeError as problem:
            if "Interrupt" in str(problem):  # raised in the iterator, and wrapped
                raise next(
                    (Interrupt(each) for each in stop_signals() if each.name in str(problem)), KeyboardInterrupt()
                ) from None
            raise _refused(knobs, text, str(problem)) from None
        return model.getvalue()


class Words:
    """A word list, from id 5 on; text is split at white space, and unknown words become UNK.

    joiner: removed from decoded text together with the space after it ("@@" for BPE text).
    """

    ending = "vocab.txt"  # suffix of its file

    def __init__(self, words: Sequence[str], joiner: str = "") -> None:
        self._words = [*NAMES, *words]
        self._ids = {word: index for index, word in enumerate(words, SPECIAL)}
        self._joiner = joiner
        self.size = len(self._words)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        known = self._ids
        return [[known.get(word, UNK) for word in line.split()] for line in lines]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        text = ([index for index in row if index not in NO_TEXT] for row in rows)
        return [join(" ".join(self.pieces(ids)), self._joiner) for ids in text]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._words[index] for index in ids]

    @classmethod
    def load(cls, data: bytes, name: str, joiner: str) -> Self:
        try:
            words = data.decode().removesuffix("\n").split("\n")
        except UnicodeDecodeError:
            raise DataError(f"{name} is not UTF-8, so not a list of words") from None
        if not all(words) or len(set(words)) != len(words):
            raise DataError(f"{name} is damaged: an empty or repeated word")
        return cls(words, joiner)

    @staticmethod
    def train(knobs: recipe.Tokenizer, lines: Iterable[str], text: str) -> bytes:
        """The most frequent words, one a line; equally frequent ones in code point order."""
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(line.split())
        if not counts:
            raise DataError(f"the training text ({text}) has no word")
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return "".join(f"{word}\n" for word in ordered[: knobs.vocabulary - SPECIAL]).encode()


KINDS: dict[str, type[SentencePieces] | type[Words] | type[HuggingFace]] = {
    "sentencepiece": SentencePieces, "words": Words, "hf": HuggingFace,
}  # fmt: skip


def join(line: str, joiner: str) -> str:
    """Joins BPE parts of words: `new@@ er` with joiner `@@` becomes `newer`."""
    return f"{line} ".replace(f"{joiner} ", "").rstrip(" ") if joiner else line


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of both sides (the same object if joint), the plain names of their files, and the joiner."""

    source: Tokenizer
    target: Tokenizer
    files: list[str]
    joiner: str = ""

    @property
    def joint(self) -> bool:
        """Whether an id stands for the same token on both sides."""
        if isinstance(self.source, HuggingFace) and isinstance(self.target, HuggingFace):
            return self.source.shares_ids(self.target)
        return self.source is self.target

    @property
    def begin(self) -> list[int]:
        """Ids that every text begins with. Raises DataError if sources begin with others than targets."""
        source, target = (each.begin if isinstance(each, HuggingFace) else [] for each in (self.source, self.target))
        if source != target:
            first = (" ".join(self.target.pieces(ids)) for ids in (source, target))
            raise DataError(
                f"sources begin with {', targets with '.join(first)}: plain text is source and target at once",
                "janus import FOLDER --source-language CODE --target-language CODE, with the same code",
            )
        return target


def load_tokenizers(folder: Path) -> Tokenizers:
    """The tokenizers of prepared data, a run or an export.

    Raises:
        DataError: a file is missing, damaged or elsewhere, or not the one whose sha256 the manifest has.
    """
    index = documents.read(folder / INDEX, documents.TokenizerIndex)
    kind, joiner, names = index["kind"], index.get("joiner", ""), index["files"]
    if kind not in KINDS:
        raise DataError(f"{folder / INDEX} is damaged", "run `janus preprocess` again with --force")
    loaded: dict[str, Tokenizer] = {}
    for side in SIDES:
        name = names.get(side)
        if name is None or Path(name).name != name or (folder / name).is_symlink():
            raise DataError(f"{folder / INDEX}: {side} file {name!r} is not the name of a file in this folder")
        if name not in loaded:
            loaded[name] = _load_one(folder / name, kind, joiner)
    files, manifest = [INDEX, *loaded], folder / MANIFEST
    known = documents.read(manifest, documents.Manifest).get("files", {}) if manifest.is_file() else {}
    for name in files:
        if name in known and known[name]["sha256"] != sha256(folder / name):
            raise DataError(f"{folder / name} was changed: its sha256 is not the one in {MANIFEST}")
    begin = index.get("begin", {})
    source, target = (_beginning(loaded[names[side]], begin.get(side, []), folder) for side in SIDES)
    return Tokenizers(source, target, files, joiner)


def _beginning(tokenizer: Tokenizer, begin: list[int], folder: Path) -> Tokenizer:
    if not begin:
        return tokenizer
    if not isinstance(tokenizer, HuggingFace) or max(begin) >= tokenizer.size:
        raise DataError(f"{folder / INDEX} is damaged: begin")
    return tokenizer.beginning_with(begin)


def is_index(file: Path) -> bool:
    """Whether a tokenizer.json is ours, and not that of a Hugging Face model."""
    try:
        return file.stat().st_size < documents.MEBI and "kind" in json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _load_one(path: Path, kind: str, joiner: str) -> Tokenizer:
    try:
        data = path.read_bytes()
    except OSError as problem:
        check_machine(problem, f"to load {path}")
        raise DataError(f"{path} cannot be read: {problem.strerror}", "run `janus preprocess` again") from None
    return KINDS[kind].load(data, str(path), joiner)


def train_tokenizers(
    knobs: recipe.Tokenizer, sources: Iterable[str], targets: Iterable[str], folder: Path,
    suffixes: tuple[str, str] = ("src", "tgt"),
) -> Tokenizers:  # fmt: skip
    """Trains or reuses (`knobs.reuse`) the tokenizers of both sides and writes their files into `folder`.

    sources, targets: the training text of each side, cleaned and sampled. suffixes: names of the sides, for messages
    and for fairseq's dict.<suffix>.txt. Raises DataError if the text does not allow this vocabulary, or the files to
    reuse are unusable.
    """
    kind, begin, joiner = KINDS[knobs.kind], None, knobs.joiner
    if knobs.reuse is not None:
        place = Path(knobs.reuse)
        place = pretrained(place) or place
        contents = _reuse(knobs, place, suffixes)
        if is_index(place / INDEX):
            index = documents.read(place / INDEX, documents.TokenizerIndex)
            begin, joiner = index.get("begin"), index.get("joiner") or joiner
    elif knobs.joint:
        contents = {"tokenizer": kind.train(knobs, chain(sources, targets), "+".join(suffixes))}
    else:
        source, target = suffixes
        contents = {"source": kind.train(knobs, sources, source), "target": kind.train(knobs, targets, target)}
    write_tokenizers(folder, contents, knobs.kind, joiner, begin)
    made = load_tokenizers(folder)
    if made.joint != knobs.joint:
        shape = "joint" if made.joint else "separate"
        raise DataError(f"tokenizer.reuse {knobs.reuse} is {shape}: set tokenizer.joint to {made.joint}")
    return made


def write_tokenizers(
    folder: Path, contents: Mapping[str, bytes], kind: str, joiner: str = "",
    begin: Mapping[str, Sequence[int]] | None = None,
) -> None:  # fmt: skip
    """Writes the files of `tokenizer`, or of `source` and `target`, and the index. begin: see `TokenizerIndex`."""
    ending = KINDS[kind].ending
    for stem, data in contents.items():
        write_atomically(folder / f"{stem}.{ending}", data)
    files = {side: f"{side if side in contents else 'tokenizer'}.{ending}" for side in SIDES}
    write_json(folder / INDEX, {"kind": kind, "joiner": joiner, "files": files, **({"begin": begin} if begin else {})})


def _in_parts(lines: Iterable[str]) -> Iterator[str]:
    """The same text with long lines in several parts, cut at spaces if possible."""
    for line in lines:
        start = 0
        if len(line) > PART and len(line.encode()) > LONGEST_LINE:
            while len(line) - start > PART:
                space = line.rfind(" ", start + 1, start + PART)
                end = space if space > 0 else start + PART
                yield line[start:end]
                start = end
        yield line[start:]


def _refused(knobs: recipe.Tokenizer, text: str, reason: str) -> DataError:
    """SentencePiece's error as one that a user can act on."""
    asked = f"tokenizer.vocabulary {knobs.vocabulary}"
    if "Vocabulary size too high" in reason and (most := re.search(r"<= (\d+)", reason)):
        message = f"{asked} is more than the text ({text}) allows: at most {most[1]}"
        return DataError(message, f"--set tokenizer.vocabulary={most[1]}")
    if least := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        characters = "characters and bytes" if knobs.byte_fallback else "characters"
        return DataError(
            f"{asked} is too small: the text ({text}) alone has {least[1]} {characters}",
            f"--set tokenizer.vocabulary={least[1]} at least, or a lower tokenizer.character_coverage",
        )
    if "sentences_.empty()" in reason or "all_chars_count" in reason:
        return DataError(f"the training text ({text}) has no line to train a tokenizer on")
    return DataError(f"no tokenizer could be trained on the text ({text}): {reason}")


def _reuse(knobs: recipe.Tokenizer, place: Path, suffixes: tuple[str, str]) -> dict[str, bytes]:
    """Files of an earlier preprocess: one, or a folder with both sides; for words also fairseq's `dict.<suffix>.txt`,
    for hf also the folder of a model."""
    words = knobs.kind == "words"
    if place.is_file():
        if not knobs.joint:
            raise DataError(f"tokenizer.reuse {place} is one file for both sides: set tokenizer.joint to True")
        if not words:
            _load_one(place, knobs.kind, knobs.joiner)
        return {"tokenizer": _dictionary(place) if words else place.read_bytes()}
    if knobs.kind == "hf" and not is_index(place / INDEX):
        return take_over(place)
    if is_index(place / INDEX):
        load_tokenizers(place)
        index = documents.read(place / INDEX, documents.TokenizerIndex)
        if index["kind"] != knobs.kind:
            raise DataError(
                f"tokenizer.reuse {place} is of kind {index['kind']}, the recipe asks for {knobs.kind}",
                f"--set tokenizer.kind={index['kind']}",
            )
        names = index["files"]
        one = names["source"] == names["target"]
        return {"tokenizer" if one else side: (place / names[side]).read_bytes() for side in SIDES}
    paths = [place / f"dict.{suffix}.txt" for suffix in suffixes]
    if not words or not all(path.is_file() for path in paths):
        missing = f"{INDEX} nor {paths[0].name} and {paths[1].name}" if words else INDEX
        raise DataError(
            f"tokenizer.reuse: {place} has no {missing} of janus",
            "name a folder that `janus preprocess` made; for that of a Hugging Face model: --set tokenizer.kind=hf",
        )
    source, target = map(_dictionary, paths)
    if knobs.joint and source != target:
        raise DataError(f"{paths[0]} and {paths[1]} differ", "set tokenizer.joint to false (and model.tie to target)")
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
