"""What a teacher is to decode: the sources of its training pairs, and other text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from janus_cli.decoding.lines import Reader
from janus_cli.errors import DataError
from janus_cli.recipe import Recipe
from janus_cli.text.corpus import CHUNK_LINES, cleaner, sha256
from janus_cli.text.prepare import Prepared


class Sources:
    """Lines of ids, the same each time they are gone through.

    First the sources of the training pairs, then the lines of each file (an empty one where a line is).

    Raises:
        DataError: a file cannot be read, is not UTF-8, or was changed meanwhile.
    """

    def __init__(self, prepared: Prepared, recipe: Recipe, files: Sequence[Path] = ()) -> None:
        self.prepared, self.recipe = prepared, recipe
        clean = cleaner(recipe.data.clean)
        self.readers = [Reader(path, clean) for path in files]
        self.lines = [_count(reader) for reader in self.readers]
        self.hashes = [sha256(reader.path) for reader in self.readers]

    def __len__(self) -> int:
        return len(self.prepared.train) + sum(self.lines)

    def __iter__(self) -> Iterator[str]:
        return (" ".join(map(str, row)) for row in chain(self._trained(), self._read()))

    def about(self) -> dict[str, Any]:
        """What there is besides the training pairs, for the manifest; empty where there is nothing."""
        files = [
            {"path": str(reader.path.resolve()), "lines": lines, "sha256": sha}
            for reader, lines, sha in zip(self.readers, self.lines, self.hashes, strict=True)
        ]
        return {"sources": files} if files else {}

    def _trained(self) -> Iterator[list[int]]:
        return (self.prepared.train.pair(index)[0].tolist() for index in range(len(self.prepared.train)))

    def _read(self) -> Iterator[list[int]]:
        for reader, sha in zip(self.readers, self.hashes, strict=True):
            if sha256(reader.path) != sha:
                raise DataError(f"{reader.path} was changed meanwhile", "put back what it was, and go on with --resume")
            lines = iter(reader)
            while some := list(islice(lines, CHUNK_LINES)):
                yield from self.prepared.tokenizers.source.encode(some)


def _count(reader: Reader) -> int:
    if not reader.path.is_file():
        raise DataError(f"the source text {reader.path} is no file", "it is read several times: no pipe, no stdin")
    count = sum(1 for _ in reader)
    if reader.bad_utf8:
        raise DataError(f"{reader.path} has {reader.bad_utf8:,} lines that are not UTF-8", "mend it: iconv -t utf-8")
    return count
