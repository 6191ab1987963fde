"""The objective section of a recipe: one class an objective, every knob with its default and its source.

Sources: [J] JANUS paper and released code, [C] Mask-Predict (CMLM), [M] CMLMC (Huang 2022) and its released code,
[L] CeMAT (Li 2022) and its released code, [V] Vaswani 2017, [H] measured here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
        return self


ARStream = Literal["content", "query"]


class ArObjective(Knobs):
    """The Transformer baseline [V]."""

    name: Literal["ar"] = "ar"
    ar_stream: ARStream = "content"
    label_smoothing: Share = 0.1

    def at(self, step: int) -> ArObjective:
        """The knobs in force at this update."""
        return self


class CmlmObjective(Knobs):
    """The conditional masked language model [C]."""

    name: Literal["cmlm"] = "cmlm"
    noise: Noise = Noise(uniform=1.0)
    label_smoothing: Share = 0.1
    length: Weight = 0.1

    def at(self, step: int) -> CmlmObjective:
        """The knobs in force at this update."""
        return self


class CmlmcObjective(Knobs):
    """CMLM that also corrects its own mistakes: L = nar CE_NAR + correct CE_correct + length CE_length [M]."""

    name: Literal["cmlmc"] = "cmlmc"
    noise: Noise = Noise(uniform=1.0)  # [C], kept by [M]
    replaced: Share = 0.3  # of the observed tokens, by what the model itself would write there [M]
    label_smoothing: Share = 0.1
    nar: Weight = 0.5  # with `correct`: the mean of both terms [M]
    correct: Weight = 0.5
    length: Weight = 0.1

    def at(self, step: int) -> CmlmcObjective:
        """The knobs in force at this update."""
        return self


class CematObjective(Knobs):
    """Masked tokens on both sides, and words switched by a dictionary:
    L = encoder CE_encoder + nar CE_NAR + length CE_length [L]."""

    name: Literal["cemat"] = "cemat"
    source_least: Share = 0.1  # of a source are hidden at least this share [L]
    source_most: Share = 0.2  # and at most this one [L]
    target_least: Share = 0.2  # the same of a target [L]
    target_most: Share = 0.5  # [L]
    switched: Share = 0.15  # of a source, by other translations; 0 needs no dictionary [L]
    dictionary: str | None = None  # word pairs, one a line, a tab between; without, induced from the training text
    dictionary_pairs: Positive = 50_000  # sentence pairs, evenly over the training text, to induce it from [H]
    dictionary_rounds: Positive = 5  # of expectation maximisation, IBM model 1; the usual number
    translations: Positive = 4  # kept for each token, likeliest first [H]
    translation_least: Share = 0.05  # probability of an induced translation below which it is dropped [H]
    label_smoothing: Share = 0.1
    encoder: Weight = 0.3  # [L]
    nar: Weight = 0.7  # [L]
    length: Weight = 0.1  # [C]; CeMAT itself pre-trains, and learns lengths afterwards

    @model_validator(mode="after")
    def _fits(self) -> CematObjective:
        for side in ("source", "target"):
            least, most = getattr(self, f"{side}_least"), getattr(self, f"{side}_most")
            if least > most:
                raise ValueError(f"{side}_least {least} is more than {side}_most {most}")
        return self

    def at(self, step: int) -> CematObjective:
        """The knobs in force at this update."""
        return self


class JanusObjective(Knobs):
    """L = ar CE_AR + nar CE_NAR + aux CE_AUX + length CE_length + three symmetric KL terms [J]."""

    name: Literal["janus"] = "janus"
    ar_stream: ARStream = "content"  # [H]; query is the released model's
    noise: Noise = Noise(spans=1.0)
    label_smoothing: Share = 0.1
    ar: Weight = 1.0
    nar: Weight = 0.5
    aux: Weight = 0.5
    length: Weight = 0.1
    kl_ar_aux: Weight = 3.0
    kl_nar_aux: Weight = 1.0
    kl_ar_nar: Weight = 1.0
    kl_to_ar: Share = 1.0  # the part of the KLs' gradient that AR receives [J]; at 0, AR teaches and is not taught
    kl_start: Count = 0  # updates without any KL
    kl_warmup: Count = 0  # updates over which the KL weights then rise to their full value

    def at(self, step: int) -> JanusObjective:
        """The knobs in force at this update: the KL weights scaled by their warm-up."""
        factor = min(1.0, max(0.0, (step + 1 - self.kl_start) / max(1, self.kl_warmup)))
        scaled = {name: factor * getattr(self, name) for name in ("kl_ar_aux", "kl_nar_aux", "kl_ar_nar")}
        return self.model_copy(update=scaled)


Objective = Annotated[
    ArObjective | CmlmObjective | CmlmcObjective | CematObjective | JanusObjective, Field(discriminator="name")
]
OBJECTIVE_NAMES = ("ar", "cmlm", "cmlmc", "cemat", "janus")

# What a system's paper sets in other sections of a recipe. `recipe_file.load` fills it in wherever the recipe itself
# and --set say nothing, so that `--objective NAME` is the whole system.
SYSTEMS: dict[str, dict[str, dict[str, Any]]] = {
    "cmlmc": {
        "model": {"causal_attention": True, "embedding": "concat", "embedding_scale": False},  # [M]
        "decoding": {"update": "all"},  # [M]
    },
}
