"""The JSON that janus writes and reads again: what each kind of file must hold, checked by one reader.

What is too large, nested too deeply or no JSON, and values of a wrong type or size, are refused with the file and the
key at fault before anything is computed or allocated with them. Keys that are not listed here stay as they are; those
with a default are missing in files of earlier versions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from janus_cli.errors import DataError, JanusError

DEEPEST = 50  # objects and lists inside each other
MEBI = 1 << 20

Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]  # of a vocabulary: ids are int32
Number = Annotated[float, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Id = Annotated[int, Field(strict=True, ge=0, lt=10**7)]  # of a token
Rows = Annotated[int, Field(strict=True, ge=1, le=10**7)]  # of an embedding table
Width = Annotated[int, Field(strict=True, ge=1, le=2**18)]  # of any part of a model
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Document(BaseModel):
    """Any JSON object. largest: bytes of its file."""

    model_config = ConfigDict(defer_build=True)  # each command reads only a few kinds
    largest: ClassVar[int] = 16 * MEBI


class File(Document):
    """Size and sha256 of a file beside a manifest."""

    bytes: Count
    sha256: str


class CheckpointManifest(Document):
    format: Whole
    files: dict[str, File]


class Position(Document):
    """How far a training is; a part of every checkpoint's state.json.

    step: updates done. epoch, batch: where the next update's data starts. read: earlier values of training.batch_tokens
    and of the seed in this epoch, with the number of batches made so. bad: skipped updates in a row.
    best, best_loss, best_step: the best validation so far. since_best: validations since then without improvement.
    seconds: spent in updates. flops: of their matrix products, if known.
    validation_due: the validation of this update was interrupted by a signal, or failed.
    """

    step: Count = 0
    epoch: Count = 0
    batch: Count = 0
    read: list[tuple[Count, Seed, Count]] = []
    bad: Count = 0
    best: Number | None = None
    best_loss: Number | None = None
    best_step: Count = 0
    since_best: Count = 0
    seconds: Seconds = 0.0
    flops: Number | None = None
    validation_due: Annotated[Flag, Field(alias="owed")] = False


class State(Position):
    """A checkpoint's state.json. tokenizer: the sha256 of the tokenizer's files. interim: only a stop made it."""

    source_vocabulary: Size
    target_vocabulary: Size
    precision: str = ""
    ranks: Count = 1
    threads: Count = 1
    metrics: dict[str, Number] = {}
    averaged: list[str] = []
    interim: Flag = False
    tokenizer: dict[str, str] = {}


class Vocabularies(Document):
    source: Size
    target: Size


class Text(Document):
    path: str | None = None
    lines: Count = 0
    bytes: Count = 0
    sha256: str = ""


class RoundTrip(Document):
    """Target lines that were encoded and decoded, and how many changed, by cause."""

    lines: Count
    unknown: Count
    normalisation: Count
    spaces: Count
    sampled: Flag


class Tokens(Document):
    """Token counts of a side: mean, median, 95th percentile, longest, sum."""

    mean: Number = 0
    p50: Number = 0
    p95: Number = 0
    max: Number = 0
    sum: Count = 0


class Split(Document):
    kept: Count
    fingerprint: str
    lines: Annotated[Count, Field(alias="in")] = 0
    dropped: dict[str, Count] = {}
    left_out: dict[str, Count] = {}
    unknown: dict[Literal["source", "target"], Count] = {}
    round_trip: RoundTrip | None = None
    references: dict[str, Count] = {}
    tokens: dict[Literal["source", "target"], Tokens] = {}
    text: dict[str, Text] = {}


class Distilled(Document):
    """How a teacher wrote the training targets."""

    run: str
    checkpoint: str
    command: str
    options: dict[str, Any]
    surest: Number = 1.0
    sources: list[Text] = []


class Origin(Document):
    """The checkpoint whose weights a run started from. fresh: what it did not have; not noted by earlier versions."""

    checkpoint: str
    sha256: str
    fresh: list[str] = []


class Manifest(Document):
    """Of prepared data, or of a run, which keeps a copy with a few entries more."""

    format: Whole = 0
    recipe: str = ""
    data: dict[str, Any] = {}
    tokenizer: dict[str, Any] = {}
    vocabulary: Vocabularies | None = None
    splits: dict[str, Split] = {}
    files: dict[str, File] = {}
    bad_utf8: str = "stop"
    created: str = ""
    distilled: Distilled | None = None
    prepared: str = ""
    fingerprint: str = ""
    origin: Origin | None = Field(None, alias="from")


class PreparedManifest(Manifest):
    """What a store cannot do without."""

    vocabulary: Vocabularies
    splits: dict[str, Split]


class RunManifest(Manifest):
    """Of a run, or of an export, which is its own run."""

    files: dict[str, File]


class TokenizerIndex(Document):
    """begin: of kind hf, by side, the ids that a text begins with."""

    kind: str
    files: dict[str, str]
    joiner: str = ""
    begin: dict[str, list[Count]] = {}


class HuggingFaceTokenizer(Document):
    """A `.hf.json` file. Ids are the model's own.

    special: of pad, unk, bos, eos and mask, -1 where there is none. rows: of the model's embeddings. clean: spaces
    before punctuation are left out of decoded text. config: tokenizer_config.json and special_tokens_map.json.
    library: a tokenizer.json; if empty, sentencepiece, a model in base64, cuts the text, and ids are those of pieces.
    silent: ids besides the special ones that are left out of decoded text. codes: a line may begin with a language,
    `>>fra<<`.
    """

    special: Annotated[list[Whole], Field(min_length=5, max_length=5)]
    rows: Size
    clean: Flag
    config: dict[str, Any]
    library: str
    sentencepiece: str
    ids: dict[str, Count]
    silent: list[Count]
    codes: Flag


class TokenTable(Document):
    """What a tokenizer needs of the config.json of a Hugging Face model."""

    vocab_size: Rows | None = None
    decoder_vocab_size: Rows | None = None
    pad_token_id: Whole | None = None
    eos_token_id: Whole | list[Whole] | None = None


class ModelType(Document):
    """What the config.json of any Hugging Face model must hold."""

    model_type: str


class ShardIndex(Document):
    """A model.safetensors.index.json: the file of each weight."""

    weight_map: Annotated[dict[str, Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]], Field(min_length=1)]


class GenerationConfig(Document):
    """A generation_config.json: the settings that janus follows. None: not set."""

    bos_token_id: Id | None = None
    eos_token_id: Id | list[Id] | None = None
    pad_token_id: Id | None = None
    decoder_start_token_id: Id | None = None
    forced_bos_token_id: Id | None = None
    forced_eos_token_id: Id | list[Id] | None = None
    bad_words_ids: list[list[Id]] | None = None
    suppress_tokens: list[Id] | None = None
    num_beams: Size | None = None
    num_return_sequences: Size | None = None
    early_stopping: Literal[False, True, "never"] | None = None
    length_penalty: Finite | None = None
    min_length: Count | None = None
    max_length: Size | None = None
    min_new_tokens: Count | None = None
    max_new_tokens: Size | None = None
    no_repeat_ngram_size: Count | None = None
    do_sample: Flag | None = None
    temperature: Finite | None = None
    top_k: Count | None = None
    top_p: Finite | None = None


class PretrainedConfig(GenerationConfig, ModelType, TokenTable):
    """The config.json of a model that janus imports; earlier versions have its settings of generation there, too."""

    vocab_size: Rows
    d_model: Width
    encoder_layers: Width
    decoder_layers: Width
    encoder_attention_heads: Width
    decoder_attention_heads: Width
    encoder_ffn_dim: Width
    decoder_ffn_dim: Width
    max_position_embeddings: Width
    eos_token_id: Id
    activation_function: str = ""
    dropout: Finite = 0.0
    attention_dropout: Finite = 0.0
    activation_dropout: Finite = 0.0
    scale_embedding: Flag = False
    tie_word_embeddings: Flag = True
    share_encoder_decoder_embeddings: Flag = True


class AddedToken(Document):
    """A token with its options, as files of Hugging Face hold special tokens."""

    content: str
    single_word: Flag = False
    lstrip: Flag = False
    rstrip: Flag = False
    normalized: Flag = True
    special: Flag = False


Token = str | AddedToken


class PretrainedTokenizer(Document):
    """A tokenizer_config.json or special_tokens_map.json."""

    pad_token: Token | None = None
    unk_token: Token | None = None
    bos_token: Token | None = None
    cls_token: Token | None = None
    eos_token: Token | None = None
    sep_token: Token | None = None
    mask_token: Token | None = None
    additional_special_tokens: list[Token] | None = None
    extra_special_tokens: list[Token] | dict[str, Token] | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^[0-9]+$")], AddedToken] = {}
    clean_up_tokenization_spaces: Flag | None = None
    add_prefix_space: Flag | None = None
    do_lower_case: Flag | None = None
    separate_vocabs: Flag | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None


class Lexicon(Document):
    largest: ClassVar[int] = 256 * MEBI
    format: Whole
    sha256: str
    translations: dict[Annotated[str, Field(pattern=r"^[0-9]+$")], list[Count]]
    fingerprint: str = ""


class DecodedSplit(Document):
    """The summary beside the hypotheses of a split."""

    hypotheses: str
    references: list[str] | None = None
    split: str = ""
    label: str = ""
    checkpoint: str = ""
    step: Count | None = None
    sentences: Count | None = None
    passes_mean: Seconds | None = None
    sentences_per_second: Seconds | None = None
    repeats: dict[str, Number | None] = {}


class RecordsHeader(Document):
    format: Whole
    files: list[str]
    replace: list[Flag]
    checkpoint: str
    sha256: str
    options: dict[str, Any]


class RecordsProgress(Document):
    done: Count
    tokens: Count
    passes: Count
    seconds: Seconds
    counts: dict[str, Count] = {}
    published: Flag = False


class Hypothesis(Document):
    hypothesis: str
    score: Number


class Record(Document):
    """A decoded line. index: from 0."""

    source: str
    hypothesis: str
    index: Count = 0
    score: Number = 0.0
    nbest: list[Hypothesis] = []


class ComparedRow(Document):
    system: str
    label: str
    seeds: list[int] = []
    speed: Any = None


class Comparison(Document):
    """The mark of a comparison's folder, later all of its results."""

    recipe: str = ""
    rows: list[ComparedRow] = []


class ComparedOutput(Document):
    """How an output of a comparison was made. passes: decoder passes a sentence."""

    passes: Seconds


class LogEntry(Document):
    kind: str
    step: Whole


def read(path: Path, kind: type[Document], error: type[JanusError] = DataError) -> dict[str, Any]:
    """Reads a JSON object of this kind from a file that janus wrote.

    Raises:
        error: the file is missing, cannot be read, or is damaged; the message names it and the key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(kind.largest + 1)
        if len(data) > kind.largest:
            raise ValueError(f"it has more than {kind.largest:,} bytes")
        return parse(data, kind)
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder") from None
    except ValueError as problem:
        raise error(f"{path} is damaged: {problem}") from None


def parse(data: bytes, kind: type[Document]) -> dict[str, Any]:
    """A JSON object of this kind, as plain values.

    Raises:
        ValueError: it is something else; the message names the key.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _must_be_shallow(value)
    try:
        kind.model_validate(value)
    except ValidationError as problem:
        raise ValueError(_in_words(problem)) from None
    return dict(value)


def parsed_line(line: bytes, kind: type[Document]) -> dict[str, Any]:
    """As `parse`, for a line of a file that may have been cut off anywhere: empty if it is something else."""
    try:
        return parse(line, kind)
    except ValueError:
        return {}


def _must_be_shallow(value: object) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [each for items in inner for each in items]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _in_words(problem: ValidationError) -> str:
    """The first of the mistakes."""
    first = problem.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "it"
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place} {first['msg'].removeprefix('Input ')}, not {repr(first['input'])[:60]}"
