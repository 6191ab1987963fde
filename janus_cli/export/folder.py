"""The files of a model's folder as transformers writes them: config.json, settings of generation, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from janus_cli import documents
from janus_cli.errors import DataError
from janus_cli.export.huggingface import SAMPLING, WITHOUT_EFFECT, kind_of
from janus_cli.training.checkpoint import opened

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = "*.bin"
# Keys of config.json that are settings of generation and no part of the model.
STEERING = documents.GenerationConfig.model_fields.keys() | WITHOUT_EFFECT.keys() | SAMPLING
DTYPES = ("F64", "F32", "F16", "BF16")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's config.json, and its settings of generation that are set, which earlier versions have in the former.

    Raises:
        DataError: the folder is no model, or of a type that does not fit; or a file is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(
            f"{folder} is not a model of Hugging Face: it has no {CONFIG}",
            "name a folder that `save_pretrained` of transformers or `hf download` wrote",
        )
    kind_of(documents.read(folder / CONFIG, documents.ModelType), str(folder))
    config = documents.read(folder / CONFIG, documents.PretrainedConfig)
    if (folder / GENERATION).is_file():
        settings = documents.read(folder / GENERATION, documents.GenerationConfig)
    else:
        settings = {key: config[key] for key in config if key in STEERING}
    return config, {key: value for key, value in settings.items() if value is not None}


def read_weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """All weights, each under the name that a model with a language-modelling head has it, and their files.

    They are of the type that their file has, which is mapped: only what is used of them gets into memory.

    Raises:
        DataError: there are none, or only pickles, which are never read; a file is damaged, or holds other than floats.
    """
    listed = {} if (folder / WEIGHTS).is_file() else _listed(folder)
    files = [folder / name for name in sorted({*listed.values()} or {WEIGHTS})]
    weights, found = dict[str, Tensor](), set[str]()
    for file in files:
        with opened(file, "pt", DataError) as handle:
            for name in sorted(handle.keys()):
                if (dtype := handle.get_slice(name).get_dtype()) not in DTYPES:
                    raise DataError(
                        f"{file}: {name} is of type {dtype}, janus reads {', '.join(DTYPES)}",
                        "take the model's original weights, not quantised ones",
                    )
                bare = name.startswith(("encoder.", "decoder.", "shared."))  # a model saved without its head
                ours = f"model.{name}" if bare else name
                if ours in weights:
                    raise DataError(f"{folder} has the weight {ours} twice")
                weights[ours] = handle.get_tensor(name)
                found.add(name)
    if missing := sorted(listed.keys() - found):
        raise DataError(f"{folder / INDEX} lists weights that are not there: {', '.join(missing[:3])}")
    return weights, files


def _listed(folder: Path) -> dict[str, str]:
    """The file of each weight of a folder without a model.safetensors."""
    if (folder / INDEX).is_file():
        listed: dict[str, str] = documents.read(folder / INDEX, documents.ShardIndex)["weight_map"]
        for name in sorted({*listed.values()}):
            if not (folder / name).is_file():
                raise DataError(f"{folder} has no {name}, which {INDEX} names", "download it as well")
        return listed
    if any(folder.glob(PICKLES)):
        raise DataError(
            f"{folder} has its weights as pickles only, which may hold any program and are not read",
            "convert it where you trust it:\n"
            "  from transformers import AutoModelForSeq2SeqLM as Model\n"
            f"  Model.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})",
        )
    raise DataError(f"{folder} has no {WEIGHTS}, nor {INDEX}", "download it as well")
