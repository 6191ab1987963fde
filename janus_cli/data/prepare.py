"""`janus preprocess`: from text to a folder of prepared data, which `prepared.py` opens.

Three passes over the text, each in bounded memory: check it, train a tokenizer on a sample, encode it.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from janus_cli import __version__, console
from janus_cli.data import corpus, filters, overlap, references, survival
from janus_cli.data.corpus import Split
from janus_cli.data.encode import Encoded, encoders
from janus_cli.data.extract import REFERENCES
from janus_cli.data.lines import SENTENCE_MARK, BadUtf8, Lines, TextFile, cleaner
from janus_cli.data.spacing import LINES, Shape
from janus_cli.data.store import Ragged, StoreWriter
from janus_cli.data.tokenizer import Tokenizers, join, train_tokenizers
from janus_cli.errors import DataError
from janus_cli.files import MANIFEST, must_be_free, sha256, whole_folder, write_json
from janus_cli.measures import NO_REFERENCE
from janus_cli.recipe import Data, Recipe
from janus_cli.runs import text_name
from janus_cli.system import usable_cores

FORMAT = 2  # 1 had the ids in Arrow files
PREPARED = "prepared data"  # in messages
TEXT = "text"  # folder for text that is made or taken out of tables, while data is prepared
LINES_WORTH_A_PROCESS = 50_000  # fewer are encoded faster than another process starts


def is_prepared(folder: Path) -> bool:
    """Whether a folder is prepared data (by `prepare` or `janus distill`): runs and checkpoints also have a recipe."""
    return (folder / MANIFEST).is_file() and not (folder / "recipe.yaml").exists() and not folder.is_symlink()


def prepare(
    recipe: Recipe, out: Path, *, workers: int | None = None, force: bool = False, bad_utf8: BadUtf8 = "stop"
) -> dict[str, Any]:
    """Cleans, filters and encodes the text of a recipe into the folder `out`, which appears complete or not at all.

    workers: processes that encode, by default as many as are worth it; the output does not depend on it. force: replace
    earlier prepared data. bad_utf8: a line that is not UTF-8 stops the work, or its pair is dropped (except in the test
    split), or its bytes become U+FFFD.

    Memory is bounded whatever the size of the text, with two exceptions: `data.deduplicate` keeps a hash of every
    training pair (100 MB for a million), and finding where files of unequal length diverge takes 70 MB for a million
    lines.

    Returns:
        The manifest, as written.

    Raises:
        DataError: the text is missing, unusable or changes meanwhile, or no pair of a split can be used.
        UsageError: `out` exists and `force` is not given.
        JanusError: a worker process was killed.
    """
    data, knobs = recipe.data, recipe.tokenizer
    if data.is_named:
        corpus.files(data, _folder(data))  # a wrong folder is named before `out`, which --force would replace
    with whole_folder(out, force=force, is_ours=is_prepared, what=PREPARED) as folder:
        splits = corpus.survey(data, _text(recipe, out, folder), bad_utf8, folder / TEXT)
        train = splits[0]
        console.say(f"{console.counted(train.lines, 'line' if data.is_plain else 'training pair')} found")
        overlap.tell(splits, data)
        # Both sides of a joint tokenizer share the limit, which is there to bound memory.
        most = max(1, knobs.train_lines // 2) if knobs.joint and not data.is_plain else knobs.train_lines
        sources, targets = corpus.samples(train, most, cleaner(data.clean))
        tokenizers = train_tokenizers(knobs, sources, targets, folder, (data.source, data.target))
        sizes = {"source": tokenizers.source.size, "target": tokenizers.target.size}
        of_each = f"{sizes['source']:,} source and {sizes['target']:,} target entries"
        of_both = f"{sizes['source']:,} entries for both sides"
        console.say(f"tokenizer: {of_both if knobs.joint else of_each}")
        _tell_mark(data, tokenizers)
        origin = {name: sha256(folder / name) for name in tokenizers.files}
        _, targets = corpus.samples(train, LINES, cleaner(data.clean))
        shape = Shape.of(join(line, tokenizers.joiner) for line in targets)
        useful = max(1, min(usable_cores(), train.lines // LINES_WORTH_A_PROCESS))
        written = {}
        with encoders(folder, data, bad_utf8, workers or useful) as encoded:
            for split in splits:
                written[split.name] = write_split(folder, split, encoded(split), tokenizers, origin)
                _account(split.name, written[split.name], recipe)
                _tell_references(folder, split, written[split.name])
        survival.tell(written, knobs)
        filters.tell_lengths({name: entry["tokens"] for name, entry in written.items()}, data.task)
        corpus.must_be_unchanged(splits)
        shutil.rmtree(folder / TEXT, ignore_errors=True)
        sections = {section: recipe.plain()[section] for section in ("data", "tokenizer")}
        about = {"format": FORMAT, "recipe": recipe.name, "seed": recipe.seed, **sections, "vocabulary": sizes}
        about["target_text"] = asdict(shape)
        return write_manifest(folder, {**about, "splits": written, "bad_utf8": bad_utf8})


def rehearse(recipe: Recipe, out: Path, *, force: bool = False, bad_utf8: BadUtf8 = "stop") -> None:
    """A dry run of `prepare`: checks what it can without writing, raises the same errors, says what would be done."""
    data, knobs = recipe.data, recipe.tokenizer
    if data.is_named:
        for split in corpus.survey(data, _folder(data), bad_utf8):
            _tell_files(split)
    elif data.synthetic is not None:
        sizes = f"{data.synthetic.train:,} + {data.synthetic.valid:,} + {data.synthetic.test:,}"
        console.say(f"would make {sizes} pairs of text from seed {recipe.seed}")
    else:
        from janus_cli.data import download

        download.must_be_fetchable(data)
        for item in data.downloads:
            console.say(f"would fetch {item.url}")
    must_be_free(out, force=force, is_ours=is_prepared, what=PREPARED)  # last, after the mistakes of the text
    made = f"make a {knobs.kind} tokenizer of {knobs.vocabulary:,} entries"
    taken = f"take the tokenizer of {knobs.reuse}"
    console.say(f"would {made if knobs.reuse is None else taken} and write everything to {out}")


def _quoted(column: str) -> str:
    """A name, or a number as it is."""
    return column if column.isdecimal() else repr(column)


def _tell_files(split: Split) -> None:
    """Says once of each file of a split what would be read of it."""
    for path in dict.fromkeys(file.path for file in split.sides.values()):
        sides = {side: file for side, file in split.sides.items() if file.path == path}
        columns = dict.fromkeys(
            _quoted(file.column) for side, file in sides.items() if file.column and side != REFERENCES
        )
        what = f", column{'s' * (len(columns) > 1)} {', '.join(columns)}" if columns else ""
        if columns and REFERENCES in sides:
            what += f", references {_quoted(sides[REFERENCES].column)}"
        if REFERENCES in sides and "source" not in sides:
            what = ", references"
        lines = next(iter(sides.values())).lines
        noun = "pair" if {*corpus.SIDES} <= sides.keys() else "line"  # a row with several targets gives as many pairs
        console.say(f"would read {path}{what}: {console.counted(lines, noun)}")


def _folder(data: Data) -> Path | None:
    """The user's folder, if there is one."""
    return None if data.dir is None else Path(data.dir)


def _text(recipe: Recipe, out: Path, folder: Path) -> Path | None:
    """The folder with the text: the user's, or one with downloads, or folder/text with generated text.

    None if files are named and the user names no folder besides.
    """
    data = recipe.data
    if data.is_named:
        return _folder(data)
    if data.synthetic is None:
        from janus_cli.data import download

        return download.fetch(data, out.parent / f"{recipe.name}.downloads")
    from janus_cli.data import synthetic

    text = folder / TEXT
    text.mkdir()
    for split in corpus.SPLITS:
        first, second = (text / corpus.file_name(data, split, side) for side in corpus.SIDES)
        with first.open("wb") as sources, second.open("wb") as targets:
            for source, target in synthetic.generate(getattr(data.synthetic, split), recipe.seed, split):
                sources.write(source.encode() + b"\n")
                targets.write(target.encode() + b"\n")
    return text


def _tell_mark(data: Data, tokenizers: Tokenizers) -> None:
    """Warns if the mark between sentences is several tokens: an n-gram rule lets these come only once in an output."""
    if "mark_sentences" in data.clean:
        marked, plain = tokenizers.target.encode([f"a {SENTENCE_MARK} a", "a a"])
        if (count := len(marked) - len(plain)) > 1:
            why = f"{SENTENCE_MARK}, which is between sentences, is {count} tokens in this vocabulary, not one"
            console.warn(f"{why}: with decoding.no_repeat_ngram an output can have it only once; set that to 0")


def write_split(
    folder: Path, split: Split, encoded: Iterable[Encoded], tokenizers: Tokenizers, origin: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the ids of a split and, except for train, its text (see `runs.text_name`).

    origin: fingerprints of all that the ids depend on, except the text.

    Returns:
        The split's part of the manifest.
    """
    dropped, left_out, round_trip = Counter[str](), Counter[str](), Counter[str]()
    seen, replaced, long = set[bytes](), 0, 0
    origin = {**origin, **{f"{side}.text": file.identity for side, file in split.sides.items()}}
    sizes = tokenizers.source.size, tokenizers.target.size
    with ExitStack() as stack:
        bar = stack.enter_context(console.progress(f"encoding {split.name}", split.lines))
        store = stack.enter_context(StoreWriter(folder, split.name, *sizes, origin))
        sides = corpus.SIDES if split.is_plain else split.sides
        paths = [] if split.name == "train" else [folder / text_name(split.name, side) for side in sides]
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for chunk in encoded:
            store.add(*(_without_duplicates(chunk, seen, dropped) if chunk.keys else (chunk.sources, chunk.targets)))
            for file, lines in zip(files, chunk.texts, strict=False):
                file.write("".join(f"{line}\n" for line in lines).encode())
            dropped.update(chunk.dropped)
            left_out.update(chunk.left_out)
            round_trip.update(chunk.round_trip)
            replaced += chunk.replaced
            long += chunk.long
            bar.advance(chunk.lines)
    entry = {
        "in": split.lines,
        "kept": store.rows,
        "dropped": dict(sorted((+dropped).items())),
        "left_out": dict(sorted((+left_out).items())),
        "bad_utf8_replaced": replaced,
        "long_sources": long,
        "tokens": {side: summary(count) for side, count in zip(corpus.SIDES, store.lengths, strict=True)},
        "unknown": dict(zip(corpus.SIDES, store.unknown, strict=True)),
        "text": {side: _described(file, folder) for side, file in split.sides.items()},
        "fingerprint": store.fingerprint,
    }
    tried = {**round_trip, "sampled": survival.step(split) > 1}
    return {**entry, "round_trip": tried} if round_trip else entry


def _described(file: TextFile, folder: Path) -> dict[str, Any]:
    """A text file's entry in the manifest of `folder`. Text that janus made has no path."""
    path = str(file.path.resolve()) if (file.path.is_file() or file.plain) and folder not in file.path.parents else None
    return {"path": path, "lines": file.lines, "bytes": file.bytes, "sha256": file.sha256}


def _without_duplicates(chunk: Encoded, seen: set[bytes], dropped: Counter[str]) -> tuple[Ragged, Ragged]:
    new = np.zeros(len(chunk.keys), bool)
    for index, key in enumerate(chunk.keys):
        new[index] = key not in seen
        seen.add(key)
    dropped["duplicate"] += int((~new).sum())
    return chunk.sources.keep(new), chunk.targets.keep(new)


def summary(lengths: Counter[int]) -> dict[str, float]:
    """Tokens per row: mean, p50, p95 (nearest rank), max, and the sum over all rows."""
    if not lengths:
        return {"mean": 0.0, "p50": 0, "p95": 0, "max": 0, "sum": 0}
    values = sorted(lengths)
    rows = np.cumsum([lengths[value] for value in values])
    middle, high = (values[int(np.searchsorted(rows, share * rows[-1]))] for share in (0.5, 0.95))
    total = sum(value * count for value, count in lengths.items())
    return {"mean": round(total / int(rows[-1]), 3), "p50": middle, "p95": high, "max": values[-1], "sum": total}


def _account(split: str, entry: Mapping[str, Any], recipe: Recipe) -> None:
    """Says what became of a split. entry: its part of the manifest.

    Raises DataError if the split has no pair to learn from.
    """
    lost = Counter(entry["dropped"]) + Counter(entry["left_out"])
    if not entry["kept"] and not lost:
        raise DataError(f"every line of the {split} split is empty", "is it the right text?")
    if lost.total() >= filters.considered(entry, recipe.data) or not entry["kept"]:
        fate = "dropped" if split == "train" else "dropped or left out of the losses"
        knobs = " and ".join(filters.loosen(lost, recipe.data))
        raise DataError(
            f"every pair of the {split} split was {fate}: {filters.reasons(lost)}",
            f"is it the right text?{f' If so, loosen {knobs}' if knobs else ''}",
        )
    filters.tell(split, entry, recipe.data)


def _tell_references(folder: Path, split: Split, entry: dict[str, Any]) -> None:
    """Says how many references a split has if a line may have several, which is noted in its part of the manifest, and
    how many lines of a split that is scored have an empty target, or only empty references.
    """
    side = next((side for side in (REFERENCES, "target") if side in split.sides), None)
    if split.name == "train" or side is None:
        return
    lines = Lines(folder / text_name(split.name, side))
    if side == REFERENCES:
        entry[REFERENCES] = references.summary([sum(map(bool, json.loads(line))) for line in lines])
        instead = ", instead of its target" if entry[REFERENCES]["most"] == 1 else ""
        console.say(f"{split.name}: {references.in_words(entry[REFERENCES])}{instead}")
    if empty := sum(line.strip() in ("", '[""]') for line in lines):
        what = f"{empty:,} of {console.counted(entry['kept'], 'line')} have an empty {side.removesuffix('s')}"
        console.warn(f"{split.name}: {what}: they are decoded and scored; {NO_REFERENCE}")


def write_manifest(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest, the last file of a folder: `about`, size and sha256 of every file, versions, the time."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    manifest = {
        **about,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names},
        "versions": {"janus": __version__, "sentencepiece": sentencepiece.__version__, "numpy": np.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
