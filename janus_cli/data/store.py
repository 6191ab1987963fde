"""Token ids on disk, in numpy's own format, for each split:

    SPLIT.source.npy, SPLIT.target.npy   (tokens,) int32: the ids of all sentences, concatenated, without BOS and EOS
    SPLIT.offsets.npy                    (pairs + 1, 2) int64: where each pair begins in the source and in the target
    manifest.json                        sizes of both vocabularies; for each split its number of pairs and fingerprint

Written in chunks, so that memory does not grow with the corpus; read through a memory map, without copies. Pages that
were read of a large split are given back: they stay in the system's cache, but are not this process's memory any more.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from janus_cli import documents
from janus_cli.core.symbols import UNK
from janus_cli.errors import DataError, check_machine
from janus_cli.files import MANIFEST

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("<i4", "<i4", "<i8")  # of the files of a split
CHECKED_AT_ONCE = 1 << 22  # elements
SMALL = 1 << 28  # bytes of a split's files that may all lie in memory
KEPT = 32  # pairs that are read of a larger one before pages are given back; the system may map 2 MB around each
AGAIN = "run `janus preprocess` again with --force"


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length, concatenated."""

    values: np.ndarray  # (sum of lengths,) int32
    lengths: np.ndarray  # (rows,) int64

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """From lists of ids."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths)

    def keep(self, chosen: np.ndarray) -> Ragged:
        """The rows where `chosen`, (rows,) bool, is True."""
        if chosen.all():
            return self
        return Ragged(self.values[np.repeat(chosen, self.lengths)], self.lengths[chosen])

    def rows(self) -> list[list[int]]:
        """As lists of ids."""
        ends = np.cumsum(self.lengths).tolist()
        return [self.values[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]

    def cut(self, most: int) -> Ragged:
        """The first `most` values of each row."""
        if not (self.lengths > most).any():
            return self
        starts = np.cumsum(self.lengths) - self.lengths
        places = np.arange(len(self.values)) - np.repeat(starts, self.lengths)  # in their row
        return Ragged(self.values[places < most], np.minimum(self.lengths, most))


def store_files(split: str) -> list[str]:
    """Names of a split's files."""
    return [f"{split}.{name}.npy" for name in ("source", "target", "offsets")]


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Writes a split into `folder`, a chunk of pairs at a time; `rows` and `fingerprint` go into the folder's manifest.

    The fingerprint includes the vocabularies' sizes and origin, the fingerprints of what the ids were made from.
    lengths, unknown: histograms of lengths, and numbers of UNKs, of sources and of targets so far.
    """

    def __init__(
        self, folder: Path, split: str, source_vocabulary: int, target_vocabulary: int, origin: Mapping[str, str]
    ) -> None:
        about = {
            "format": "1", "split": split,
            "source_vocabulary": str(source_vocabulary), "target_vocabulary": str(target_vocabulary),
            **{f"origin.{key}": value for key, value in origin.items()},
        }  # fmt: skip
        self._digest = hashlib.sha256(repr(sorted(about.items())).encode())
        self.rows, self.fingerprint, self.lengths = 0, "", (Counter[int](), Counter[int]())
        self.unknown = [0, 0]
        self._ends = np.zeros((1, 2), np.int64)
        self._files = [(folder / name).open("wb") for name in store_files(split)]
        self._write_headers()
        self._files[2].write(self._ends.astype("<i8").tobytes())

    def _write_headers(self) -> None:
        """The headers of `.npy` files; they have the same size for all shapes."""
        source, target = self._ends[0].tolist()
        for file, dtype, shape in zip(self._files, DTYPES, ((source,), (target,), (self.rows + 1, 2)), strict=True):
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})

    def add(self, sources: Sequence[Sequence[int]] | Ragged, targets: Sequence[Sequence[int]] | Ragged) -> None:
        """Appends pairs, preferably thousands at a time."""
        pairs = [rows if isinstance(rows, Ragged) else Ragged.of(rows) for rows in (sources, targets)]
        for place, (file, side, lengths) in enumerate(zip(self._files, pairs, self.lengths, strict=False)):
            self.unknown[place] += int(np.count_nonzero(side.values == UNK))
            lengths.update(side.lengths.tolist())
            ids = side.values.astype("<i4").tobytes()
            self._digest.update(side.lengths.astype("<i8").tobytes())
            self._digest.update(ids)
            file.write(ids)
        ends = self._ends + np.cumsum(np.stack([side.lengths for side in pairs], axis=1), axis=0)  # (rows, 2)
        self._files[2].write(ends.astype("<i8").tobytes())
        self._ends = np.concatenate([self._ends, ends])[-1:]
        self.rows += len(ends)

    def __exit__(self, *_: object) -> None:
        self._write_headers()
        for file in self._files:
            file.close()
        self.fingerprint = self._digest.hexdigest()


class Store:
    """Sentence pairs of one split, memory-mapped; see `open`."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = documents.read(folder / MANIFEST, documents.PreparedManifest)
        about, sizes = manifest["splits"][split], manifest["vocabulary"]
        self.folder, self.split, self.fingerprint = folder, split, str(about["fingerprint"])
        self.source_vocabulary, self.target_vocabulary = int(sizes["source"]), int(sizes["target"])
        self.lexicon: Tensor | None = None  # goes into every batch, see `lexicon.py`
        paths = [folder / name for name in store_files(split)]
        maps = list(map(_mapped, paths, DTYPES))
        large = sum(each.nbytes for each in maps) > SMALL
        self._maps: list[Any] = [each.base for each in maps] if large else []
        self._read = 0
        # As plain arrays: numpy's memmap class makes every slice slower.
        self._source, self._target, self._offsets = (each.view(np.ndarray) for each in maps)
        if self._offsets.shape != (int(about["kept"]) + 1, 2):
            raise ValueError(f"{len(self._offsets) - 1} pairs where {about['kept']} were written")

    @classmethod
    def open(cls, folder: Path, split: str, *, check: bool = True) -> Store:
        """Maps a split's files; raises DataError if they are missing or damaged.

        check: also read all offsets and ids, to make sure that they fit each other and the vocabularies.
        """
        try:
            store = cls(folder, split)
            if check:
                store._check()
        except FileNotFoundError as problem:
            raise DataError(f"{problem.filename} does not exist", "run `janus preprocess`") from None
        except OSError as problem:
            check_machine(problem, f"to open {folder / split}.*")  # or no address space to map it
            raise DataError(f"{folder / split}.* cannot be read: {problem.strerror}") from None
        except (KeyError, TypeError, ValueError, TokenError) as problem:
            raise DataError(f"{folder / split}.* is damaged, or was not written by janus: {problem}", AGAIN) from None
        return store

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of all sources and of all targets."""
        return len(self._source), len(self._target)

    def lengths(self, start: int = 0, stop: int | None = None, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of every source and every target of pairs start .. stop - 1 (None: all): two arrays (pairs,) int64.

        step: of every so many-th pair only, and only their offsets are read.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        both = self._offsets[start + 1 : stop + 1 : step] - self._offsets[start:stop:step]  # (pairs, 2)
        self._give_back()
        return both[:, 0], both[:, 1]

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target ids of one pair, two int32 views; raises IndexError if there is no such pair."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        self._read += 1
        if self._read % KEPT == 0:
            self._give_back()
        (source, target), (source_end, target_end) = self._offsets[index : index + 2].tolist()
        return self._source[source:source_end], self._target[target:target_end]

    def only(self, chosen: np.ndarray) -> Store:
        """The pairs where `chosen`, (pairs,) bool, is True, numbered anew; unless all, their ids are in memory."""
        if chosen.all():
            return self
        sides = [
            Ragged(ids, sizes).keep(chosen)
            for ids, sizes in zip((self._source, self._target), self.lengths(), strict=True)
        ]
        some = copy(self)
        some._source, some._target = (side.values for side in sides)
        some._offsets = np.zeros((int(chosen.sum()) + 1, 2), np.int64)
        some._offsets[1:] = np.cumsum(np.stack([side.lengths for side in sides], axis=1), axis=0)
        return some

    def _give_back(self) -> None:
        """Forgets the pages that were read: they are read from the file again when they are needed."""
        for each in self._maps:
            each.madvise(mmap.MADV_DONTNEED)

    def _check(self) -> None:
        """Raises ValueError unless the offsets fit the ids, and the ids the vocabularies."""
        rising = (
            (np.diff(self._offsets[start : start + CHECKED_AT_ONCE + 1], axis=0) >= 0).all()
            for start in range(0, len(self), CHECKED_AT_ONCE)
        )
        if self._offsets[0].any() or tuple(self._offsets[-1]) != self.tokens or not all(rising):
            raise ValueError("the offsets do not fit the ids")
        sides = ("source", self._source, self.source_vocabulary), ("target", self._target, self.target_vocabulary)
        for side, ids, top in sides:
            for start in range(0, len(ids), CHECKED_AT_ONCE):
                worst = ids[start : start + CHECKED_AT_ONCE].view(np.uint32).max()  # negative ids are the largest
                self._give_back()
                if worst >= top:
                    raise ValueError(f"{side} id {worst.view(np.int32)} lies outside the vocabulary of {top}")


def _mapped(path: Path, dtype: str) -> np.memmap:
    """A read-only memory map of a `.npy` file."""
    array = np.lib.format.open_memmap(path, mode="r")
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{path.name} holds {array.dtype}")
    return array
