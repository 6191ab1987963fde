"""Exports the AR side of a model as a folder that `AutoModelForSeq2SeqLM.from_pretrained` of transformers loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from janus_cli.core.knobs import Decoding, Model
from janus_cli.core.symbols import BOS, EOS, PAD
from janus_cli.core.writing import never_written
from janus_cli.data.hf import ABSENT, HuggingFace
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.decoding import modes
from janus_cli.errors import UsageError
from janus_cli.export import tokenizer_files
from janus_cli.export.huggingface import BIAS, KINDS, POSITIONS, SHARED, parts, tables
from janus_cli.export.source import README, Source, cleaning_program, fill, must_be_ordinary
from janus_cli.files import like, write_atomically, write_json
from janus_cli.recipe import Recipe

STOP: dict[str, Any] = {"full": True, "likely": False, "never": "never"}  # early_stopping there
# Added to the logits of tokens that are never written and whose probability the others share.
FORBIDDEN = -1e4
# Knobs of left-to-right decoding that go along, or change no text; `_notes` says where the match is not exact.
FOLLOWED = {
    "beam", "length_penalty", "early_stopping", "nbest", "first_token", "free_end", "unwritten", "unk", "min_length",
    "max_ratio", "max_extra", "no_repeat_ngram", "temperature", "top_k", "top_p", "seed", "batch_sentences", "engine",
    "cuda_graphs",
}  # fmt: skip


def must_fit(recipe: Recipe) -> None:
    """Raises UsageError for models that are none of theirs, and for a recipe that janus cannot decode with either."""
    tokenizer_files.must_fit(recipe)
    must_be_ordinary(recipe, "transformers")
    modes.choose(recipe, {"mode": "ar"})


def write(source: Source, folder: Path) -> tuple[list[str], list[str]]:
    """Fills `folder`: config.json, generation_config.json, model.safetensors, tokenizer files, README.txt.

    Returns what is lost, and where else outputs may differ.
    """
    knobs, model = source.model.knobs, source.model
    name = next(
        name for name, kind in KINDS.items() if (kind.norm, kind.embedding_norm) == (knobs.norm, knobs.embedding_norm)
    )
    orders = [order_of(each) for each in (source.tokenizers.source, source.tokenizers.target)]
    sizes = [max(order) + 1 for order in orders]
    if sizes[0] != sizes[1] and name != "marian":
        raise UsageError(f"a {name} model has one vocabulary, this one has two of {sizes[0]} and {sizes[1]}", "")
    table = model.target_table.weight
    alike = [ours for ours in (EOS, PAD, *range(len(table))) if ours != BOS and torch.equal(table[ours], table[BOS])]
    start = next((orders[1][ours] for ours in alike if orders[1][ours] != ABSENT), orders[1][BOS])
    new = start == ABSENT
    if new:  # trained on, so that it equals no other token any more
        start = sizes[1]
        orders = [[start if ours == BOS else theirs for ours, theirs in enumerate(order)] for order in orders]
    weights = _weights(source, name, orders)
    rows = max(orders[0]) + 1, max(orders[1]) + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    begin = source.tokenizers.source.begin if isinstance(source.tokenizers.source, HuggingFace) else []
    filler = orders[1][EOS] if orders[1][PAD] == ABSENT else orders[1][PAD]
    ids = {
        "pad_token_id": filler, "eos_token_id": orders[1][EOS], "decoder_start_token_id": start,
        "bos_token_id": orders[0][begin[0]] if begin and name == "bart" else None,
    }  # fmt: skip
    plan = modes.choose(source.recipe, {"mode": "ar"})
    lost, notes = [*_lost(plan)], [*_notes(plan.options), *tokenizer_files.notes(source)]
    write_json(folder / "config.json", _config(knobs, name, rows) | ids)
    like(folder / "config.json", folder / "model.safetensors")
    write_json(folder / "generation_config.json", ids | _generation(plan.options, knobs, orders[1]))
    for file, data in tokenizer_files.files(source, start if new else None).items():
        write_atomically(folder / file, data)
    write_atomically(folder / README, _readme(source, name, [*lost, *notes]))
    return lost, notes


def _lost(plan: modes.Plan) -> Iterator[str]:
    """A sentence for each knob of decoding that the recipe sets and that nothing there corresponds to."""
    given, usual = plan.recipe.decoding, Decoding()
    other = ["mode"] if given.mode not in (usual.mode, plan.mode) else []
    for name in [*other, *(name for name in plan.used if name not in FOLLOWED)]:
        if (value := getattr(given, name)) != getattr(usual, name):
            yield f"nothing corresponds to decoding.{name} {value}: outputs differ"


def _notes(options: Decoding) -> Iterator[str]:
    """Where outputs there may differ from janus's, a sentence each."""
    if ratio := options.limit[0]:
        yield f"outputs may be longer: their limit does not depend on the source (decoding.max_ratio {ratio:g})"
    if options.temperature:
        yield "samples are drawn with other random numbers, and are in no order"
    elif options.beam > 1 and not options.free_end:
        yield (
            "the </s> that ends an output at the limit costs nothing, so a beam may prefer such an output where janus, "
            "which counts that </s> (decoding.free_end), does not"
        )


def order_of(tokenizer: Tokenizer) -> list[int]:
    """For each of our ids, theirs: that of the model it was imported from, or the same."""
    return tokenizer.order if isinstance(tokenizer, HuggingFace) else list(range(tokenizer.size))


def _moved_back(table: Tensor, order: Sequence[int]) -> Tensor:
    """Rows (V, ...) in their order, without those that they do not have."""
    out = table.new_zeros((max(order) + 1, *table.shape[1:]))
    ours = [index for index, theirs in enumerate(order) if theirs != ABSENT]
    out[[order[index] for index in ours]] = table[ours]
    return out


def _weights(source: Source, name: str, orders: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """All weights under their names."""
    model, knobs = source.model, source.model.knobs
    ours, weights = model.weights(), dict[str, Tensor]()
    named = tables(knobs.tie)
    for table, names in named.items():
        weights[names[0]] = _moved_back(ours.pop(table), orders[table != "source_table.weight"])
    if knobs.tie != "all":
        weights["model.shared.weight"] = weights["model.encoder.embed_tokens.weight"].clone()
        weights.setdefault("lm_head.weight", weights["model.decoder.embed_tokens.weight"].clone())
    bias = ours.pop("output_bias", torch.zeros(len(orders[1]))).clone()
    bias[list(never_written(source.recipe.decoding).shared)] = FORBIDDEN
    weights[BIAS] = _moved_back(bias, orders[1])[None]
    for mine, theirs in POSITIONS.items():
        ours.pop(mine, None)
        table = getattr(model, mine).detach()
        if (name, knobs.positions) != ("marian", "marian"):  # whose class alone does not ask for its own
            weights[theirs] = torch.cat([table.new_zeros((KINDS[name].offset, knobs.width)), table])
    ours.pop("length_table", None)
    for mine, weight in ours.items():
        for their, part in zip(parts(mine), weight.chunk(len(parts(mine))), strict=True):
            weights[their] = part.clone()
    return weights


def _config(knobs: Model, name: str, rows: tuple[int, int]) -> dict[str, Any]:
    heads = {f"{side}_{their}": getattr(knobs, our) for side in ("encoder", "decoder") for their, our in SHARED.items()}
    return {
        "model_type": name, "architectures": [KINDS[name].cls], "is_encoder_decoder": True, "dtype": "float32",
        "d_model": knobs.width, "encoder_layers": knobs.encoder_layers, "decoder_layers": knobs.decoder_layers, **heads,
        "activation_function": knobs.activation, "scale_embedding": knobs.embedding_scale,
        "max_position_embeddings": knobs.max_length, "vocab_size": rows[0], "decoder_vocab_size": rows[1],
        "tie_word_embeddings": knobs.tie == "all" or (knobs.tie == "target" and name == "marian"),
        "share_encoder_decoder_embeddings": knobs.tie == "all",
        **{knob: getattr(knobs, knob) for knob in ("dropout", "attention_dropout", "activation_dropout")},
        "forced_eos_token_id": None,
    }  # fmt: skip


def _generation(decoding: Decoding, knobs: Model, order: Sequence[int]) -> dict[str, Any]:
    """Settings of `generate`; where the longest output depends on the source, the model's positions are the limit.

    The longest output ends in EOS, as in janus. A min_length counts the token that the decoder starts with.
    """
    ratio, extra = decoding.limit
    longest = knobs.max_length if ratio else min(knobs.max_length, decoding.min_length + extra + 2)
    beam, sampling = decoding.beam, {}
    if decoding.temperature:
        beam = 1
        sampling = {"do_sample": True, **{name: getattr(decoding, name) for name in ("temperature", "top_k", "top_p")}}
    return sampling | {
        "num_beams": beam, "length_penalty": decoding.length_penalty, "max_length": longest,
        "early_stopping": STOP[decoding.early_stopping] if beam > 1 else False,
        "min_length": decoding.min_length and decoding.min_length + 1, "num_return_sequences": decoding.nbest,
        "no_repeat_ngram_size": decoding.no_repeat_ngram,
        "suppress_tokens": [order[ours] for ours in decoding.unwritten if order[ours] != ABSENT] or None,
        "forced_bos_token_id": order[decoding.first_token] if decoding.first_token else None,
        "forced_eos_token_id": order[EOS],
    }  # fmt: skip


def _readme(source: Source, name: str, notes: Sequence[str]) -> bytes:
    kind, separate = source.recipe.tokenizer.kind, not source.tokenizers.joint
    imports, clean = cleaning_program(source.recipe.data.clean)
    line = "clean(line)" if clean else "line"
    writer, more = "tokenizer", ""
    if kind == "sentencepiece" and not tokenizer_files.keeps_spaces(source.tokenizers.source):
        line = f'" " + {line}'  # which it drops; MarianTokenizer takes a line that begins with >>…<< for a language
    if kind == "words" and separate:
        writer, more = (
            f"PreTrainedTokenizerFast(tokenizer_file={tokenizer_files.TARGET_ENGINE!r})",
            ", PreTrainedTokenizerFast",
        )
    program = fill("generate_program.txt", imports=imports, clean=clean, more=more, line=line, writer=writer)
    differences = " ".join(f"{note[0].upper()}{note[1:]}." for note in notes)
    package = " sentencepiece" if kind == "sentencepiece" else ""
    return source.readme(
        "transformers.txt", type=name, program=program.rstrip(), package=package, differences=differences
    )
