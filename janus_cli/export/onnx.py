"""Exports a model's searches as ONNX graphs with all their weights in one file, and a program that runs them.

The graphs are those of `janus decode`, which then needs neither torch nor janus.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from janus_cli import console
from janus_cli.core.knobs import Decoding
from janus_cli.core.symbols import EOS, NO_TEXT, PAD, UNK
from janus_cli.core.writing import never_written
from janus_cli.data.hf import ABSENT, CLEANED, HuggingFace, Library
from janus_cli.data.tokenizer import INDEX
from janus_cli.decoding.modes import Plan, choose, modes
from janus_cli.documents import TokenizerIndex, read
from janus_cli.engines.choice import UNKNOWN
from janus_cli.engines.engine import ROWS_AT_ONCE, all_weights
from janus_cli.engines.session import Search, side_of, written
from janus_cli.errors import UsageError
from janus_cli.export.source import README, Source, cleaning_program, fill, tokenizer_program
from janus_cli.files import copy_files, write_atomically
from janus_cli.recipe import Recipe
from janus_cli.terminal import command

WEIGHTS, PROGRAM, IDS = "weights.bin", "generate.py", "ids.json"
ALIGNED = 64  # bytes: where a weight may begin
# Options that say how janus computes, not what.
HOW: dict[str, Any] = {"engine": "auto", "precision": "float32"}
EXPORTED = ("ar", "nar", "spec")
STANDARD = ("json", "re")  # modules that come with Python
NOT_TOLD = {*HOW, "batch_sentences", "cuda_graphs"}


def must_fit(recipe: Recipe) -> None:
    """Raises UsageError for models of which no search is a graph."""
    plans, missing = searches(recipe)
    if plans:
        return
    why = "; ".join(f"{mode}: {reason}" for mode, reason in missing.items()) or "it decodes neither ar nor nar"
    usual, options = Decoding(), recipe.decoding
    turned_on = dict.fromkeys(name for mode in missing for name in UNKNOWN.get(mode, ()) if getattr(options, name))
    off = " ".join(f"--set decoding.{name}={str(getattr(usual, name)).lower()}" for name in turned_on)
    raise UsageError(
        f"this model was trained with objective {recipe.objective.name}: none of its searches is a graph ({why})",
        "use --format safetensors" + (f", or decode in another way: {off}" if off else ""),
    )


def searches(recipe: Recipe) -> tuple[dict[str, Plan], dict[str, str]]:
    """The graphs of a model by name, and why modes that it can decode in have none."""
    plans, missing = dict[str, Plan](), dict[str, str]()
    for mode in modes(recipe, drafts=recipe.decoding.redraft == "source"):
        try:
            plan = choose(recipe, {"mode": mode, **HOW})
            why = plan.without_graph() if mode in EXPORTED else f"{mode} is not exported"
        except UsageError as problem:
            why = problem.message
        if why:
            missing[mode] = why
        else:
            plans[mode] = plan
    if "ar" in plans and plans["ar"].options.beam > 1:
        plans["greedy"] = choose(recipe, {"mode": "ar", "beam": 1, "nbest": 1, **HOW})
    return dict(sorted(plans.items())), missing


def write(source: Source, folder: Path) -> None:
    """Fills `folder`: a graph of each search, weights.bin, generate.py, tokenizer files, README.txt."""
    plans, missing = searches(source.recipe)
    weights = all_weights(source.model)
    places, shapes = _stored(weights, folder / WEIGHTS), {name: weight.shape for name, weight in weights.items()}
    for name, plan in plans.items():
        side = side_of(plan.mode, plan.options, source.recipe.ar_stream)
        search = Search(plan.mode, side, plan.options, padded=plan.mode != "spec", threads=0)
        graph = written(source.model.knobs, shapes, search, never_written(plan.options))
        graph.place(WEIGHTS, places)
        write_atomically(folder / f"{name}.onnx", graph.model())
        for warning in plan.warnings:
            console.warn(f"{name}.onnx: {warning}")
        if plan.drafts and not source.model.draft_head:
            console.say(f"{name}.onnx is faster with a draft head: make one with `janus draft-head`, and export again")
    if (asked := source.recipe.decoding.precision) != "float32":
        console.warn(f"graphs compute in float32: decoding.precision {asked} is not exported")
    for mode, why in missing.items():
        console.say(f"no {mode}.onnx: {why}")
    imports, tokenizer, files = _tokenizer(source, folder)
    package = next((f" {each}" for each in ("sentencepiece", "tokenizers") if each in imports), "")
    write_atomically(folder / PROGRAM, _program(source, [*plans], imports, tokenizer))
    size = (folder / WEIGHTS).stat().st_size
    write_atomically(folder / README, _readme(source, plans, missing, package, files, size))


def _stored(weights: Mapping[str, NDArray[Any]], file: Path) -> dict[str, tuple[int, int]]:
    """Writes them one after another. -> the first byte of each, and that after its last."""
    places = {}
    with file.open("wb") as opened:
        for name, weight in weights.items():
            start = opened.seek(-(-opened.tell() // ALIGNED) * ALIGNED)
            places[name] = start, start + opened.write(np.ascontiguousarray(weight, "<f4").data)
    return places


def _tokenizer(source: Source, folder: Path) -> tuple[list[str], str, list[str]]:
    """Writes the tokenizers' files. -> what a program imports, its functions `encode` and `decode`, names of files."""
    reader, writer = source.tokenizers.source, source.tokenizers.target
    if isinstance(reader, HuggingFace) and isinstance(writer, HuggingFace):
        return _hugging_face(source, reader, writer, folder)
    index = read(source.run / INDEX, TokenizerIndex)
    files = sorted({*index["files"].values()})
    copy_files(files, source.run, folder)
    return ["sentencepiece"] * (index["kind"] == "sentencepiece"), tokenizer_program(source.run), files


def _hugging_face(
    source: Source, reader: HuggingFace, writer: HuggingFace, folder: Path
) -> tuple[list[str], str, list[str]]:
    """As `_tokenizer`. In ids.json, read says for an id or a piece of text what the model reads, and written for an id
    of the model which id or piece of text that is; begin are ids that every source begins with."""
    kind = "library" if reader.stored["library"] else "sentencepiece"
    ending = {"library": "json", "sentencepiece": "model"}[kind]
    names = [
        f"{file.partition('.')[0]}.{ending}"
        for _, file in sorted(read(source.run / INDEX, TokenizerIndex)["files"].items())
    ]
    for name, each in zip(names, (reader, writer), strict=True):
        write_atomically(folder / name, _its_file(each))
    clean = writer.stored["clean"]
    left_out = {*NO_TEXT, *writer.begin}
    theirs = [ABSENT if ours in left_out else index for ours, index in enumerate(writer.order)]
    ids: dict[str, Any] = {"begin": reader.begin}
    if kind == "library":
        engine = Library(reader.stored, names[0]).engine
        clean = clean and type(engine.model).__name__ != "BPE"
        last = max(engine.get_vocab(with_added_tokens=True).values())
        ids["read"] = [reader.of_text.get(index, UNK) for index in range(last + 1)]
        ids["written"] = [None if index == ABSENT else index for index in theirs]
    else:
        silent = {*writer.stored["special"], *writer.stored["silent"]}
        pieces = {index: piece for piece, index in writer.stored["ids"].items() if index not in silent}
        ids["read"] = {piece: reader.of_text.get(index, UNK) for piece, index in reader.stored["ids"].items()}
        ids["written"] = [pieces.get(index) for index in theirs]
    ids["cleaned"] = CLEANED if clean else []
    write_atomically(folder / IDS, json.dumps(ids, ensure_ascii=False).encode())
    code = "(>>.*?<<)?(.*)" if reader.stored["codes"] else "()(.*)"
    program = fill(f"hf_{kind}_program.txt", source=repr(names[0]), target=repr(names[1]), code=f"r{code!r}", unk=UNK)
    imports = {"library": ["json", "tokenizers"], "sentencepiece": ["json", "re", "sentencepiece"]}[kind]
    return imports, program.rstrip(), [*dict.fromkeys(names), IDS]


def _its_file(tokenizer: HuggingFace) -> bytes:
    """A tokenizer as its library reads it: a tokenizer.json, or a SentencePiece model."""
    if tokenizer.stored["library"]:
        return str(Library(tokenizer.stored, "the tokenizer").engine.to_str()).encode()
    return b64decode(tokenizer.stored["sentencepiece"])


def _program(source: Source, names: list[str], imports: list[str], tokenizer: str) -> bytes:
    cleaning, clean = cleaning_program(source.recipe.data.clean)
    decoding = source.recipe.decoding
    standard = {"import os", "import signal", "import sys", *(f"import {each}" for each in imports if each in STANDARD)}
    standard |= {*cleaning.splitlines()}
    others = [f"import {each}" for each in ("numpy", *imports) if each not in STANDARD]
    return fill(
        "onnx_program.txt",
        imports="\n".join([*sorted(standard), "from pathlib import Path", "", *others, ""]),
        names="|".join(names), default=repr(names[0]), tokenizer=tokenizer, clean=clean and f"{clean.rstrip()}\n",
        line="clean(line)" if clean else "line", reads=source.recipe.reads,
        size=max(1, ROWS_AT_ONCE // max(decoding.beam, decoding.length_beam)), pad=PAD, eos=EOS,
    ).encode()  # fmt: skip


def _readme(
    source: Source, plans: dict[str, Plan], missing: dict[str, str], package: str, files: list[str], size: int
) -> bytes:
    decoding = source.recipe.decoding
    ratio, extra = decoding.limit
    told = {
        name: ", ".join(f"{option} {value}" for option, value in plan.used_in_graph.items() if option not in NOT_TOLD)
        for name, plan in plans.items()
    }
    if "spec" in told:
        told["spec"] += ", with its draft head" if source.model.draft_head else ", no draft head"
    graphs = "\n".join(
        f"  {name + '.onnx':<25} `{command('janus', 'decode', '--mode', plans[name].mode)}` with:\n{'':28}{options}"
        for name, options in told.items()
    )
    iters = f"  iters   () int64          nar: decoder passes at most, if not {decoding.iters}\n"
    reasons = "\n".join(f"There is no {mode}.onnx: {why}." for mode, why in missing.items())
    return source.readme(
        "onnx.txt", package=package, default=next(iter(plans)), graphs=graphs, weights=WEIGHTS,
        bytes=f"{size:,}", files=", ".join(files),
        nbest=decoding.nbest, reads=source.recipe.reads, eos=EOS, pad=PAD, iters=iters if "nar" in plans else "",
        ratio=f"{ratio:g}", extra=extra, missing=reasons + "\n" * bool(reasons),
    )  # fmt: skip
