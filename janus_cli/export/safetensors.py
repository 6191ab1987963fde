"""All weights as safetensors, in a folder that explains itself: itself a checkpoint, with its tokenizer beside it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from janus_cli.core.symbols import BOS, EOS, MASK, PAD, SPECIAL, UNK
from janus_cli.data.tokenizer import INDEX
from janus_cli.export import folder as folders
from janus_cli.export.folder import Source
from janus_cli.files import copy_files, read_json, write_atomically, write_json
from janus_cli.training import checkpoint

CONFIG = "config.json"


def write(source: Source, folder: Path) -> None:
    """Fills `folder`: a checkpoint (weights, recipe.yaml, state.json), config.json, tokenizer files, README.txt."""
    state = {key: source.state[key] for key in ("step", "metrics", "averaged") if key in source.state}
    sizes = source.tokenizers.source.size, source.tokenizers.target.size
    checkpoint.write(folder, source.recipe, sizes, state, source.model.weights())
    # The safetensors library lets nobody but the owner read.
    (folder / checkpoint.MODEL).chmod((folder / "recipe.yaml").stat().st_mode)
    copy_files(source.tokenizers.files, source.run, folder)
    write_json(folder / CONFIG, config(source))
    write_atomically(folder / folders.README, _readme(source).encode())


def config(source: Source) -> dict[str, Any]:
    """What a program must know to rebuild the model from its weights and to talk to it."""
    recipe = source.recipe
    return {
        "objective": recipe.objective.name,
        "ar_stream": recipe.ar_stream,
        "length_head": source.model.length_table is not None,
        "max_length": recipe.model.max_length,
        "source_vocabulary": source.tokenizers.source.size,
        "target_vocabulary": source.tokenizers.target.size,
        "special_ids": {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS, "mask": MASK},
        "model": asdict(recipe.model),
        "tokenizer": read_json(source.run / INDEX),
        "clean": list(recipe.data.clean),
        "decoding": asdict(recipe.decoding),
    }


_README = """An encoder-decoder Transformer of janus-cli, as safetensors

{origin}

Files
  model.safetensors         every weight, float32
  config.json               shape of the model, vocabularies, special ids, tokenizer, how it is meant to be decoded
  {tokenizer_files}
                            the tokenizer: {tokenizer}
  recipe.yaml               everything that decided the run
  state.json, manifest.json the training step; size and sha256 of the checkpoint's files

How to load it
With safetensors alone:

  from safetensors.torch import load_file
  weights = load_file("model.safetensors")

With janus-cli, from the folder that this file is in:

  from pathlib import Path
  from janus_cli.data.tokenizer import load_tokenizers
  from janus_cli.training.checkpoint import load_model
  model, tokenizers = load_model(Path(".")), load_tokenizers(Path("."))

On the command line (FOLDER is the one that this file is in):

  janus decode --checkpoint FOLDER --input text
  janus inspect FOLDER

What goes in and out
The encoder reads the ids of a sentence, then </s> ({eos}). The decoder begins with <s> ({bos}); <mask> ({mask}) stands
for a token to be predicted, and <pad> ({pad}) fills up a batch. {cleaning}
Source and target may have {max_length} positions each, <s> and </s> counted.

Weights and their shapes
{shapes}

A linear map is y = x W^T + b, its weight (out, in). The rows of key_value are those of the keys, then those of the
values; each head has {head} of them in one piece; `cross` attends to the source. Attention is scaled by 1/sqrt({head}).
Layer norms (weight, bias; epsilon 1e-5) stand {norm}.
Embeddings: {embedding}{embedding_norm}. Positions are counted from 0.
{causal}{positions}{output}
Activation: {activation}.{length}
"""


def _readme(source: Source) -> str:
    knobs = source.recipe.model
    norms = {
        "pre": "before each sublayer, and once more behind the last layer\n(encoder_norm, decoder_norm)",
        "post": "behind each sublayer, when its input was added",
    }
    kinds = {
        "sentencepiece": "models of sentencepiece",
        "words": f"the first word of a list has id {SPECIAL}; text is split at white space",
    }
    tables = {
        "all": "Logits are states times target_table, which is the table of the source as well.",
        "target": "Logits are states times target_table; the source has a table of its own.",
        "none": "Logits are states times output_table.",
    }
    sinusoids = (
        "Positions are sinusoids and not in the file: of position p, sin(p r_i), then cos(p r_i), for i < h = width/2\n"
        "(rounded up), r_i = 10000 ** (-i / (h - 1)).\n"
    )
    embeddings = {
        "sum": "table[id]{scale} + position",
        "concat": "a linear map (source_map, target_map) of table[id]{scale} and position, side by side",
    }
    causal = "Decoder layers attend to the target twice: by `attention`, then by `causal`, to what is not later.\n"
    length = (
        "\nLengths: the mean of the encoder's states times length_table; the class n stands for n target tokens,\n"
        "<s> and </s> not counted."
    )
    return _README.format(
        origin=folders.origin(source),
        tokenizer_files=", ".join(source.tokenizers.files),
        tokenizer=kinds[source.recipe.tokenizer.kind],
        cleaning=folders.cleaning(source),
        shapes=_shapes(source),
        norm=norms[knobs.norm],
        embedding=embeddings[knobs.embedding].format(scale=" * sqrt(width)" if knobs.embedding_scale else ""),
        causal=causal if knobs.causal_attention else "",
        embedding_norm=", then a layer norm (source_norm, target_norm)" if knobs.embedding_norm else "",
        positions=sinusoids if knobs.positions == "sinusoidal" else "",
        output=tables[knobs.tie],
        activation="the exact GELU (with erf)" if knobs.activation == "gelu" else "ReLU",
        length=length if source.model.length_table is not None else "",
        head=knobs.width // knobs.heads, max_length=knobs.max_length, bos=BOS, eos=EOS, mask=MASK, pad=PAD,
    )  # fmt: skip


def _shapes(source: Source) -> str:
    """A line for each weight; the layers of a side are alike, so only the first is listed."""
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
