"""A chunk of lines in, ids out: clean, encode, filter; here or in worker processes, which do not import torch."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from pathlib import Path

import numpy as np

from janus_cli.data.corpus import Chunk, Split, chunks
from janus_cli.data.lines import BadUtf8, cleaner
from janus_cli.data.store import Ragged
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.errors import JanusError
from janus_cli.recipe import Data


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
    """The tokenizers of a folder and the rules of `data`, ready to work on chunks.

    bad_utf8: a pair with bad bytes is dropped (`skip`), else they are replaced; always replaced in a test split.
    """

    def __init__(self, folder: Path, data: Data, bad_utf8: BadUtf8) -> None:
        self.tokenizers, self.data, self.bad_utf8 = load_tokenizers(folder), data, bad_utf8
        self.clean = cleaner(data.clean)

    def __call__(self, split: str, chunk: Chunk) -> Encoded:
        """Encodes and filters one chunk."""
        count, bad = len(chunk[0]), set[int]()
        sides = [[self.clean(line) for line in _texts(side, bad)] for side in chunk]
        sources, targets = sides if len(sides) == 2 else (sides[0], [""] * count)
        ids = Ragged.of(self.tokenizers.source.encode(sources)), Ragged.of(self.tokenizers.target.encode(targets))
        skip = bad if self.bad_utf8 == "skip" else set[int]()
        kept, dropped = filter_pairs(split, self.data, ids[0].lengths, ids[1].lengths, skip)
        texts: tuple[list[str], list[str]] = [], []
        keys = []
        if split != "train" or self.data.deduplicate:
            numbers = np.flatnonzero(kept).tolist()
            texts = [sources[index] for index in numbers], [targets[index] for index in numbers]
        if split == "train":
            keys, texts = [key(*pair) for pair in zip(*texts, strict=True)], ([], [])
        replaced = len(bad) if split == "test" else len(bad - skip)
        return Encoded(count, ids[0].keep(kept), ids[1].keep(kept), keys, texts, dropped, replaced)


def _texts(lines: list[bytes], bad: set[int]) -> list[str]:
    """Lines as text; those that are no UTF-8 are mended with U+FFFD, and their numbers added to `bad`."""
    lines = [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
    try:
        return [line.decode() for line in lines]
    except UnicodeDecodeError:
        texts = [line.decode(errors="replace") for line in lines]
        bad.update(number for number, line in enumerate(lines) if texts[number].encode() != line)
        return texts


def filter_pairs(
    split: str, data: Data, source: np.ndarray, target: np.ndarray, bad: set[int]
) -> tuple[np.ndarray, Counter[str]]:
    """Which pairs stay, (pairs,) bool, from their token counts; and how many go for each reason, the first that holds.

    bad: pairs to drop in any case. A test split keeps every pair.
    """
    dropped: Counter[str] = Counter()
    kept = np.ones(len(source), bool)
    if split == "test":
        return kept, dropped
    shorter, longer = np.minimum(source, target), np.maximum(source, target)
    faults = {"bad_utf8": np.isin(np.arange(len(source)), list(bad)), "empty": shorter == 0}
    if split == "train":
        faults["too_short"] = shorter < data.min_tokens
    faults["too_long"] = longer > data.max_tokens
    if split == "train":
        faults["ratio"] = longer > data.max_ratio * shorter
    for reason, fault in faults.items():
        dropped[reason] = int((kept & fault).sum())
        kept &= ~fault
    return kept, dropped


def key(source: str, target: str) -> bytes:
    """16 bytes that no other pair has."""
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=16).digest()


@contextmanager
def encoders(
    folder: Path, data: Data, bad_utf8: BadUtf8, workers: int
) -> Iterator[Callable[[Split], Iterator[Encoded]]]:
    """A function that encodes a split chunk by chunk, in order: here for one worker, else in processes."""
    if workers == 1:
        encoder = Encoder(folder, data, bad_utf8)
        yield lambda split: (encoder(split.name, chunk) for chunk in chunks(split))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder, data, bad_utf8)) as pool:

        def encode(split: Split) -> Iterator[Encoded]:
            waiting: deque[Future[Encoded]] = deque()
            for chunk in chunks(split):
                with _ctrl_c_blocked():
                    waiting.append(pool.submit(_work, split.name, chunk))
                if len(waiting) > 2 * workers:  # enough that nobody waits, and memory stays bounded
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield encode
        except BrokenProcessPool:
            raise JanusError("a process that encodes text was killed (out of memory?)", "try --workers 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes that start meanwhile never see Ctrl-C: this one does, and ends them."""
    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_encoder: Encoder | None = None


def _start(folder: Path, data: Data, bad_utf8: BadUtf8) -> None:
    """Makes a worker process ready. It ends with its parent."""
    global _encoder
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(folder, data, bad_utf8)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(split: str, chunk: Chunk) -> Encoded:
    """One chunk in a worker process."""
    assert _encoder is not None
    return _encoder(split, chunk)
