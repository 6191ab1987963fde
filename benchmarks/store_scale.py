"""What a large store costs: to open it, to shuffle it, and the memory of one rank of many while it does.

    python benchmarks/store_scale.py --pairs 50000000 --ranks 8

Writes a made-up store with the product's own writer into a temporary folder (about 100 bytes a pair; removed at the
end), and then runs the first and the last rank, each in a process of its own: open the store, go through the
batches of one whole epoch, read its own share of the first ones from disk. Memory is sampled from the kernel's
count: `own` is what the process allocated, `mapped` the pages of the files that lie in memory because somebody
read them, and that the kernel takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shared

from janus_cli import console
from janus_cli.data.batching import epoch_batches, load_batch
from janus_cli.data.store import Ragged, Store, StoreWriter

VOCABULARY = 32_000
MEAN_TOKENS = 11  # a side; a geometric tail above MIN_TOKENS
MIN_TOKENS = 2
CHUNK = 500_000  # pairs made at once
LOADED = 200  # batches that a rank reads from disk
MIB = 1 << 20


def main() -> None:
    """Reads the options, makes the store, runs the ranks and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50_000_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; the system's place by default")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)  # a rank's own process
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        sys.stdout.write(json.dumps(one_rank(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = Path(folder)
        began = time.monotonic()
        make(store, options.pairs)
        size = sum(file.stat().st_size for file in store.iterdir())
        rows = [
            ("pairs", f"{options.pairs:,}"),
            ("bytes on disk", f"{size:,}, {size / options.pairs:.1f} a pair"),
            ("writing", f"{time.monotonic() - began:.1f} s"),
        ]
        for rank in sorted({0, options.ranks - 1}):
            again = [sys.executable, __file__, "--store", str(store), "--rank", str(rank)]
            again += ["--ranks", str(options.ranks), "--batch-tokens", str(options.batch_tokens)]
            found = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE).stdout)
            rows += [(f"rank {rank} of {options.ranks}: {name}", value) for name, value in found.items()]
    console.table("a large store", ("what", "measured"), rows)


def make(folder: Path, pairs: int) -> None:
    """A store of random ids with the lengths of short sentences."""
    rng = np.random.default_rng(1)
    with StoreWriter(folder, "train", source_vocabulary=VOCABULARY, target_vocabulary=VOCABULARY, origin={}) as writer:
        for start in range(0, pairs, CHUNK):
            count = min(CHUNK, pairs - start)
            writer.add(_side(rng, count), _side(rng, count))
    shared.write_made_up_manifest(folder, writer, VOCABULARY)


def _side(rng: np.random.Generator, count: int) -> Ragged:
    lengths = MIN_TOKENS - 1 + np.minimum(rng.geometric(1 / (MEAN_TOKENS - MIN_TOKENS + 1), count), 150)
    return Ragged(rng.integers(5, VOCABULARY, int(lengths.sum()), np.int32), lengths.astype(np.int64))


def one_rank(options: argparse.Namespace) -> dict[str, str]:
    """What one rank does, and what it took."""
    memory = Memory()
    seconds = {"opening": _timed(lambda: Store.open(options.store, "train", check=False))[1]}
    store: Store = Store.open(options.store, "train", check=False)
    mine = islice(epoch_batches(store, options.batch_tokens, 1, 0), options.rank, None, options.ranks)
    rows, seconds["first batch"] = _timed(lambda: next(mine))
    seconds[f"{LOADED} batches from disk"] = _timed(lambda: [load_batch(store, each) for each in islice(mine, LOADED)])[
        1
    ]
    batches = 0
    began = time.monotonic()
    for rows in epoch_batches(store, options.batch_tokens, 1, 1):
        batches += len(rows) > 0
    seconds["batches of a whole epoch"] = time.monotonic() - began
    memory.stop()
    own, mapped = memory.own, memory.mapped
    looked, seconds["opening for the first time, every id read"] = _timed(lambda: Store.open(options.store, "train"))
    return {
        **{name: f"{value:.2f} s" for name, value in seconds.items()},
        "batches": f"{batches:,} of {len(looked):,} pairs",
        "own memory at the most": f"{own / MIB:,.0f} MiB, of it {memory.start / MIB:,.0f} before the store was opened",
        "mapped memory at the most": f"{mapped / MIB:,.0f} MiB",
    }


def _timed(work: Any) -> tuple[Any, float]:
    began = time.monotonic()
    result = work()
    return result, time.monotonic() - began


class Memory:
    """The largest memory of this process, sampled every few milliseconds until `stop`."""

    def __init__(self) -> None:
        self.start, _ = self._now()
        self.own = self.mapped = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            own, mapped = self._now()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)

    @staticmethod
    def _now() -> tuple[int, int]:
        status = Path(f"/proc/{os.getpid()}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        own, mapped = (1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
        return own, mapped


if __name__ == "__main__":
    main()
