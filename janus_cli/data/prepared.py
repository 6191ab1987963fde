"""Prepared data, opened for training and decoding: whole, unchanged, and made as the recipe says now."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from janus_cli.data import corpus
from janus_cli.data.corpus import SPLITS
from janus_cli.data.lines import last_change
from janus_cli.data.prepare import FORMAT
from janus_cli.data.store import Store, store_files
from janus_cli.data.tokenizer import Tokenizers, load_tokenizers
from janus_cli.errors import DataError
from janus_cli.files import MANIFEST, read_json, sha256, write_json
from janus_cli.recipe import Data, Recipe
from janus_cli.runs import distilled_dir, prepared_dir

# Where text lies and how to get it says nothing about what it is: the fingerprints do.
PLACES = ("dir", "notes", "downloads")
CHECKED = ".checked.json"  # which files were read to the end before and found right
SETTLED = 3 * 10**9  # nanoseconds; clocks of file systems are coarse, two seconds at the worst


@dataclass(frozen=True)
class Prepared:
    """Prepared data, checked and open. test is None where the text has no test split."""

    folder: Path
    manifest: dict[str, Any]
    tokenizers: Tokenizers
    train: Store
    valid: Store
    test: Store | None


def fingerprints(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What each split's ids are; manifest: of prepared data, or of a run."""
    return {name: split["fingerprint"] for name, split in manifest.get("splits", {}).items()}


def open_prepared(recipe: Recipe, folder: Path, words: Sequence[str] = (), *, text: bool = True) -> Prepared:
    """Opens what `prepare` made, and makes sure that it is whole, unchanged and made from this recipe's settings.

    Checked: the data and tokenizer sections; size and sha256 of every file; what `Store.open` checks; and that the
    text, where it still lies there, was not changed since, nor is other text in the folder that the recipe names. What
    was checked once, and is the very same file still, is not read again: a large store opens at once from the second
    time on.

    words: the options that tell `janus preprocess` this recipe, for messages. text: whether to look at the text, which
    is read where it is newer or lies elsewhere than it did.

    Raises:
        DataError: any of it does not hold.
    """
    words = words or ("--recipe", recipe.name)
    began, again = time.time_ns(), f"make it: {_command(words, recipe, folder)}"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"there is no prepared data in {folder}", again)
    try:
        manifest = read_json(folder / MANIFEST)
    except DataError as problem:
        raise DataError(problem.message, f"{again} --force") from None
    again = f"make it again: {_command(words, recipe, folder, manifest)} --force"
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder} was prepared by another version of janus (format {manifest.get('format')}, this reads {FORMAT})",
            again,
        )
    try:
        unchanged = _unchanged(folder, manifest["files"])
        settings = list(_other_settings(recipe, manifest))
        changes = [f"{name} was {used!r}, the recipe says {asked!r}" for name, used, asked in settings]
        if settings:
            were = [f"{key}={json.dumps(used, ensure_ascii=False)}" for key, used, _ in settings]
            again = f"{again}; it was made with {' '.join(f'--set {shlex.quote(each)}' for each in were)}"
        changes += _other_files(folder, manifest["files"], unchanged)
        changes += _other_text(manifest, recipe.data) if text else ()
        if changes:
            raise DataError(f"the prepared data in {folder} does not fit: {'; '.join(changes)}", again)
        stores = {
            name: Store.open(folder, name, check=not unchanged.issuperset(store_files(name)))
            for name in SPLITS
            if name in manifest["splits"]
        }
        train, valid = stores["train"], stores["valid"]
        _note_unchanged(folder, manifest["files"], began)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"{folder / MANIFEST} is damaged: {problem!r}", again) from None
    return Prepared(folder, manifest, load_tokenizers(folder), train, valid, stores.get("test"))


def _command(words: Sequence[str], recipe: Recipe, folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """The command that makes this folder; words: see `open_prepared`."""
    about = manifest or {}
    distilled = about.get("distilled")
    usual = distilled_dir(recipe) if distilled else prepared_dir(recipe)
    place = [] if folder == usual else ["--out", str(folder)]
    if distilled:
        return " ".join([distilled["command"], shlex.join(place)]).strip()
    text = recipe.data.dir or about.get("data", {}).get("dir")
    bad = about.get("bad_utf8", "stop")
    more = [*(["--data-dir", text] if text else []), *(["--bad-utf8", bad] if bad != "stop" else [])]
    return shlex.join(["janus", "preprocess", *words, *more, *place])


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
            yield f"{name} is missing or not a plain file"
        elif path.stat().st_size != known["bytes"]:
            yield f"{name} has {path.stat().st_size:,} bytes instead of {known['bytes']:,}"
        elif name not in checked_before and sha256(path) != known["sha256"]:
            yield f"{name} was changed"


def _other_text(manifest: Mapping[str, Any], data: Data) -> Iterator[str]:
    """Text that is not what was read: where that lay, and in the folder that the recipe names now.

    Text that is gone, or that one may not read, is not needed any more.
    """
    made = 10**9 * int(datetime.fromisoformat(manifest["created"]).timestamp())
    for name, split in manifest["splits"].items():
        for side, known in split["text"].items():
            if "distilled" in manifest and (name, side) == ("train", "target"):
                continue  # a teacher's
            before = Path(known["path"] or "")
            with suppress(OSError):
                if before.is_file() and _differs(before, known, last_change(before) >= made):
                    yield f"the text {before} was changed"
            with suppress(OSError):
                now = data.dir and corpus.find(data, Path(data.dir), name, side)
                elsewhere = now and now.resolve() != before.resolve() and now.suffix == before.suffix  # .gz or not
                if now and elsewhere and _differs(now, known, read=True):
                    yield f"{now} is not the text that it was made of"


def _differs(path: Path, known: Mapping[str, Any], read: bool) -> bool:
    """Whether a file's contents are others than those known; read: where the size does not tell, the sha256 must."""
    return path.stat().st_size != known["bytes"] or (read and sha256(path) != known["sha256"])


def _unchanged(folder: Path, files: Mapping[str, Any]) -> set[str]:
    """Names of the files that were read before, had the sha256 that the manifest's `files` give them, and are the same
    files still. Size, times and inode stand for the contents, as in git's index."""
    try:
        notes = json.loads((folder / CHECKED).read_bytes())
        return {name for name in files if notes.get(name) == [files[name]["sha256"], *_identity(folder / name)]}
    except (OSError, ValueError, AttributeError):
        return set()


def _note_unchanged(folder: Path, files: Mapping[str, Any], began: int) -> None:
    """Notes that all `files` are right; began: when reading them began, in nanoseconds of the clock.

    A file that changed just before is not noted: it could change once more without showing it.
    """
    notes: dict[str, list[Any]] = {}
    with suppress(OSError):  # a folder that only can be read is checked each time
        for name, about in files.items():
            identity = _identity(folder / name)
            if max(identity[1:3]) < began - SETTLED:
                notes[name] = [about["sha256"], *identity]
        if notes and _unchanged(folder, files) != notes.keys():
            write_json(folder / CHECKED, notes)


def _identity(path: Path) -> list[int]:
    """Bytes, when the contents and when the inode changed, and which inode it is."""
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
