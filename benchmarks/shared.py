"""What the benchmarks of training share: options that name a shape, made-up sentences, a process of one's own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from janus_cli import console, recipe_load
from janus_cli.core.batch import SPECIAL, Batch, collate
from janus_cli.data.store import StoreWriter
from janus_cli.device import choose_device
from janus_cli.errors import JanusError
from janus_cli.files import MANIFEST, write_json
from janus_cli.lab import machine
from janus_cli.lab.rows import Spread
from janus_cli.recipe import Recipe

Result = TypeVar("Result")
Call = Callable[..., Any]
SHAPE_VOCABULARY = 8000  # what `--shape` brings: the setting that other toolkits were measured in
SHAPE_BATCH_TOKENS = 4096  # cells of a batch: about 3,500 target tokens


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not re.fullmatch(r"[0-9]+", text) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, not {text!r}")
    return int(text)


def shape(text: str) -> tuple[int, int]:
    """WIDTH/FEEDFORWARD, for argparse."""
    parts = text.split("/")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"expected WIDTH/FEEDFORWARD, as in 256/1024, not {text!r}")
    return positive(parts[0]), positive(parts[1])


def parser(words: str | None) -> argparse.ArgumentParser:
    """One with the options of every benchmark here."""
    made = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--recipe", default="multi30k", help="a name or a file")
    made.add_argument("--shape", type=shape, metavar="WIDTH/FEEDFORWARD", help="256/1024, say; heads and layers stay")
    made.add_argument("--set", action="append", dest="changes", default=[], metavar="KEY=VALUE", help="of the recipe")
    made.add_argument("--threads", type=positive, default=torch.get_num_threads())
    return made


def load(
    asked: argparse.Namespace, objective: str, precision: str, vocabulary: int | None = None,
    batch_tokens: int | None = None,
) -> Recipe:  # fmt: skip
    """The recipe as the options say; `--set` has the last word.

    Raises:
        UsageError: no such recipe, or mistakes in it.
    """
    changes = [f"training.precision={precision}"]
    if asked.shape:
        changes += [f"model.width={asked.shape[0]}", f"model.feedforward={asked.shape[1]}"]
    if vocabulary:
        changes.append(f"tokenizer.vocabulary={vocabulary}")
    if batch_tokens:
        changes.append(f"training.batch_tokens={batch_tokens}")
    return recipe_load.load(asked.recipe, [*changes, *asked.changes], objective)


def ids(rng: np.random.Generator, count: int, vocabulary: int) -> np.ndarray:
    """(count,) int64 words with the frequencies of a real text (Zipf), the special ids left out."""
    chances = (1 / np.arange(2, vocabulary - SPECIAL + 2)).cumsum()
    return SPECIAL + np.searchsorted(chances, rng.random(count) * chances[-1])


def made_up_batch(rows: int, length: int, vocabulary: int) -> Batch:
    """Pairs of so many words on each side, BOS and EOS not counted; the same at each call."""
    source, target = ids(np.random.default_rng(1), 2 * rows * length, vocabulary).reshape(2, rows, length)
    return collate(list(source), list(target), range(rows))


def made_up_store(folder: Path, pairs: int, mean: int, most: int, vocabulary: int) -> None:
    """Pairs of 1 to `most` words a side, with this mean and about the spread of image captions (a third of it)."""
    rng = np.random.default_rng(1)
    sides = list[Any]()
    for _ in range(2):
        lengths = np.clip(np.rint(rng.gamma(9.0, mean / 9.0, pairs)), 1, most).astype(np.int64)
        sides.append(np.split(ids(rng, int(lengths.sum()), vocabulary), lengths.cumsum()[:-1]))
    sizes = {"source_vocabulary": vocabulary, "target_vocabulary": vocabulary}
    with StoreWriter(folder, "train", **sizes, origin={}) as writer:
        writer.add(*sides)
    write_made_up_manifest(folder, writer, vocabulary)


def write_made_up_manifest(folder: Path, writer: StoreWriter, vocabulary: int) -> None:
    """As much of it as a store needs."""
    about = {"kept": writer.rows, "fingerprint": writer.fingerprint}
    sizes = {"source": vocabulary, "target": vocabulary}
    write_json(folder / MANIFEST, {"vocabulary": sizes, "splits": {"train": about}})


@contextmanager
def apart(threads: int) -> Iterator[Call]:
    """A process of its own, started afresh: calls of what this yields, with a function and its arguments, run there.

    Raises (in a call):
        JanusError: the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def call(function: Callable[..., Result], *arguments: Any) -> Result:
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool:
                words = "the process that measures was killed, for want of memory perhaps"
                raise JanusError(words, "try something smaller") from None

        call(torch.set_num_threads, threads)
        yield call


def start(asked: argparse.Namespace, device: str = "cpu") -> None:
    """Sets the threads; says which machine this is, and whether it is too busy for timings."""
    torch.set_num_threads(asked.threads)
    about = machine.describe(choose_device(device))
    console.say(machine.in_words(about))
    if reason := machine.too_busy(about["load"], about["cores"]):
        console.warn(reason)


def ranged(spread: Spread, form: str) -> str:
    """The median and, in brackets, the range."""
    return f"{spread.median:{form}} ({spread.lowest:{form}}-{spread.highest:{form}})"


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Runs a benchmark, which gives its exit code; mistakes of whoever asked are messages, not tracebacks."""
    try:
        sys.exit(main(None) or 0)
    except JanusError as problem:
        sys.stderr.write(f"error: {problem.message}\n" + (f"hint: {problem.hint}\n" if problem.hint else ""))
        sys.exit(problem.exit_code)
