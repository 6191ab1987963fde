"""One split on its way to disk: chunks are encoded here or in several processes, and written as they come."""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from janus_cli import console, recipe
from janus_cli.data.corpus import BadUtf8, Chunk, Split, chunks
from janus_cli.data.encode import Encoded, Encoder, Rules, SplitName, start, work
from janus_cli.data.store import Ragged, StoreWriter
from janus_cli.data.tokenizer import Tokenizers, join
from janus_cli.errors import DataError, JanusError

Encode = Callable[[Split, Rules], Iterator[Encoded]]


@contextmanager
def encoders(folder: Path, workers: int) -> Iterator[Encode]:
    """A function that encodes a split chunk by chunk, in order: here for one worker, else in processes.

    Args:
        folder: holds the tokenizer files.
        workers: how many.
    """
    if workers == 1:
        encoder = Encoder(folder)
        yield lambda split, rules: (encoder(chunk, rules) for chunk in chunks(split))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), start, (folder,)) as pool:
        try:
            yield lambda split, rules: _in_order(pool, workers, chunks(split), rules)
        except BrokenProcessPool:
            raise JanusError("a process that encodes text was killed (out of memory?)", "try --workers 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, workers: int, todo: Iterable[Chunk], rules: Rules) -> Iterator[Encoded]:
    waiting: deque[Future[Encoded]] = deque()
    for chunk in todo:
        with _ctrl_c_blocked():
            waiting.append(pool.submit(work, chunk, rules))
        if len(waiting) > 2 * workers:  # enough that nobody waits, and memory stays bounded
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes that start meanwhile never see Ctrl-C: this one does, and ends them."""
    resource_tracker.ensure_running()  # starting it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SplitWriter:
    """Writes the ids and, but for train, `<split>.source.txt` and `<split>.target.txt`; counts what it sees.

    Args:
        data: the recipe's data section.
        split: the checked text.
        tokenizers: of both sides.
        folder: where to.
        origin: fingerprints of the tokenizer files.
        joiner: taken out of the target text, which is compared with decoded text later.
    """

    def __init__(
        self,
        data: recipe.Data,
        split: Split,
        tokenizers: Tokenizers,
        folder: Path,
        origin: Mapping[str, str],
        joiner: str,
    ) -> None:
        self.data, self.split, self.folder, self.joiner = data, split, folder, joiner
        self.kept = self.replaced = 0
        self.dropped: Counter[str] = Counter()
        self.lengths = LengthCount(), LengthCount()
        self._seen: set[bytes] = set()
        self.store = StoreWriter(
            folder,
            split.name,
            source_vocabulary=tokenizers.source.size,
            target_vocabulary=tokenizers.target.size,
            origin={**origin, **{f"{side}.text": file.sha256 for side, file in split.sides.items()}},
        )

    def fill(self, encode: Encode, bad_utf8: BadUtf8) -> SplitWriter:
        """Encodes and writes the whole split.

        Raises:
            DataError: nothing of it is kept.
        """
        data, name = self.data, cast(SplitName, self.split.name)
        skip = bad_utf8 == "skip"
        rules = Rules(name, data.clean, data.min_tokens, data.max_tokens, data.max_ratio, data.deduplicate, skip)
        with ExitStack() as stack:
            bar = stack.enter_context(console.progress(f"encoding {name}", self.split.source.lines))
            stack.enter_context(self.store)
            paths = [] if name == "train" else [self.folder / f"{name}.{side}.txt" for side in self.split.sides]
            files: list[BinaryIO] = [stack.enter_context(path.open("wb")) for path in paths]
            for done in encode(self.split, rules):
                self._take(done, files)
                bar.advance(done.lines)
            if not self.kept:
                raise DataError(
                    f"every pair of the {name} split was dropped: {reasons(self.dropped)}",
                    "is it the right text? If so, loosen data.min_tokens, data.max_tokens or data.max_ratio",
                )
        return self

    def _take(self, done: Encoded, files: list[BinaryIO]) -> None:
        sources, targets = self._without_duplicates(done)
        self.store.add(sources, targets)
        self.kept += len(sources.lengths)
        self.dropped.update(done.dropped)
        self.replaced += done.replaced
        for count, side in zip(self.lengths, (sources, targets), strict=True):
            count.add(side.lengths)
        for file, lines, joiner in zip(files, done.texts, ("", self.joiner), strict=False):
            file.write("".join(join(line, joiner) + "\n" for line in lines).encode())

    def _without_duplicates(self, done: Encoded) -> tuple[Ragged, Ragged]:
        if not done.keys:
            return done.sources, done.targets
        new = np.zeros(len(done.keys), bool)
        for index, key in enumerate(done.keys):
            new[index] = key not in self._seen
            self._seen.add(key)
        self.dropped["duplicate"] += int((~new).sum())
        return done.sources.keep(new), done.targets.keep(new)

    def entry(self, *, made_here: bool) -> dict[str, Any]:
        """The split's part of the manifest; text made here has no path."""
        text = {
            side: {
                "path": None if made_here else str(file.path.resolve()),
                "lines": file.lines,
                "bytes": file.bytes,
                "sha256": file.sha256,
            }
            for side, file in self.split.sides.items()
        }
        return {
            "in": self.split.source.lines,
            "kept": self.kept,
            "dropped": {reason: count for reason, count in sorted(self.dropped.items()) if count},
            "bad_utf8_replaced": self.replaced,
            "tokens": {side: count.summary() for side, count in zip(("source", "target"), self.lengths, strict=True)},
            "text": text,
            "fingerprint": self.store.fingerprint,
        }


class LengthCount:
    """Token counts of one side, as a histogram."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, lengths: np.ndarray) -> None:
        """Counts some more rows: their lengths, (rows,) int64."""
        values, counts = np.unique(lengths, return_counts=True)
        self.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def summary(self) -> dict[str, float]:
        """Tokens a row: mean, p50 and p95 (the smallest length that so many rows do not exceed), max; sum of all."""
        if not self.counts:
            return {"mean": 0.0, "p50": 0, "p95": 0, "max": 0, "sum": 0}
        values = sorted(self.counts)
        rows = np.cumsum([self.counts[value] for value in values])
        middle, high = (values[int(np.searchsorted(rows, share * rows[-1]))] for share in (0.5, 0.95))
        total = sum(value * count for value, count in self.counts.items())
        return {"mean": round(total / int(rows[-1]), 3), "p50": middle, "p95": high, "max": values[-1], "sum": total}


def reasons(dropped: Mapping[str, int]) -> str:
    """As in `empty 3, ratio 1`."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered if count)
