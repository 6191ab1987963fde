"""`janus preprocess`: text becomes ids; and prepared data is opened again for training and decoding.

Three passes over the text, none of which holds more than a few chunks of it: check, train a tokenizer, encode.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import sentencepiece

from janus_cli import __version__, console
from janus_cli.errors import DataError
from janus_cli.recipe import Recipe
from janus_cli.runs import distilled_dir, prepared_dir, read_json, write_atomically
from janus_cli.text import checked, corpus, download, synthetic
from janus_cli.text.corpus import SPLITS, BadUtf8, Side, sha256
from janus_cli.text.folder import LOCK, MANIFEST, whole_folder
from janus_cli.text.splits import SplitWriter, encoders, reasons
from janus_cli.text.store import Store
from janus_cli.text.tokenizer import Tokenizers, load_tokenizers, train_tokenizers

FORMAT = 1
LINES_WORTH_A_PROCESS = 50_000  # fewer are encoded before another process has started
# Where text lies and how to get it says nothing about what it is: the fingerprints do.
PLACES = ("dir", "notes", "downloads")


def prepare(
    recipe: Recipe, out: Path, *, workers: int | None, force: bool, bad_utf8: BadUtf8 = "stop"
) -> dict[str, Any]:
    """Reads, cleans, filters and encodes the text of a recipe into the folder `out`, which appears whole or not at all.

    The bytes do not depend on `workers`. With `data.deduplicate`, a 16-byte hash is kept for every training pair, as
    Python objects about 100 MB for a million pairs; everything else is bounded whatever the size of the text.

    Args:
        recipe: its data and tokenizer sections, and the seed for synthetic text.
        out: the folder to make.
        workers: processes that encode; None takes as many cores as are worth it.
        force: replace earlier prepared data.
        bad_utf8: lines that are not UTF-8 stop the work, lose the pair, or get U+FFFD; test lines are never dropped.

    Returns:
        The manifest, as written.

    Raises:
        DataError: the text is missing or cannot be used, or nothing of it is left.
        UsageError: `out` is there and `force` is not given.
        JanusError: a worker process was killed.
    """
    with whole_folder(out, force=force) as folder, ExitStack() as stack:
        splits = corpus.survey(recipe.data, stack.enter_context(_text(recipe, out, folder)), bad_utf8)
        train = splits[0].sides
        lines = train["source"].lines
        console.say(f"{lines:,} training pairs found")
        tokenizers = _tokenizers(recipe, train["source"], train["target"], folder)
        console.say(f"tokenizer: {tokenizers.source.size:,} source and {tokenizers.target.size:,} target entries")
        origin = {name: sha256(folder / name) for name in tokenizers.files}
        useful = max(1, min(_cores(), lines // LINES_WORTH_A_PROCESS))
        encode = stack.enter_context(encoders(folder, workers or useful))
        written = {}
        for split in splits:
            writer = SplitWriter(recipe.data, split, tokenizers, folder, origin, recipe.tokenizer.joiner)
            written[split.name] = writer.fill(encode, bad_utf8)
            lost = reasons(writer.dropped)
            kept = f"{split.name}: {writer.kept:,} of {split.source.lines:,} pairs kept"
            console.say(f"{kept}; dropped: {lost}" if lost else kept)
        return seal(folder, _about(recipe, tokenizers, written))


@contextmanager
def _text(recipe: Recipe, out: Path, folder: Path) -> Iterator[Path]:
    """The folder in which the text lies, after making or fetching it where the recipe says so."""
    data = recipe.data
    if data.dir is not None:
        if not Path(data.dir).is_dir():
            raise DataError(f"the data folder {data.dir} does not exist", "name another with --data-dir")
        yield Path(data.dir)
    elif data.synthetic is not None:
        text = folder / "text"
        text.mkdir()
        for split, stem in corpus.stems(data).items():
            names = f"{stem}.{data.source}", f"{stem}.{data.target}"
            with (text / names[0]).open("wb") as source, (text / names[1]).open("wb") as target:
                for first, second in synthetic.generate(getattr(data.synthetic, split), recipe.seed, split):
                    source.write(first.encode() + b"\n")
                    target.write(second.encode() + b"\n")
        yield text
        shutil.rmtree(text)
    else:
        yield download.fetch(data, out.parent / f"{recipe.name}.downloads")


def _tokenizers(recipe: Recipe, source: Side, target: Side, folder: Path) -> Tokenizers:
    knobs, clean = recipe.tokenizer, corpus.cleaner(recipe.data.clean)
    # Both sides of a joint tokenizer share the limit, which is there to bound memory.
    most = max(1, knobs.train_lines // 2) if knobs.joint else knobs.train_lines
    sources, targets = (partial(corpus.sample, side, most, clean) for side in (source, target))
    return train_tokenizers(knobs, sources, targets, folder, (recipe.data.source, recipe.data.target))


def _about(recipe: Recipe, tokenizers: Tokenizers, written: Mapping[str, SplitWriter]) -> dict[str, Any]:
    made_here = recipe.data.dir is None and recipe.data.synthetic is not None
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": recipe.plain()["data"],
        "tokenizer": recipe.plain()["tokenizer"],
        "vocabulary": {"source": tokenizers.source.size, "target": tokenizers.target.size},
        "splits": {name: writer.entry(made_here=made_here) for name, writer in written.items()},
    }


def seal(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest of a folder, in which nothing else is missing: `about`, every file, versions, the time."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in (LOCK, MANIFEST))
    manifest = {
        **about,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names},
        "versions": {"janus": __version__, "sentencepiece": sentencepiece.__version__, "pyarrow": pyarrow.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / MANIFEST, text.encode(errors="backslashreplace"))
    return manifest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Prepared:
    """Prepared data, checked and open. test is None where the text has no test split."""

    folder: Path
    manifest: dict[str, Any]
    tokenizers: Tokenizers
    train: Store
    valid: Store
    test: Store | None


def open_prepared(recipe: Recipe, folder: Path) -> Prepared:
    """Opens what `prepare` made, and makes sure that it is whole, unchanged and made from this recipe's settings.

    Checked: the data and tokenizer sections; size and sha256 of every file; what `Store.open` checks; and that the
    text, where it still lies there, was not changed since. What was checked once, and is the very same file still, is
    not read again: a large store opens at once from the second time on.

    Raises:
        DataError: any of it does not hold.
    """
    began, again = time.time_ns(), f"make it: {_command(recipe, folder)}"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"there is no prepared data in {folder}", again)
    try:
        manifest = read_json(folder / MANIFEST)
    except DataError as problem:
        raise DataError(problem.message, f"{again} --force") from None
    again = f"make it again: {_command(recipe, folder, manifest)} --force"
    if manifest.get("format") != FORMAT:
        raise DataError(f"{folder / MANIFEST} has format {manifest.get('format')}, this version reads {FORMAT}", again)
    try:
        known = checked.known(folder, manifest["files"])
        settings = list(_other_settings(recipe, manifest))
        changes = [f"{name} was {used!r}, the recipe says {asked!r}" for name, used, asked in settings]
        if settings:
            words = (f"--set {shlex.quote(f'{name}={json.dumps(used)}')}" for name, used, _ in settings)
            again = f"{again}; it was made with {' '.join(words)}"
        changes += [*_other_files(folder, manifest["files"], known), *_other_text(manifest)]
        if changes:
            raise DataError(f"the prepared data in {folder} does not fit: {'; '.join(changes)}", again)
        stores = {
            name: Store.open(folder / f"{name}.arrow", name, check=f"{name}.arrow" not in known)
            for name in SPLITS
            if name in manifest["splits"]
        }
        for name, store in stores.items():
            if store.fingerprint != manifest["splits"][name]["fingerprint"]:
                raise DataError(f"{store.path} was not made together with {folder / MANIFEST}", again)
        train, valid = stores["train"], stores["valid"]
        checked.note(folder, manifest["files"], began)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"{folder / MANIFEST} is damaged: {problem!r}", again) from None
    return Prepared(folder, manifest, load_tokenizers(folder), train, valid, stores.get("test"))


def _command(recipe: Recipe, folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """The command that makes this folder."""
    distilled = (manifest or {}).get("distilled")
    if distilled:
        return (
            f"{distilled['command']}{'' if folder == distilled_dir(recipe) else f' --out {shlex.quote(str(folder))}'}"
        )
    place = "" if folder == prepared_dir(recipe) else f" --out {folder}"
    text = (manifest or {}).get("data", {}).get("dir") or recipe.data.dir
    return f"janus preprocess --recipe {recipe.name}{f' --data-dir {text}' if text else ''}{place}"


def _other_settings(recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Knobs that are not what they were: name, value then, value now."""
    for section in ("data", "tokenizer"):
        asked, used = recipe.plain()[section], manifest[section]
        for key in sorted({*asked, *used} - {*(PLACES if section == "data" else ())}):
            if asked.get(key) != used.get(key):
                yield f"{section}.{key}", used.get(key), asked.get(key)


def _other_files(folder: Path, files: Mapping[str, Any], checked_before: Collection[str]) -> Iterator[str]:
    for name, known in files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            yield f"{name} is missing or no plain file"
        elif path.stat().st_size != known["bytes"]:
            yield f"{name} has {path.stat().st_size:,} bytes instead of {known['bytes']:,}"
        elif name not in checked_before and sha256(path) != known["sha256"]:
            yield f"{name} was changed"


def _other_text(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Source text that is still there but is not what was read. It is read again only where it is newer."""
    made = datetime.fromisoformat(manifest["created"]).timestamp()
    for split in manifest["splits"].values():
        for known in split["text"].values():
            path = Path(known["path"] or "")
            if not path.is_file():
                continue
            now = path.stat()
            if now.st_size != known["bytes"] or (now.st_mtime >= made and sha256(path) != known["sha256"]):
                yield f"the text {path} was changed"
