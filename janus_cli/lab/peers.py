"""Peers, the tools that users would pick instead, as rows of a bench: CTranslate2 and Hugging Face transformers.

Both have the run's weights, get our tokenizers and batches sorted by length as in `Translator`, and are timed from text
to text. A peer that has no such model is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from janus_cli.core.generate import length_limit
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.errors import UsageError, require
from janus_cli.export import ctranslate2, transformers
from janus_cli.export.source import README, Source
from janus_cli.export.transformers import STOP
from janus_cli.lab import startup
from janus_cli.lab.rows import Decoded, Row
from janus_cli.lab.startup import Ids
from janus_cli.lab.threads import Loaded, Threads, set_torch
from janus_cli.recipe import Recipe

Peer = Literal["ctranslate2", "transformers"]
BEAMS = (1, 5)
COMPUTE_TYPES = {"cpu": ("float32", "int8"), "cuda": ("float32", "float16")}
AS_MADE = "float32"  # the only kind of a peer that has no others


@dataclass(frozen=True)
class Setting:
    """The setting of a peer. folder: of the exported models, one for each precision. run: with the tokenizers."""

    peer: Peer
    recipe: Recipe
    tokenizers: Tokenizers
    device: torch.device
    folder: Path
    run: Path

    @property
    def dtype(self) -> str:
        """That torch computes in, where it is the peer's engine."""
        on_gpu = self.device.type == "cuda"  # on a CPU float32 is the faster one
        return "bfloat16" if self.recipe.decoding.precision == "bf16" and on_gpu else "float32"

    def search(self, beam: int, ids: Ids) -> tuple[dict[str, Any], list[int]]:
        """The options of a search for a batch, and the tokens that it may write for each of its sources."""
        decoding = self.recipe.decoding
        lengths = torch.tensor([len(row) for row in ids])
        most: list[int] = (length_limit(lengths, self.recipe.model.max_length, decoding) - 1).tolist()
        if self.peer == "transformers":  # the rest is in generation_config.json
            return {
                "num_beams": beam, "do_sample": False, "num_return_sequences": 1, "max_length": max(most) + 2,
                "early_stopping": beam > 1 and STOP[decoding.early_stopping],
            }, most  # fmt: skip
        return {
            "beam_size": beam, "max_input_length": 0, "length_penalty": decoding.length_penalty,
            "min_decoding_length": decoding.min_length, "no_repeat_ngram_size": decoding.no_repeat_ngram,
            "max_decoding_length": max(most), "first": decoding.first_token,
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
        _ = module.AutoModelForSeq2SeqLM  # imported lazily by transformers


def must_fit(peer: Peer, recipe: Recipe) -> None:
    """Raises UsageError for a model that the peer does not have."""
    (ctranslate2 if peer == "ctranslate2" else transformers).must_fit(recipe)


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
        read = startup.transformers_model(
            folder, str(setting.device), setting.dtype, setting.recipe.model.source_suffix
        )
        search = read(setting.tokenizers)
    else:
        options["compute_type"] = kind
        loaded = Loaded(
            lambda threads: startup.ctranslate2_model(folder, _translator(setting, kind, threads))(setting.tokenizers)
        )
        search, use = (lambda ids, asked: loaded.model(ids, asked)), loaded.use
    source, target = setting.tokenizers.source, setting.tokenizers.target

    def translate(lines: Sequence[str], batch: int) -> Decoded:
        ids = [row[: setting.recipe.reads] for row in source.encode(lines)]
        outputs: Ids = [[] for _ in lines]
        # By length, so that workers end together.
        order = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: -len(ids[row]))
        begun = []
        for start in range(0, len(order), batch):  # several workers each take the next batch
            chosen = order[start : start + batch]
            sources = [ids[row] for row in chosen]
            asked, most = setting.search(beam, sources)
            begun.append((chosen, most, search(sources, asked)))
        for chosen, most, found in begun:
            for row, limit, tokens in zip(chosen, most, found(), strict=True):
                outputs[row] = tokens[:limit]
        return Decoded(target.decode(outputs), [len(row) for row in outputs])

    at_once = several(setting.peer, setting.device)
    return Row(label, "peer", translate, options, engine=setting.peer, use=use, several=at_once)


def first(setting: Setting, label: str, line: str, threads: int) -> dict[str, Any]:
    """What `startup` takes to decode this line as the row of this label does."""
    kind, beam = parts(setting.peer, label)
    ids = setting.tokenizers.source.encode([line])[0][: setting.recipe.reads]
    about = {
        "folder": str(setting.folder / kind), "run": str(setting.run), "reads": setting.recipe.reads, "line": line,
        "search": setting.search(beam, [ids])[0],
    }  # fmt: skip
    if setting.peer == "transformers":
        suffix = setting.recipe.model.source_suffix
        return about | {"device": str(setting.device), "dtype": setting.dtype, "threads": threads, "suffix": suffix}
    return about | {"translator": _translator(setting, kind, Threads(1, threads))}


def disk_bytes(setting: Setting, label: str) -> int:
    """What the model of this row and its tokenizers take on disk."""
    files = (setting.folder / parts(setting.peer, label)[0]).iterdir()
    return sum(file.stat().st_size for file in files if file.name != README)


def _translator(setting: Setting, kind: str, threads: Threads) -> dict[str, Any]:
    """The options of a Translator."""
    return {
        "device": setting.device.type, "device_index": setting.device.index or 0, "compute_type": kind,
        "inter_threads": threads.workers, "intra_threads": threads.each,
    }  # fmt: skip


def export(peer: Peer, source: Source, device: torch.device, folder: Path) -> None:
    """Fills `folder` with the models of a peer's rows."""
    for kind in (AS_MADE,) if peer == "transformers" else COMPUTE_TYPES[device.type]:
        (folder / kind).mkdir(parents=True)
        if peer == "transformers":
            transformers.write(source, folder / kind)
        else:
            ctranslate2.write(source, folder / kind, kind)
