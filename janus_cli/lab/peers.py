"""Peers, the tools that users would pick instead, as rows of a bench: CTranslate2 and Hugging Face transformers.

Both get our tokenizers and batches sorted by length as in `Translator`, and are timed from text to text. A peer that
cannot load the run's weights gets random ones of equal size, and is then made to write as many tokens as we do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from janus_cli.core.batch import BOS, EOS, MASK, PAD, pad
from janus_cli.core.generate import length_limit
from janus_cli.core.knobs import ArObjective
from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.errors import UsageError, require
from janus_cli.export import ctranslate2
from janus_cli.export.source import Source
from janus_cli.lab.rows import Decoded, Row
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training.checkpoint import build_model

Peer = Literal["ctranslate2", "transformers"]
Ids = list[list[int]]
Search = Callable[[Ids, int], Ids]  # a batch of sources without EOS, their forced length -> outputs without EOS
BEAMS = (1, 5)
COMPUTE_TYPES = {"cpu": ("float32", "int8"), "cuda": ("float32", "float16")}
UNTRAINED = "random weights of equal size, made to write as many tokens as {writer}; quality not comparable"


@dataclass(frozen=True)
class Setting:
    """The setting of a peer.

    lengths: by line, the number of tokens that a peer with random weights writes; writer: where this number is from.
    folder: the exported model. own_weights: whether it has the run's weights.
    """

    peer: Peer
    recipe: Recipe
    tokenizers: Tokenizers
    device: torch.device
    lengths: Mapping[str, int]
    writer: str
    folder: Path
    own_weights: bool = False

    def forced(self, lines: Sequence[str]) -> int:
        """Tokens to write for this batch, EOS included: the mean of its lines."""
        return max(1, 1 + round(sum(self.lengths[line] for line in lines) / len(lines)))

    def most(self, ids: Ids) -> list[int]:
        """Tokens that may be written for each source, EOS not included."""
        lengths = torch.tensor([len(row) for row in ids])
        return (length_limit(lengths, self.recipe.model.max_length, self.recipe.decoding) - 1).tolist()


def parse_peers(names: Sequence[str]) -> list[Peer]:
    """The named peers, each once. Raises UsageError if one is not a peer."""
    for name in names:
        if name not in get_args(Peer):
            raise UsageError(f"--against {name}: there is no such peer", f"peers: {', '.join(get_args(Peer))}")
    return [peer for peer in get_args(Peer) if peer in names]


def load(peer: Peer) -> None:
    """Imports the peer. Raises UsageError if it is not installed."""
    module = require(peer, "peers")
    if peer == "transformers":
        _ = module.MarianMTModel  # imported lazily by transformers


def labels(peer: Peer, device: torch.device) -> list[str]:
    """The labels of the peer's rows: greedy and beam search, in each precision that it offers."""
    kinds = [""] if peer == "transformers" else [f".{kind}" for kind in COMPUTE_TYPES[device.type]]
    return [f"{peer}{kind}.beam{beam}" for kind in kinds for beam in BEAMS]


def row(setting: Setting, label: str) -> Row:
    """The row of this label, its model loaded."""
    *_, kind, beam = label.split(".")
    options: dict[str, Any] = {"beam": int(beam.removeprefix("beam"))}
    if setting.peer == "transformers":
        search = _transformers(setting, **options)
    else:
        options |= {"compute_type": kind, "threads": torch.get_num_threads()}
        search = _ctranslate2(setting, **options)
    source, target, trained = setting.tokenizers.source, setting.tokenizers.target, setting.own_weights

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        ids = [row[: setting.recipe.reads] for row in source.encode(lines)]
        outputs: Ids = [[] for _ in lines]
        order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: len(ids[row]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            forced = 0 if trained else setting.forced([lines[row] for row in chosen])
            for row, tokens in zip(chosen, search([ids[row] for row in chosen], forced), strict=True):
                outputs[row] = tokens
        return Decoded(target.decode(outputs), [len(row) for row in outputs])

    note = "the weights of this run" if trained else UNTRAINED.format(writer=setting.writer)
    return Row(label, "peer", translate, options, note, trained)


def marian(recipe: Recipe, source_vocabulary: int, target_vocabulary: int) -> Any:
    """A Marian model of the recipe's shape and dropout with random weights: nothing is downloaded.

    Its norm is post and its positions are sinusoidal, whatever the recipe says.
    """
    transformers, knobs = require("transformers", "peers"), recipe.model
    config = transformers.MarianConfig(
        vocab_size=source_vocabulary, decoder_vocab_size=target_vocabulary,
        share_encoder_decoder_embeddings=knobs.tie == "all", tie_word_embeddings=knobs.tie != "none",
        d_model=knobs.width, encoder_layers=knobs.encoder_layers, decoder_layers=knobs.decoder_layers,
        encoder_attention_heads=knobs.heads, decoder_attention_heads=knobs.heads,
        encoder_ffn_dim=knobs.feedforward, decoder_ffn_dim=knobs.feedforward, dropout=knobs.dropout,
        attention_dropout=knobs.attention_dropout, activation_dropout=knobs.activation_dropout,
        max_position_embeddings=knobs.max_length, activation_function=knobs.activation,
        scale_embedding=knobs.embedding_scale, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        decoder_start_token_id=BOS, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    return transformers.MarianMTModel(config)


def _transformers(setting: Setting, beam: int) -> Search:
    tokenizers, decoding, device = setting.tokenizers, setting.recipe.decoding, setting.device
    model = marian(setting.recipe, tokenizers.source.size, tokenizers.target.size).to(device).eval()
    if decoding.precision == "bf16" and device.type == "cuda":  # on a CPU float32 is the faster one
        model = model.bfloat16()

    def search(ids: Ids, forced: int) -> Ids:
        source = pad([[*row, EOS] for row in ids]).to(device)
        with torch.inference_mode():
            found = model.generate(
                input_ids=source, attention_mask=(source != PAD).long(), num_beams=beam, do_sample=False,
                min_new_tokens=forced, max_new_tokens=forced, length_penalty=decoding.length_penalty,
            )  # fmt: skip
        return [[token for token in row if token not in (PAD, BOS, EOS, MASK)] for row in found.tolist()]

    return search


def _ctranslate2(setting: Setting, beam: int, compute_type: str, threads: int) -> Search:
    device, tokenizers, decoding = setting.device, setting.tokenizers, setting.recipe.decoding
    translator = require("ctranslate2", "peers").Translator(
        str(setting.folder), device=device.type, device_index=device.index or 0, compute_type=compute_type,
        inter_threads=1, intra_threads=threads,
    )  # fmt: skip
    source = ctranslate2.unique_names(tokenizers.source)
    number = {name: index for index, name in enumerate(ctranslate2.unique_names(tokenizers.target))}

    def search(ids: Ids, forced: int) -> Ids:
        most = [forced] * len(ids) if forced else setting.most(ids)
        found = translator.translate_batch(
            [[source[token] for token in row] for row in ids], beam_size=beam, max_input_length=0,
            length_penalty=decoding.length_penalty, min_decoding_length=forced or decoding.min_length,
            no_repeat_ngram_size=decoding.no_repeat_ngram, max_decoding_length=max(most),
        )  # fmt: skip
        texts = [result.hypotheses[0][:limit] for result, limit in zip(found, most, strict=True)]
        return [[number[name] for name in text] for text in texts]

    return search


def export(recipe: Recipe, model: Transformer, tokenizers: Tokenizers, run: Run, folder: Path) -> bool:
    """Writes `folder` for CTranslate2: this model or, if it cannot represent that, an untrained one of equal size.

    Returns whether it holds the model's own weights.
    """
    own = True
    try:
        ctranslate2.must_fit(recipe)
    except UsageError:
        ordinary = replace(recipe.model, **ctranslate2.ORDINARY)
        own, recipe = False, replace(recipe, objective=ArObjective(), model=ordinary)
        torch.manual_seed(recipe.seed)
        model = build_model(recipe, tokenizers.source.size, tokenizers.target.size).eval()
    about = dict.fromkeys(("run", "checkpoint", "step", "objective", "sha256", "janus"), "of a bench")
    folder.mkdir()
    ctranslate2.write(Source(recipe, model, tokenizers, run.path, {}, about), folder, "float32")
    return own
