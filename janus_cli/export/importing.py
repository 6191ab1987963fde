"""`janus import`: a model folder of Hugging Face's transformers -> a run, in the form of an export.

What makes such a model differ from ours is told by knobs: the shape (`model`), how it generates (`decoding`), and the
tokens that its texts begin with (the frame, part of the tokenizer). Our BOS is the token that its decoder starts with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from janus_cli import __version__, console, documents, recipe_load
from janus_cli.core.knobs import COLDEST, ArObjective, Decoding, Model
from janus_cli.core.model import Transformer, sinusoids
from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.corpus import SIDES
from janus_cli.data.hf import ABSENT, HuggingFace, listed
from janus_cli.data.hf_folder import SPECIALS, take_over
from janus_cli.data.tokenizer import Tokenizer, Tokenizers, load_tokenizers, write_tokenizers
from janus_cli.errors import DataError, UsageError
from janus_cli.export import safetensors
from janus_cli.export.folder import CONFIG, read, read_weights
from janus_cli.export.huggingface import (
    BIAS,
    HARMLESS,
    KINDS,
    POSITIONS,
    SAMPLING,
    WITHOUT_EFFECT,
    model_knobs,
    moved,
    parts,
    tables,
)  # fmt: skip
from janus_cli.export.source import Source
from janus_cli.files import must_be_free, sha256, whole_folder, write_json
from janus_cli.recipe import Data, Recipe
from janus_cli.recipe import Tokenizer as TokenizerKnobs
from janus_cli.runs import PROVENANCE, RUNS
from janus_cli.terminal import command

WHAT = "an imported model"
LEAST_BIAS = -100.0  # of a token that is never written: leaves it no probability, and label smoothing finite


@dataclass(frozen=True)
class Frame:
    """What such a model has around a text, in its own ids; None for nothing.

    start: what its decoder starts with. source, target: what a text begins with. suffix: what follows the EOS of a
    source. first: what an output must begin with.
    """

    start: int
    source: int | None = None
    target: int | None = None
    suffix: int | None = None
    first: int | None = None


def frame_of(
    config: Mapping[str, Any], settings: Mapping[str, Any], languages: Sequence[int | None],
    around: Sequence[int] | None = None,
) -> Frame:  # fmt: skip
    """The frame of a model: BART's texts begin with <s>, mBART-50's with a language, mBART's sources end with one.

    settings: of generation. languages: ids of the source's and the target's, for mBART. around: what the tokenizer
    itself puts around a text, if it is known; without <s>, a BART's texts do not begin with it.

    Raises:
        DataError: an id that the frame needs is not told, or is none of its tokens.
    """
    source, target = languages
    start = _id("decoder_start_token_id", config, settings, config)
    first = _id("forced_bos_token_id", config, settings)
    if config["model_type"] == "mbart" and start is not None and start == config["eos_token_id"]:  # mBART-50
        return Frame(start, source=source, target=target, first=target)
    if config["model_type"] == "mbart" and target is not None:
        return Frame(target, suffix=source, first=first)
    if start is None:
        raise DataError(f"{CONFIG} is damaged: decoder_start_token_id is missing")
    if config["model_type"] != "bart":
        return Frame(start, first=first)
    begin = _id("bos_token_id", config, config)
    if around == [config["eos_token_id"]]:
        return Frame(start, first=first)
    if begin is None:
        raise DataError(f"{CONFIG} is damaged: bos_token_id is missing", "texts of BART begin with this token")
    return Frame(start, source=begin, target=begin, first=first)


def _id(key: str, config: Mapping[str, Any], *places: Mapping[str, Any]) -> int | None:
    """The id that the first of these places tells. Raises DataError if the model has no such token."""
    index: int | None = next((place[key] for place in places if place.get(key) is not None), None)
    rows = config.get("decoder_vocab_size") or config["vocab_size"]
    if index is not None and index >= rows:
        raise DataError(f"{key} {index} is no token of this model, which has {rows:,}")
    return index


def decoding_knobs(settings: Mapping[str, Any], longest: int) -> Decoding:
    """How `generate` of transformers would. longest: the model's positions, the limit if no max_length is set.

    `first_token` and `unwritten` are left out, which are ids.
    """
    # Their lengths count the token that the decoder starts with.
    least = settings.get("min_new_tokens", max(settings.get("min_length", 0) - 1, 0))
    most = settings["max_new_tokens"] + 1 if "max_new_tokens" in settings else settings.get("max_length", longest)
    least = min(least, max(0, min(most, longest) - 2))
    stop: Any = {True: "full", False: "likely", "never": "never"}[settings.get("early_stopping", False)]
    sampling: dict[str, Any] = {}
    if settings.get("do_sample"):
        cold = max(COLDEST, float(settings.get("temperature", 1.0)))
        sampling = {"temperature": cold, "top_k": settings.get("top_k", 50), "top_p": float(settings.get("top_p", 1.0))}
    beam, nbest = settings.get("num_beams", 1), settings.get("num_return_sequences", 1)
    return Decoding(
        beam=beam, nbest=nbest if sampling else min(nbest, beam), early_stopping=stop,
        length_penalty=max(0.0, float(settings.get("length_penalty", 1.0))), min_length=least,
        no_repeat_ngram=settings.get("no_repeat_ngram_size", 0), max_ratio=0.0,
        max_extra=max(0, min(most, longest) - 2 - least), free_end="forced_eos_token_id" in settings,
        **sampling,
    )  # fmt: skip


def unwritten(settings: Mapping[str, Any], order: Sequence[int]) -> tuple[int, ...]:
    """Our ids of what `generate` does not write, though it keeps its probability: single bad words, and suppressed
    tokens; and of <pad> and <mask>, which `generate` would write.

    order: of the target's ids.
    """
    bad = {words[0] for words in settings.get("bad_words_ids", ()) if len(words) == 1} - {order[EOS]}
    banned = {*bad, *settings.get("suppress_tokens", ()), order[PAD], order[MASK]} - {ABSENT}
    return tuple(ours for ours, theirs in enumerate(order) if theirs in banned)


def not_followed(settings: Mapping[str, Any], end: int) -> list[str]:
    """The settings of generation that would change outputs of transformers and do not change ours.

    end: the model's id of EOS.
    """
    samples = bool(settings.get("do_sample"))
    known = HARMLESS | documents.GenerationConfig.model_fields.keys() | (set() if samples else SAMPLING)
    strange = {
        name for name, value in settings.items() if name not in known and value != WITHOUT_EFFECT.get(name, ABSENT)
    }
    if any(len(words) != 1 for words in settings.get("bad_words_ids", ())):
        strange.add("bad_words_ids")
    if settings.get("length_penalty", 0) < 0:
        strange.add("length_penalty")
    if samples and settings.get("num_beams", 1) > 1:  # transformers samples within a beam
        strange.add("num_beams")
    if not samples and settings.get("num_return_sequences", 1) > settings.get("num_beams", 1):
        strange.add("num_return_sequences")
    strange |= {key for key in ("eos_token_id", "forced_eos_token_id") if settings.get(key, end) not in (end, [end])}
    return [f"{name} {settings[name]}" for name in sorted(strange)]


def transformer(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], orders: Sequence[Sequence[int]], start: int, suffix: int,
    name: str,
) -> Transformer:  # fmt: skip
    """The model with these weights, in eval mode. They may be of any float type; the model's are float32.

    orders: of the source's ids and the target's. start: see `moved`. suffix: `Model.source_suffix`. name: the model's
    folder, for messages.

    Raises:
        DataError: the model does not fit, or weights are missing, not finite, or of other shapes than its config says.
    """
    knobs = replace(model_knobs(config, name), source_suffix=suffix)
    try:
        named = _tables(weights, knobs, orders)
        made = _bias(weights, orders[1], start)
        made |= _positions(weights, knobs, KINDS[config["model_type"]].offset)
        bias = bool("output_bias" in made and made["output_bias"].any())
        positions = "learned" if "source_positions" in made else knobs.positions
        knobs = replace(knobs, output_bias=bias, positions=positions)
        model = Transformer(knobs, *map(len, orders), length_head=False).eval()
        taken = {each for names in tables("none").values() for each in names} | {BIAS, *POSITIONS.values()}
        for ours, weight in model.weights().items():
            if ours in named:
                found = moved(weights[named[ours]].float(), orders[ours != "source_table.weight"], start)
            elif ours in made:
                found = made[ours]
            else:
                found = torch.cat([weights[each].float() for each in parts(ours)])
                taken.update(parts(ours))
            _must_be(ours, found, [*weight.shape])
            weight.copy_(found)
    except KeyError as problem:
        raise DataError(f"{name}: there is no weight {problem}", "is it a whole encoder-decoder?") from None
    except DataError as problem:
        raise DataError(f"{name}: {problem}") from None
    if strange := sorted(weights.keys() - taken):
        raise DataError(f"{name} has weights that such a model has no place for: {', '.join(strange[:3])}")
    return model


def _must_be(name: str, weight: Tensor, shape: Sequence[int]) -> None:
    if [*weight.shape] != [*shape]:
        raise DataError(f"{name} has shape {[*weight.shape]}, {CONFIG} makes it {[*shape]}")
    if not weight.isfinite().all():
        raise DataError(f"{name} has numbers that are not finite")


def _tables(weights: Mapping[str, Tensor], knobs: Model, orders: Sequence[Sequence[int]]) -> dict[str, str]:
    """The weight of each of our embedding tables; also checks the sizes that a model is made with, before it is."""
    named = {}
    for ours, names in tables(knobs.tie).items():
        named[ours], *more = [each for each in names if each in weights] or names[:1]
        for other in more:
            if not torch.equal(weights[named[ours]].float(), weights[other].float()):
                raise DataError(f"{named[ours]} and {other} differ, which {CONFIG} says are one")
        sides = [*orders] if knobs.tie == "all" else [orders[ours != "source_table.weight"]]
        for order in sides:
            _must_be(named[ours], weights[named[ours]], (max(order) + 1, knobs.width))
    for side, layers in (("encoder", knobs.encoder_layers), ("decoder", knobs.decoder_layers)):
        (last,) = parts(f"{side}.{layers - 1}.feedforward.up.weight")
        _must_be(last, weights[last], (knobs.feedforward, knobs.width))
    return named


def _bias(weights: Mapping[str, Tensor], order: Sequence[int], start: int) -> dict[str, Tensor]:
    if BIAS not in weights:
        return {}
    theirs = weights[BIAS].float().flatten()
    if len(theirs) != max(order) + 1:
        raise DataError(f"{BIAS} has {len(theirs):,} numbers, not one for each of {max(order) + 1:,} tokens")
    bias = moved(theirs, order, start)
    silent = [ours for ours in (PAD, MASK) if order[ours] != ABSENT]
    bias[silent] = bias[silent].clamp(min=LEAST_BIAS)
    bias[[ours for ours in (PAD, BOS, MASK) if ours not in silent]] = 0.0
    return {"output_bias": bias}


def _positions(weights: Mapping[str, Tensor], knobs: Model, offset: int) -> dict[str, Tensor]:
    """The position tables that are stored; none if they are Marian's sinusoids."""
    stored = {ours: weights[theirs][offset:].float() for ours, theirs in POSITIONS.items() if theirs in weights}
    for ours, table in stored.items():
        _must_be(ours, table, (knobs.max_length, knobs.width))
    fixed = sinusoids(knobs.max_length, knobs.width, "marian")
    return stored if any(not torch.equal(table, fixed) for table in stored.values()) else {}


def import_model(
    folder: Path, *, run: Path | None = None, languages: tuple[str | None, str | None] = (None, None),
    force: bool = False, dry_run: bool = False,
) -> Path:  # fmt: skip
    """Writes a run that is made of a model's folder, and returns its own; for arguments see `janus import`.

    Raises:
        DataError: the folder holds no model that fits, or a damaged one.
        UsageError: its languages are not known, or the run's folder may not be replaced.
    """
    config, settings = read(folder)
    model_knobs(config, str(folder))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or config["model_type"]
    out = run or RUNS / name
    must_be_free(out, force=force, is_ours=_is_import, what=WHAT, option="--run")
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        tokenizers, frame = _tokenizers(folder, place, config, settings, languages)
        source, target = (_huggingface(each) for each in (tokenizers.source, tokenizers.target))
        suffix = 0 if frame.suffix is None else source.ours(frame.suffix)
        orders = source.order, target.order
        weights, stored = read_weights(folder)
        model = transformer(weights, config, orders, frame.start, suffix, str(folder))
        first = 0 if frame.first is None else target.ours(frame.first)
        decoding = replace(
            decoding_knobs(settings, model.knobs.max_length), first_token=first,
            unwritten=unwritten(settings, target.order), unk="ban" if target.order[UNK] == ABSENT else "keep",
        )  # fmt: skip
        recipe = _recipe(name, model, tokenizers, decoding, out)
        for setting in not_followed(settings, target.order[EOS]):
            console.warn(f"{folder}: {setting} has no knob here: outputs may differ from those of transformers")
        if dry_run:
            console.say(f"would import {folder} to {out}")
            return out
        files = {file.name: sha256(file) for file in stored}
        about = {
            "run": name, "checkpoint": ", ".join(files), "step": 0, "objective": recipe.objective.name,
            "sha256": next(iter(files.values())), "janus": __version__, "imported": config["model_type"],
        }  # fmt: skip
        state = {"step": 0, "tokenizer": {each: sha256(place / each) for each in tokenizers.files}}
        with whole_folder(out, force=force, is_ours=_is_import, what=WHAT) as making:
            safetensors.write(Source(recipe, model, tokenizers, place, state, about), making, "float32")
            write_json(making / PROVENANCE, about)
    parameters = sum(weight.numel() for weight in model.parameters())
    console.say(
        f"imported {folder} to {out}: {config['model_type']}, {parameters:,} parameters, {target.size:,} tokens"
    )
    console.say(f"next: {command('janus', 'decode', '--run', out, '--input', 'FILE')}")
    return out


def _is_import(folder: Path) -> bool:
    about = folder / PROVENANCE
    return about.is_file() and "imported" in documents.read(about, documents.Document)


def _huggingface(tokenizer: Tokenizer) -> HuggingFace:
    assert isinstance(tokenizer, HuggingFace), "made of a model's folder"
    return tokenizer


def _tokenizers(
    folder: Path, place: Path, config: Mapping[str, Any], settings: Mapping[str, Any],
    languages: tuple[str | None, str | None],
) -> tuple[Tokenizers, Frame]:  # fmt: skip
    """The tokenizers of a model's folder, whose files are written to `place`, and what stands around a text."""
    contents = take_over(folder)
    write_tokenizers(place, contents, "hf")
    plain = load_tokenizers(place)
    sides = _huggingface(plain.source), _huggingface(plain.target)
    if ABSENT in (each.order[EOS] for each in sides):
        raise DataError(f"{folder}: no token ends a text", "name it in tokenizer_config.json, as eos_token")
    ids: list[int | None] = [None, None]
    if config["model_type"] == "mbart":
        about = sides[0].stored["config"]
        names = [given or about.get(key) for given, key in zip(languages, ("src_lang", "tgt_lang"), strict=True)]
        ids = [_language(name, tokenizer) for name, tokenizer in zip(names, sides, strict=True)]
    elif any(languages):
        raise UsageError(f"{folder} is of type {config['model_type']}: languages are for mbart", "leave them out")
    around = sides[0].around
    frame = frame_of(config, settings, ids, around)
    framed = [index for index in (frame.source, config["eos_token_id"], frame.suffix) if index is not None]
    if around is not None and around != framed and config["model_type"] != "mbart":
        console.warn(f"{folder}: its tokenizer puts {around} around a text, and this model is given {framed} here")
    special = [] if config["model_type"] == "mbart" else listed(sides[0].stored["config"])
    usual = {name for _, names in SPECIALS for name in names}
    if strange := [name for name in special if name not in usual and not re.fullmatch(r"<(unk|mask)_\d+>", name)]:
        console.warn(f"{folder}: where a text names {', '.join(strange[:5])}, these are read as other text")
    begin = {
        side: [tokenizer.ours(first)]
        for side, tokenizer, first in zip(SIDES, sides, (frame.source, frame.target), strict=True)
        if first is not None
    }
    write_tokenizers(place, contents, "hf", begin=begin)
    return load_tokenizers(place), frame


def _language(name: str | None, tokenizer: HuggingFace) -> int:
    """The model's id of a language. Raises UsageError if it has none of this name."""
    names = tokenizer.pieces(range(tokenizer.size))
    more = listed(tokenizer.stored["config"])
    known = [each for each in names[SPECIAL:] if each in more or re.fullmatch("[a-z]{2,3}_[A-Z]{2}", each)]
    if name is None or name not in known:
        raise UsageError(
            "the languages of an mBART model must be known" if name is None else f"this model has no language {name}",
            f"--source-language CODE --target-language CODE, of {', '.join(known)}",
        )
    return tokenizer.order[names.index(name, SPECIAL)]


def _recipe(name: str, model: Transformer, tokenizers: Tokenizers, decoding: Decoding, out: Path) -> Recipe:
    """The recipe of an imported model, with which it can also be trained on.

    Raises:
        DataError: a knob would be out of bounds.
    """
    knobs = model.knobs
    recipe = Recipe(
        name=name, about="imported from Hugging Face", model=knobs, objective=ArObjective(), decoding=decoding,
        data=Data(max_tokens=min(Data().max_tokens, knobs.max_length - 2), max_ratio=None),
        tokenizer=TokenizerKnobs(
            kind="hf", vocabulary=tokenizers.target.size, joint=tokenizers.joint, reuse=str(out)
        ),
    )  # fmt: skip
    with TemporaryDirectory() as temporary:
        file = Path(temporary, "recipe.yaml")
        file.write_text(recipe_load.dump(recipe), encoding="utf-8")
        try:
            return recipe_load.load(str(file))
        except UsageError as problem:
            raise DataError(f"{name} does not fit: {problem.message.replace(str(file), 'recipe')}") from None
