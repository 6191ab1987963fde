"""How a model can decode: its modes, the options that each mode reads, and which options contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from janus_cli import recipe_load
from janus_cli.core.knob import knobs
from janus_cli.core.knobs import KNOWN_LENGTH, ONE_PASS, Decoding, Mode
from janus_cli.core.shapes import LONGEST
from janus_cli.engines.choice import without_graph
from janus_cli.errors import CheckpointError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.training import limits

_KNOBS, _USUAL = knobs(Decoding), Decoding()
_SHORT = {  # in the names of files, each with its value; named there only if it is not the usual one
    "temperature": "t", "top_k": "k", "top_p": "p", "seed": "seed", "diversity": "diversity", "groups": "groups",
    "no_repeat_ngram": "ngram", "min_length": "min", "unk": "unk", "nbest": "nbest", "keep_lengths": "keep",
    "sure": "sure", "rewrite_repeats": "rewrite",
}  # fmt: skip
UNFLAGGED = {  # the same for what only --set changes; named there only if it is not the checkpoint's own
    "max_ratio": "ratio", "max_extra": "extra", "early_stopping": "stop", "first_token": "first",
    "free_end": "freeend", "unwritten": "unwritten",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How to decode with a model that was trained with this recipe.

    options: the recipe's, overridden by the user's; those that are not read have their defaults, so that whoever
    decodes need not ask. idle: what the recipe turns on, and is not read; without the details of other options, and
    without what only NAR needs. in_vain: what --set changes, and is not read.
    """

    recipe: Recipe
    mode: Mode
    options: Decoding
    idle: Mapping[str, Any] = field(default_factory=dict)
    in_vain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def way(self) -> str:
        """The mode as named in `Knob.modes`, where `ar` and `nar` have variants."""
        if self.mode == "ar" and self.recipe.ar_stream == "masks":
            return KNOWN_LENGTH
        return ONE_PASS if self.mode == "nar" and not self.recipe.objective.lengths else self.mode

    @property
    def drafts(self) -> bool:
        """Whether the NAR side writes drafts, for which there may be a head."""
        return self.mode == "spec" and self.options.redraft == "nar"

    def without_graph(self, device: str = "cpu", *, trace: bool = False) -> str:
        """Why torch searches, on a device of this type; empty if ONNX Runtime does. Raises UsageError: neither can."""
        lengths, side = self.recipe.objective.lengths, self.recipe.ar_stream
        return without_graph(self.mode, self.options, side, device, lengths=lengths, trace=trace)

    @property
    def limiting(self) -> Decoding:
        """The options that limit outputs which end by themselves; those of the recipe where lengths are predicted."""
        return self.options if self.reads("max_ratio") else self.recipe.decoding

    @property
    def label(self) -> str:
        """Short name of the mode, as in `ar.beam5` or `nar4.lb5.rerank`; names the files of a decoded split."""
        options, usual = self.options, _USUAL
        if self.mode == "ar":
            parts = ["ar.sample" if options.temperature else f"ar.beam{options.beam}"]
            parts += [f"lp{options.length_penalty:g}"] * (options.length_penalty != usual.length_penalty)
        elif self.mode == "spec":
            drafting = ("draft_iters", "draft_length", "verify_window", "redraft")
            changed = (name for name in drafting if getattr(options, name) != getattr(usual, name))
            parts = ["spec", *(f"{name}-{getattr(options, name)}" for name in changed)]
        elif self.way == "nar":
            parts = [f"nar{options.iters}", f"lb{options.length_beam}"]
            parts += ["all"] * (options.update == "all")
            parts += ["avoid"] * options.avoid_repeats
            parts += ["norepeats"] * options.remove_repeats
            parts += {"none": [], "nar": ["rerank-nar"], "ar": ["rerank"]}[options.rerank]
        else:
            parts = [f"semi{options.block}" if self.mode == "semi" else "nar.eos"]
            parts += ["norepeats"] * options.remove_repeats
        changed = (name for name in _SHORT if self.reads(name) and getattr(options, name) != getattr(usual, name))
        parts += [f"{_SHORT[name]}{getattr(options, name)}".removesuffix(".0") for name in changed]
        return ".".join(parts + [options.precision] * (options.precision != usual.precision))

    @property
    def used(self) -> dict[str, Any]:
        """The options that are read, with their values as JSON has them; without what is turned off."""
        values = {name: [*value] if isinstance(value, tuple) else value for name, value in asdict(self.options).items()}
        return {name: value for name, value in values.items() if self.reads(name) and self.on(name) and name != "mode"}

    @property
    def used_in_graph(self) -> dict[str, Any]:
        """`used` where ONNX Runtime searches: drafts of `spec` are shorter there."""
        used = self.used
        return used | {name: min(used[name], LONGEST) for name in ("draft_length", "verify_window") if name in used}

    def reads(self, option: str) -> bool:
        """Whether the option decides anything, in this mode and with the other options."""
        knob = _KNOBS[option]
        if knob.only_with and not self.acts(knob.only_with):
            return False
        return self.has(option) and not (knob.not_with and self.acts(knob.not_with))

    def acts(self, option: str) -> bool:
        """Whether the option is read and has another value than usual."""
        return self._differs(option) and self.reads(option)

    def has(self, option: str) -> bool:
        """Whether this mode has the option."""
        modes = _KNOBS[option].modes
        return not modes or self.way in modes

    def on(self, option: str) -> bool:
        """False for what can be turned off, and is."""
        return not _KNOBS[option].off or self._differs(option)

    def _differs(self, option: str) -> bool:
        return bool(getattr(self.options, option) != getattr(_USUAL, option))

    @property
    def warnings(self) -> Iterator[str]:
        """What the model was never trained to do, and what the recipe turns on in vain."""
        if self.way == "nar" and self.options.update == "all" and not getattr(self.recipe.objective, "correct", 0):
            yield (
                "--update all rewrites tokens that are not hidden, which this model was never trained to do "
                "(objective.correct): expect nonsense, or use --update hidden"
            )
        longest = self.recipe.model.max_length - 2
        if self.way == "nar" and self.options.iters > longest:
            yield (
                f"--iters {self.options.iters:,}: outputs have {longest} tokens at most, and passes beyond that "
                "hardly change a text, but take time"
            )
        if self.way == "nar" and (how := self.options.rerank) != "none" and self.options.length_beam == 1:
            yield (
                f"--rerank {how} has one length to choose from, so it only scores: add --length-beam 5, or leave it out"
            )
        for name, value in self.idle.items():
            off = f"--set decoding.{name}={str(getattr(_USUAL, name)).lower().removesuffix('.0')}"  # of all commands
            yield (
                f"decoding.{name} {value}, from the recipe, is not used: {self.obstacle(name)[0]}; {off} turns it off"
            )
        for name, value in self.in_vain.items():
            yield f"--set decoding.{name}={value} is not used: {self.obstacle(name)[0]}"

    def obstacle(self, option: str) -> tuple[str, str]:
        """Why an option is not read, and what makes it read; empty if nothing does."""
        knob = _KNOBS[option]
        if not self.has(option):
            if self.way == KNOWN_LENGTH and "ar" in knob.modes:
                return "this model predicts the length first", ""
            if self.way == ONE_PASS and "nar" in knob.modes:
                more = "take --mode semi --block N for more passes" if option == "iters" else ""
                return "this model writes all tokens in one pass", more
            plans = [Plan(self.recipe, mode, self.options) for mode in modes(self.recipe)]
            others = " or ".join(plan.mode for plan in plans if plan.reads(option))
            return f"this decodes with --mode {self.mode}", f"add --mode {others}" if others else ""
        if knob.not_with and self.acts(knob.not_with):
            return f"{flag(knob.not_with)} is on", f"turn that off with {flag(knob.not_with)} 0"
        other = knob.only_with
        value = "off" if _KNOBS[other].off else getattr(_USUAL, other)
        return f"{flag(other)} is {value}", f"add {flag(other)}"


def flag(option: str) -> str:
    """The command line's name of an option of the decoding section."""
    return f"decoding.{option}" if _KNOBS[option].flag is None else f"--{option.replace('_', '-')}"


def changed(changes: Sequence[str]) -> set[str]:
    """The names of the decoding options that `--set` changes."""
    return {change.partition("=")[0].strip().removeprefix("decoding.") for change in changes}


def own_recipe(folder: Path, changes: Sequence[str]) -> Recipe:
    """The recipe of a checkpoint, with changes of its decoding section.

    Raises:
        UsageError: changes of other sections, or mistakes in them.
        CheckpointError: the folder is not a checkpoint, or its recipe has mistakes.
    """
    for change in changes:
        if not change.startswith("decoding."):
            raise UsageError(
                f"--set {change}: only decoding.… can be changed here, the rest is what the model was trained with",
                "for example --set decoding.max_ratio=2",
            )
    file = folder / "recipe.yaml"
    if not file.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {file.name}", "see `janus inspect RUN`")
    recipe = recipe_load.load_written(file)
    return limits.kept(recipe_load.load(str(file), changes), recipe) if changes else recipe


def modes(recipe: Recipe, *, drafts: bool = False) -> tuple[Mode, ...]:
    """The modes of a model that was trained with this recipe, the default one first. drafts: whether it gets them."""
    objective = recipe.objective
    # Mask-predict writes the draft; only these AR streams can verify it, because their slots are in order.
    spec = "ar" in objective.sides and (objective.lengths or drafts) and recipe.ar_stream in ("content", "query")
    more: dict[Mode, bool] = {"semi": objective.blocks, "spec": spec}
    return (*objective.sides, *(mode for mode, is_able in more.items() if is_able))


def choose(recipe: Recipe, given: Mapping[str, Any], changed: Collection[str] = ()) -> Plan:
    """The plan for a model trained with this recipe.

    given: names and values of the decoding section; None leaves what the recipe says. changed: what --set has changed
    in the recipe.

    Raises:
        UsageError: there is no such option or value, or options contradict each other or the model.
    """
    given = {name: value for name, value in given.items() if value is not None}
    options = recipe_load.change_decoding(recipe, given)
    if "block" not in {*given, *changed} and options.block == _USUAL.block:
        options = replace(options, block=min(options.block, _largest_block(recipe)))
    mode: Mode = options.mode if options.mode != "auto" else modes(recipe)[0]
    _must_be_able(recipe, mode, drafts=options.redraft == "source")
    asked = Plan(recipe, mode, options)
    _must_be_read(asked, given)
    unread = [name for name in _KNOBS if not asked.reads(name)]
    details = {name for name, knob in _KNOBS.items() if knob.only_with and _KNOBS[knob.only_with].off}
    shown = {name: knob for name, knob in _KNOBS.items() if knob.off and knob.flag is not None}
    # Left to right, nobody misses what only makes up for a weakness of the other modes.
    told = {name for name, knob in shown.items() if "ar" in knob.modes or asked.way not in ("ar", "spec")}
    on = (name for name in unread if name in told - details and asked.on(name))
    idle = {name: getattr(options, name) for name in on if name not in changed}
    in_vain = {name: getattr(options, name) for name in unread if name in changed and asked.on(name)}
    options = replace(options, **{name: getattr(_USUAL, name) for name in unread})
    plan = Plan(recipe, mode, options, idle, in_vain)
    _must_fit(plan)
    plan.without_graph()
    return plan


def _must_be_able(recipe: Recipe, mode: Mode, *, drafts: bool) -> None:
    able = modes(recipe, drafts=drafts)
    if mode in able:
        return
    if mode == "spec" and mode in modes(recipe, drafts=True):
        raise UsageError(
            f"this model was trained with objective {recipe.objective.name}: it cannot decode with --mode spec",
            f"use --mode {' or '.join(able)}; --redraft source where outputs copy their source; or train with "
            "--objective janus",
        )
    what = {"ar": "autoregressively", "nar": "non-autoregressively", "semi": "in blocks", "spec": "speculatively"}[mode]
    others = {"ar": "ar or janus", "nar": "cmlm or janus", "semi": "bang", "spec": "janus"}[mode]
    raise UsageError(
        f"this model was trained with objective {recipe.objective.name}: it cannot decode {what}",
        f"use --mode {' or '.join(able)}, or train with --objective {others}",
    )


def _must_be_read(plan: Plan, given: Mapping[str, Any]) -> None:
    foreign = [name for name, value in given.items() if value is not False and plan.on(name) and not plan.reads(name)]
    if not foreign:
        return
    reason, remedy = plan.obstacle(foreign[0])
    alike = [option for option in foreign if plan.obstacle(option) == (reason, remedy)]
    flags, it = ", ".join(map(flag, alike)), "it" if len(alike) == 1 else "them"
    raise UsageError(
        f"{flags} would change nothing: {reason}", f"{remedy}, or leave {it} out" if remedy else f"leave {it} out"
    )


def _largest_block(recipe: Recipe) -> int:
    """The largest block that was trained; without streams for blocks, any is as good."""
    return int(getattr(recipe.objective, "streams", recipe.model.max_length))


def _must_fit(plan: Plan) -> None:
    options, recipe, name = plan.options, plan.recipe, plan.recipe.objective.name
    width, what = (options.beam, "--beam") if plan.mode == "ar" else (options.length_beam, "--length-beam")
    if plan.mode == "semi" and options.block > (largest := _largest_block(recipe)):
        raise UsageError(
            f"--block {options.block}: this model was trained to write blocks of at most {largest} tokens",
            f"use --block {largest} or less, or --mode nar for all at once",
        )
    if plan.way == "nar" and options.rerank != "none" and 0 < options.keep_lengths < width:
        width, what = options.keep_lengths, "--keep-lengths"
    if options.nbest > width and not options.temperature:
        raise UsageError(
            f"--nbest {options.nbest} is more than {what} {width}, the number of hypotheses",
            f"use {what} {options.nbest} or a smaller --nbest",
        )
    if plan.way == "nar" and options.length_beam > recipe.model.max_length - 2:
        raise UsageError(
            f"--length-beam {options.length_beam} is more than the {recipe.model.max_length - 2} lengths of this model",
            "use a smaller one; 5 is usual",
        )
    if plan.mode == "spec" and options.redraft == "source":
        if not recipe.tokenizer.joint:
            raise UsageError("--redraft source: the source has ids of another tokenizer", "use --redraft nar")
        if options.draft_iters > 1:
            raise UsageError("--draft-iters: with --redraft source, drafts take no passes", "leave one of them out")
    if plan.way == "nar" and options.rerank == "ar" and "ar" not in recipe.objective.sides:
        raise UsageError(
            f"--rerank ar needs an AR side, and objective {name} has none", "use --rerank none, or train with janus"
        )


def must_be_ids(options: Decoding, vocabulary: int) -> None:
    """Raises UsageError for ids that the decoding options name and the vocabulary does not have."""
    for name, ids in (("first_token", (options.first_token,)), ("unwritten", options.unwritten)):
        if max(ids, default=0) >= vocabulary:
            hint = f"ids are counted from 0: the last one is {vocabulary - 1}"
            raise UsageError(f"decoding.{name} {max(ids)}: the vocabulary has {vocabulary:,} ids", hint)
