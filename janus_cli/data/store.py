"""Token ids on disk: one Arrow IPC file a split, columns `source` and `target`, lists of int32 without BOS and EOS.

Written a record batch at a time, so memory does not grow with the corpus; read through a memory map without copies.
The schema metadata says which split it is, the sizes of the vocabularies and what the text and tokenizer were;
a closing batch without rows carries the number of pairs and the fingerprint of everything before it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from janus_cli.data.encode import Ragged
from janus_cli.errors import DataError
from janus_cli.files import sync

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "1"
BATCH_ROWS = 1 << 16  # at least so many pairs a record batch: few batches open fast, and all fit into memory many times
AGAIN = "run `janus preprocess` again with --force"
_SCHEMA = pa.schema([pa.field(side, pa.list_(pa.int32()), nullable=False) for side in ("source", "target")])


class StoreWriter:
    """Writes a store under a temporary name and renames it into place on a clean exit; else nothing is left.

    Args:
        path: the file to make; replaced if it is there.
        split: train, valid or test.
        source_vocabulary, target_vocabulary: ids are below these.
        origin: fingerprints of tokenizer and text, kept in the metadata.
    """

    def __init__(
        self, path: Path, *, split: str, source_vocabulary: int, target_vocabulary: int, origin: Mapping[str, str]
    ) -> None:
        self.path, self.rows, self.fingerprint = path, 0, ""
        self._about = {
            "format": FORMAT,
            "split": split,
            "source_vocabulary": str(source_vocabulary),
            "target_vocabulary": str(target_vocabulary),
            **{f"origin.{key}": value for key, value in origin.items()},
        }
        self._digest = hashlib.sha256(repr(sorted(self._about.items())).encode())
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        self._waiting: list[list[Ragged]] = []
        self._waiting_rows = 0

    def __enter__(self) -> StoreWriter:
        self._file = self._temporary.open("wb")
        self._writer = pa.ipc.new_file(self._file, _SCHEMA.with_metadata(self._about))
        return self

    def add(self, sources: Sequence[Sequence[int]] | Ragged, targets: Sequence[Sequence[int]] | Ragged) -> None:
        """Appends pairs: give thousands at a time."""
        sides = [rows if isinstance(rows, Ragged) else Ragged.of(rows) for rows in (sources, targets)]
        for side in sides:
            self._digest.update(side.lengths.astype("<i8").tobytes())
            self._digest.update(side.values.astype("<i4").tobytes())
        self._waiting.append(sides)
        self._waiting_rows += len(sides[0].lengths)
        if self._waiting_rows >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Writes what waits as one record batch."""
        if self._waiting_rows:
            columns = [_list_array(Ragged.joined(side)) for side in zip(*self._waiting, strict=True)]
            self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self.rows += self._waiting_rows
        self._waiting, self._waiting_rows = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._flush()
        self.fingerprint = self._digest.hexdigest()
        nothing = pa.record_batch([_list_array(Ragged.of([]))] * 2, schema=_SCHEMA)
        self._writer.write_batch(nothing, custom_metadata={"rows": str(self.rows), "fingerprint": self.fingerprint})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.replace(self.path)
        sync(self.path.parent)


def _list_array(rows: Ragged) -> Any:
    offsets = np.zeros(len(rows.lengths) + 1, np.int32)
    np.cumsum(rows.lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.values))


@dataclass(frozen=True)
class _Column:
    """One side of one record batch."""

    offsets: np.ndarray  # (rows + 1,) int32
    values: np.ndarray  # (tokens,) int32

    def row(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class Store:
    """Sentence pairs of one split, memory-mapped."""

    def __init__(
        self, path: Path, about: dict[str, str], closing: dict[str, str], columns: list[list[_Column]]
    ) -> None:
        self.path, self.split = path, about["split"]
        self.source_vocabulary, self.target_vocabulary = (
            int(about["source_vocabulary"]),
            int(about["target_vocabulary"]),
        )
        self.fingerprint = closing["fingerprint"]
        self.lexicon: Tensor | None = None  # goes into every batch, see `text/lexicon.py`
        self.origin = {key[7:]: value for key, value in about.items() if key.startswith("origin.")}
        self._columns = columns
        self._ends = np.cumsum([len(source.offsets) - 1 for source, _ in columns], dtype=np.int64)

    @classmethod
    def open(cls, path: Path, split: str | None = None, *, check: bool = True) -> Store:
        """Maps a store and checks it: every id is looked at once.

        Args:
            path: the file.
            split: what it must be; None takes any.
            check: False where the very same file was looked at before: its ids, which may be many, are not read again.

        Raises:
            DataError: missing, truncated, damaged, of another split, or with ids outside its vocabulary.
        """
        try:
            about, closing, columns = _map(path)
            store = cls(path, about, closing, columns)
            rows = int(closing["rows"])
        except FileNotFoundError:
            raise DataError(f"{path} does not exist", "run `janus preprocess`") from None
        except (pa.ArrowException, OSError, KeyError, ValueError) as problem:
            raise DataError(f"{path} is damaged or no janus store: {problem}", AGAIN) from None
        if rows != len(store):
            raise DataError(f"{path} is damaged: {len(store)} pairs where {rows} were written", AGAIN)
        if split is not None and split != store.split:
            raise DataError(f"{path} holds the {store.split} split, not {split}", AGAIN)
        if check:
            store._check()
        return store

    def __len__(self) -> int:
        """Number of pairs."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of all sources and of all targets."""
        source, target = (sum(len(batch[side].values) for batch in self._columns) for side in (0, 1))
        return source, target

    def lengths(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of every source and every target of pairs start .. stop - 1: two arrays (pairs,) int64.

        Memory grows with the pairs that are asked for; None asks for all from `start` on.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        sides: list[list[np.ndarray]] = [[np.zeros(0, np.int64)], [np.zeros(0, np.int64)]]
        batch = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            first, end = int(self._ends[batch - 1]) if batch else 0, min(stop, int(self._ends[batch]))
            for side, column in zip(sides, self._columns[batch], strict=True):
                side.append(np.diff(column.offsets[start - first : end - first + 1]).astype(np.int64))
            start, batch = end, batch + 1
        source, target = map(np.concatenate, sides)
        return source, target

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target ids of one pair: two int32 views.

        Raises:
            IndexError: there is no such pair.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        batch = int(np.searchsorted(self._ends, index, side="right"))
        source, target = self._columns[batch]
        row = index - (int(self._ends[batch - 1]) if batch else 0)
        return source.row(row), target.row(row)

    def _check(self) -> None:
        for batch in self._columns:
            for column, side, top in zip(
                batch, ("source", "target"), (self.source_vocabulary, self.target_vocabulary), strict=True
            ):
                ordered = column.offsets[0] == 0 and bool((np.diff(column.offsets) >= 0).all())
                if not ordered or column.offsets[-1] != len(column.values):
                    raise DataError(f"{self.path} is damaged: the lengths do not fit the ids", AGAIN)
                if len(column.values) and (int(column.values.max()) >= top or int(column.values.min()) < 0):
                    worst = max(int(column.values.max()), -int(column.values.min()))
                    raise DataError(f"{self.path}: {side} id {worst} lies outside the vocabulary of {top}", AGAIN)


def _map(path: Path) -> tuple[dict[str, str], dict[str, str], list[list[_Column]]]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if not reader.schema.equals(_SCHEMA) or not reader.num_record_batches:
        raise ValueError("other columns than source and target, or no closing batch")
    about = _text(reader.schema.metadata)
    if about.get("format") != FORMAT:
        raise ValueError(f"format {about.get('format')} where this version reads {FORMAT}")
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches - 1)]
    closing = _text(reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata)
    columns = [[_column(batch.column(side)) for side in (0, 1)] for batch in batches]
    return about, closing, columns


def _column(array: Any) -> _Column:
    return _Column(array.offsets.to_numpy(), array.values.to_numpy())


def _text(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}
