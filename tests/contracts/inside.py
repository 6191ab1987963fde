"""All that the contracts know of the inside of janus. What moves in there changes these imports, and no test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from janus_cli import recipe_load
from janus_cli.core.batch import Batch, collate
from janus_cli.core.knobs import Noise
from janus_cli.core.noise import Draws, hide, random_order
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.stream import FIELDS
from janus_cli.data import batching
from janus_cli.data.prepared import open_prepared
from janus_cli.data.store import Store
from janus_cli.data.tokenizer import load_tokenizers


def store(recipe: Path, folder: Path, split: str = "train") -> Store:
    """The ids of a split of prepared data."""
    return getattr(open_prepared(recipe_load.load(str(recipe)), folder), split)


def pairs(store: Store, count: int) -> list[list[list[int]]]:
    """Source and target ids of the first pairs, without BOS and EOS."""
    return [[side.tolist() for side in store.pair(index)] for index in range(count)]


def decoded(folder: Path, rows: list[list[int]]) -> list[str]:
    """The text of ids of the target side."""
    return load_tokenizers(folder).target.decode(rows)


def epoch_rows(store: Store, budget: int, seed: int, epoch: int) -> list[list[int]]:
    """Sentence numbers of every batch of an epoch."""
    return [rows.tolist() for rows in batching.epoch_batches(store, budget, seed, epoch)]


@contextmanager
def small_blocks() -> Iterator[None]:
    """Data is shuffled in blocks of 128 sentences, made of runs of 16, as far larger data is."""
    with patch.object(batching, "BLOCK", 128), patch.object(batching, "RUN", 16):
        yield


def sentences(count: int, *, lexicon: bool = False) -> Batch:
    """Pairs of 1 to 17 tokens made by counting, ids from 5 on below 60; UNK in some."""
    sides = []
    for factor in (7, 11):
        lengths = [1 + factor * row % 17 for row in range(count)]
        sides.append([[1 if place == 9 else 5 + (row * factor + place * 13) % 55 for place in range(length)]
                      for row, length in enumerate(lengths)])  # fmt: skip
    table = torch.tensor([[(5 + (token * k) % 55) if token > 4 else 0 for k in (3, 5, 8)] for token in range(60)])
    return collate(*sides, [3 * row + 1 for row in range(count)], table if lexicon else None)


def hidden(kind: dict[str, float], seed: int, epoch: int) -> str:
    """Digest of the tokens that a kind of noise hides in sentences made by counting."""
    batch = sentences(40)
    return digest(hide(batch.target, Draws(seed, epoch, batch.ids), Noise(**kind)))


def random_ranks(seed: int, epoch: int) -> str:
    """Digest of a random order of all tokens of these sentences."""
    batch = sentences(40)
    return digest(random_order(batch.target > 4, Draws(seed, epoch, batch.ids)))


def plan_of(changes: list[str], objective: str, seed: int, epoch: int) -> dict[str, Any]:
    """What an objective has the model read: digests of every field of every stream, and the counts of its units."""
    knobs = recipe_load.load("demo", changes, objective).objective
    batch = sentences(40, lexicon=True)
    plan = OBJECTIVES[objective].plan(batch, Draws(seed, epoch, batch.ids), knobs)
    streams = {**plan.streams, **{f"draft {name}": stream for name, stream in plan.drafts.items()}}
    found = {
        name: {"keys": stream.keys, **{field: digest(getattr(stream, field)) for field in FIELDS}}
        for name, stream in streams.items()
    }
    if plan.source is not None:
        found["source"] = {"tokens": digest(plan.source.tokens), "labels": digest(plan.source.labels)}
    return {"counts": dict(plan.counts), "streams": found}


def digest(values: torch.Tensor) -> str:
    """The start of the sha256 of shape and values: integers as int64, times as float64."""
    wide = values.double() + 0.0 if values.is_floating_point() else values.long()
    return sha256(repr(tuple(wide.shape)).encode() + wide.contiguous().numpy().tobytes()).hexdigest()[:16]
