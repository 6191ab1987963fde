"""`janus import`: a model folder of Hugging Face's transformers -> a run, in the form of an export.

What makes such a model differ from ours is told by knobs: the shape (`model`), how it generates (`decoding`), and the
tokens that its texts begin with (the frame, part of the tokenizer). Our BOS is the token that its decoder starts with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from janus_cli import __version__, console, recipe_load
from janus_cli.core.knobs import ArObjective, Decoding
from janus_cli.core.model import Transformer, sinusoids
from janus_cli.core.steps import NEVER_WRITTEN
from janus_cli.data.corpus import SIDES
from janus_cli.data.hf import HuggingFace
from janus_cli.data.hf_folder import take_over
from janus_cli.data.tokenizer import Tokenizer, Tokenizers, load_tokenizers, write_tokenizers
from janus_cli.errors import DataError, UsageError, check_machine
from janus_cli.export import safetensors
from janus_cli.export.huggingface import BIAS, KINDS, POSITIONS, model_knobs, moved, parts, tables
from janus_cli.export.source import PROVENANCE, Source
from janus_cli.files import must_be_free, sha256, whole_folder, write_json
from janus_cli.recipe import Data, Recipe
from janus_cli.recipe import Tokenizer as TokenizerKnobs
from janus_cli.runs import RUNS
from janus_cli.terminal import command

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model*.safetensors"
PICKLES, WHAT = "*.bin", "an imported model"
# Settings of generation that steer it and have no knob here, with the values at which they do nothing.
WITHOUT_EFFECT: dict[str, Any] = {
    "do_sample": False, "repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "diversity_penalty": 0.0, "renormalize_logits": False, "encoder_repetition_penalty": 1.0,
}  # fmt: skip
STEERING = (
    *WITHOUT_EFFECT, "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty",
    "force_words_ids", "constraints", "sequence_bias", "guidance_scale",
)  # fmt: skip


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


def frame_of(config: Mapping[str, Any], settings: Mapping[str, Any], languages: Sequence[int | None]) -> Frame:
    """The frame of a model: BART's texts begin with <s>, mBART-50's with a language, mBART's sources end with one.

    settings: of generation. languages: ids of the source's and the target's, for mBART.
    """
    source, target = languages
    start = settings.get("decoder_start_token_id", config.get("decoder_start_token_id"))
    first = settings.get("forced_bos_token_id")
    if config["model_type"] == "bart":
        return Frame(start, source=config["bos_token_id"], target=config["bos_token_id"], first=first)
    if config["model_type"] != "mbart":
        return Frame(start, first=first)
    if start == config["eos_token_id"]:  # mBART-50
        return Frame(start, source=source, target=target, first=target)
    return Frame(start if target is None else target, suffix=source, first=first)


def decoding_knobs(settings: Mapping[str, Any], longest: int) -> Decoding:
    """How `generate` of transformers would. longest: the model's positions, the limit if no max_length is set.

    `first_token` is left out, which is an id.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    # Their lengths count the token that the decoder starts with.
    least = max(given.get("min_length", 0) - 1, given.get("min_new_tokens", 0), 0)
    most = given["max_new_tokens"] + 1 if "max_new_tokens" in given else given.get("max_length", longest)
    stop: Any = {True: "full", False: "likely", "never": "never"}[given.get("early_stopping", False)]
    return Decoding(
        beam=given.get("num_beams", 1), nbest=given.get("num_return_sequences", 1), early_stopping=stop,
        length_penalty=max(0.0, float(given.get("length_penalty", 1.0))), min_length=least,
        no_repeat_ngram=given.get("no_repeat_ngram_size", 0), max_ratio=0.0,
        max_extra=max(0, min(most, longest) - 2 - least), free_end="forced_eos_token_id" in given,
    )  # fmt: skip


def not_followed(settings: Mapping[str, Any]) -> list[str]:
    """The settings of generation that would change outputs of transformers and do not change ours."""
    never = {**WITHOUT_EFFECT, "bad_words_ids": [[settings.get("pad_token_id")]]}  # which is never written anyway
    set_ = {name: value for name in STEERING if (value := settings.get(name)) is not None}
    strange = {name: value for name, value in set_.items() if value != never.get(name)}
    if (settings.get("length_penalty") or 0) < 0:
        strange["length_penalty"] = settings["length_penalty"]
    return [f"{name} {value}" for name, value in strange.items()]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's config.json, and its settings of generation, which earlier versions have in the former.

    Raises:
        DataError: the folder is no model, or not of encoder and decoder.
    """
    config = _json(folder / CONFIG)
    settings = _json(folder / GENERATION) if (folder / GENERATION).is_file() else config
    return config, settings


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        raise DataError(
            f"{file.parent} is not a model of Hugging Face: it has no {file.name}",
            "name a folder that `save_pretrained` of transformers or `hf download` wrote",
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        check_machine(problem, f"to read {file}")
        raise DataError(f"{file} is damaged: {problem}") from None
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights in float32, each under the name that a model with a language-modelling head has it.

    Raises:
        DataError: there are none, or only pickles, which are never read; or a file is damaged.
    """
    files = sorted(folder.glob(WEIGHTS))
    if not files and any(folder.glob(PICKLES)):
        raise DataError(
            f"{folder} has its weights as pickles only, which may hold any program and are not read",
            "convert it where you trust it:\n"
            "  from transformers import AutoModelForSeq2SeqLM as Model\n"
            f"  Model.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})",
        )
    if not files:
        raise DataError(f"{folder} has no {WEIGHTS}", "download it as well")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                for name in sorted(handle.keys()):
                    bare = name.startswith(("encoder.", "decoder.", "shared."))  # a model saved without its head
                    tensors[f"model.{name}" if bare else name] = handle.get_tensor(name).float()
        except (SafetensorError, OSError, RuntimeError) as problem:
            check_machine(problem, f"to load {file}")
            raise DataError(f"{file} is not a readable safetensors file: {problem}") from None
    return tensors


def transformer(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], orders: Sequence[Sequence[int]], start: int, suffix: int,
    name: str,
) -> Transformer:  # fmt: skip
    """The model with these weights, in eval mode.

    orders: of the source's ids and the target's. start: see `moved`. suffix: `Model.source_suffix`. name: the model's
    folder, for messages.

    Raises:
        DataError: the model does not fit, or weights are missing or have other shapes than its config says.
    """
    knobs, kind = replace(model_knobs(config, name), source_suffix=suffix), KINDS[config["model_type"]]
    made = dict[str, Tensor]()
    try:
        for ours, names in tables(knobs.tie).items():
            table = next(tensors[each] for each in (*names, names[-1]) if each in tensors)
            made[ours] = moved(table, orders[ours != "source_table.weight"], start)
        if BIAS in tensors:
            bias = moved(tensors[BIAS].flatten(), orders[1], start)
            bias[list(NEVER_WRITTEN)] = 0.0
            made["output_bias"] = bias
            knobs = replace(knobs, output_bias=bool(bias.any()))
        stored = {ours: tensors[theirs][kind.offset :] for ours, theirs in POSITIONS.items() if theirs in tensors}
        fixed = sinusoids(knobs.max_length, knobs.width, "marian")
        if any(not torch.equal(table, fixed) for table in stored.values()):
            knobs, made = replace(knobs, positions="learned"), {**made, **stored}
        model = Transformer(knobs, *map(len, orders), length_head=False).eval()
        taken = {each for names in tables("none").values() for each in names} | {BIAS, *POSITIONS.values()}
        for ours, weight in model.weights().items():
            if ours not in made:
                made[ours] = torch.cat([tensors[each] for each in parts(ours)])
                taken.update(parts(ours))
            if made[ours].shape != weight.shape:
                raise DataError(
                    f"{name}: {ours} has shape {list(made[ours].shape)}, {CONFIG} makes it {list(weight.shape)}"
                )
    except (KeyError, StopIteration) as problem:
        raise DataError(f"{name}: there is no weight {problem}", "is it a whole encoder-decoder?") from None
    except IndexError:
        raise DataError(f"{name}: its embedding table has fewer rows than its tokenizer has tokens") from None
    if strange := sorted(tensors.keys() - taken):
        raise DataError(f"{name} has weights that such a model has no place for: {', '.join(strange[:3])}")
    model.load_weights(made)
    return model


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
        model = transformer(read_tensors(folder), config, orders, frame.start, suffix, str(folder))
        decoding = decoding_knobs(settings, model.knobs.max_length)
        if frame.first is not None:
            decoding = replace(decoding, first_token=target.ours(frame.first))
        recipe = _recipe(name, model, tokenizers, decoding, out)
        for setting in not_followed(settings):
            console.warn(f"{folder}: {setting} has no knob here: outputs may differ from those of transformers")
        if dry_run:
            console.say(f"would import {folder} to {out}")
            return out
        files = {file.name: sha256(file) for file in sorted(folder.glob(WEIGHTS))}
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
    return (folder / PROVENANCE).is_file() and "imported" in _json(folder / PROVENANCE)


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
    ids: list[int | None] = [None, None]
    if config["model_type"] == "mbart":
        about = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        names = [given or about.get(key) for given, key in zip(languages, ("src_lang", "tgt_lang"), strict=True)]
        ids = [_language(name, tokenizer) for name, tokenizer in zip(names, sides, strict=True)]
    elif any(languages):
        raise UsageError(f"{folder} is of type {config['model_type']}: languages are for mbart", "leave them out")
    frame = frame_of(config, settings, ids)
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
    if name is None or name not in names:
        known = [each for each in names if re.fullmatch("[a-z]{2,3}_[A-Z]{2}", each)]
        raise UsageError(
            "the languages of an mBART model must be known" if name is None else f"this model has no language {name}",
            f"--source-language CODE --target-language CODE, of {', '.join(known)}",
        )
    return tokenizer.order[names.index(name)]


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
