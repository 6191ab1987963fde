"""Before a bench: what was asked for, and everything that could go wrong checked before the hours begin."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from janus_cli import console
from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.lines import Reader
from janus_cli.decoding.modes import own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.decoding.where import find_split
from janus_cli.device import choose_device
from janus_cli.errors import DataError, UsageError
from janus_cli.lab.benching import machine, peers, plot
from janus_cli.lab.benching.measure import Work
from janus_cli.lab.benching.modes import Selection, select, wanted
from janus_cli.recipe import (
    BENCH_BATCHES,
    BENCH_REPEATS,
    BENCH_SEED,
    BENCH_SENTENCES,
    BENCH_SINGLES,
    BENCH_WARMUP,
    Recipe,
)
from janus_cli.runs import Run
from janus_cli.training.checkpoint import find_checkpoint

SPLIT = "test"


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus bench`. modes: none means every row."""

    run: Path | None = None
    checkpoint: Path | None = None
    modes: Sequence[str] = ()
    sentences: int | None = None
    batches: Sequence[int] = BENCH_BATCHES
    repeats: int = BENCH_REPEATS
    warmup: int = BENCH_WARMUP
    against: Sequence[peers.Peer] = ()
    changes: Sequence[str] = ()
    json: Path | None = None
    plot: Path | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    dry_run: bool = False


@dataclass
class Bench:
    """A run, ready to be measured. lines, references: sampled from the test split, in its order."""

    request: Request
    run: Run
    folder: Path
    recipe: Recipe
    device: torch.device
    selection: Selection
    lines: list[str]
    references: list[str] | None
    work: Work
    machine: Mapping[str, Any]
    warnings: list[str] = field(default_factory=list)

    def load(self) -> tuple[Transformer, Tokenizers]:
        """The model on its device, and the tokenizers that belong to it."""
        return read_model(self.run, self.folder, self.device, self.recipe.decoding.precision)

    def warn(self, text: str) -> None:
        """Says it now and again under the table."""
        self.warnings.append(text)
        console.warn(text)


def prepared(request: Request) -> Bench:
    """Finds and checks everything; loads no model yet.

    Raises:
        UsageError: options that do not fit the run, an extra that is missing, or files that are there already.
        DataError: the test split is gone, or has no text.
    """
    load = machine.load_average()
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    run, folder = find_checkpoint(request.run, request.checkpoint)
    recipe = own_recipe(folder, request.changes)
    _must_be_open(request.changes)
    selection = select(recipe, request.modes)
    _must_be_possible(request)
    lines, references = _sampled(run, recipe, request.sentences)
    if not any(line.strip() for line in lines):
        raise DataError(f"the {SPLIT} split of {run.path} has no text")
    choice = random.Random(BENCH_SEED)
    work = Work(
        _some(lines, BENCH_SENTENCES, choice), _some([line for line in lines if line.strip()], BENCH_SINGLES, choice),
        tuple(dict.fromkeys(request.batches)), request.repeats, request.warmup,
    )  # fmt: skip
    about = {**machine.describe(device), "load": load}
    bench = Bench(request, run, folder, recipe, device, selection, lines, references, work, about)
    if reason := machine.too_busy(load, about["cores"]):
        bench.warn(reason)
    return bench


def _must_be_open(changes: Sequence[str]) -> None:
    """Raises UsageError where a change is one that every row makes itself."""
    taken = {"nbest", *(option for row in wanted().values() for option in row)}
    for change in changes:
        if change.partition("=")[0].removeprefix("decoding.") in taken:
            raise UsageError(f"--set {change}: each row says this itself", "name rows, as in --mode ar.beam4,nar6.lb3")


def _must_be_possible(request: Request) -> None:
    for name in request.against:
        peers.load(name)
    if request.plot is not None:
        plot.must_be_there()
    for path in (request.json, request.plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}", "make it, or name another file")
        if path is not None and path.exists() and not request.force:
            raise UsageError(f"{path} is there already", "overwrite it with --force, or name another file")


def _sampled(run: Run, recipe: Recipe, count: int | None) -> tuple[list[str], list[str] | None]:
    """Lines of the test split and their references, in order; all of them, or `count`, the same ones every time."""
    reader, place = find_split(run, recipe, SPLIT, "")
    lines = list(reader)
    kept = _some(range(len(lines)), len(lines) if count is None else count, random.Random(BENCH_SEED))
    references = None if place.target is None else list(Reader(place.target))
    return [lines[index] for index in kept], None if references is None else [references[index] for index in kept]


def _some(items: Sequence[Any], count: int, choice: random.Random) -> list[Any]:
    """`count` items, or all where there are not so many, in their order."""
    if count >= len(items):
        return list(items)
    return [items[index] for index in sorted(choice.sample(range(len(items)), count))]
