"""From chunks of lines to ids: clean, encode, filter; in this process or in workers, which do not import torch."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import compress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from janus_cli import console
from janus_cli.data.corpus import Chunk, Split, chunks
from janus_cli.data.filters import filter_pairs, shortened
from janus_cli.data.lines import BadUtf8, cleaner
from janus_cli.data.plain import examples
from janus_cli.data.references import texts_in
from janus_cli.data.store import Ragged
from janus_cli.data.survival import round_trip
from janus_cli.data.tokenizer import Tokenizers, join, load_tokenizers
from janus_cli.errors import DataError, JanusError
from janus_cli.recipe import Data
from janus_cli.system import ctrl_c_blocked


@dataclass(frozen=True)
class Encoded:
    """The kept pairs of a chunk.

    lines: pairs before filtering. sources, targets: ids. dropped: pairs by reason, without duplicates.
    left_out: kept pairs of valid without losses, by reason. round_trip: see `survival.round_trip`.
    keys: 16 bytes a pair, if duplicates are to be dropped. texts: the cleaned lines of each side, for valid and test;
    in targets and references, BPE parts are joined, as in decoded text. replaced: lines whose bad UTF-8 was replaced.
    long: kept pairs whose source has more tokens than the recipe's limit.
    """

    lines: int
    sources: Ragged
    targets: Ragged
    dropped: Counter[str]
    keys: Sequence[bytes] = ()
    texts: tuple[Sequence[str], ...] = ()
    replaced: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    round_trip: Mapping[str, int] = field(default_factory=dict)
    long: int = 0


def encode(tokenizers: Tokenizers, data: Data, bad_utf8: BadUtf8, split: Split, chunk: Chunk) -> Encoded:
    """Cleans, encodes and filters a chunk of a split.

    bad_utf8: a pair with bad bytes is dropped (`skip`), else they are replaced; always replaced in a test split.
    """
    if split.is_plain:
        return _encode_plain(tokenizers, data, bad_utf8, split, chunk)
    bad, clean = set[int](), cleaner(data.clean)
    sides = [[clean(line) for line in _texts(side, bad)] for side in chunk[:2]]
    references = [side.removesuffix(b"\n").split(b"\n") for side in chunk[2:]]
    if len({*map(len, sides), *map(len, references)}) > 1:
        files = " or ".join(str(file.path) for file in split.sides.values())
        raise DataError(f"{split.name}: {files} was changed while it was read", "prepare it when it is complete")
    count = len(sides[0])
    sources, targets = sides if len(sides) == 2 else (sides[0], [""] * count)
    source_ids, long = shortened(data, Ragged.of(tokenizers.source.encode(sources)))
    target_rows = tokenizers.target.encode(targets)
    target_ids = Ragged.of(target_rows)
    skip = bad if bad_utf8 == "skip" and split.name != "test" else set[int]()
    kept, dropped, left_out = filter_pairs(split.name, data, source_ids.lengths, target_ids.lengths, skip)
    keys: list[bytes] = []
    texts: tuple[list[str], ...] = ()
    if split.name != "train":
        texts = list(compress(sources, kept)), [join(line, tokenizers.joiner) for line in compress(targets, kept)]
        for side in references:
            texts += ([_references(line, clean, tokenizers.joiner) for line in compress(side, kept)],)
    elif data.deduplicate:
        keys = [pair_hash(*pair) for pair in compress(zip(sources, targets, strict=True), kept)]
    return Encoded(
        count, source_ids.keep(kept), target_ids.keep(kept), dropped, keys, texts,
        replaced=len(bad - skip), left_out=left_out, long=int((long & kept).sum()),
        round_trip=round_trip(tokenizers, split, targets, target_rows, bad) if "target" in split.sides else {},
    )  # fmt: skip


def _encode_plain(tokenizers: Tokenizers, data: Data, bad_utf8: BadUtf8, split: Split, chunk: Chunk) -> Encoded:
    """The same for plain text: targets are examples, sources are empty; both texts of an example are the example."""
    bad, clean = set[int](), cleaner(data.clean)
    lines = [clean(line) for line in _texts(chunk[0], bad)]
    skip = bad if bad_utf8 == "skip" else set[int]()
    begin = tokenizers.begin
    rows = [row[len(begin) :] for row in tokenizers.target.encode(lines)]
    whole = examples(Ragged.of([row for number, row in enumerate(rows) if number not in skip]), data, begin)
    kept, dropped, left_out = filter_pairs(split.name, data, whole.lengths, whole.lengths, set())
    targets = whole.keep(kept)
    text = tokenizers.target.decode(targets.rows()) if split.name != "train" else []
    return Encoded(
        len(lines), Ragged.of([[]] * len(targets.lengths)), targets, dropped + Counter({"bad_utf8": len(skip)}),
        texts=(text, text), replaced=len(bad - skip), left_out=left_out,
        round_trip=round_trip(tokenizers, split, lines, rows, bad),
    )  # fmt: skip


def _references(line: bytes, clean: Callable[[str], str], joiner: str) -> str:
    """The references of a pair, cleaned, as they are kept: a JSON list without empty ones."""
    return json.dumps(texts_in(join(clean(text), joiner) for text in json.loads(line)), ensure_ascii=False)


def _texts(block: bytes, bad: set[int]) -> list[str]:
    """Lines as text; bytes that are not UTF-8 become U+FFFD, and the numbers of these lines are added to `bad`."""
    if not block.endswith(b"\n"):
        block += b"\n"
    try:
        text = block.decode()
    except UnicodeDecodeError:
        text = block.decode(errors="replace")
        both = zip(block.split(b"\n"), text.split("\n"), strict=True)
        bad.update(number for number, (line, mended) in enumerate(both) if mended.encode() != line)
    return text.replace("\r\n", "\n").split("\n")[:-1]


def pair_hash(source: str, target: str) -> bytes:
    """A 16-byte hash of a pair, by which duplicates are found."""
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=16).digest()


@contextmanager
def encoders(
    folder: Path, data: Data, bad_utf8: BadUtf8, workers: int
) -> Iterator[Callable[[Split], Iterator[Encoded]]]:
    """A function that encodes a split chunk by chunk, in order: in this process if workers is 1, else in others."""
    pool = None if workers == 1 else _processes(workers)
    if pool is None:
        here = partial(encode, load_tokenizers(folder), data, bad_utf8)
        yield lambda split: (here(split, chunk) for chunk in chunks(split))
        return
    there = partial(_work, folder, data, bad_utf8)
    with pool:

        def encoded(split: Split) -> Iterator[Encoded]:
            waiting: deque[Future[Encoded]] = deque()
            for chunk in chunks(split):
                with ctrl_c_blocked():
                    waiting.append(pool.submit(there, split, chunk))
                if len(waiting) > 2 * workers:  # enough that no worker idles, and memory stays bounded
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield encoded
        except BrokenProcessPool:
            raise JanusError("a process that encodes text was killed (out of memory?)", "try --workers 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _processes(workers: int) -> ProcessPoolExecutor | None:
    """None, with a warning, if the system gives none: /dev/shm, which holds their locks, may be closed to this user."""
    try:
        return ProcessPoolExecutor(workers, get_context("spawn"), _begin)
    except OSError as problem:
        console.warn(f"worker processes cannot be started ({problem.strerror}): encoding in this one")
        return None


def _begin() -> None:
    """Makes a worker process end when the one that started it is killed, and never search what it imported for garbage,
    which would take a fortieth of its time."""
    gc.freeze()

    def wait(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, args=(multiprocessing.parent_process(),), daemon=True).start()


_tokenizers = cache(load_tokenizers)  # in a worker process, which lives for one folder


def _work(folder: Path, data: Data, bad_utf8: BadUtf8, split: Split, chunk: Chunk) -> Encoded:
    return encode(_tokenizers(folder), data, bad_utf8, split, chunk)
