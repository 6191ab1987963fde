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

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.generate import length_limit
from janus_cli.core.knobs import ArObjective
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.errors import UsageError, require
from janus_cli.export import ctranslate2
from janus_cli.export.source import ORDINARY, README, Source
from janus_cli.files import copy_files
from janus_cli.lab import startup
from janus_cli.lab.rows import Decoded, Row
from janus_cli.lab.startup import Ids
from janus_cli.lab.threads import Loaded, Threads, set_torch
from janus_cli.recipe import Recipe
from janus_cli.training.model import build_model

Peer = Literal["ctranslate2", "transformers"]
BEAMS = (1, 5)
COMPUTE_TYPES = {"cpu": ("float32", "int8"), "cuda": ("float32", "float16")}
AS_MADE = "float32"  # the only kind of a peer that has no others
UNTRAINED = "random weights of equal size, made to write as many tokens as {writer}; quality not comparable"


@dataclass(frozen=True)
class Setting:
    """The setting of a peer.

    lengths: by line, the number of tokens that a peer with random weights writes; writer: where this number is from.
    folder: of the exported models, one folder for each precision. own_weights: whether they have the run's weights.
    """

    peer: Peer
    recipe: Recipe
    tokenizers: Tokenizers
    device: torch.device
    lengths: Mapping[str, int]
    writer: str
    folder: Path
    own_weights: bool = False

    @property
    def dtype(self) -> str:
        """That torch computes in, where it is the peer's engine."""
        on_gpu = self.device.type == "cuda"  # on a CPU float32 is the faster one
        return "bfloat16" if self.recipe.decoding.precision == "bf16" and on_gpu else "float32"

    def search(self, beam: int, ids: Ids, lines: Sequence[str]) -> tuple[dict[str, Any], list[int]]:
        """The options of a search for a batch, and the tokens that it may write for each of its sources.

        Random weights write the mean of what the lines ask for, and EOS.
        """
        decoding, forced = self.recipe.decoding, 0
        if self.own_weights:
            lengths = torch.tensor([len(row) for row in ids])
            most = (length_limit(lengths, self.recipe.model.max_length, decoding) - 1).tolist()
        else:
            forced = max(1, 1 + round(sum(self.lengths[line] for line in lines) / len(lines)))
            most = [forced] * len(ids)
        if self.peer == "transformers":
            return {
                "num_beams": beam, "do_sample": False, "min_new_tokens": forced, "max_new_tokens": forced,
                "length_penalty": decoding.length_penalty,
            }, most  # fmt: skip
        return {
            "beam_size": beam, "max_input_length": 0, "length_penalty": decoding.length_penalty,
            "min_decoding_length": forced or decoding.min_length, "no_repeat_ngram_size": decoding.no_repeat_ngram,
            "max_decoding_length": max(most),
        }, most  # fmt: skip


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


def several(peer: Peer, device: torch.device) -> bool:
    """Whether its rows can decode several batches at once."""
    return peer == "ctranslate2" and device.type == "cpu"


def parts(peer: Peer, label: str) -> tuple[str, int]:
    """The precision and the beam that a label names."""
    kind, beam = label.removeprefix(f"{peer}.").rpartition(".")[::2]
    return kind or AS_MADE, int(beam.removeprefix("beam"))


def row(setting: Setting, label: str) -> Row:
    """The row of this label."""
    kind, beam = parts(setting.peer, label)
    folder = str(setting.folder / kind)
    options: dict[str, Any] = {"beam": beam}
    use: Callable[[Threads], None] = set_torch
    if setting.peer == "transformers":
        search = startup.transformers_model(folder, str(setting.device), setting.dtype)()
    else:
        options["compute_type"] = kind
        loaded = Loaded(lambda threads: startup.ctranslate2_model(folder, _translator(setting, kind, threads))())
        search, use = (lambda ids, asked: loaded.model(ids, asked)), loaded.use
    source, target, trained = setting.tokenizers.source, setting.tokenizers.target, setting.own_weights

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        ids = [row[: setting.recipe.reads] for row in source.encode(lines)]
        outputs: Ids = [[] for _ in lines]
        # By length, so that workers end together.
        order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: -len(ids[row]))
        begun = []
        for start in range(0, len(order), batch):  # several workers each take the next batch
            chosen = order[start : start + batch]
            sources = [ids[row] for row in chosen]
            asked, most = setting.search(beam, sources, [lines[row] for row in chosen])
            begun.append((chosen, most, search(sources, asked)))
        for chosen, most, found in begun:
            for row, limit, tokens in zip(chosen, most, found(), strict=True):
                outputs[row] = tokens[:limit]
        return Decoded(target.decode(outputs), [len(row) for row in outputs])

    note = "the weights of this run" if trained else UNTRAINED.format(writer=setting.writer)
    at_once = several(setting.peer, setting.device)
    return Row(label, "peer", translate, options, note, trained, engine=setting.peer, use=use, several=at_once)


def first(setting: Setting, label: str, line: str, threads: int) -> dict[str, Any]:
    """What `startup` takes to decode this line as the row of this label does."""
    kind, beam = parts(setting.peer, label)
    ids = setting.tokenizers.source.encode([line])[0][: setting.recipe.reads]
    about = {
        "folder": str(setting.folder / kind), "reads": setting.recipe.reads, "line": line,
        "search": setting.search(beam, [ids], [line])[0],
    }  # fmt: skip
    if setting.peer == "transformers":
        return about | {"device": str(setting.device), "dtype": setting.dtype, "threads": threads}
    return about | {"translator": _translator(setting, kind, Threads(1, threads))}


def disk_bytes(setting: Setting, label: str) -> int:
    """What the model of this row and its tokenizers take on disk."""
    files = (setting.folder / parts(setting.peer, label)[0]).iterdir()
    return sum(file.stat().st_size for file in files if file.name != README)


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


def _translator(setting: Setting, kind: str, threads: Threads) -> dict[str, Any]:
    """The options of a Translator."""
    return {
        "device": setting.device.type, "device_index": setting.device.index or 0, "compute_type": kind,
        "inter_threads": threads.workers, "intra_threads": threads.each,
    }  # fmt: skip


def export(peer: Peer, source: Source, device: torch.device, folder: Path) -> bool:
    """Fills `folder` with the models of a peer's rows; returns whether they have the run's weights, or random ones."""
    tokenizers = source.tokenizers
    sizes = tokenizers.source.size, tokenizers.target.size
    if peer == "transformers":
        marian(source.recipe, *sizes).save_pretrained(folder / AS_MADE)
        copy_files(tokenizers.files, source.run, folder / AS_MADE)
        return False
    own = True
    try:
        ctranslate2.must_fit(source.recipe)
    except UsageError:
        ordinary = replace(source.recipe.model, **ORDINARY)
        recipe = replace(source.recipe, objective=ArObjective(), model=ordinary)
        torch.manual_seed(recipe.seed)
        own, source = False, replace(source, recipe=recipe, model=build_model(recipe, *sizes).eval())
    for kind in COMPUTE_TYPES[device.type]:
        (folder / kind).mkdir(parents=True)
        ctranslate2.write(source, folder / kind, kind)
    return own
