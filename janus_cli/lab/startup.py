"""`python -m janus_cli.lab.startup`: a process that starts, decodes one sentence and ends.

An engine is a function that imports what its user needs, which is a part of what is measured; it returns what reads the
model, which returns what decodes a line. So this file itself imports next to nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

Decode = Callable[[str], str]
Read = Callable[[], Decode]


def onnx(about: Mapping[str, Any]) -> Read:
    """about: label, run, folder, changes, device, see `rows.load`; threads."""
    from janus_cli.decoding.modes import choose, own_recipe
    from janus_cli.decoding.translate import read_translator
    from janus_cli.lab.labels import row_options
    from janus_cli.runs import Run
    from janus_cli.system import take_threads

    take_threads(about["threads"])
    folder, label = Path(about["folder"]), about["label"]

    def read() -> Decode:
        recipe = own_recipe(folder, about["changes"])
        single = replace(recipe, decoding=replace(recipe.decoding.one_best, batch_sentences=1))
        plan = choose(single, row_options([label])[label])
        translator = read_translator(Run(Path(about["run"])), folder, plan, about["device"])
        return lambda line: next(translator.windows([line]))[0].text

    return read


def torch(about: Mapping[str, Any]) -> Read:
    """As `onnx`, which imports it only when it reads the model."""
    import_module("torch")
    return onnx(about)


def ctranslate2(about: Mapping[str, Any]) -> Read:
    """about: folder, with the model and our tokenizers; reads (tokens); options of translator and search."""
    from janus_cli.data.tokenizer import load_tokenizers
    from janus_cli.errors import require

    library, folder = require("ctranslate2", "peers"), Path(about["folder"])

    def names(side: str) -> list[str]:
        shared = folder / "shared_vocabulary.json"
        file = shared if shared.is_file() else folder / f"{side}_vocabulary.json"
        found: list[str] = json.loads(file.read_bytes())
        return found

    def read() -> Decode:
        translator = library.Translator(str(folder), **about["translator"])
        tokenizers, source = load_tokenizers(folder), names("source")
        number = {name: index for index, name in enumerate(names("target"))}

        def decode(line: str) -> str:
            (ids,) = tokenizers.source.encode([line])
            (found,) = translator.translate_batch([[source[each] for each in ids[: about["reads"]]]], **about["search"])
            return tokenizers.target.decode([[number[name] for name in found.hypotheses[0]]])[0]

        return decode

    return read


def transformers(about: Mapping[str, Any]) -> Read:
    """about: folder, with a Marian model and our tokenizers; reads (tokens); search; device, dtype, threads."""
    import torch

    from janus_cli.core.symbols import EOS, NO_TEXT
    from janus_cli.data.tokenizer import load_tokenizers
    from janus_cli.errors import require

    kind, folder = require("transformers", "peers").MarianMTModel, Path(about["folder"])
    torch.set_num_threads(about["threads"])

    def read() -> Decode:
        model = kind.from_pretrained(folder).to(about["device"], getattr(torch, about["dtype"])).eval()
        tokenizers = load_tokenizers(folder)

        def decode(line: str) -> str:
            (ids,) = tokenizers.source.encode([line])
            source = torch.tensor([[*ids[: about["reads"]], EOS]], device=about["device"])
            with torch.inference_mode():
                found = model.generate(input_ids=source, **about["search"])[0].tolist()
            return tokenizers.target.decode([[token for token in found if token not in NO_TEXT]])[0]

        return decode

    return read


ENGINES: dict[str, Callable[[Mapping[str, Any]], Read]] = {
    "onnx": onnx, "torch": torch, "ctranslate2": ctranslate2, "transformers": transformers,
}  # fmt: skip


def main(engine: str, about: Mapping[str, Any]) -> None:
    """Writes a line of JSON when the line in `about` is decoded. load: seconds of reading the model."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    read = ENGINES[engine](about)
    begun = time.perf_counter()
    decode = read()
    load = time.perf_counter() - begun
    text = decode(about["line"])
    print(json.dumps({"load": load, "text": text}), file=stdout, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
