"""Exports the AR side of a model for CTranslate2, with CTranslate2's own specification classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from janus_cli.core.model import Transformer
from janus_cli.core.symbols import BOS, EOS, NAMES, SPECIAL, UNK
from janus_cli.core.writing import NEVER_WRITTEN, Unwritten, never_written
from janus_cli.data.tokenizer import INDEX, Tokenizer
from janus_cli.documents import TokenizerIndex, read
from janus_cli.errors import require
from janus_cli.export.source import README, Source, cleaning_program, fill, must_be_ordinary, tokenizer_program
from janus_cli.files import copy_files, write_atomically
from janus_cli.recipe import Recipe

EXTRA = "export"
# Added to the logits of tokens that are never written. Far below every other logit, and still a float16.
FORBIDDEN = -1e4
# What the program in README.txt imports for a kind of tokenizer, and the package that this takes.
PROGRAMS = {
    "sentencepiece": ("import sentencepiece\n", " sentencepiece"),
    "words": ("", ""),
    "hf": ("from janus_cli.data.tokenizer import load_tokenizers\n", " janus-cli[hf]"),
}

Arrays = dict[str, np.ndarray[Any, Any]]


def must_fit(recipe: Recipe) -> None:
    """Raises UsageError for models that CTranslate2 cannot represent, and if it is not installed."""
    must_be_ordinary(recipe, "CTranslate2")
    require("ctranslate2", EXTRA)


def version() -> str:
    return str(require("ctranslate2", EXTRA).__version__)


def write(source: Source, folder: Path, quantization: str) -> None:
    """Fills `folder`: model.bin, config.json, vocabularies in the order of ids, tokenizer files, README.txt."""
    spec = specification(source.model, never_written(source.recipe.decoding))
    spec.register_source_vocabulary(unique_names(source.tokenizers.source))
    spec.register_target_vocabulary(unique_names(source.tokenizers.target))
    config = spec.config
    config.unk_token, config.bos_token, config.eos_token = NAMES[UNK], NAMES[BOS], NAMES[EOS]
    # Where something follows </s>, which mBART has, both are given to it.
    config.decoder_start_token, config.add_source_eos = NAMES[BOS], not source.model.knobs.source_suffix
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    copy_files(source.tokenizers.files, source.run, folder)
    write_atomically(folder / README, _readme(source, quantization))


def unique_names(tokenizer: Tokenizer) -> list[str]:
    """A unique name for each id: its piece, with the id appended if the name is taken (a word list may hold `<s>`)."""
    names = dict.fromkeys(NAMES)
    pieces = tokenizer.pieces(range(SPECIAL, tokenizer.size))
    taken = {*NAMES, *pieces}
    for index, piece in enumerate(pieces, SPECIAL):
        name = piece
        while name in names or (name != piece and name in taken):
            name += f"#{index}"
        names[name] = None
    return list(names)


def specification(model: Transformer, never: Unwritten = NEVER_WRITTEN) -> Any:
    """The model as a ctranslate2.specs.TransformerSpec, without vocabularies. never: tokens that it must not write."""
    specs = require("ctranslate2.specs", EXTRA)
    knobs = model.knobs
    # janus uses the exact GELU, and GELUTanh and GELUSigmoid are approximations of it.
    activations = {"relu": specs.Activation.RELU, "gelu": specs.Activation.GELU, "silu": specs.Activation.SWISH}
    spec = specs.TransformerSpec.from_config(
        (knobs.encoder_layers, knobs.decoder_layers), knobs.heads, pre_norm=knobs.norm == "pre",
        activation=activations[knobs.activation], layernorm_embedding=knobs.embedding_norm,
    )  # fmt: skip
    # Copies: the specification quantises in place.
    weights = {name: weight.float().cpu().numpy().copy() for name, weight in model.weights().items()}
    target = weights["target_table.weight"]
    for side, name, embeddings, table, positions in (
        (spec.encoder, "source", spec.encoder.embeddings[0], weights.get("source_table.weight", target),
         model.source_positions),
        (spec.decoder, "target", spec.decoder.embeddings, target, model.target_positions),
    ):  # fmt: skip
        embeddings.weight, side.scale_embeddings = table, knobs.embedding_scale
        # Sinusoids are written as a table too: CTranslate2's own are shifted by one.
        side.position_encodings.encodings = positions.detach().float().cpu().numpy().copy()
        layers = "encoder" if name == "source" else "decoder"
        if knobs.norm == "pre":
            _norm(side.layer_norm, weights, f"{layers}_norm")
        if knobs.embedding_norm:
            _norm(side.layernorm_embedding, weights, f"{name}_norm")
        for index, layer in enumerate(side.layer):
            _layer(layer, weights, f"{layers}.{index}")
    spec.decoder.projection.weight = weights.get("output_table.weight", target)
    spec.decoder.projection.bias = weights.get("output_bias", np.zeros(len(target), np.float32))
    spec.decoder.projection.bias[[*never.shared, *never.kept]] = FORBIDDEN
    return spec


def _layer(spec: Any, weights: Arrays, name: str) -> None:
    _linear(spec.self_attention.linear[0], weights, f"{name}.attention.query", f"{name}.attention.key_value")
    _linear(spec.self_attention.linear[1], weights, f"{name}.attention.out")
    _norm(spec.self_attention.layer_norm, weights, f"{name}.attention_norm")
    if f"{name}.cross.query.weight" in weights:
        for linear, part in zip(spec.attention.linear, ("query", "key_value", "out"), strict=True):
            _linear(linear, weights, f"{name}.cross.{part}")
        _norm(spec.attention.layer_norm, weights, f"{name}.cross_norm")
    _linear(spec.ffn.linear_0, weights, f"{name}.feedforward.up")
    _linear(spec.ffn.linear_1, weights, f"{name}.feedforward.down")
    _norm(spec.ffn.layer_norm, weights, f"{name}.feedforward_norm")


def _linear(spec: Any, weights: Arrays, *names: str) -> None:
    """One linear map, or several over the same input, concatenated."""
    spec.weight = np.concatenate([weights[f"{name}.weight"] for name in names])
    spec.bias = np.concatenate([weights[f"{name}.bias"] for name in names])


def _norm(spec: Any, weights: Arrays, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _readme(source: Source, quantization: str) -> bytes:
    about, knobs, decoding = read(source.run / INDEX, TokenizerIndex), source.model.knobs, source.recipe.decoding
    ratio, extra = decoding.limit
    imports, package = PROGRAMS[about["kind"]]
    cleaning, clean = cleaning_program(source.recipe.data.clean)
    most, first = knobs.max_length - 2, decoding.first_token
    program = fill(
        "translate_program.txt", imports=f"import numpy\n{imports}", cleaning=cleaning, clean=clean,
        tokenizer=tokenizer_program(source.run), line="clean(line)" if clean else "line", reads=source.recipe.reads,
        ending=f" + [source_names[{EOS}], source_names[{suffix}]]" if (suffix := knobs.source_suffix) else "",
        prefix=f"    target_prefix=[[target_names[{first}]]] * len(rows),\n" if first else "",
        penalty=decoding.length_penalty, writes=most if ratio else max(1, min(most, decoding.min_length + extra)),
        ratio=repr(ratio), extra=extra, ngram=decoding.no_repeat_ngram, least=decoding.min_length,
    )  # fmt: skip
    return source.readme(
        "ctranslate2.txt", quantization=quantization, version=version(), program=program.rstrip(),
        package=package, reads=source.recipe.reads, ratio=f"{ratio:g}", extra=extra,
        ends="translate.py adds, with the language" if knobs.source_suffix else "CTranslate2 adds by itself",
    )  # fmt: skip
