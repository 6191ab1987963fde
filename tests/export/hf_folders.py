"""Folders with tiny models, as transformers writes them, and what it says of them.

`python tests/export/hf_folders.py FOLDER [NAME…]` writes the models of golden_hf/ again, and
`python tests/export/hf_folders.py --exported FOLDER` what transformers makes of them once janus has imported and
exported them. Both need transformers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # run as a program, and as pytest does

import hf_models

GOLDEN = Path(__file__).parent / "golden_hf"
SHAPE: dict[str, Any] = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 48, "init_std": 0.4,
}  # fmt: skip
LINES = [
    "the man sees 3 big dogs, and doesn't care; it's fine.",
    "the cook",
    "Über Straße naïve café the child sees",
    "the woman sees 12 big dogs, and doesn't",
]
# The seed of the weights, and what is added to the logit of EOS, so that outputs end, and at different places.
# <pad> and <mask> have some probability, but are never written.
UNLIKELY = -2.0
DRAWN = {"bart": (1, 3.0), "mbart50": (11, 2.5), "mbart": (2, 1.5), "marian": (4, 3.0), "pegasus": (4, 2.6)}
# A tokenizer's maker, the model's type, its config, its settings of generation, and the languages of mBART.
Case = tuple[str, str, dict[str, Any], dict[str, Any], tuple[str | None, str | None]]
CASES: dict[str, Case] = {
    "bart": (
        "bart", "bart", {"scale_embedding": False},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "min_length": 6, "max_length": 24,
         "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2},
        (None, None),
    ),
    "mbart50": (
        "mbart", "mbart", {"scale_embedding": True, "activation_function": "relu", "decoder_start_token_id": 2},
        {"num_beams": 3, "max_length": 20, "forced_eos_token_id": 2}, ("en_XX", "fr_XX"),
    ),
    "mbart": (
        "mbart", "mbart", {"scale_embedding": True, "decoder_start_token_id": 2},
        {"num_beams": 5, "max_length": 20, "forced_eos_token_id": 2, "early_stopping": "never", "length_penalty": 0.5,
         "min_length": 5},
        ("en_XX", "fr_XX"),
    ),
    "marian": (
        "marian", "marian", {"scale_embedding": True, "activation_function": "swish"},
        {"num_beams": 4, "max_length": 30, "forced_eos_token_id": 0}, (None, None),
    ),
    "pegasus": (
        "pegasus", "pegasus", {"scale_embedding": True, "activation_function": "relu"},
        {"num_beams": 8, "length_penalty": 0.8, "max_length": 26, "forced_eos_token_id": 1}, (None, None),
    ),
}  # fmt: skip


def make(name: str, folder: Path) -> Any:
    """Writes a folder with a random model, whose outputs end at different lengths; returns transformers' own model."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer_maker, kind, config, settings, languages = CASES[name]
    hf_models.MODELS[tokenizer_maker](folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    if (folder / "config.json").is_file():
        rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    special = {f"{each}_token_id": getattr(tokenizer, f"{each}_token_id") for each in ("pad", "bos", "eos")}
    if kind in ("marian", "pegasus"):
        special["decoder_start_token_id"] = special["pad_token_id"]
    if name == "mbart":
        special["decoder_start_token_id"] = tokenizer.convert_tokens_to_ids(languages[1])
    seed, ending = DRAWN[name]
    torch.manual_seed(seed)
    made = AutoModelForSeq2SeqLM.from_config(
        AutoConfig.for_model(kind, **{**SHAPE, "vocab_size": rows, **config, **special})
    )
    for weight_name, weight in made.named_parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, float("norm" in weight_name and weight_name.endswith("weight")), 0.3)
    bias = made.final_logits_bias
    bias.normal_(0, 0.5)
    bias[0, special["eos_token_id"]] += ending
    for unlikely in (special["pad_token_id"], tokenizer.mask_token_id):  # which janus never writes
        if unlikely is not None:
            bias[0, unlikely] = UNLIKELY
    if name == "mbart50":
        settings = {**settings, "forced_bos_token_id": tokenizer.convert_tokens_to_ids(languages[1])}
    made.generation_config.update(**settings)
    made.save_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def outputs(name: str, folder: Path, model: Any, lines: list[str]) -> tuple[list[str], list[float]]:
    """What `generate` of transformers writes, and the scores of its hypotheses."""
    from transformers import AutoTokenizer

    source, target = CASES[name][4]
    tokenizer = AutoTokenizer.from_pretrained(folder, **({"src_lang": source, "tgt_lang": target} if source else {}))
    batch = [framed(name, tokenizer, line) for line in lines]
    longest = max(map(len, batch))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in batch])
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
    with torch.inference_mode():
        found = model.generate(input_ids=ids, attention_mask=real, return_dict_in_generate=True, output_scores=True)
    texts = [tokenizer.decode(row, skip_special_tokens=True).replace("\n", " ") for row in found.sequences.tolist()]
    return texts, found.sequences_scores.tolist()


def framed(name: str, tokenizer: Any, line: str) -> list[int]:
    """A source's ids as such a model reads them."""
    ids = tokenizer(line, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    language = [tokenizer.convert_tokens_to_ids(CASES[name][4][0])] if CASES[name][4][0] else []
    before = {"bart": [tokenizer.bos_token_id], "mbart50": language}.get(name, [])
    return [*before, *ids, tokenizer.eos_token_id, *(language if name == "mbart" else [])]


def packed(folder: Path) -> dict[str, str]:
    return {file.name: b64encode(file.read_bytes()).decode() for file in sorted(folder.iterdir())}


def unpack(files: dict[str, str], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(b64decode(data))


def contents(folder: Path) -> dict[str, Any]:
    """What decides which text transformers generates from a folder: settings, weights (their sha256), ids of LINES."""
    found: dict[str, Any] = {
        name: json.loads((folder / name).read_bytes())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    }
    weights = hashlib.sha256()
    for name, weight in sorted(load_file(folder / "model.safetensors").items()):
        weights.update(f"{name} {[*weight.shape]} {weight.dtype}\n".encode() + weight.numpy().tobytes())
    return found | {"weights": weights.hexdigest(), "ids": [ids_of(folder, line) for line in LINES]}


def ids_of(folder: Path, line: str) -> list[int]:
    """The ids of a source as tokenizer.json gives them, or source.spm with vocab.json."""
    if (folder / "tokenizer.json").is_file():
        return list(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(line).ids)
    ids = json.loads((folder / "vocab.json").read_bytes())
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    return [*(ids.get(piece, ids["<unk>"]) for piece in model.encode(line, out_type=str)), ids["</s>"]]


def exported(name: str, place: Path) -> dict[str, Any]:
    """The contents of a folder that janus exported of an imported model, and what transformers generates from it."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from janus_cli.export.export import export
    from janus_cli.export.importing import import_model

    model, run, folder = (place / name / each for each in ("model", "run", "exported"))
    model.mkdir(parents=True)
    unpack(json.loads((GOLDEN / f"{name}.json").read_bytes())["files"], model)
    export(kind="transformers", run=import_model(model, run=run, languages=CASES[name][4]), out=folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(LINES, padding=True, return_tensors="pt")
    found = AutoModelForSeq2SeqLM.from_pretrained(folder).eval().generate(**batch)
    real = [[*map(int, row[row != tokenizer.pad_token_id])] for row in batch["input_ids"]]
    assert real == contents(folder)["ids"], "transformers reads other ids than the files of its tokenizer give"
    return contents(folder) | {"outputs": tokenizer.batch_decode(found, skip_special_tokens=True)}


def main(place: Path, names: list[str]) -> None:
    for name in names or CASES:
        (place / name).mkdir(parents=True)
        model = make(name, place / name)
        texts, scores = outputs(name, place / name, model, LINES)
        found = {"lines": LINES, "outputs": texts, "scores": scores}
        hf_models.write(GOLDEN, f"{name}.json", {"files": packed(place / name), **found})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--exported":
        made = {name: exported(name, Path(sys.argv[2])) for name in CASES}
        (GOLDEN / "exported.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
