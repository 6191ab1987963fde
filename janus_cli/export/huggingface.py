"""How models of Hugging Face's transformers and ours correspond: types, knobs, names of weights, order of ids.

Both directions, `importing.py` and `transformers.py`, read these tables. A model type differs from another in where its
norms are and in its positions. Rows of embedding tables are moved by a list `order`: for each of our ids, the id there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from janus_cli.core.knobs import Model
from janus_cli.core.symbols import BOS, MASK
from janus_cli.data.hf import ABSENT
from janus_cli.errors import DataError


class Kind(NamedTuple):
    """A model type in our knobs. offset: rows of its position tables before that of the first position. cls: its class
    in transformers."""

    norm: str
    embedding_norm: bool
    positions: str
    offset: int
    cls: str


KINDS = {
    "bart": Kind("post", True, "learned", 2, "BartForConditionalGeneration"),
    "mbart": Kind("pre", True, "learned", 2, "MBartForConditionalGeneration"),
    "marian": Kind("post", False, "marian", 0, "MarianMTModel"),
    "pegasus": Kind("pre", False, "marian", 0, "PegasusForConditionalGeneration"),
}
# Why other well-known types do not fit.
UNFIT = {
    "t5": "its norms have no mean and its positions are relative", "mt5": "its positions are relative",
    "prophetnet": "its positions are relative", "xlm-prophetnet": "its positions are relative",
    "led": "its attention is local", "bigbird_pegasus": "its attention is sparse",
}  # fmt: skip
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}
# Settings that must be equal for encoder and decoder, which have the same shape here, and our knobs.
SHARED = {"attention_heads": "heads", "ffn_dim": "feedforward"}
# What the classes of transformers take if config.json says nothing.
USUAL: dict[str, Any] = {
    "activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True, "dropout": 0.1,
    "attention_dropout": 0.0, "activation_dropout": 0.0, "share_encoder_decoder_embeddings": True,
}  # fmt: skip
# Settings of generation that steer it and have no knob here, with the values at which they do nothing.
WITHOUT_EFFECT: dict[str, Any] = {
    "repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "diversity_penalty": 0.0, "renormalize_logits": False, "encoder_repetition_penalty": 1.0,
    "remove_invalid_values": False, "penalty_alpha": 0.0, "token_healing": False, "guidance_scale": 1.0,
    "begin_suppress_tokens": [], "exponential_decay_length_penalty": [], "force_words_ids": [], "constraints": [],
    "sequence_bias": {}, "stop_strings": [], "max_time": None, "forced_decoder_ids": [], "dola_layers": None,
    "watermarking_config": None,
}  # fmt: skip
# Settings that change no output: of samples, where there are none, and of how the work is done and what is told of it.
SAMPLING = {"top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
HARMLESS = {
    "transformers_version", "_from_model_config", "use_cache", "cache_implementation", "cache_config",
    "return_legacy_cache", "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "low_memory", "prefill_chunk_size", "compile_config", "disable_compile", "trust_remote_code",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "continuous_batching_config",
}  # fmt: skip
_PARTS = {
    "attention.query": ("self_attn.q_proj",), "attention.out": ("self_attn.out_proj",),
    "attention.key_value": ("self_attn.k_proj", "self_attn.v_proj"), "attention_norm": ("self_attn_layer_norm",),
    "cross.query": ("encoder_attn.q_proj",), "cross.out": ("encoder_attn.out_proj",),
    "cross.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"), "cross_norm": ("encoder_attn_layer_norm",),
    "feedforward.up": ("fc1",), "feedforward.down": ("fc2",), "feedforward_norm": ("final_layer_norm",),
}  # fmt: skip
_SIDES = {"source": "encoder", "target": "decoder"}


def parts(name: str) -> tuple[str, ...]:
    """The weights there that make up ours of this name, one below the other. Tables, bias: see below."""
    if layer := re.fullmatch(r"(encoder|decoder)\.(\d+)\.(.+)\.(weight|bias)", name):
        side, index, part, kind = layer.groups()
        return tuple(f"model.{side}.layers.{index}.{each}.{kind}" for each in _PARTS[part])
    if norm := re.fullmatch(r"(source|target)_norm\.(weight|bias)", name):
        return (f"model.{_SIDES[norm[1]]}.layernorm_embedding.{norm[2]}",)
    if name in POSITIONS:
        return (POSITIONS[name],)
    end, kind = name.split(".")
    return (f"model.{end.removesuffix('_norm')}.layer_norm.{kind}",)


def tables(tie: str) -> dict[str, tuple[str, ...]]:
    """Our embedding tables, and the names there, of which any will do: tied ones may have one of them or all."""
    shared, output = "model.shared.weight", "lm_head.weight"
    source, target = (f"model.{side}.embed_tokens.weight" for side in _SIDES.values())
    if tie == "all":
        return {"target_table.weight": (shared, target, source, output)}
    both = {"source_table.weight": (source, shared)}
    if tie == "target":
        return {**both, "target_table.weight": (target, output)}
    return {**both, "target_table.weight": (target, shared), "output_table.weight": (output,)}


POSITIONS = {f"{ours}_positions": f"model.{theirs}.embed_positions.weight" for ours, theirs in _SIDES.items()}
BIAS = "final_logits_bias"


def moved(table: Tensor, order: Sequence[int], start: int) -> Tensor:
    """Their rows (V', ...) in our order (V, ...). BOS gets the row `start`, that of what their decoder starts with.

    A MASK that they do not have is drawn, always the same, as the other rows are spread.
    """
    rows = torch.tensor(order)
    rows[BOS] = start
    out = table[rows.clamp(min=0)]
    if order[MASK] == ABSENT and table.dim() > 1:
        spread = table.float().std()
        out[MASK] = spread * torch.randn(table.shape[1:], generator=torch.Generator().manual_seed(1))
    return out


def kind_of(config: Mapping[str, Any], name: str) -> Kind:
    """The kind that a model's type is, for messages of the folder `name`. Raises DataError if it is none."""
    model = config["model_type"]
    if model not in KINDS:
        why = UNFIT.get(model, "it is none of the encoder-decoders known here")
        raise DataError(f"{name} is a model of type {model}: {why}", f"janus imports {', '.join(KINDS)}")
    return KINDS[model]


def model_knobs(config: Mapping[str, Any], name: str) -> Model:
    """The knobs of a model, but for those that its weights decide.

    config: see `documents.PretrainedConfig`. name: its folder, for messages.

    Raises:
        DataError: the model does not fit.
    """
    kind = kind_of(config, name)
    config = {**USUAL, **config}
    for setting in SHARED:
        sides = [config.get(f"{side}_{setting}") for side in _SIDES.values()]
        if sides[0] != sides[1]:
            unequal = f"encoder_{setting} {sides[0]} and decoder_{setting} {sides[1]}"
            raise DataError(f"{name} has {unequal}: they must be equal here")
    activation = config["activation_function"]
    if activation not in ACTIVATIONS:
        raise DataError(f"{name} has activation_function {activation}: janus has {', '.join(ACTIVATIONS)}")
    tie = "none"
    if config["tie_word_embeddings"]:
        tie = "all" if config["share_encoder_decoder_embeddings"] else "target"
    values: dict[str, Any] = {
        "width": config["d_model"], "encoder_layers": config["encoder_layers"],
        "decoder_layers": config["decoder_layers"], "max_length": config["max_position_embeddings"],
        **{knob: config[f"encoder_{setting}"] for setting, knob in SHARED.items()},
        **{knob: config[knob] for knob in ("dropout", "attention_dropout", "activation_dropout")},
        "activation": ACTIVATIONS[activation], "embedding_scale": config["scale_embedding"], "tie": tie,
        "norm": kind.norm, "positions": kind.positions, "embedding_norm": kind.embedding_norm,
    }  # fmt: skip
    try:
        return Model(**values)
    except ValueError as problem:
        raise DataError(f"{name}/config.json is damaged: {problem}") from None
