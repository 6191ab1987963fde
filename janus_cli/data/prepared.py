"""Opens prepared data for training and decoding; refuses it unless complete, unchanged, and as the recipe asks now."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from janus_cli import console, documents
from janus_cli.data import corpus
from janus_cli.data.corpus import SPLITS
from janus_cli.data.prepare import FORMAT
from janus_cli.data.store import Store, store_files
from janus_cli.data.stored import digest, disk_size, last_change
from janus_cli.data.tokenizer import INDEX, Tokenizers, load_tokenizers
from janus_cli.errors import CheckpointError, DataError, UsageError
from janus_cli.files import MANIFEST, sha256, write_json
from janus_cli.recipe import Data, Recipe, tokenizer_of
from janus_cli.recipe_load import Basis
from janus_cli.runs import Run, distilled_dir, prepared_dir, text_name
from janus_cli.system import is_denied
from janus_cli.terminal import command, quoted

# Knobs that say where the text is, not what it is: that is for the fingerprints.
PLACES = {"dir", "files", "notes", "downloads"}
REUSE = "tokenizer.reuse"
CHECKED = ".checked.json"  # the files that were verified before
OTHER_TEXT = "take its weights to other text in a new run: `janus train --from RUN`"
DO_WITHOUT = "name a text with --input FILE (decode), leave --with-test out (export)"  # a hint: a split is not there
SETTLED = 3 * 10**9  # nanoseconds; file systems' clocks are coarse, two seconds at worst


@dataclass(frozen=True)
class Prepared:
    """Prepared data, checked and open. test is None if the text has no test split."""

    folder: Path
    manifest: dict[str, Any]
    tokenizers: Tokenizers
    train: Store
    valid: Store
    test: Store | None

    @property
    def tokenizer(self) -> dict[str, str]:
        """The sha256 of each of the tokenizer's files."""
        return {name: self.manifest["files"][name]["sha256"] for name in self.tokenizers.files}


def fingerprints(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of each split's ids; manifest: of prepared data, or of a run."""
    return {name: split["fingerprint"] for name, split in manifest.get("splits", {}).items()}


def place_for(recipe: Recipe, basis: Basis | None = None) -> Path:
    """The default folder for a recipe's data; with a basis one that has its tokenizer, or will have."""
    usual = prepared_dir(recipe)
    if basis is None or basis.tokenizer is None or has_tokenizer(usual, basis.tokenizer):
        return usual
    return prepared_dir(recipe, basis.tokenizer)


def has_tokenizer(folder: Path, other: Path) -> bool:
    """Whether a folder of prepared data has the tokenizer of another one, or of a run, to the byte."""
    with suppress(OSError, DataError):
        names = documents.read(other / INDEX, documents.TokenizerIndex)["files"].values()
        return all((folder / name).read_bytes() == (other / name).read_bytes() for name in {INDEX, *names})
    return False


def text_is_elsewhere(recipe: Recipe) -> bool:
    """Whether the recipe names no text, and the usual folder was made of text that was named when it was prepared."""
    made = usual_manifest(recipe).get("data", {})
    return not recipe.data.is_named and bool(made.get("dir") or made.get("files", {}).get("train"))


def usual_manifest(recipe: Recipe) -> dict[str, Any]:
    """The manifest of a recipe's usual folder; empty if nothing is prepared there."""
    file = prepared_dir(recipe) / MANIFEST
    return documents.read(file, documents.Manifest) if file.is_file() else {}


def prepare_again(prepared: Prepared, run: Run, recipe: Recipe) -> str:
    """How to prepare again what a run was trained on, where `prepared` is something else; a hint."""
    before, now = run.read_manifest().get("files", {}), prepared.manifest["files"]
    if "distilled" in prepared.manifest or all(before.get(name) == now[name] for name in prepared.tokenizers.files):
        return f"prepare the same text again; or {OTHER_TEXT}"
    words = ["--recipe", str(run.recipe), "--set", f"{REUSE}={run.path}"]
    again = preprocess_command(words, recipe, prepared.folder, prepared.manifest)
    return f"its tokenizer is another one; prepare the same text with the run's: {again} --force"


def open_prepared(
    recipe: Recipe, folder: Path, words: Sequence[str] = (), *, text: bool = True, of_run: bool = False,
    basis: Basis | None = None,
) -> Prepared:  # fmt: skip
    """Opens a folder that `prepare` made, if it is complete, unchanged, and made with this recipe's settings.

    Checked are the data and tokenizer sections; size and sha256 of every file, and what `Store.open` checks; and that
    the text is the same, both where it was read (if still there) and where the recipe says now. Files that passed once
    and are unchanged (`.checked.json`) are not read again, so a large store opens at once from the second time on.

    words: options that give `janus preprocess` this recipe, for hints. text: whether to check the text, too. basis: the
    data must have its tokenizer. of_run: the caller compares fingerprints with a run's, which tell its tokenizer.

    Raises:
        DataError, CheckpointError (another tokenizer): a check fails; the hint is the command that makes the data.
    """
    words = words or ("--recipe", recipe.name)
    began, hint = time.time_ns(), f"make it: {preprocess_command(words, recipe, folder, {}, basis)}"
    try:
        if not (folder / MANIFEST).is_file():
            if folder.is_dir() and any(folder.iterdir()):
                place, here = place_for(recipe, basis), {"data": {"dir": str(folder)}}
                hint = f"if {folder} holds your text: {preprocess_command(words, recipe, place, here, basis)}"
            raise DataError(f"there is no prepared data in {folder}")
        hint = f"{hint} --force"
        manifest = documents.read(folder / MANIFEST, documents.Manifest)
        hint = f"make it again: {preprocess_command(words, recipe, folder, manifest, basis)} --force"
        if manifest.get("format") != FORMAT:
            version = f"format {manifest.get('format')}, this reads {FORMAT}"
            raise DataError(f"{folder} was prepared by another version of janus ({version})")
        recipe = _with_tokenizer_of(basis, recipe, folder, words, manifest)
        files, noted = manifest["files"], _read_notes(folder)
        identities = {name: [known["sha256"], *_identity(folder / name)] for name, known in files.items()}
        unchanged = {name for name in files if noted.get(name) == identities[name]}
        settings = [each for each in _other_settings(recipe, manifest) if not (of_run and each[0] == REUSE)]
        other_text = list(_other_text(manifest, recipe.data)) if text else []
        changes = [*_other_files(folder, files, unchanged), *other_text]
        if of_run and other_text:
            hint = f"a run goes on with the text that it began with: put that back; or {OTHER_TEXT}"
        elif settings and not changes and not of_run:
            hint = f"to use it as it was made, add {_as_it_was_made(settings)}; or {hint}"
        changes[:0] = [f"{name} was {used!r}, the recipe says {asked!r}" for name, used, asked in settings]
        if changes:  # a table that was changed comes twice, once for each side
            raise DataError(f"the prepared data in {folder} does not fit: {'; '.join(dict.fromkeys(changes))}")
        stores = {
            split: Store.open(folder, split, check=not unchanged.issuperset(store_files(split)))
            for split in SPLITS
            if split in manifest["splits"]
        }
        opened = load_tokenizers(folder), stores["train"], stores["valid"], stores.get("test")
        # Files changed just before `began` are not noted: they could change once more without a new time stamp.
        settled = {name: each for name, each in identities.items() if max(each[2:4]) < began - SETTLED}
        if settled != noted:
            _write_notes(folder, settled)
        return Prepared(folder, manifest, *opened)
    except DataError as problem:
        raise DataError(problem.message, hint) from None
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"{folder / MANIFEST} is damaged: {problem!r}", hint) from None


def find_split(run: Run, recipe: Recipe, split: str) -> tuple[Path, Path | None]:
    """The source text of a split of the run's data, and its reference, if any.

    Raises:
        DataError: the data has no such split, or its text is gone or was changed.
    """
    source, target = (prepared_file(run, recipe, text_name(split, side)) for side in ("source", "target"))
    if source is None:
        raise missing_split(run, split)
    return source, target


def missing_split(run: Run, split: str) -> DataError:
    """The error that says that there is no such split."""
    if knows_no_data(run):
        prepare = command("janus", "preprocess", "--recipe", run.recipe, "--data-dir", "FOLDER")
        return DataError(f"{run.path} was imported, and no text was prepared for it", f"{prepare}; or {DO_WITHOUT}")
    if run.is_export:
        return DataError(
            f"{run.path} is an export, and does not hold the text of the {split} split",
            "`janus decode --input FILE` takes any text; `janus export --with-test` of the original run takes its test "
            "split along",
        )
    return DataError(f"the data of {run.path} has no {split} split", DO_WITHOUT)


def find_references(run: Run, recipe: Recipe, split: str) -> Path | None:
    """The references of a split where it has several a line, see `scoring.inputs.read_references`; else the reference.

    Raises as `find_split`.
    """
    several = prepared_file(run, recipe, text_name(split, "references"))
    return several or prepared_file(run, recipe, text_name(split, "target"))


def knows_no_data(run: Run) -> bool:
    """Whether it was imported: its data is whatever was prepared with its recipe."""
    return run.is_export and not run.read_manifest().get("splits")


def data_of(run: Run, recipe: Recipe, name: str = MANIFEST) -> Path:
    """The data that a run was trained on: the recorded folder if `name` in it can be read, else the usual one.

    Raises:
        UsageError: the recorded one may not be read, and the usual one has no such file.
    """
    usual = prepared_dir(recipe)
    recorded = Path(run.read_manifest().get("prepared") or usual)
    if is_denied(recorded / name) and not (usual / name).is_file():
        hint = (
            f"ask its owner to copy it to {usual}; or name a text with --input (decode), data with --prepared (train)"
        )
        raise UsageError(f"the data of {run.path} may not be read: {recorded}", hint)
    return usual if is_denied(recorded / name) or not (recorded / name).is_file() else recorded


def prepared_file(run: Run, recipe: Recipe, name: str) -> Path | None:
    """A file of the prepared data that the run was trained on, unchanged; None if there was none.

    An export has what it holds of the data in its own folder.

    Raises:
        DataError: the file is gone or was changed.
    """
    manifest, own = run.read_manifest(), run.is_export
    if knows_no_data(run) and (prepared_dir(recipe) / MANIFEST).is_file():
        manifest, own = documents.read(prepared_dir(recipe) / MANIFEST, documents.Manifest), False
    known = manifest.get("files", {}).get(name)
    if known is None:
        return None
    path = run.path / name if own else data_of(run, recipe, name) / name
    if not path.is_file() and not run.is_export:
        recorded = Path(manifest.get("prepared", ""))
        again = preprocess_command(["--recipe", str(run.recipe)], recipe, recorded, manifest)
        again += " --force" * (recorded / MANIFEST).is_file()
        raise DataError(
            f"the data of this run is gone: there is no {path}",
            f"make it again: {again}; or {DO_WITHOUT}",
        )
    if not path.is_file() or sha256(path) != known.get("sha256"):
        what = "was changed since the run began" if path.is_file() else "is missing"
        raise DataError(f"{path} {what}", f"prepare the same text again; or {DO_WITHOUT}")
    return path


def _with_tokenizer_of(
    basis: Basis | None, recipe: Recipe, folder: Path, words: Sequence[str], manifest: Mapping[str, Any]
) -> Recipe:
    """The recipe with the knobs of prepared data's tokenizer, if that is the tokenizer of the basis.

    Raises CheckpointError if it is another one.
    """
    if basis is None or basis.tokenizer is None:
        return recipe
    if has_tokenizer(folder, basis.tokenizer):
        return replace(recipe, tokenizer=tokenizer_of(manifest))
    place = place_for(recipe, basis)
    if (place / MANIFEST).is_file():
        place = Path("FOLDER")
    again = preprocess_command(words, recipe, place, {} if "distilled" in manifest else manifest, basis)
    raise CheckpointError(
        f"{basis.tokenizer} has another tokenizer than {folder}: its token ids mean other words",
        f"prepare the text with its tokenizer: {again}; and give that to --prepared: {place}",
    )


def preprocess_command(
    words: Sequence[str], recipe: Recipe, folder: Path, manifest: Mapping[str, Any], basis: Basis | None = None
) -> str:
    """The command that makes this folder, of the text that the recipe names, else of that in the manifest.

    words, basis: see `open_prepared`.
    """
    distilled = manifest.get("distilled")
    usual = distilled_dir(recipe) if distilled else place_for(recipe, basis)
    place = [] if folder.absolute() == usual.absolute() else ["--out", folder]
    if distilled:
        return " ".join([distilled["command"], command(*place)]).strip()
    data = manifest.get("data", {})
    text, bad = recipe.data.dir or data.get("dir"), manifest.get("bad_utf8", "stop")
    named = {split: getattr(recipe.data.files, split) or data.get("files", {}).get(split, ()) for split in SPLITS}
    more = [*(["--data-dir", text] if text else []), *(["--bad-utf8", bad] if bad != "stop" else [])]
    more += [word for split, paths in named.items() if paths for word in (f"--{split}", *paths)]
    return command("janus", "preprocess", *words, *more, *place)


def _other_settings(recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Knobs that have changed: name, value then, value now."""
    defaults = Recipe(name="defaults").plain()  # of knobs that are younger than the data
    for section in ("data", "tokenizer"):
        asked, used = recipe.plain()[section], {**defaults[section], **manifest[section]}
        for key in sorted((asked.keys() | used.keys()) - PLACES):
            if asked.get(key) != used.get(key):
                yield f"{section}.{key}", used.get(key), asked.get(key)


def _as_it_was_made(settings: Iterable[tuple[str, Any, Any]]) -> str:
    """Options that give what `_other_settings` found the values that they had."""
    were = (quoted(f"{key}={json.dumps(used, ensure_ascii=False)}") for key, used, _ in settings)
    return " ".join(f"--set {each}" for each in were)


def _other_files(folder: Path, files: Mapping[str, Any], checked_before: Collection[str]) -> Iterator[str]:
    for name, known in files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            yield f"{name} is missing or not a plain file"
        elif path.stat().st_size != known["bytes"]:
            yield f"{name} has {console.counted(path.stat().st_size, 'byte')} instead of {known['bytes']:,}"
        elif name not in checked_before and sha256(path) != known["sha256"]:
            yield f"{name} was changed"


def _other_text(manifest: Mapping[str, Any], data: Data) -> Iterator[str]:
    """Text that differs from what was read: in its old place, and in the folder that the recipe names now.

    Text that is gone or unreadable is not needed any more.
    """
    made = 10**9 * int(datetime.fromisoformat(manifest["created"]).timestamp())
    for name, split in manifest["splits"].items():
        for side, known in split["text"].items():
            if "distilled" in manifest and (name, side) == ("train", "target"):
                continue  # a teacher's
            before = Path(known["path"] or "")
            with suppress(OSError, DataError):
                if known["path"] and before.exists() and _differs(before, known, last_change(before) >= made):
                    yield f"the text {before} was changed"
            with suppress(OSError, DataError):
                paths = corpus.find(data, None if data.dir is None else Path(data.dir), name)
                now = paths.get(side) or paths.get(corpus.TABLE)
                elsewhere = now and now.resolve() != before.resolve() and now.suffix == before.suffix  # .gz or not
                if now and elsewhere and _differs(now, known, read=True):
                    yield f"{now} is not the text that it was made of"


def _differs(path: Path, known: Mapping[str, Any], read: bool) -> bool:
    """Whether a file differs from the known size or, with `read`, from the known sha256."""
    return disk_size(path) != known["bytes"] or (read and digest(path) != known["sha256"])


def _write_notes(folder: Path, notes: Mapping[str, Any]) -> None:
    with suppress(OSError):  # a read-only folder is checked each time
        write_json(folder / CHECKED, notes)


def _read_notes(folder: Path) -> dict[str, Any]:
    """For each file that was verified before: its sha256 and `_identity`."""
    with suppress(DataError, OSError):
        return documents.read(folder / CHECKED, documents.Document)
    return {}


def _identity(path: Path) -> list[int]:
    """Size, mtime, ctime and inode, which stand for the contents, as in git's index."""
    with suppress(OSError):
        status = path.lstat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return []
