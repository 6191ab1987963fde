"""How to decode: the recipe's decoding section, what the user changed in it, and whether it all fits together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from janus_cli.core.generate import Mode
from janus_cli.core.knobs import KNOWN_LENGTH, ONE_PASS, ARSide, Decoding, knobs
from janus_cli.core.objectives import OBJECTIVES, Objective
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe

_MARKERS = knobs(Decoding)
OPTIONS: dict[str, tuple[str, ...]] = {  # those that some modes share and others do not know
    way: tuple(name for name, knob in _MARKERS.items() if way in knob.modes)
    for way in ("ar", KNOWN_LENGTH, "nar", ONE_PASS, "semi", "spec")
}
NOT_EVERYWHERE = {option for options in OPTIONS.values() for option in options}


@dataclass(frozen=True)
class Plan:
    """What `generate` is called with. ar_stream is None where the objective has no AR side.

    lengths: whether NAR predicts lengths (and refines), or writes up to the first EOS in one pass.
    """

    mode: Mode
    options: Decoding
    ar_stream: ARSide | None
    lengths: bool = True

    @property
    def way(self) -> str:
        """The mode, as `OPTIONS` has it."""
        return _way(self.mode, self.lengths, self.ar_stream)

    @property
    def label(self) -> str:
        """Short name of the mode, as in `ar.beam5` or `nar4.lb5.rerank`; names the files of a decoded split."""
        options, usual = self.options, Decoding()
        if self.mode == "ar":
            parts = [f"ar.beam{options.beam}"]
            parts += [f"lp{options.length_penalty:g}"] * (options.length_penalty != usual.length_penalty)
        elif self.mode == "spec":
            drafting = ("draft_iters", "draft_length", "verify_window", "redraft")
            changed = (name for name in drafting if getattr(options, name) != getattr(usual, name))
            parts = ["spec", *(f"{name}-{getattr(options, name)}" for name in changed)]
        elif self.way == "nar":
            parts = [f"nar{options.iters}", f"lb{options.length_beam}"]
            parts += ["all"] * (options.update == "all")
            parts += ["norepeats"] * options.remove_repeats
            parts += ["rerank"] * (options.rerank == "ar")
        else:
            parts = [f"semi{options.block}" if self.mode == "semi" else "nar.eos"]
            parts += ["norepeats"] * options.remove_repeats
        return ".".join(parts + [options.precision] * (options.precision != usual.precision))

    @property
    def used(self) -> dict[str, Any]:
        """The options that matter in this mode."""
        other = NOT_EVERYWHERE.difference(OPTIONS[self.way])
        values = asdict(self.options)
        return {name: value for name, value in values.items() if name not in other and name != "mode"}


def _way(mode: str, lengths: bool, ar_stream: ARSide | None) -> str:
    if mode == "ar" and ar_stream == "masks":
        return KNOWN_LENGTH
    return ONE_PASS if mode == "nar" and not lengths else mode


def choose(recipe: Recipe, given: Mapping[str, Any]) -> Plan:
    """The plan for a model trained with this recipe.

    given: names and values of the decoding section that stand on the command line.

    Raises:
        UsageError: they contradict each other or the model.
    """
    options = replace(recipe.decoding, **given)
    objective = OBJECTIVES[recipe.objective.name]
    mode = options.mode if options.mode != "auto" else "ar" if objective.ar else "nar"
    _must_be_able(recipe, mode)
    _must_fit(recipe, options, mode, given)
    if "nbest" not in OPTIONS[_way(mode, objective.lengths, recipe.ar_stream)]:
        options = replace(options, nbest=1)
    return Plan(mode, options, recipe.ar_stream, objective.lengths)


def unlearnt(recipe: Recipe, plan: Plan) -> str | None:
    """What the plan asks of the model that its training never did, for people."""
    if plan.way == "nar" and plan.options.update == "all" and not getattr(recipe.objective, "correct", 0):
        return (
            "--update all rewrites tokens where others stand already, which this model was never trained to do "
            "(objective.correct): expect nonsense, or use --update hidden"
        )
    return None


def modes(objective: Objective, ar_stream: ARSide | None) -> tuple[Mode, ...]:
    """What a model trained so can do."""
    # A draft is written by mask-predict, and verified by slots that come one behind the other.
    spec = objective.ar and objective.lengths and ar_stream in ("content", "query")
    able: dict[Mode, bool] = {"ar": objective.ar, "nar": objective.nar, "semi": objective.blocks, "spec": spec}
    return tuple(mode for mode, is_able in able.items() if is_able)


def _must_be_able(recipe: Recipe, mode: Mode) -> None:
    name = recipe.objective.name
    able = modes(OBJECTIVES[name], recipe.ar_stream)
    if mode in able:
        return
    what = {"ar": "autoregressively", "nar": "non-autoregressively", "semi": "in blocks", "spec": "speculatively"}[mode]
    others = {"ar": "ar or janus", "nar": "cmlm or janus", "semi": "bang", "spec": "janus"}[mode]
    raise UsageError(
        f"this model was trained with objective {name}: it cannot decode {what}",
        f"use --mode {' or '.join(able)}, or train with --objective {others}",
    )


def _must_fit(recipe: Recipe, options: Decoding, mode: Mode, given: Mapping[str, Any]) -> None:
    name = recipe.objective.name
    objective = OBJECTIVES[name]
    way = _way(mode, objective.lengths, recipe.ar_stream)
    foreign = [option for option in given if option in NOT_EVERYWHERE.difference(OPTIONS[way])]
    if foreign and way == ONE_PASS:
        raise UsageError(
            f"{', '.join(map(_flag, foreign))} would change nothing: objective {name} writes all tokens in one pass",
            "leave it out; --mode semi --block N takes more passes",
        )
    if foreign:
        others = [
            able for able in modes(objective, recipe.ar_stream)
            if set(foreign) <= set(OPTIONS[_way(able, objective.lengths, recipe.ar_stream)])
        ]  # fmt: skip
        add = f"add --mode {' or '.join(others)}, or " if others else ""
        raise UsageError(
            f"{', '.join(map(_flag, foreign))} would change nothing: this decodes with --mode {mode}",
            f"{add}leave {'it' if len(foreign) == 1 else 'them'} out",
        )
    width, what = (options.beam, "--beam") if mode == "ar" else (options.length_beam, "--length-beam")
    if mode == "semi" and options.block > (streams := getattr(recipe.objective, "streams", options.block)):
        raise UsageError(
            f"--block {options.block}: this model was trained to write at most {streams} tokens behind known ones",
            f"use --block {streams} or less, or --mode nar for all at once",
        )
    if "nbest" in OPTIONS[way] and options.nbest > width:
        raise UsageError(
            f"--nbest {options.nbest} is more than {what} {width}: there are not so many hypotheses",
            f"use {what} {options.nbest} or a smaller --nbest",
        )
    if way == "nar" and options.length_beam > recipe.model.max_length - 2:
        raise UsageError(
            f"--length-beam {options.length_beam} is more than the {recipe.model.max_length - 2} lengths of this model",
            "use a smaller one; 5 is usual",
        )
    if way == "nar" and options.rerank == "ar" and not objective.ar:
        raise UsageError(
            f"--rerank ar needs an AR side, and objective {name} has none", "use --rerank none, or train with janus"
        )


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
