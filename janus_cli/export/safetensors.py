"""Exports all weights as safetensors: a checkpoint folder with its tokenizer, config and a README."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from janus_cli import documents
from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.tokenizer import INDEX
from janus_cli.export.source import README, Source
from janus_cli.files import MANIFEST, copy_files, write_atomically, write_json
from janus_cli.runs import Run
from janus_cli.training import checkpoint

CONFIG = "config.json"
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # types of the weights in the file


def write(source: Source, folder: Path, stored: str) -> None:
    """Fills `folder`: a checkpoint (weights, recipe.yaml, state.json), config.json, tokenizer files, texts, README.txt.

    stored: a key of `STORED`; weights are rounded to nearest.
    """
    state = {key: source.state[key] for key in ("step", "metrics", "averaged", "tokenizer") if key in source.state}
    sizes = source.tokenizers.source.size, source.tokenizers.target.size
    copy_files(source.tokenizers.files, source.run, folder)
    for file in source.texts:
        copy_files([file.name], file.parent, folder)
    weights = {name: weight.to(STORED[stored]) for name, weight in source.model.weights().items()}
    checkpoint.write(folder, source.recipe, sizes, state, weights)  # its manifest names the others, too
    manifest = documents.read(folder / MANIFEST, documents.CheckpointManifest)
    write_json(folder / MANIFEST, {**manifest, **_data(Run(source.run))})
    write_json(folder / CONFIG, config(source))
    write_atomically(folder / README, _readme(source, stored))


def _data(run: Run) -> dict[str, Any]:
    """What the manifest says of the data: by it a metric is chosen, and the same data is known again."""
    manifest = run.read_manifest() if run.manifest.is_file() else {}
    splits = {
        name: {"kept": split["kept"], "fingerprint": split["fingerprint"]}
        for name, split in manifest.get("splits", {}).items()
    }
    return {"splits": splits, **{key: manifest[key] for key in ("target_text",) if key in manifest}}


def config(source: Source) -> dict[str, Any]:
    """What a program must know to rebuild the model from its weights and to use it."""
    recipe = source.recipe
    return {
        "objective": recipe.objective.name,
        "ar_stream": recipe.ar_stream,
        "length_head": source.model.length_table is not None,
        "max_length": recipe.model.max_length,
        "reads": recipe.reads,
        "source_vocabulary": source.tokenizers.source.size,
        "target_vocabulary": source.tokenizers.target.size,
        "special_ids": {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS, "mask": MASK},
        "model": asdict(recipe.model),
        "tokenizer": documents.read(source.run / INDEX, documents.TokenizerIndex),
        "clean": list(recipe.data.clean),
        "decoding": asdict(recipe.decoding),
    }


def _readme(source: Source, stored: str) -> bytes:
    knobs = source.recipe.model
    norms = {
        "pre": "before each sublayer, and once more after the last layer\n(encoder_norm, decoder_norm)",
        "post": "after each sublayer, on the sum with its input",
    }
    tokenizers = {
        "sentencepiece": "models of sentencepiece",
        "words": f"the first word of a list has id {SPECIAL}; text is split at white space",
        "hf": "that of a Hugging Face model, whose ids are in another order",
    }
    outputs = {
        "all": "Logits are states times target_table, which is the table of the source as well.",
        "target": "Logits are states times target_table; the source has a table of its own.",
        "none": "Logits are states times output_table.",
    }
    scaled = f"table[id]{' * sqrt(width)' if knobs.embedding_scale else ''}"
    embeddings = {
        "sum": f"{scaled} + position",
        "concat": f"a linear map (source_map, target_map) of {scaled} and position, side by side",
    }
    activations = {"relu": "ReLU", "gelu": "the exact GELU (with erf)", "silu": "SiLU, x times its sigmoid"}
    # Parts that not every model has.
    causal = "Decoder layers attend to the target twice: by `attention`, then, to no later position, by `causal`.\n"
    rate = "-2 i / width" if knobs.positions == "marian" else "-i / (h - 1)"
    sinusoids = (
        "Positions are sinusoids and not in the file: of position p, sin(p r_i), then cos(p r_i), for i < h = width/2\n"
        f"(rounded up), r_i = 10000 ** ({rate}).\n"
    )
    length = (
        "\nLengths: the mean of the encoder's states times length_table; the class n stands for n target tokens,\n"
        "<s> and </s> not counted."
    )
    texts = f"  {', '.join(file.name for file in source.texts)}\n{'':28}the test split, which `janus decode` reads\n"
    return source.readme(
        "safetensors.txt",
        stored=stored, texts=texts if source.texts else "",
        tokenizer_files=", ".join(source.tokenizers.files),
        tokenizer=tokenizers[source.recipe.tokenizer.kind],
        shapes=_shapes(source),
        norm=norms[knobs.norm],
        embedding=embeddings[knobs.embedding],
        embedding_norm=", then a layer norm (source_norm, target_norm)" if knobs.embedding_norm else "",
        causal=causal if knobs.causal_attention else "",
        positions="" if knobs.positions == "learned" else sinusoids,
        output=outputs[knobs.tie] + " output_bias is added to them." * knobs.output_bias,
        activation=activations[knobs.activation],
        length=length if source.model.length_table is not None else "",
        head=knobs.width // knobs.heads, max_length=knobs.max_length, bos=BOS, eos=EOS, mask=MASK, pad=PAD,
    )  # fmt: skip


def _shapes(source: Source) -> str:
    """A line for each weight; all layers of a side have the same shapes, so only the first is listed."""
    counts = {"encoder": source.model.knobs.encoder_layers, "decoder": source.model.knobs.decoder_layers}
    rows = []
    for name, weight in source.model.weights().items():
        layer = re.match(r"(encoder|decoder)\.(\d+)\.", name)
        if layer and layer[2] != "0":
            continue
        shown = f"{layer[1]}.N.{name[layer.end() :]}" if layer else name
        again = f"   N = 0 .. {counts[layer[1]] - 1}" if layer else ""
        rows.append(f"  {shown:<38}{' x '.join(map(str, weight.shape)):<14}{again}".rstrip())
    return "\n".join(rows)
