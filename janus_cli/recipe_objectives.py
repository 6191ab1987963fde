"""The knobs of every objective, with their defaults and where these come from; `recipe.py` has all the others.

Sources: see `recipe.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]


class Knobs(BaseModel):
    """Base of every section: unknown keys, wrong types and non-finite numbers are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


class Noise(Knobs):
    """Which target tokens are hidden: a mixture, drawn anew for each sentence in proportion to the five weights."""

    uniform: Weight = 0.0  # k ~ Uniform{1..n} tokens, any places [C]
    spans: Weight = 0.0  # spans ~ Poisson, up to the budget [J]
    fixed: Weight = 0.0  # each sentence hides `share` of its tokens
    suffix: Weight = 0.0  # the last k ~ Uniform{1..n} tokens: what a draft after a verified prefix sees
    full: Weight = 0.0  # every token: what the first pass of mask-predict sees [H]
    span_mean: Above0 = 2.0  # [J]
    span_budget: Share = 0.7  # [J]; the share really hidden is 55-58 %
    share: Share = 0.5

    @model_validator(mode="after")
    def _some(self) -> Noise:
        if self.uniform + self.spans + self.fixed + self.suffix + self.full == 0:
            raise ValueError("all of uniform, spans, fixed, suffix and full are 0: nothing would ever be hidden")
        if self.spans and not self.span_budget:
            raise ValueError("span_budget is 0: spans would hide nothing")
        return self


ARStream = Literal["content", "query"]
ARSide = Literal["content", "query", "self", "masks"]  # see core/objectives/ar.py; the last two come with an objective


class ObjectiveKnobs(Knobs):
    """What all objectives share."""

    name: str  # here, so that it comes first
    label_smoothing: Share = 0.1  # [V]

    def at(self, step: int) -> Self:
        """The knobs in force at this update."""
        return self

    def risen(self, step: int) -> float:
        """The part of their full weight that terms with a warm-up have at this update."""
        return 1.0


class ArObjective(ObjectiveKnobs):
    """The Transformer baseline [V]."""

    name: Literal["ar"] = "ar"
    ar_stream: ARStream = "content"


class CmlmObjective(ObjectiveKnobs):
    """The conditional masked language model [C]."""

    name: Literal["cmlm"] = "cmlm"
    noise: Noise = Noise(uniform=1.0)
    length: Weight = 0.1
    glance: Share = 0.0  # as for JANUS


class CmlmcObjective(ObjectiveKnobs):
    """CMLM that also corrects its own mistakes: L = nar CE_NAR + correct CE_correct + length CE_length [CC]."""

    name: Literal["cmlmc"] = "cmlmc"
    noise: Noise = Noise(uniform=1.0)  # [C], kept by [CC]
    replaced: Share = 0.3  # of the observed tokens, by what the model itself would write there [CC]
    nar: Weight = 0.5  # with `correct`: the mean of both terms [CC]
    correct: Weight = 0.5
    length: Weight = 0.1


class CematObjective(ObjectiveKnobs):
    """Masked tokens on both sides, and words switched by a dictionary:
    L = encoder CE_encoder + nar CE_NAR + length CE_length [CE]."""

    name: Literal["cemat"] = "cemat"
    source_least: Share = 0.1  # of a source are hidden at least this share [CE]
    source_most: Share = 0.2  # and at most this one [CE]
    target_least: Share = 0.2  # the same of a target [CE]
    target_most: Share = 1.0  # 0.5 [CE] never hides all, which is what the first pass of mask-predict sees [H]
    switched: Share = 0.15  # of a source, by other translations; 0 needs no dictionary [CE]
    dictionary: str | None = None  # word pairs, one a line, a tab between; without, induced from the training text
    dictionary_pairs: Positive = 50_000  # sentence pairs, evenly over the training text, to induce it from [H]
    dictionary_rounds: Positive = 5  # of expectation maximisation, IBM model 1; the usual number
    translations: Positive = 4  # kept for each token, likeliest first [H]
    translation_least: Share = 0.05  # probability of an induced translation below which it is dropped [H]
    encoder: Weight = 0.3  # [CE]
    nar: Weight = 0.7  # [CE]
    length: Weight = 0.1  # [C]; CeMAT itself pre-trains, and learns lengths afterwards

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for side in ("source", "target"):
            least, most = getattr(self, f"{side}_least"), getattr(self, f"{side}_most")
            if least > most:
                raise ValueError(f"{side}_least {least} is more than {side}_most {most}")
        return self


class JanusObjective(ObjectiveKnobs):
    """L = ar CE_AR + nar CE_NAR + aux CE_AUX + length CE_length + three symmetric KL terms [J]."""

    name: Literal["janus"] = "janus"
    ar_stream: ARStream = "content"  # [H]; query is the released model's
    noise: Noise = Noise(spans=1.0)
    ar: Weight = 1.0
    nar: Weight = 0.5
    aux: Weight = 0.5
    length: Weight = 0.1
    kl_ar_aux: Weight = 3.0
    kl_nar_aux: Weight = 1.0
    kl_ar_nar: Weight = 1.0
    kl_to_ar: Share = 1.0  # the part of the KLs' gradient that AR receives [J]; at 0, AR teaches and is not taught
    kl_temperature: Above0 = 1.0  # logits in the KLs are divided by it, the KLs multiplied by its square (Hinton 2015)
    kl_start: Count = 0  # updates without any KL
    kl_warmup: Count = 0  # updates over which the KL weights then rise to their full value

    correct: Weight = 0.0  # weight of CMLMC's CE_correct; with it, try decoding.update all
    replaced: Share = 0.3  # of the observed tokens, for that term [CC]
    glance: Share = 0.0  # of as many hidden tokens as the model got wrong, this part is shown; 0.5 down to 0.3 in GLAT

    def at(self, step: int) -> Self:
        """The knobs in force at this update: the KL weights scaled by their warm-up."""
        factor = self.risen(step)
        scaled = {name: factor * getattr(self, name) for name in ("kl_ar_aux", "kl_nar_aux", "kl_ar_nar")}
        return self.model_copy(update=scaled)

    def risen(self, step: int) -> float:
        """The part of their weights that the KLs have at this update."""
        return min(1.0, max(0.0, (step + 1 - self.kl_start) / max(1, self.kl_warmup)))


class XlnetObjective(ObjectiveKnobs):
    """Permutation language modelling in two streams [X]."""

    name: Literal["xlnet"] = "xlnet"
    ar_stream: ClassVar[ARSide] = "query"
    predicted: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the order, its end; 1/6 [X] never starts from nothing [H]


class MpnetObjective(ObjectiveKnobs):
    """Masked and permuted language modelling [M]."""

    name: Literal["mpnet"] = "mpnet"
    ar_stream: ClassVar[ARSide] = "masks"
    # fixed with share 0.15 [M] never starts from nothing; full is what left to right starts from, uniform mask-predict
    noise: Noise = Noise(uniform=0.5, full=0.5)
    length: Weight = 0.1  # [C]


class ProphetnetObjective(ObjectiveKnobs):
    """Future n-gram prediction [P]."""

    name: Literal["prophetnet"] = "prophetnet"
    ar_stream: ClassVar[ARSide] = "self"
    ngram: Positive = 2  # tokens that each prefix predicts [P]


class BangObjective(ObjectiveKnobs):
    """AR, NAR and what lies between, without a length [B]."""

    name: Literal["bang"] = "bang"
    ar_stream: ClassVar[ARSide] = "self"
    streams: Annotated[int, Field(ge=2)] = 9  # [B]; slots, and time, grow with it; a block has at most so many tokens
    ar: Weight = 1.0  # equal weights [B]
    nar: Weight = 1.0
    semi: Weight = 1.0


Objective = Annotated[
    ArObjective
    | CmlmObjective
    | CmlmcObjective
    | CematObjective
    | JanusObjective
    | XlnetObjective
    | MpnetObjective
    | ProphetnetObjective
    | BangObjective,
    Field(discriminator="name"),
]
OBJECTIVE_NAMES = ("ar", "cmlm", "cmlmc", "cemat", "janus", "xlnet", "mpnet", "prophetnet", "bang")

# What a system's paper sets in other sections of a recipe. `recipe_load.load` fills it in wherever the recipe itself
# and --set say nothing, so that `--objective NAME` is the whole system.
SYSTEMS: dict[str, dict[str, dict[str, Any]]] = {
    "cmlmc": {
        "model": {"causal_attention": True, "embedding": "concat", "embedding_scale": False},  # [CC]
        "decoding": {"update": "all"},  # [CC]
    },
    "bang": {"decoding": {"remove_repeats": True}},  # [B]
}
