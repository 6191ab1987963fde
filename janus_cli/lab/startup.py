"""`python -m janus_cli.lab.startup`: a process that starts, decodes one sentence and ends.

An engine is a function that imports what its user needs, which is a part of what is measured; it returns what reads the
model, which returns what decodes a line. So this file itself imports next to nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from janus_cli.data.tokenizer import Tokenizers

Decode = Callable[[str], str]
Read = Callable[[], Decode]
Ids = list[list[int]]
# A batch of sources without EOS, and options -> what waits for the outputs, without EOS.
Search = Callable[[Ids, Mapping[str, Any]], Callable[[], Ids]]
Model = Callable[["Tokenizers"], Search]  # reads it


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
    """about: folder of the model; run, with our tokenizers; reads (tokens); options of translator and search."""
    return _by_line(about, ctranslate2_model(about["folder"], about["translator"]))


def transformers(about: Mapping[str, Any]) -> Read:
    """about: folder of the model; run, with our tokenizers; reads (tokens); search; device, dtype, threads, suffix."""
    import torch

    torch.set_num_threads(about["threads"])
    return _by_line(about, transformers_model(*(about[name] for name in ("folder", "device", "dtype", "suffix"))))


def _by_line(about: Mapping[str, Any], model: Model) -> Read:
    from janus_cli.data.tokenizer import load_tokenizers

    def read() -> Decode:
        tokenizers = load_tokenizers(Path(about["run"]))
        search = model(tokenizers)

        def decode(line: str) -> str:
            (ids,) = tokenizers.source.encode([line])
            return tokenizers.target.decode(search([ids[: about["reads"]]], about["search"])())[0]

        return decode

    return read


def ctranslate2_model(folder: str, options: Mapping[str, Any]) -> Model:
    """Imports the library, and returns what reads the model. options: of the Translator."""
    from janus_cli.errors import require

    library = require("ctranslate2", "peers")

    def names(side: str) -> list[str]:
        shared = Path(folder, "shared_vocabulary.json")
        file = shared if shared.is_file() else Path(folder, f"{side}_vocabulary.json")
        found: list[str] = json.loads(file.read_bytes())
        return found

    def read(_: Tokenizers) -> Search:
        translator, source, target = library.Translator(folder, **options), names("source"), names("target")
        number = {name: index for index, name in enumerate(target)}

        def search(ids: Ids, asked: Mapping[str, Any]) -> Callable[[], Ids]:
            rows, given = [[source[token] for token in row] for row in ids], dict(asked)
            if first := given.pop("first"):  # what every output begins with
                given["target_prefix"] = [[target[first]]] * len(rows)
            begun = translator.translate_batch(rows, asynchronous=True, **given)
            return lambda: [[number[name] for name in each.result().hypotheses[0]] for each in begun]

        return search

    return read


def transformers_model(folder: str, device: str, dtype: str, suffix: int) -> Model:
    """As `ctranslate2_model`. suffix: our id of what follows the EOS of a source, if any."""
    import torch

    from janus_cli.core.batch import EOS, PAD
    from janus_cli.core.symbols import NO_TEXT
    from janus_cli.errors import require
    from janus_cli.export.transformers import order_of

    kind = require("transformers", "peers").AutoModelForSeq2SeqLM

    def read(tokenizers: Tokenizers) -> Search:
        model = kind.from_pretrained(folder).to(device, getattr(torch, dtype)).eval()
        order, filler = order_of(tokenizers.source), model.config.pad_token_id
        ours = {theirs: index for index, theirs in enumerate(order_of(tokenizers.target))}
        ending = [EOS, suffix] if suffix else [EOS]

        def search(ids: Ids, asked: Mapping[str, Any]) -> Callable[[], Ids]:
            rows = [[order[each] for each in [*row, *ending]] for row in ids]
            longest = max(map(len, rows))
            source = torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=device)
            real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
            with torch.inference_mode():
                found = model.generate(input_ids=source, attention_mask=real, **asked).tolist()
            outputs = [[ours.get(token, PAD) for token in row[1:]] for row in found]
            return lambda: [[token for token in row if token not in NO_TEXT] for row in outputs]

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
