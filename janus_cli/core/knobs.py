"""The knobs of the method: the model's shape, which tokens are hidden, every objective, and decoding.

Plain dataclasses with what a user needs to know about each field beside it. `recipe.py` makes the sections of a recipe
of them (and refuses what is out of bounds); the core reads them. Importing this costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from janus_cli.core.knob import Knob


@dataclass(frozen=True)
class Model:
    """Shape of the encoder-decoder. The same for every objective."""

    width: Annotated[int, Knob("width of the hidden states (d_model)", ge=1, le=65_536)] = 512
    feedforward: Annotated[int, Knob("width inside the feed-forward sublayers (d_ff)", ge=1, le=262_144)] = 1024
    heads: Annotated[int, Knob("attention heads; must divide the width", ge=1, le=1024)] = 4
    encoder_layers: Annotated[int, Knob("layers of the encoder", ge=1, le=1000)] = 6
    decoder_layers: Annotated[int, Knob("layers of the decoder", ge=1, le=1000)] = 6
    dropout: Annotated[float, Knob("dropout after embeddings and sublayers", ge=0, lt=1)] = 0.3
    attention_dropout: Annotated[float, Knob("dropout of attention weights", ge=0, lt=1)] = 0.0
    activation_dropout: Annotated[float, Knob("dropout inside the feed-forward sublayers", ge=0, lt=1)] = 0.0
    activation: Annotated[Literal["relu", "gelu", "silu"], Knob("activation of the feed-forward sublayers")] = "relu"
    norm: Annotated[Literal["pre", "post"], Knob("layer norm before each sublayer, or after it")] = "post"
    positions: Annotated[
        Literal["learned", "sinusoidal", "marian"],
        Knob("position embeddings; marian: sinusoids of [V]'s own rates, as Marian and OPUS-MT have them", "[J]"),
    ] = "learned"
    max_length: Annotated[
        int, Knob("positions, BOS and EOS included; also the classes of the length prediction", "[J]", ge=4, le=2046)
    ] = 256
    tie: Annotated[
        Literal["all", "target", "none"],
        Knob("embeddings that share a table; all: source, target, output; target: the last two"),
    ] = "all"
    embedding_scale: Annotated[bool, Knob("multiply embeddings by sqrt(width)", "[V]")] = True
    embedding: Annotated[
        Literal["sum", "concat"],
        Knob("token and position embeddings are added, or concatenated and mapped to the width [CC]", "[V]"),
    ] = "sum"
    causal_attention: Annotated[bool, Knob("a second, causal self-attention in decoder layers", "[CC]")] = False
    embedding_norm: Annotated[bool, Knob("layer norm after the embeddings, as BART and BERT have it")] = False
    output_bias: Annotated[
        bool, Knob("a number for each token, added to its logit and not trained; imported models may have one")
    ] = False
    source_suffix: Annotated[
        int, Knob("id that follows the EOS of a source, as mBART's language does; 0: none", ge=0, le=10**7)
    ] = 0
    init: Annotated[Literal["bert", "xavier"], Knob("bert: normal(0, 0.02). xavier: Glorot's [V]", "[J]")] = "bert"
    attention: Annotated[Literal["sdpa", "flex"], Knob("flex: FlexAttention (CUDA), no attention_dropout")] = "sdpa"

    def __post_init__(self) -> None:
        if self.attention == "flex" and self.attention_dropout:
            raise ValueError("attention flex has no dropout: it needs attention_dropout 0")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclass(frozen=True)
class Noise:
    """Which target tokens are hidden: a mixture, drawn anew for each sentence in proportion to the five weights."""

    uniform: Annotated[float, Knob("weight of: k ~ Uniform{1..n} random tokens", "[C]", ge=0, le=1e6)] = 0.0
    spans: Annotated[float, Knob("weight of: spans of Poisson length, up to span_budget", "[J]", ge=0, le=1e6)] = 0.0
    fixed: Annotated[float, Knob("weight of: `share` of the tokens, at random", ge=0, le=1e6)] = 0.0
    suffix: Annotated[float, Knob("weight of: the last k ~ Uniform{1..n} tokens, as in drafting", ge=0, le=1e6)] = 0.0
    full: Annotated[float, Knob("weight of: every token, as mask-predict begins", "[H]", ge=0, le=1e6)] = 0.0
    span_mean: Annotated[float, Knob("mean length of a span", "[J]", gt=0, le=1000)] = 2.0
    span_budget: Annotated[float, Knob("share that spans may cover; they hide 55-58 %", "[J]", ge=0, le=1)] = 0.7
    share: Annotated[float, Knob("share of the tokens that `fixed` hides", ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if self.uniform + self.spans + self.fixed + self.suffix + self.full == 0:
            raise ValueError("all of uniform, spans, fixed, suffix and full are 0: nothing would ever be hidden")
        if self.spans and not self.span_budget:
            raise ValueError("span_budget is 0: spans would hide nothing")


@dataclass(frozen=True)
class Denoising:
    """How plain text becomes a pair (data.task denoising): the target is the text, the source what noise leaves of it.
    Spans that it hides are also what the objective hides, if it hides anything, instead of objective.noise."""

    share: Annotated[float, Knob("share of the tokens in hidden spans", "[BA]", gt=0, le=0.5)] = 0.3
    span_mean: Annotated[float, Knob("mean of the Poisson distribution of span lengths", "[BA]", gt=0, le=10)] = 3.0
    visible: Annotated[
        float,
        Knob("probability that a span stays in the source, hidden in the decoder only; [BA] has 0", "[J]", ge=0, le=1),
    ] = 0.5
    permute: Annotated[
        float, Knob("probability that a text's sentences are shuffled in its source; [BA] has 1", "[J]", ge=0, le=1)
    ] = 0.0


Precision = Literal["float32", "bf16", "int8"]  # of decoding
ARStream = Literal["content", "query"]
ARSide = Literal["content", "query", "self", "masks"]  # see core/stream.py; the last two are set by objectives
Side = Literal["ar", "nar"]
Mode = Literal["ar", "nar", "semi", "spec"]
Sections = dict[str, dict[str, Any]]  # section of a recipe -> knob -> value


@dataclass(frozen=True)
class ObjectiveKnobs:
    """What all objectives share."""

    # What its paper sets in other sections of a recipe, for `--objective NAME`; the recipe and --set override it.
    elsewhere: ClassVar[Sections] = {}
    sides: ClassVar[tuple[Side, ...]] = ("ar",)  # that it trains
    blocks: ClassVar[bool] = False  # one pass can write any number of tokens after a prefix, up to the first EOS

    name: str  # here, so that it comes first
    label_smoothing: Annotated[float, Knob("probability spread over all words", "[V]", ge=0, le=1)] = 0.1

    @property
    def lengths(self) -> bool:
        """Whether lengths are predicted from the source. With `blocks`, nar is one pass, up to the first EOS."""
        return "nar" in self.sides and not self.blocks


@dataclass(frozen=True)
class ArObjective(ObjectiveKnobs):
    """The Transformer baseline [V]."""

    name: Literal["ar"] = "ar"
    ar_stream: Annotated[
        ARStream, Knob("slots that predict the next token: the tokens, or MASK queries beside them (two streams)")
    ] = "content"
    rdrop: Annotated[
        float,
        Knob("weight of the KL between two passes with other dropout (R-Drop); 0: one pass", "[RD]", ge=0, le=1e6),
    ] = 0.0


@dataclass(frozen=True)
class CmlmObjective(ObjectiveKnobs):
    """The conditional masked language model: L = CE_NAR + length CE_length [C]."""

    sides: ClassVar[tuple[Side, ...]] = ("nar",)
    name: Literal["cmlm"] = "cmlm"
    noise: Annotated[Noise, Knob("which target tokens are hidden", "[C]")] = Noise(uniform=1.0)
    length: Annotated[float, Knob("weight of the length prediction", ge=0, le=1e6)] = 0.1
    glance: Annotated[float, Knob("glancing: hidden tokens revealed per wrong one", "[G]", ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class CmlmcObjective(ObjectiveKnobs):
    """CMLM that also corrects its own mistakes: L = nar CE_NAR + correct CE_correct + length CE_length [CC]."""

    elsewhere: ClassVar[Sections] = {
        "model": {"causal_attention": True, "embedding": "concat", "embedding_scale": False},  # [CC]
        "decoding": {"update": "all"},  # [CC]
    }

    sides: ClassVar[tuple[Side, ...]] = ("nar",)
    name: Literal["cmlmc"] = "cmlmc"
    noise: Annotated[Noise, Knob("which target tokens are hidden", "[C], kept by [CC]")] = Noise(uniform=1.0)
    replaced: Annotated[float, Knob("share of observed tokens replaced by predictions", "[CC]", ge=0, le=1)] = 0.3
    nar: Annotated[float, Knob("weight of CE_NAR; with `correct`, the mean of both", "[CC]", ge=0, le=1e6)] = 0.5
    correct: Annotated[float, Knob("weight of CE_correct", "[CC]", ge=0, le=1e6)] = 0.5
    length: Annotated[float, Knob("weight of the length prediction", ge=0, le=1e6)] = 0.1


@dataclass(frozen=True)
class CematObjective(ObjectiveKnobs):
    """Masked tokens on both sides, and words switched by a dictionary:
    L = encoder CE_encoder + nar CE_NAR + length CE_length [CE]."""

    sides: ClassVar[tuple[Side, ...]] = ("nar",)
    name: Literal["cemat"] = "cemat"
    source_least: Annotated[float, Knob("smallest share of a source that is hidden", "[CE]", ge=0, le=1)] = 0.1
    source_most: Annotated[float, Knob("largest share of a source that is hidden", "[CE]", ge=0, le=1)] = 0.2
    target_least: Annotated[float, Knob("smallest share of a target that is hidden", "[CE]", ge=0, le=1)] = 0.2
    target_most: Annotated[
        float,
        Knob("largest share of a target that is hidden; [CE] has 0.5, decoding begins with all", "[H]", ge=0, le=1),
    ] = 1.0
    switched: Annotated[float, Knob("share of source tokens switched by dictionary", "[CE]", ge=0, le=1)] = 0.15
    dictionary: Annotated[str | None, Knob("file of tab-separated word pairs; null: induced from the text")] = None
    dictionary_pairs: Annotated[int, Knob("sentence pairs to induce a dictionary from", "[H]", ge=1, le=10**9)] = 50_000
    dictionary_rounds: Annotated[
        int, Knob("rounds of expectation maximisation (IBM model 1), usually 5", ge=1, le=1000)
    ] = 5
    translations: Annotated[int, Knob("translations kept for each token, likeliest first", "[H]", ge=1, le=1000)] = 4
    translation_least: Annotated[float, Knob("least probable induced translation kept", "[H]", ge=0, le=1)] = 0.05
    encoder: Annotated[float, Knob("weight of CE_encoder", "[CE]", ge=0, le=1e6)] = 0.3
    nar: Annotated[float, Knob("weight of CE_NAR", "[CE]", ge=0, le=1e6)] = 0.7
    length: Annotated[float, Knob("weight of the length prediction; [CE] learns it later", "[C]", ge=0, le=1e6)] = 0.1

    def __post_init__(self) -> None:
        for side in ("source", "target"):
            least, most = getattr(self, f"{side}_least"), getattr(self, f"{side}_most")
            if least > most:
                raise ValueError(f"{side}_least {least} is more than {side}_most {most}")


@dataclass(frozen=True)
class JanusObjective(ObjectiveKnobs):
    """JANUS: L = ar CE_AR + nar CE_NAR + aux CE_AUX + length CE_length + three symmetric KL terms [J]."""

    sides: ClassVar[tuple[Side, ...]] = ("ar", "nar")
    name: Literal["janus"] = "janus"
    ar_stream: Annotated[
        ARStream, Knob("slots that predict the next token: the tokens, or as in [J] MASK queries (two streams)", "[H]")
    ] = "content"
    noise: Annotated[Noise, Knob("which target tokens are hidden", "[J]")] = Noise(spans=1.0)
    ar: Annotated[float, Knob("weight of CE_AR", "[J]", ge=0, le=1e6)] = 1.0
    nar: Annotated[float, Knob("weight of CE_NAR", "[J]", ge=0, le=1e6)] = 0.5
    aux: Annotated[float, Knob("weight of CE_AUX", "[J]", ge=0, le=1e6)] = 0.5
    length: Annotated[float, Knob("weight of the length prediction", "[J]", ge=0, le=1e6)] = 0.1
    kl_ar_aux: Annotated[float, Knob("weight of the KL between AR and AUX", "[J]", ge=0, le=1e6)] = 3.0
    kl_nar_aux: Annotated[float, Knob("weight of the KL between NAR and AUX", "[J]", ge=0, le=1e6)] = 1.0
    kl_ar_nar: Annotated[float, Knob("weight of the KL between AR and NAR", "[J]", ge=0, le=1e6)] = 1.0
    kl_to_ar: Annotated[
        float, Knob("share of the KLs' gradient that AR receives; at 0, AR only teaches", "[J]", ge=0, le=1)
    ] = 1.0
    kl_temperature: Annotated[
        float, Knob("temperature of the KLs, which are multiplied by its square", "Hinton 2015", gt=0, le=1000)
    ] = 1.0
    kl_sure: Annotated[
        bool, Knob("multiply each token's KLs by the probability that AUX has for it, so that they rise as AUX learns")
    ] = False
    kl_start: Annotated[int, Knob("updates without any KL", ge=0, le=10**12)] = 0
    kl_warmup: Annotated[
        int, Knob("updates over which the KL weights then rise to their full value", ge=0, le=10**12)
    ] = 0
    correct: Annotated[float, Knob("weight of CMLMC's CE_correct; try decoding.update all", ge=0, le=1e6)] = 0.0
    replaced: Annotated[float, Knob("share of observed tokens replaced by predictions", "[CC]", ge=0, le=1)] = 0.3
    glance: Annotated[float, Knob("glancing: hidden tokens revealed per wrong one", "[G]", ge=0, le=1)] = 0.0
    two_encodings: Annotated[
        bool, Knob("NAR and AUX read the source in another encoding than AR, with other dropout, as R-Drop does")
    ] = False


@dataclass(frozen=True)
class XlnetObjective(ObjectiveKnobs):
    """Permutation language modelling in two streams [X]."""

    ar_stream: ClassVar[ARSide] = "query"
    name: Literal["xlnet"] = "xlnet"
    predicted: Annotated[
        float,
        Knob("share of the tokens, last in the order, to predict; [X] has 1/6, decoding needs all", "[H]", gt=0, le=1),
    ] = 1.0


@dataclass(frozen=True)
class MpnetObjective(ObjectiveKnobs):
    """Masked and permuted language modelling [M]."""

    ar_stream: ClassVar[ARSide] = "masks"
    sides: ClassVar[tuple[Side, ...]] = ("ar", "nar")
    name: Literal["mpnet"] = "mpnet"
    # [M] hides a fixed 15 %; but left-to-right decoding begins with all tokens hidden, mask-predict goes on with some
    noise: Annotated[Noise, Knob("which target tokens are predicted", "[H]")] = Noise(uniform=0.5, full=0.5)
    length: Annotated[float, Knob("weight of the length prediction", "[C]", ge=0, le=1e6)] = 0.1


@dataclass(frozen=True)
class ProphetnetObjective(ObjectiveKnobs):
    """Future n-gram prediction [P]."""

    ar_stream: ClassVar[ARSide] = "self"
    name: Literal["prophetnet"] = "prophetnet"
    ngram: Annotated[int, Knob("tokens that each prefix predicts", "[P]", ge=1, le=100)] = 2


@dataclass(frozen=True)
class BangObjective(ObjectiveKnobs):
    """AR, NAR and the streams between, without a length head [B]."""

    elsewhere: ClassVar[Sections] = {"decoding": {"remove_repeats": True}}  # [B]
    ar_stream: ClassVar[ARSide] = "self"
    sides: ClassVar[tuple[Side, ...]] = ("ar", "nar")
    blocks: ClassVar[bool] = True
    name: Literal["bang"] = "bang"
    streams: Annotated[int, Knob("largest block trained; costs memory and time", "[B]", ge=2, le=100)] = 9
    ar: Annotated[float, Knob("weight of the AR stream", "[B]", ge=0, le=1e6)] = 1.0
    nar: Annotated[float, Knob("weight of the NAR stream", "[B]", ge=0, le=1e6)] = 1.0
    semi: Annotated[float, Knob("weight of the streams between", "[B]", ge=0, le=1e6)] = 1.0


# Every objective by its name in a recipe; `core/objectives/__init__.py` has what each computes.
OBJECTIVES: dict[str, type[ObjectiveKnobs]] = {
    "ar": ArObjective, "cmlm": CmlmObjective, "cmlmc": CmlmcObjective, "cemat": CematObjective, "janus": JanusObjective,
    "xlnet": XlnetObjective, "mpnet": MpnetObjective, "prophetnet": ProphetnetObjective, "bang": BangObjective,
}  # fmt: skip
# The modes: ar, nar, semi and spec. For some objectives, ar or nar is a variant with other options:
KNOWN_LENGTH = "ar with lengths"  # ar if the AR side needs a predicted length (mpnet)
ONE_PASS = "nar without lengths"  # nar in one block, up to the first EOS (bang)
_BEAM = ("ar", KNOWN_LENGTH)
_TOGETHER = ("nar", ONE_PASS, "semi")  # several tokens a pass
_UP_TO_EOS = ("ar", ONE_PASS, "semi", "spec")
ONE_BEST: dict[str, Any] = {"nbest": 1, "temperature": 0.0, "diversity": 0.0}  # of Decoding, see `one_best`
COLDEST = 0.001  # temperature: divided by less, log-probabilities may overflow


@dataclass(frozen=True)
class Decoding:
    """How text is decoded."""

    mode: Annotated[
        Literal["auto", "ar", "nar", "semi", "spec"],
        Knob(
            "how to decode. ar: left to right. nar: mask-predict (bang: all in one pass). "
            "semi: `block` tokens a pass (bang). spec: greedy ar, drafted by nar. auto: ar if the model can, else nar"
        ),
    ] = "auto"
    beam: Annotated[int, Knob("beam size; 1 is greedy", ge=1, le=10**6, modes=_BEAM, not_with="temperature")] = 5
    length_penalty: Annotated[
        float, Knob("score = log-probability / length ** length_penalty", ge=0, le=10, modes=(*_BEAM, "spec"))
    ] = 1.0
    early_stopping: Annotated[
        Literal["full", "likely", "never"],
        Knob(
            "when a beam stops. full: as many hypotheses have ended as the beam has. likely: and the worst of them "
            "beats the best live one, were that to end now (early_stopping False of transformers). never: none can "
            "become better than the best any more",
            modes=_BEAM, off=True, not_with="temperature", flag=None,
        ),
    ] = "full"  # fmt: skip
    first_token: Annotated[
        int,
        Knob("id that an output begins with, such as mBART's language; 0: any", ge=0, le=10**7, modes=("ar", "spec"),
             off=True, flag=None),
    ] = 0  # fmt: skip
    free_end: Annotated[
        bool,
        Knob("the EOS that ends the longest output costs nothing, as in models from Hugging Face",
             modes=("ar", "spec"), off=True, flag=None),
    ] = False  # fmt: skip
    unwritten: Annotated[
        tuple[int, ...],
        Knob(
            "ids that are never written but keep their probability, as in models from Hugging Face. <pad>, <s> and "
            "<mask> are not written either; the other tokens share the probability of those that are not listed",
            off=True, flag=None,
        ),
    ] = ()  # fmt: skip
    nbest: Annotated[
        int,
        Knob("hypotheses for each line at most, best first; there may be fewer", ge=1, le=10**6, modes=(*_BEAM, "nar")),
    ] = 1
    max_ratio: Annotated[
        float | None,
        Knob(
            "an output has at most max_ratio * source length + max_extra tokens, or min_length + max_extra if that is "
            "more; of nar, that is for bang: mask-predict writes as many as it predicts. null: as many as 99.9 % of "
            "the training targets need, set when training begins",
            ge=0, le=100, modes=_UP_TO_EOS, flag=None,
        ),
    ] = None  # fmt: skip
    max_extra: Annotated[
        int | None,
        Knob("tokens beyond max_ratio * source length, not for mask-predict; null: as for max_ratio", ge=0, le=10**6,
             modes=_UP_TO_EOS, flag=None),
    ] = None  # fmt: skip
    min_length: Annotated[
        int, Knob("tokens that an output has at least; 0: no minimum", ge=0, le=2044, modes=("ar",), off=True)
    ] = 0
    no_repeat_ngram: Annotated[
        int,
        Knob("no n-gram of this size twice in an output; 0: any. nar, semi: the later one is dropped", "[N]", ge=0,
             le=2046, modes=(*_BEAM, *_TOGETHER), off=True),
    ] = 0  # fmt: skip
    unk: Annotated[
        Literal["keep", "ban"], Knob("ban: never write <unk>; the other tokens share its probability", off=True)
    ] = "keep"
    temperature: Annotated[
        float,
        Knob("instead of searching, draw `nbest` samples from p ** (1 / temperature), from 0.001; 0: search", ge=0,
             le=100, modes=_BEAM, off=True),
    ] = 0.0  # fmt: skip
    top_k: Annotated[
        int,
        Knob("sample among so many of the likeliest tokens; 0: all", "[K]", ge=0, le=10**6, modes=_BEAM, off=True,
             only_with="temperature"),
    ] = 0  # fmt: skip
    top_p: Annotated[
        float,
        Knob("sample among the likeliest tokens that have this probability together; 1: all", "[T]", gt=0, le=1,
             modes=_BEAM, off=True, only_with="temperature"),
    ] = 1.0  # fmt: skip
    seed: Annotated[
        int,
        Knob("seed of the samples; they depend on it and on the text of a line alone", ge=0, le=2**63 - 1, modes=_BEAM,
             only_with="temperature"),
    ] = 1  # fmt: skip
    diversity: Annotated[
        float,
        Knob(
            "diverse beam search: penalty, in nats, on a token for each hypothesis of an earlier group that has it in "
            "the same place, 0.2 to 0.8 in the paper; 0: an ordinary beam",
            "[D]", ge=0, le=1000, modes=_BEAM, off=True, only_with="nbest", not_with="temperature",
        ),
    ] = 0.0  # fmt: skip
    groups: Annotated[
        int,
        Knob("groups that divide the beam; 0: each hypothesis is one", "[D]", ge=0, le=10**6, modes=_BEAM, off=True,
             only_with="diversity"),
    ] = 0  # fmt: skip
    iters: Annotated[int, Knob("passes of mask-predict; idle ones are skipped", ge=1, le=10**6, modes=("nar",))] = 10
    length_beam: Annotated[int, Knob("lengths tried for each line", ge=1, le=10**6, modes=("nar",))] = 5
    sure: Annotated[
        float,
        Knob("a token of this probability is not hidden again, so passes end early; 1: after iters", gt=0, le=1,
             modes=("nar",), off=True),
    ] = 1.0  # fmt: skip
    update: Annotated[
        Literal["hidden", "all"],
        Knob("what a pass may rewrite: hidden tokens only, or all of them [CC]", "[C]", modes=("nar",)),
    ] = "hidden"
    rerank: Annotated[
        Literal["none", "nar", "ar"],
        Knob(
            "what chooses among the lengths. none: the first pass, the others are dropped. nar: the probability of the "
            "finished texts. ar: the model's AR side, in one more pass",
            modes=("nar",),
        ),
    ] = "none"
    keep_lengths: Annotated[
        int,
        Knob("lengths that the first pass leaves to be finished and reranked; 0: all [C]", ge=0, le=10**6,
             modes=("nar",), only_with="rerank"),
    ] = 3  # fmt: skip
    avoid_repeats: Annotated[
        bool,
        Knob("of two equal neighbours, write the less certain as its next likeliest token", "[H]", modes=("nar",),
             off=True, flag="--avoid-repeats/--allow-repeats"),
    ] = False  # fmt: skip
    rewrite_repeats: Annotated[
        int,
        Knob("between passes, hide the less certain of two equal neighbours again; from 2 on also that of two equal "
             "n-grams of this size; 0: neither", "[H]", ge=0, le=2046, modes=("nar",), off=True),
    ] = 0  # fmt: skip
    remove_repeats: Annotated[
        bool,
        Knob("drop a token equal to the one before it", modes=_TOGETHER, flag="--remove-repeats/--keep-repeats"),
    ] = False
    block: Annotated[
        int, Knob("tokens written in each pass, after those written before", ge=1, le=10**6, modes=("semi",))
    ] = 4
    draft_iters: Annotated[int, Knob("passes of mask-predict for each draft", ge=1, le=10**6, modes=("spec",))] = 1
    draft_length: Annotated[int, Knob("tokens of a draft, at most", ge=1, le=10**6, modes=("spec",))] = 64
    verify_window: Annotated[
        int, Knob("drafted tokens verified in one pass, at most", ge=1, le=10**6, modes=("spec",))
    ] = 64
    redraft: Annotated[
        Literal["nar", "ar", "source"],
        Knob(
            "what writes the next draft. nar: mask-predict again. ar: the AR side's tokens after the rejected one. "
            "source: what follows in the source, also in the first draft",
            modes=("spec",),
        ),
    ] = "nar"
    precision: Annotated[
        Precision,
        Knob(
            "precision of weights, states and logits; bf16 is fast where native. int8: of products only, on a CPU, "
            "each row rounded on its own. Scores are those of such a search, not of the float32 model"
        ),
    ] = "float32"
    batch_sentences: Annotated[int, Knob("lines decoded together", ge=1, le=65_536)] = 64
    engine: Annotated[
        Literal["auto", "onnx", "torch"],
        Knob("what searches. auto: onnx (ONNX Runtime, on a CPU) if it can, as it is faster; else torch", off=True),
    ] = "auto"
    cuda_graphs: Annotated[
        bool, Knob("on a GPU, record the passes of small batches and replay them (CUDA graphs)", flag=None)
    ] = True

    def __post_init__(self) -> None:
        if 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature {self.temperature:g} is neither 0 nor at least {COLDEST}")
        if self.diversity and self.groups and self.beam % self.groups:
            raise ValueError(f"groups {self.groups} does not divide beam {self.beam}")
        if min(self.unwritten, default=0) < 0:
            raise ValueError(f"unwritten {min(self.unwritten)} is no id")

    @property
    def limit(self) -> tuple[float, int]:
        """max_ratio and max_extra, 1.2 and 10 where nothing has set them."""
        return 1.2 if self.max_ratio is None else self.max_ratio, 10 if self.max_extra is None else self.max_extra

    @property
    def kept(self) -> int:
        """Lengths that go on after the first pass, which chooses them; 0: all, and it chooses nothing."""
        keep = self.nbest if self.rerank == "none" else self.keep_lengths
        chooses = self.length_beam > 1 if self.rerank == "none" else keep < self.length_beam
        return keep if chooses else 0

    @property
    def one_best(self) -> Decoding:
        """The same for one output of each line, the likeliest: neither samples nor diversity."""
        return replace(self, **ONE_BEST)
