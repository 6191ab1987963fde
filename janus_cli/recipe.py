"""A recipe: every knob of janus, with its default and the default's source, such as [J] (`core.knob.SOURCES`).

Those of the model, the objectives and decoding are in `core/knobs.py`. `recipe_load.load` reads `recipes/NAME.yaml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

from janus_cli.core.knob import Knob
from janus_cli.core.knobs import OBJECTIVES, ARSide, Decoding, Denoising, JanusObjective, Model, ObjectiveKnobs
from janus_cli.measures import MEASURES, GlgeTask, Tokenize

if TYPE_CHECKING:
    Objective = ObjectiveKnobs
    MetricName = str
else:
    Objective = Annotated[reduce(or_, OBJECTIVES.values()), Field(discriminator="name")]
    MetricName = Literal["auto", *MEASURES]


def _plain_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("should be a plain name of letters, digits, '.', '_' and '-', with no folder in it")
    return value


PlainName = Annotated[str, AfterValidator(_plain_name)]  # becomes part of a path, and must not lead out of its folder
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file to fetch. Without a sha256 it is never fetched: the user downloads it and gives `--data-dir`."""

    url: Annotated[str, Knob("address of the file")]
    sha256: Annotated[Sha256 | None, Knob("checksum; without one, the file is not fetched")] = None
    save_as: Annotated[PlainName, Knob("file name in the data folder")]


@dataclass(frozen=True)
class Synthetic:
    """Text that janus makes itself from the recipe's seed (`data/synthetic.py`)."""

    train: Annotated[int, Knob("pairs to train on", ge=1, le=10**7)] = 20_000
    valid: Annotated[int, Knob("pairs to validate on", ge=1, le=10**6)] = 500
    test: Annotated[int, Knob("pairs to test on", ge=1, le=10**6)] = 500


Part = Literal["embeddings", "encoder", "decoder"]
CleanStep = Literal[
    "strip_tags", "unescape_html", "collapse_spaces", "lowercase", "nfc", "remove_spaces", "mark_sentences"
]  # fmt: skip


@dataclass(frozen=True)
class Files:
    """The files of splits that are named instead of being looked up in a folder.

    Each is two aligned files, the source first, and for valid and test possibly a third one with references; or one
    table. For test a source alone will do. Of plain text (task denoising), any number of files, one after the other.
    """

    train: Annotated[tuple[str, ...], Knob("training text; --train sets it")] = ()
    valid: Annotated[tuple[str, ...], Knob("validation text; --valid sets it")] = ()
    test: Annotated[tuple[str, ...], Knob("test text; --test sets it")] = ()


@dataclass(frozen=True)
class Data:
    """Where the text is, and which pairs are kept.

    Files are `<dir>/<split>.<suffix>` for each side, or a table: `<dir>/<split>.tsv`, `.csv`, `.jsonl`, `.parquet`, ….
    Plain text (task denoising) has the target's side only, and no test split.
    """

    dir: Annotated[str | None, Knob("folder of the text; --data-dir sets it")] = None
    files: Annotated[Files, Knob("files named directly; they go before those of the folder")] = Files()
    synthetic: Annotated[Synthetic | None, Knob("instead of files, text that janus makes itself")] = None
    downloads: Annotated[tuple[Download, ...], Knob("files to fetch")] = ()
    notes: Annotated[str, Knob("what to do by hand, shown when the data is not there")] = ""
    source: Annotated[PlainName, Knob("suffix of the source side's files")] = "src"
    target: Annotated[PlainName, Knob("suffix of the target side's files")] = "tgt"
    columns: Annotated[
        tuple[str | int, ...],
        Knob("of a table: source, target, more references; names, a.b for b inside a, or numbers from 1 (no header)"),
    ] = ()
    train: Annotated[PlainName, Knob("name of the training files, before the suffix")] = "train"
    valid: Annotated[PlainName, Knob("name of the validation files, before the suffix")] = "valid"
    test: Annotated[PlainName, Knob("name of the test files, before the suffix")] = "test"
    clean: Annotated[
        tuple[CleanStep, ...], Knob("steps applied to both sides in this order, before pairs are dropped")
    ] = ()
    task: Annotated[
        Literal["translation", "generation", "denoising"],
        Knob(
            "generation: targets of any length, as summaries and questions have; max_ratio is then null unless set. "
            "denoising: plain text, see the section `denoising`"
        ),
    ] = "translation"
    pack: Annotated[
        bool,
        Knob("of plain text: join neighbouring lines, up to max_tokens or an empty line, into one example", "[BA]"),
    ] = True
    min_tokens: Annotated[int, Knob("training pairs with a shorter side are dropped", ge=1, le=10**6)] = 1
    max_tokens: Annotated[
        int, Knob("training pairs with a longer side are dropped; valid ones have no losses", "fairseq", ge=1, le=10**6)
    ] = 175
    max_source_tokens: Annotated[int | None, Knob("the same for sources; null: max_tokens", ge=1, le=10**6)] = None
    max_target_tokens: Annotated[int | None, Knob("the same for targets; null: max_tokens", ge=1, le=10**6)] = None
    truncate_source: Annotated[
        bool, Knob("cut longer sources instead of dropping their pairs; decoding then cuts them to the same length")
    ] = False
    max_ratio: Annotated[
        float | None, Knob("training pairs whose lengths have a larger ratio are dropped; null: none", ge=1, le=1e6)
    ] = 3.0
    deduplicate: Annotated[bool, Knob("drop repeated training pairs")] = False

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}: one text would be both sides")
        if len({self.train, self.valid, self.test}) < 3:
            raise ValueError(f"train, valid and test need three names (got {self.train}, {self.valid}, {self.test})")
        if len(self.columns) == 1:
            raise ValueError(f"columns needs a source and a target (got {self.columns[0]})")
        if "0" in map(str, self.columns):
            raise ValueError(f"columns count from 1 (got {', '.join(map(str, self.columns))})")
        self._check_files()

    def _check_files(self) -> None:
        if self.is_plain:
            if self.files.test:
                raise ValueError("files.test: plain text has no test split; test what is fine-tuned from it")
            if self.deduplicate:
                raise ValueError("deduplicate is for pairs: remove repeated lines from plain text beforehand")
            return
        if max(map(len, (self.files.train, self.files.valid, self.files.test))) > 3:
            raise ValueError("files: a split is at most three files: source, target, references")
        if len(self.files.train) > 2:
            third = self.files.train[2]
            raise ValueError(f"files: train is a source and a target, or one table: no third file (got {third})")

    @property
    def is_plain(self) -> bool:
        """Whether it is plain text, of which noise makes pairs."""
        return self.task == "denoising"

    @property
    def is_named(self) -> bool:
        """Whether the text is the user's: a folder or files."""
        return self.dir is not None or bool(self.files.train)

    def limit(self, side: str) -> tuple[str, int]:
        """The knob that limits the tokens of a side, and its value; BOS and EOS are not counted."""
        own: int | None = getattr(self, f"max_{side}_tokens")
        return ("max_tokens", self.max_tokens) if own is None else (f"max_{side}_tokens", own)

    @property
    def source_limit(self) -> int:
        return self.limit("source")[1]

    @property
    def target_limit(self) -> int:
        return self.limit("target")[1]

    @property
    def example_limit(self) -> int:
        """Tokens of an example of plain text, at most."""
        return min(self.source_limit, self.target_limit)


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes ids. pad 0, unk 1, bos 2, eos 3, mask 4 in every vocabulary."""

    kind: Annotated[
        Literal["sentencepiece", "words", "hf"],
        Knob(
            "words: the text is tokenised already and is split at spaces; hf: that of the Hugging Face model in reuse"
        ),
    ] = "sentencepiece"
    algorithm: Annotated[Literal["unigram", "bpe"], Knob("sentencepiece's algorithm")] = "bpe"
    vocabulary: Annotated[int, Knob("tokens, the five special ones included", ge=8, le=10**7)] = 8000
    joint: Annotated[bool, Knob("one vocabulary for both sides")] = True
    byte_fallback: Annotated[bool, Knob("sentencepiece: unknown characters become bytes")] = False
    character_coverage: Annotated[
        float, Knob("sentencepiece: share of the characters covered, at least 0.98", gt=0, le=1)
    ] = 1.0
    normalisation: Annotated[
        Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"], Knob("sentencepiece's normalisation rule")
    ] = "nmt_nfkc"
    keep_spaces: Annotated[
        bool, Knob("sentencepiece: leading and repeated spaces, and tabs, are text, as in code; needs identity")
    ] = False
    train_lines: Annotated[int, Knob("lines to train on, evenly over the corpus; bounds memory", ge=1, le=10**9)] = (
        1_000_000
    )
    joiner: Annotated[str, Knob('words: dropped from decoded text with the space after it; "@@" for BPE text')] = ""
    reuse: Annotated[
        str | None,
        Knob("folder with the tokenizer files of an earlier `janus preprocess`, or pretrained:NAME; hf: of a model"),
    ] = None

    def __post_init__(self) -> None:
        if self.keep_spaces and (self.kind, self.normalisation) != ("sentencepiece", "identity"):
            raise ValueError("keep_spaces needs kind sentencepiece and normalisation identity, which change no space")
        if self.kind == "sentencepiece" and self.character_coverage < 0.98:
            raise ValueError(
                f"character_coverage {self.character_coverage:g} is too small: sentencepiece takes 0.98 to 1"
            )
        if self.joiner and self.kind != "words":
            raise ValueError(f"joiner {self.joiner!r} joins parts of words: it needs kind words")


@dataclass(frozen=True)
class Training:
    """How the model is trained."""

    updates: Annotated[int, Knob("updates of the weights", "[J]", ge=1, le=10**12)] = 200_000
    minutes: Annotated[float, Knob("stop after this many minutes spent in updates; 0: no limit", ge=0, le=1e7)] = 0.0
    batch_tokens: Annotated[
        int, Knob("tokens of the longer side of a micro-batch on each rank, padding included", ge=16, le=10**7)
    ] = 4096
    accumulate: Annotated[int, Knob("micro-batches per rank and update", ge=1, le=10_000)] = 1
    cpu_slots: Annotated[
        int, Knob("decoder slots that a CPU computes at once; bounds memory", "[H]", ge=0, le=10**9)
    ] = 2048
    learning_rate: Annotated[float, Knob("peak learning rate", "[J], IWSLT14", gt=0, le=1e308)] = 5e-4
    schedule: Annotated[
        Literal["inverse_sqrt", "linear", "cosine"], Knob("how the learning rate falls after its warm-up")
    ] = "inverse_sqrt"
    warmup: Annotated[int, Knob("updates over which the learning rate rises", "[J]", ge=0, le=10**12)] = 10_000
    beta1: Annotated[float, Knob("Adam's beta1, for the first moment", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Knob("Adam's beta2, for the second moment", "[V]", ge=0, lt=1)] = 0.98
    epsilon: Annotated[float, Knob("Adam's epsilon", gt=0, le=1)] = 1e-8
    weight_decay: Annotated[float, Knob("decoupled weight decay", "[J]", ge=0, le=1e6)] = 1e-4
    layer_decay: Annotated[
        float,
        Knob(
            "learning rate of a layer over that of the one above it, as in ELECTRA's fine-tuning; 1: equal",
            ge=0.1,
            le=1,
        ),
    ] = 1.0
    freeze: Annotated[tuple[Part, ...], Knob("parts that are not trained; the embeddings with positions")] = ()
    ema: Annotated[float, Knob("decay of the moving average of weights (`--ema`); 0: none", ge=0, le=1)] = 0.0
    clip: Annotated[float, Knob("gradient norm to clip to; 0: no clipping", ge=0, le=1e12)] = 0.0
    precision: Annotated[Literal["auto", "float32", "bf16"], Knob("auto: bf16 if native, else float32")] = "auto"
    log_every: Annotated[int, Knob("updates between lines of the log", ge=1, le=10**12)] = 100
    validate_every: Annotated[int, Knob("updates between validations", ge=1, le=10**12)] = 2000
    save_every: Annotated[int, Knob("updates between checkpoints", ge=1, le=10**12)] = 2000
    keep_last: Annotated[int, Knob("newest checkpoints that are kept", ge=1, le=10**9)] = 10
    keep_best: Annotated[int, Knob("best checkpoints that are kept", ge=0, le=10**9)] = 5
    best_metric: Annotated[
        str,
        Knob(
            "a name from the validation log; auto: scoring.metric of the AR side, else of the NAR side; without a "
            "side (bleu, not bleu_ar): the mean of both; with data.task denoising, loss unless it is set"
        ),
    ] = "auto"
    patience: Annotated[int, Knob("stop after so many validations without improvement; 0: never", ge=0, le=10**9)] = 0
    valid_sentences: Annotated[
        int, Knob("sentences that a validation decodes, from all over the split", ge=1, le=10**9)
    ] = 500
    max_bad_steps: Annotated[
        int, Knob("skipped updates in a row that end the run: exit 5, for memory 6", ge=1, le=10**9)
    ] = 20
    tensorboard: Annotated[bool, Knob("also write the log for TensorBoard")] = False


@dataclass(frozen=True)
class Scoring:
    """What judges outputs: in validations and for the best checkpoint, in `janus score`, `compare` and `bench`."""

    metric: Annotated[
        MetricName,
        Knob("auto: bleu; chrf where the target text has no spaces between words, or 3 words or fewer on average"),
    ] = "auto"
    task: Annotated[
        GlgeTask | None,
        Knob("of GLGE: validations prepare outputs and references as `janus score --task` does; null: as they are"),
    ] = None
    tokenize: Annotated[
        Tokenize,
        Knob("how bleu splits words (sacreBLEU); auto: 13a. For text without spaces: zh, ja-mecab, char, flores200"),
    ] = "auto"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run."""

    name: Annotated[PlainName, Knob("name of the recipe; the run's name begins with it")]
    about: Annotated[str, Knob("one line for `janus recipes`")] = ""
    seed: Annotated[int, Knob("seed of weights, batches, noise and dropout", ge=0, le=2**63 - 1)] = 1
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    objective: Objective = JanusObjective()
    denoising: Denoising = Denoising()
    training: Training = Training()
    decoding: Decoding = Decoding()
    scoring: Scoring = Scoring()

    # In all sections, unknown keys, wrong types and non-finite numbers are mistakes.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    def __post_init__(self) -> None:
        suffix = ["source_suffix"] * bool(self.model.source_suffix)
        for side, ends in (("target", ["BOS", "EOS"]), ("source", ["EOS", *suffix])):
            (knob, longest), most = self.data.limit(side), self.model.max_length
            if longest + len(ends) > most:
                frame = " + ".join(ends)
                fits = f"--set data.{knob}={most - len(ends)} does"
                raise ValueError(f"data.{knob} {longest} + {frame} does not fit model.max_length {most}; {fits}")
        if self.decoding.min_length + 2 > self.model.max_length:
            least, most = self.decoding.min_length, self.model.max_length
            raise ValueError(f"decoding.min_length {least} + BOS + EOS does not fit model.max_length {most}")
        if self.data.is_plain and not self.tokenizer.joint:
            raise ValueError("data.task denoising needs tokenizer.joint true: source and target are one text")
        if self.model.tie == "all" and not self.tokenizer.joint:
            raise ValueError("model.tie all needs tokenizer.joint true: the two sides have different vocabularies")
        if getattr(self.objective, "switched", 0) and not self.tokenizer.joint:
            raise ValueError("objective.switched puts target words into sources: it needs tokenizer.joint true, or 0")

    @property
    def ar_stream(self) -> ARSide | None:
        """Which slots predict from left to right; None without an AR side."""
        return getattr(self.objective, "ar_stream", None)

    @property
    def reads(self) -> int:
        """Source tokens that the model reads of a line, EOS not counted; what is longer is cut."""
        room = self.model.max_length - 1 - bool(self.model.source_suffix)
        return min(room, self.data.source_limit) if self.data.truncate_source else room

    def plain(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every default filled in."""
        return CHECKED.dump_python(self, mode="json")


CHECKED = TypeAdapter(Recipe)  # validates recipes
# The only knobs of the model section that do not change what its weights are, or mean.
OUTSIDE_WEIGHTS = (
    "model.dropout", "model.attention_dropout", "model.activation_dropout", "model.init", "model.attention",
)  # fmt: skip


def tokenizer_of(manifest: Mapping[str, Any]) -> Tokenizer:
    """How the tokenizer of prepared data was made, by its manifest. Raises ValueError if that is damaged."""
    return CHECKED.validate_json(json.dumps({"name": "any", "tokenizer": manifest["tokenizer"]})).tokenizer


@cache
def sections() -> tuple[tuple[str, Any], ...]:
    """Path and dataclass of every section: "" is the recipe itself, data.downloads.0 any element of a list.

    `objective` has one entry for each objective. Sections inside others come last.
    """
    known: list[tuple[str, Any]] = [("", Recipe)]
    for place, section in known:  # grows as it goes
        for name, kind in get_type_hints(section).items():
            path = f"{place}.{name}".strip(".") + ".0" * (get_origin(kind) is tuple)
            inner = [(path, part) for part in (kind, *get_args(kind)) if is_dataclass(part)]
            known += [each for each in inner if each not in known]
    return tuple(known)
