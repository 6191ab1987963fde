"""Parquet, Arrow and data sets that Hugging Face's `save_to_disk` wrote: records by field, through pyarrow alone."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, BinaryIO, cast

from janus_cli.data.lines import opened
from janus_cli.data.stored import files_of, is_data_set
from janus_cli.errors import DataError, require
from janus_cli.files import naming

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"  # how the files begin
ROWS = 1000  # records that are Python objects at a time

Batches = Callable[[list[str]], Iterable[Any]]  # of a table, with these columns at least


def fields(path: Path) -> list[str]:
    """The fields of a file or data set; those inside a struct as `struct.field`. Raises as `records`."""
    for file in files_of(path):
        with _opened(file) as (schema, _):
            return [name for field in schema for name in _names(field)]
    return []


def records(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The records with the wanted fields, as far as there are such, in order and in bounded memory.

    Raises:
        DataError: the file or the data set is damaged.
        UsageError: pyarrow is not installed.
    """
    for file in files_of(path):
        with _opened(file) as (schema, batches):
            # Of a struct, all is read if a field inside is wanted.
            names = [name for name in schema.names if any(f"{each}.".startswith(f"{name}.") for each in wanted)]
            for batch in batches(names):
                chosen = batch.select(names)
                for start in range(0, chosen.num_rows, ROWS):
                    yield from chosen.slice(start, ROWS).to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Batches]]:
    """The schema of a file, and a function that reads its batches."""
    pa = require("pyarrow", "hf" if is_data_set(path.parent) else "parquet")
    try:
        with _seekable(path) as file:
            start = file.read(len(ARROW_FILE))
            file.seek(0)
            if start.startswith(PARQUET):
                parquet = require("pyarrow.parquet", "parquet").ParquetFile(file)
                yield parquet.schema_arrow, lambda names: parquet.iter_batches(ROWS, columns=names)
            elif start.startswith(ARROW_FILE):
                reader = pa.ipc.open_file(file)
                yield reader.schema, lambda _: map(reader.get_batch, range(reader.num_record_batches))
            else:
                stream = pa.ipc.open_stream(file)
                yield stream.schema, lambda _: stream
    except UnicodeDecodeError as problem:
        what = f"{path} has a text that is not UTF-8: {problem.reason}"
        raise DataError(f"{what}; --bad-utf8 does nothing for Parquet and Arrow", "write it again as UTF-8") from None
    except (pa.ArrowException, ValueError) as problem:
        reason = str(problem).split("\n")[0]
        raise DataError(f"{path} is damaged: {reason}", "fetch it, or write it again") from None


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """The file as bytes; gzipped, it is unpacked into a temporary file, because its end is read first."""
    with opened(path) as file:
        if not isinstance(file, gzip.GzipFile):
            yield file
            return
        with TemporaryFile() as plain:
            with naming(Path(gettempdir())):
                shutil.copyfileobj(file, plain)
            plain.seek(0)
            yield cast(BinaryIO, plain)


def _names(field: Any) -> list[str]:
    """A field, or those inside it if it is a struct."""
    kind = field.type
    inner = range(kind.num_fields) if isinstance(kind, require("pyarrow", "parquet").StructType) else ()
    return [f"{field.name}.{name}" for index in inner for name in _names(kind.field(index))] or [str(field.name)]
