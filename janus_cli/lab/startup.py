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
Ids = list[list[int]]
# A batch of sources without EOS, and options -> what waits for the outputs, without EOS.
Search = Callable[[Ids, Mapping[str, Any]], Callable[[], Ids]]


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
    return _by_line(about, ctranslate2_model(about["folder"], about["translator"]))


def transformers(about: Mapping[str, Any]) -> Read:
    """about: folder, with a Marian model and our tokenizers; reads (tokens); search; device, dtype, threads."""
    import torch

    torch.set_num_threads(about["threads"])
    return _by_line(about, transformers_model(about["folder"], about["device"], about["dtype"]))


def _by_line(about: Mapping[str, Any], model: Callable[[], Search]) -> Read:
    from janus_cli.data.tokenizer import load_tokenizers

    def read() -> Decode:
        search, tokenizers = model(), load_tokenizers(Path(about["folder"]))

        def decode(line: str) -> str:
            (ids,) = tokenizers.source.encode([line])
            return tokenizers.target.decode(search([ids[: about["reads"]]], about["search"])())[0]

        return decode

    return read


def ctranslate2_model(folder: str, options: Mapping[str, Any]) -> Callable[[], Search]:
    """Imports the library, and returns what reads the model. options: of the Translator."""
    from janus_cli.errors import require

    library = require("ctranslate2", "peers")

    def names(side: str) -> list[str]:
        shared = Path(folder, "shared_vocabulary.json")
        file = shared if shared.is_file() else Path(folder, f"{side}_vocabulary.json")
        found: list[str] = json.loads(file.read_bytes())
        return found

    def read() -> Search:
        translator, source = library.Translator(folder, **options), names("source")
        number = {name: index for index, name in enumerate(names("target"))}

        def search(ids: Ids, asked: Mapping[str, Any]) -> Callable[[], Ids]:
            rows = [[source[token] for token in row] for row in ids]
            begun = translator.translate_batch(rows, asynchronous=True, **asked)
            return lambda: [[number[name] for name in each.result().hypotheses[0]] for each in begun]

        return search

    return read


def transformers_model(folder: str, device: str, dtype: str) -> Callable[[], Search]:
    """As `ctranslate2_model`."""
    import torch

    from janus_cli.core.batch import EOS, PAD, pad
    from janus_cli.core.symbols import NO_TEXT
    from janus_cli.errors import require

    kind = require("transformers", "peers").MarianMTModel

    def read() -> Search:
        model = kind.from_pretrained(folder).to(device, getattr(torch, dtype)).eval()

        def search(ids: Ids, asked: Mapping[str, Any]) -> Callable[[], Ids]:
            source = pad([[*row, EOS] for row in ids]).to(device)
            with torch.inference_mode():
                found = model.generate(input_ids=source, attention_mask=(source != PAD).long(), **asked).tolist()
            return lambda: [[token for token in row if token not in NO_TEXT] for row in found]

        return search

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
