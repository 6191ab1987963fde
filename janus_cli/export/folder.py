"""The exported folder: what may be replaced, how it appears whole or not at all, and where its weights came from."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.errors import UsageError
from janus_cli.files import sync, write_atomically
from janus_cli.recipe import Recipe

PROVENANCE, README = "provenance.json", "README.txt"


@dataclass(frozen=True)
class Source:
    """What is exported: a checkpoint's model and everything that is needed to use it.

    run: the folder that the tokenizers' files are in. state: the training state beside the weights.
    """

    recipe: Recipe
    model: Transformer
    tokenizers: Tokenizers
    run: Path
    state: Mapping[str, Any]
    provenance: Mapping[str, Any]


def must_be_free(folder: Path, force: bool) -> None:
    """Raises UsageError unless `folder` may be made: it is not there, empty, or with `force` an earlier export."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file", "name a folder with --output")
    if not any(folder.iterdir()):
        return
    if not (folder / PROVENANCE).is_file():
        raise UsageError(f"{folder} holds something else than an export of janus", "name another folder with --output")
    if not force:
        raise UsageError(f"{folder} is there already", "replace it with --force, or name another one with --output")


@contextmanager
def appearing(folder: Path, force: bool) -> Iterator[Path]:
    """A name beside `folder` for a new folder, which takes its place when the block ends well and vanishes otherwise.

    Raises:
        UsageError: see `must_be_free`; or a part of the path is a file.
    """
    must_be_free(folder, force)
    folder = folder.resolve()  # has a name and a parent, also where it was given as a link or as `..`
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder.parent} is no folder", "name another folder with --output") from None
    unique = f"{os.getpid()}.{secrets.token_hex(4)}"
    fresh, old = (folder.with_name(f".{folder.name}.{unique}.{what}") for what in ("tmp", "old"))
    try:
        yield fresh
        for file in fresh.iterdir():
            sync(file)
        sync(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def origin(source: Source) -> str:
    """Where the weights came from, in words; for the README of a folder."""
    about = source.provenance
    averaged = f" (the mean of {', '.join(about['averaged'])})" if "averaged" in about else ""
    return (
        f"Run {about['run']}, checkpoint {about['checkpoint']}{averaged}, training step {about['step']}.\n"
        f"Objective: {about['objective']}. sha256 of the checkpoint's weights:\n  {about['sha256']}\n"
        f"Written by janus-cli {about['janus']}. The same in {PROVENANCE}, for programs."
    )


def cleaning(source: Source) -> str:
    """A sentence on what happened to the text before it was tokenised."""
    if not source.recipe.data.clean:
        return "Text goes into the tokenizer as it is."
    return f"The training text was cleaned in these steps, so do the same first: {', '.join(source.recipe.data.clean)}."
