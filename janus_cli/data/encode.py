"""A chunk of lines in, ids out: clean, encode, filter. Runs in worker processes: does not import torch."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.process
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from janus_cli.data.cleaning import cleaner
from janus_cli.data.corpus import Chunk
from janus_cli.data.store import Ragged
from janus_cli.data.tokenizer import load_tokenizers

SplitName = Literal["train", "valid", "test"]
# What is checked, in this order; a pair is counted under the first reason that applies.
TRAIN_REASONS = ("bad_utf8", "empty", "too_short", "too_long", "ratio", "duplicate")
VALID_REASONS = ("bad_utf8", "empty", "too_long")


@dataclass(frozen=True)
class Rules:
    """What happens to the pairs of a split: the recipe's data section, as far as workers need it."""

    split: SplitName
    clean: tuple[str, ...]
    min_tokens: int
    max_tokens: int
    max_ratio: float
    deduplicate: bool
    skip_bad_utf8: bool  # else bad bytes are replaced; a test split keeps every line and always replaces


@dataclass(frozen=True)
class Encoded:
    """The kept pairs of a chunk.

    lines: pairs before filtering. sources, targets: ids. keys: 16 bytes a pair, where duplicates are to be found.
    texts: the cleaned lines of each side, for valid and test. dropped: pairs by reason, duplicates not among them.
    replaced: lines with bad UTF-8 that were mended.
    """

    lines: int
    sources: Ragged
    targets: Ragged
    keys: list[bytes]
    texts: tuple[list[str], list[str]]
    dropped: Counter[str]
    replaced: int


class Encoder:
    """Tokenizers and rules, ready to work on chunks."""

    def __init__(self, folder: Path) -> None:
        self.tokenizers = load_tokenizers(folder)

    def __call__(self, chunk: Chunk, rules: Rules) -> Encoded:
        """Encodes and filters one chunk."""
        clean = cleaner(rules.clean)
        (sources, bad), (targets, also_bad) = _lines(chunk.source), _lines(chunk.target or b"\n" * (chunk.lines - 1))
        bad |= also_bad
        sources, targets = [clean(line) for line in sources], [clean(line) for line in targets]
        ids = Ragged.of(self.tokenizers.source.encode(sources)), Ragged.of(self.tokenizers.target.encode(targets))
        kept, dropped = filter_pairs(ids[0].lengths, ids[1].lengths, bad, rules)
        numbers = np.flatnonzero(kept).tolist() if rules.split != "train" or rules.deduplicate else []
        texts = [sources[index] for index in numbers], [targets[index] for index in numbers]
        keys = []
        if rules.split == "train":
            keys, texts = [key(*pair) for pair in zip(*texts, strict=True)], ([], [])
        replaced = 0 if rules.skip_bad_utf8 and rules.split != "test" else len(bad)
        return Encoded(chunk.lines, ids[0].keep(kept), ids[1].keep(kept), keys, texts, dropped, replaced)


def _lines(blob: bytes) -> tuple[list[str], set[int]]:
    """The lines as text and the numbers of those that are no UTF-8 (mended with U+FFFD)."""
    try:
        return [line.removesuffix("\r") for line in blob.decode().split("\n")], set()
    except UnicodeDecodeError:
        lines = [line.removesuffix(b"\r") for line in blob.split(b"\n")]
    texts = [line.decode(errors="replace") for line in lines]
    return texts, {number for number, line in enumerate(lines) if texts[number].encode() != line}


def filter_pairs(
    source: np.ndarray, target: np.ndarray, bad: set[int], rules: Rules
) -> tuple[np.ndarray, Counter[str]]:
    """Which pairs stay, (pairs,) bool, from their token counts; and how many go for each reason."""
    dropped: Counter[str] = Counter()
    kept = np.ones(len(source), bool)
    if rules.split == "test":
        return kept, dropped
    least, most = np.minimum(source, target), np.maximum(source, target)
    bad_here = np.zeros(len(source), bool)
    bad_here[list(bad)] = rules.skip_bad_utf8
    faults = {
        "bad_utf8": bad_here,
        "empty": least == 0,
        "too_short": least < rules.min_tokens,
        "too_long": most > rules.max_tokens,
        "ratio": most > rules.max_ratio * least,
    }
    reasons = TRAIN_REASONS if rules.split == "train" else VALID_REASONS
    for reason in reasons:
        if reason in faults:
            dropped[reason] = int((kept & faults[reason]).sum())
            kept &= ~faults[reason]
    return kept, dropped


def key(source: str, target: str) -> bytes:
    """16 bytes that no other pair has."""
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=16).digest()


_encoder: Encoder | None = None


def start(folder: Path) -> None:
    """Makes a worker process ready. It ends with its parent."""
    global _encoder
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _encoder = Encoder(folder)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def work(chunk: Chunk, rules: Rules) -> Encoded:
    """One chunk in a worker process."""
    assert _encoder is not None
    return _encoder(chunk, rules)
