"""Every knob of janus, with its default and where the default comes from.

Those of the objectives stand in `recipe_objectives.py`. Nothing else in the package holds a number.

A recipe is one YAML file a dataset (`recipes/NAME.yaml`); `recipe_load.load` reads it into `Recipe`.
Sources: [J] JANUS paper and released code, [C] Mask-Predict (CMLM), [V] Vaswani 2017, [X] XLNet, [M] MPNet,
[P] ProphetNet, [B] BANG, [CC] CMLMC (Huang 2022), [CE] CeMAT (Li 2022), [H] measured here. Papers and released code.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from janus_cli.recipe_objectives import OBJECTIVE_NAMES as OBJECTIVE_NAMES
from janus_cli.recipe_objectives import SYSTEMS as SYSTEMS
from janus_cli.recipe_objectives import Above0 as Above0
from janus_cli.recipe_objectives import ArObjective as ArObjective
from janus_cli.recipe_objectives import ARSide as ARSide
from janus_cli.recipe_objectives import ARStream as ARStream
from janus_cli.recipe_objectives import BangObjective as BangObjective
from janus_cli.recipe_objectives import CematObjective as CematObjective
from janus_cli.recipe_objectives import CmlmcObjective as CmlmcObjective
from janus_cli.recipe_objectives import CmlmObjective as CmlmObjective
from janus_cli.recipe_objectives import Count as Count
from janus_cli.recipe_objectives import JanusObjective as JanusObjective
from janus_cli.recipe_objectives import Knobs as Knobs
from janus_cli.recipe_objectives import MpnetObjective as MpnetObjective
from janus_cli.recipe_objectives import Noise as Noise
from janus_cli.recipe_objectives import Objective as Objective
from janus_cli.recipe_objectives import Positive as Positive
from janus_cli.recipe_objectives import ProphetnetObjective as ProphetnetObjective
from janus_cli.recipe_objectives import Share as Share
from janus_cli.recipe_objectives import Weight as Weight
from janus_cli.recipe_objectives import XlnetObjective as XlnetObjective


def _plain_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("should be a plain name of letters, digits, '.', '_' and '-', with no folder in it")
    return value


PlainName = Annotated[str, AfterValidator(_plain_name)]  # becomes part of a path: nothing is written outside


class Download(Knobs):
    """One file to fetch. Without a known sha256 it is never fetched: the user downloads it and gives `--data-dir`."""

    url: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    save_as: PlainName


class Synthetic(Knobs):
    """Text that janus makes itself from the recipe's seed (`text/synthetic.py`)."""

    train: Positive = 20_000
    valid: Positive = 500
    test: Positive = 500


CleanStep = Literal["strip_tags", "unescape_html", "collapse_spaces", "lowercase", "nfc"]


class Data(Knobs):
    """Where the text is, and which pairs are kept. Files are `<dir>/<split>.<suffix>`, plain or `.gz`."""

    dir: str | None = None
    synthetic: Synthetic | None = None
    downloads: tuple[Download, ...] = ()
    notes: str = ""  # manual steps, shown when the data is not there
    source: PlainName = "src"  # suffix of the source side
    target: PlainName = "tgt"
    train: PlainName = "train"  # file name before the suffix
    valid: PlainName = "valid"
    test: PlainName = "test"
    clean: tuple[CleanStep, ...] = ()  # applied in this order to both sides, before filtering
    min_tokens: Positive = 1  # shorter training pairs are dropped (either side)
    max_tokens: Positive = 175  # longer training pairs are dropped; the usual limit for MT (fairseq recipes)
    max_ratio: Annotated[float, Field(ge=1)] = 3.0  # of the two token counts; larger training pairs are dropped
    deduplicate: bool = False  # drop training pairs seen before

    @model_validator(mode="after")
    def _apart(self) -> Data:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}: one text would be both sides")
        if len({self.train, self.valid, self.test}) < 3:
            raise ValueError(f"train, valid and test need three names (got {self.train}, {self.valid}, {self.test})")
        return self


class Tokenizer(Knobs):
    """How text becomes ids. pad 0, unk 1, bos 2, eos 3, mask 4 in every vocabulary."""

    kind: Literal["sentencepiece", "words"] = "sentencepiece"  # words: already tokenised, split at spaces
    algorithm: Literal["unigram", "bpe"] = "bpe"
    vocabulary: Annotated[int, Field(ge=8)] = 8000
    joint: bool = True  # one vocabulary for both sides
    byte_fallback: bool = False
    character_coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    normalisation: Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"] = "nmt_nfkc"
    train_lines: Positive = 1_000_000  # sampled evenly over the corpus; bounds memory
    joiner: str = ""  # words: taken out of decoded text with the space after it, "@@" for BPE text
    reuse: str | None = None  # a folder with the tokenizer files of an earlier `janus preprocess`

    @model_validator(mode="after")
    def _fits(self) -> Tokenizer:
        if self.joiner and self.kind != "words":
            raise ValueError(f"joiner {self.joiner!r} joins parts of words: it needs kind words")
        return self


class Model(Knobs):
    """Shape of the encoder-decoder. The same for every objective."""

    width: Positive = 512
    feedforward: Positive = 1024
    heads: Positive = 4
    encoder_layers: Positive = 6
    decoder_layers: Positive = 6
    dropout: Share = 0.3
    attention_dropout: Share = 0.0
    activation_dropout: Share = 0.0
    activation: Literal["relu", "gelu"] = "relu"
    norm: Literal["pre", "post"] = "post"
    positions: Literal["learned", "sinusoidal"] = "learned"  # [J] learned
    max_length: Annotated[int, Field(ge=4, le=2046)] = (
        256  # positions, BOS and EOS included; also the length classes [J]
    )
    tie: Literal["all", "target", "none"] = "all"  # all: source, target and output share one table
    embedding_scale: bool = True  # multiply by sqrt(width) [V]
    embedding: Literal["sum", "concat"] = "sum"  # of token and position [V]; or side by side, then a linear map [CC]
    causal_attention: bool = False  # decoder layers have a second self-attention that looks to the left only [CC]
    embedding_norm: bool = False  # layer norm after the embeddings (BART, BERT)
    init: Literal["bert", "xavier"] = "bert"  # normal(0, 0.02) as BERT [J], or Glorot [V]
    attention: Literal["sdpa", "flex"] = "sdpa"  # flex: FlexAttention, CUDA only

    @model_validator(mode="after")
    def _fits(self) -> Model:
        if self.attention == "flex" and self.attention_dropout:
            raise ValueError("attention flex has no dropout: it needs attention_dropout 0")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


# `janus score` needs no recipe: these two are the defaults of its options.
BOOTSTRAP_SAMPLES = 1000  # Koehn 2004
BOOTSTRAP_SEED = 1

# `janus bench` measures a run, whatever its recipe: the defaults of its options.
BENCH_BEAMS = (1, 5)  # of left-to-right rows
BENCH_ITERS = (1, 4, 10)  # of mask-predict rows
BENCH_LENGTH_BEAMS = (1, 5)
BENCH_BLOCKS = (2, 4)  # of rows that write in blocks
BENCH_BATCHES = (16, 32, 64, 128)  # tried for the best throughput
BENCH_REPEATS = 3
BENCH_WARMUP = 8  # sentences that nobody times, for each row and batch size
BENCH_SENTENCES = 1000  # timed in batches; quality uses the whole split
BENCH_SINGLES = 100  # timed one by one
BENCH_SEED = 1  # which sentences of the split

# `janus compare`: what each system is decoded with, where it can, and how much of the test split is timed.
COMPARE_MODES = (
    "ar.beam1", "ar.beam5", "nar1.lb5", "nar4.lb5", "nar10.lb5", "nar4.lb5.rerank", "nar10.lb5.rerank", "nar.eos",
    "semi4", "spec.redraft-joint",
)  # fmt: skip
COMPARE_UPDATES = 2000
COMPARE_SENTENCES = 200
COMPARE_SINGLES = 50
BENCH_BUSY = 0.5  # load average a core above which timings are off

# `janus report` shows runs, whatever their recipes.
REPORT_SENTENCES = 500  # of the validation split, for calibration and lengths; as many as a validation decodes
REPORT_TRACED = 3  # of them, decoded and shown
REPORT_BINS = 10  # of confidence, equal in width (Guo et al. 2017, figure 1)
REPORT_SEED = 1  # which sentences of the split


class Training(Knobs):
    """How the weights are found."""

    updates: Positive = 200_000  # [J]
    minutes: Weight = 0.0  # stop after so long in updates, however many these are; validating and saving do not count
    batch_tokens: Annotated[int, Field(ge=16)] = 4096  # of the longer side, padding counted; per rank and micro-batch
    accumulate: Positive = 1  # micro-batches per rank and update
    cpu_slots: Count = 2048  # decoder slots that a CPU computes at once; more go in parts: as fast, less memory [H]
    learning_rate: Above0 = 5e-4  # [J] IWSLT14
    schedule: Literal["inverse_sqrt", "linear", "cosine"] = "inverse_sqrt"
    warmup: Count = 10_000  # [J]
    beta1: Share = 0.9
    beta2: Share = 0.98  # [V]
    epsilon: Above0 = 1e-8
    weight_decay: Weight = 1e-4  # [J]
    ema: Share = 0.0  # decay of a mean of the weights that is kept beside them, for `janus average --ema`; 0 keeps none
    clip: Weight = 0.0  # largest gradient norm; 0 switches clipping off
    precision: Literal["auto", "float32", "bf16"] = "auto"
    log_every: Positive = 100
    validate_every: Positive = 2000
    save_every: Positive = 2000
    keep_last: Positive = 10
    keep_best: Count = 5
    best_metric: str = "auto"  # a name from the validation log; auto: bleu_ar, else bleu_nar; bleu: the mean of both
    patience: Count = 0  # validations without a better best_metric before stopping; 0 never stops early
    valid_sentences: Positive = 500  # decoded at each validation; losses use the whole split
    max_bad_steps: Positive = 20  # non-finite steps in a row before exit 5
    tensorboard: bool = False


class Decoding(Knobs):
    """How text comes out."""

    mode: Literal["auto", "ar", "nar", "semi", "spec"] = "auto"  # auto: ar, or nar where there is no AR side
    beam: Positive = 5
    length_penalty: Annotated[float, Field(ge=0, le=10)] = (
        1.0  # score = sum of log-probabilities / length ** length_penalty
    )
    nbest: Positive = 1
    max_ratio: Annotated[float, Field(ge=0, le=100)] = (
        1.2  # AR output has at most max_ratio * source length + max_extra tokens [V]
    )
    max_extra: Count = 10
    iters: Positive = 10  # decoder passes of mask-predict; those that can change nothing are left out
    length_beam: Positive = 5
    update: Literal["hidden", "all"] = "hidden"  # what a pass may rewrite: hidden tokens [C], or every token (CMLMC)
    rerank: Literal["none", "ar"] = "none"  # who picks among the length candidates
    remove_repeats: bool = False  # drop a token equal to the one before it
    block: Positive = 4  # semi: tokens written in one pass, behind those that are there
    draft_iters: Positive = 1  # spec: decoder passes of mask-predict that write a draft
    draft_length: Positive = 64  # spec: the most tokens of a draft behind the verified prefix
    verify_window: Positive = 64  # spec: the most of them that one pass verifies
    redraft: Literal["nar", "ar", "joint"] = "nar"  # spec: who writes the next draft; see core/search/speculative.py
    precision: Literal["float32", "bf16"] = "float32"  # of weights, states and logits; scores are float32 in both
    batch_sentences: Positive = 64
    cuda_graphs: bool = True  # on a GPU: record the passes of small batches and replay them; see core/recorded.py


class Recipe(Knobs):
    """Everything that decides a run."""

    name: PlainName
    about: str = ""
    seed: Count = 1
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    objective: Objective = JanusObjective()
    training: Training = Training()
    decoding: Decoding = Decoding()

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.data.max_tokens + 2 > self.model.max_length:
            raise ValueError(
                f"data.max_tokens {self.data.max_tokens} + BOS + EOS does not fit "
                f"model.max_length {self.model.max_length}"
            )
        if self.model.tie == "all" and not self.tokenizer.joint:
            raise ValueError("model.tie all needs tokenizer.joint true: the two sides have different vocabularies")
        if getattr(self.objective, "switched", 0) and not self.tokenizer.joint:
            raise ValueError(
                "objective.switched puts words of the target into the source: it needs tokenizer.joint true, or 0"
            )
        return self

    @property
    def ar_stream(self) -> ARSide | None:
        """Which slots predict from left to right; None without an AR side."""
        found: ARSide | None = getattr(self.objective, "ar_stream", None)
        return found

    def plain(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every default filled in."""
        return self.model_dump(mode="json")
