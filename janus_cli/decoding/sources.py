"""What a teacher is to decode: the sources of its training pairs, and other text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from janus_cli.data.cleaning import cleaner
from janus_cli.data.corpus import Side, Split, check, chunks
from janus_cli.data.prepared import Prepared
from janus_cli.errors import DataError
from janus_cli.files import sha256
from janus_cli.recipe import Recipe


class Sources:
    """Ids, the same each time they are gone through: the sources of the training pairs, then the lines of each file.

    Raises:
        DataError: a file cannot be used (see `corpus.check`), or was changed meanwhile.
    """

    def __init__(self, prepared: Prepared, recipe: Recipe, files: Sequence[Path] = ()) -> None:
        self.prepared, self.recipe = prepared, recipe
        self.files = [check(path, "stop") for path in files]

    @property
    def lines(self) -> int:
        """Of all files."""
        return sum(file.lines for file in self.files)

    def __len__(self) -> int:
        return len(self.prepared.train) + self.lines

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self.prepared.train)):
            yield self.prepared.train.pair(index)[0].tolist()
        for file in self.files:
            yield from self._read(file)

    def about(self) -> dict[str, Any]:
        """What there is besides the training pairs, for the manifest; empty where there is nothing."""
        files = [{"path": str(file.path.resolve()), "lines": file.lines, "sha256": file.sha256} for file in self.files]
        return {"sources": files} if files else {}

    def _read(self, file: Side) -> Iterator[list[int]]:
        if sha256(file.path) != file.sha256:
            raise DataError(f"{file.path} was changed meanwhile", "put back what it was, and go on with --resume")
        clean = cleaner(self.recipe.data.clean)
        for chunk in chunks(Split("train", file, None)):
            lines = chunk.source.decode().split("\n")
            yield from self.prepared.tokenizers.source.encode([clean(line.removesuffix("\r")) for line in lines])
