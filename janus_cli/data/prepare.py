"""`janus preprocess`: text becomes ids. `prepared` opens them again.

Three passes over the text, none of which holds more than a few chunks of it: check, train a tokenizer, encode.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from janus_cli import __version__, console
from janus_cli.data import corpus, download, synthetic
from janus_cli.data.cleaning import cleaner
from janus_cli.data.corpus import BadUtf8, Side
from janus_cli.data.splits import SplitWriter, encoders, reasons
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.data.train_tokenizer import train_tokenizers
from janus_cli.errors import DataError
from janus_cli.files import MANIFEST, sha256, whole_folder, write_json
from janus_cli.recipe import Recipe

FORMAT = 2  # 1 had the ids in Arrow files
PREPARED = "prepared data"  # in messages
LINES_WORTH_A_PROCESS = 50_000  # fewer are encoded before another process has started


def prepare(
    recipe: Recipe, out: Path, *, workers: int | None, force: bool, bad_utf8: BadUtf8 = "stop"
) -> dict[str, Any]:
    """Reads, cleans, filters and encodes the text of a recipe into the folder `out`, which appears whole or not at all.

    The bytes do not depend on `workers`. With `data.deduplicate`, a 16-byte hash is kept for every training pair, as
    Python objects about 100 MB for a million pairs; everything else is bounded whatever the size of the text (but to
    say where files of unequal length go apart takes about 70 MB for a million lines).

    Args:
        recipe: its data and tokenizer sections, and the seed for synthetic text.
        out: the folder to make.
        workers: processes that encode; None takes as many cores as are worth it.
        force: replace earlier prepared data.
        bad_utf8: lines that are not UTF-8 stop the work, lose the pair, or get U+FFFD; test lines are never dropped.

    Returns:
        The manifest, as written.

    Raises:
        DataError: the text is missing, cannot be used or changes meanwhile, or nothing of it is left.
        UsageError: `out` is there and `force` is not given.
        JanusError: a worker process was killed.
    """
    with whole_folder(out, force=force, is_ours=is_prepared, what=PREPARED) as folder, ExitStack() as stack:
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
            kept += f"; dropped: {lost}" if lost else ""
            kept += f"; mended: {writer.replaced:,} that are not UTF-8" if writer.replaced else ""
            console.say(kept)
        manifest = seal(folder, {**_about(recipe, tokenizers, written), "bad_utf8": bad_utf8})
        corpus.must_be_settled(splits)
        return manifest


def is_prepared(folder: Path) -> bool:
    """Whether `prepare` or `janus distill` made a folder; runs and checkpoints have a manifest and a recipe."""
    return (folder / MANIFEST).is_file() and not (folder / "recipe.yaml").exists() and not folder.is_symlink()


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
    knobs, clean = recipe.tokenizer, cleaner(recipe.data.clean)
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
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = {
        **about,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names},
        "versions": {"janus": __version__, "sentencepiece": sentencepiece.__version__, "numpy": np.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
