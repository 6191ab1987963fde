"""Prepared data with a teacher's targets: lines `score<TAB>ids`, sources beside outputs, into a folder.

Ids stay ids. Text would not do: another split of the same words into pieces is another target than the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from janus_cli import console
from janus_cli.core.generate import length_limit
from janus_cli.core.knobs import Decoding
from janus_cli.data.corpus import CHUNK_LINES, Side, Split
from janus_cli.data.encode import Encoded, Ragged, Rules, filter_pairs, key
from janus_cli.data.prepare import PREPARED, is_prepared, seal
from janus_cli.data.splits import SplitWriter, reasons
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.decoding.journal import START_OVER
from janus_cli.decoding.sources import Sources
from janus_cli.errors import DataError
from janus_cli.files import copy_files, sha256, whole_folder


class IdLines:
    """A tokenizer whose text is the ids themselves: the line `17 5 230` for [17, 5, 230]. like: whose ids they are."""

    def __init__(self, like: Tokenizer) -> None:
        self.size, self.pieces = like.size, like.pieces

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in line.split()] for line in lines]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return list(map(as_line, rows))


def as_line(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def write(
    sources: Sources, hypotheses: Path, out: Path, about: Mapping[str, Any], *, surest: float = 1.0, force: bool
) -> dict[str, Any]:
    """Makes the folder `out`, whole or not at all: the data of `sources.prepared`, but with other training pairs.

    hypotheses: a score and ids for each of the sources. about: who wrote them, for the manifest; its `options` are the
    decoding options. Pairs that the recipe's data section does not let in are dropped. surest: of the outputs for
    further sources, empty ones not counted, this share stays, those with the highest scores and what equals the lowest
    of them. Memory is bounded (but see `prepare` for `data.deduplicate`; surest < 1 needs 24 bytes a further source).

    Returns:
        The manifest, as written. Its `distilled` is `about` and at_limit: how many of the outputs that are let in have
        all tokens allowed; with surest < 1 also surest and least_score, the lowest score that it let in.

    Raises:
        DataError: no pair is left, `hypotheses` is damaged, or a file of the sources was changed.
        UsageError: `out` is there and `force` is not given.
    """
    prepared, recipe = sources.prepared, sources.recipe
    before, count = prepared.manifest, len(sources)
    target = Side(hypotheses, count, hypotheses.stat().st_size, sha256(hypotheses))
    source = Side(
        prepared.train.path, count, prepared.train.path.stat().st_size, before["files"]["train.arrow"]["sha256"]
    )
    pairs = _Pairs(sources, hypotheses, Decoding(**about["options"]), surest)
    with whole_folder(out, force=force, is_ours=is_prepared, what=PREPARED) as folder:
        copy_files([name for name in before["files"] if name != "train.arrow"], prepared.folder, folder)
        origin = {"data": prepared.train.fingerprint, "teacher": about["sha256"]}
        writer = SplitWriter(
            recipe.data, Split("train", source, target), prepared.tokenizers, folder, origin, recipe.tokenizer.joiner
        )
        try:
            writer.fill(pairs.filtered, "stop")
        except DataError:
            if writer.dropped.total() < count:
                raise
            raise DataError(
                f"none of the teacher's outputs makes a training pair: {reasons(writer.dropped)}",
                f"take a better teacher or another checkpoint; {START_OVER}",
            ) from None
        lost = reasons(writer.dropped)
        console.say(f"{writer.kept:,} of {count:,} pairs kept" + (f"; dropped: {lost}" if lost else ""))
        train = writer.entry(made_here=True)
        train["text"]["source"] = before["splits"]["train"]["text"]["source"]
        found = {"at_limit": pairs.at_limit}
        chosen = {"surest": surest, "least_score": pairs.least} if surest < 1 else {}
        splits = {**before["splits"], "train": train}
        return seal(folder, {**before, "splits": splits, "distilled": {**about, **found, **chosen}})


class _Pairs:
    """Sources beside lines `score<TAB>ids`, in chunks. at_limit: how many that were let in so far have all tokens
    allowed. least: the lowest score with which a further source stays."""

    def __init__(self, sources: Sources, hypotheses: Path, options: Decoding, surest: float) -> None:
        self.sources, self.hypotheses, self.options = sources, hypotheses, options
        self.size, self.own = sources.prepared.tokenizers.target.size, len(sources.prepared.train)
        self.at_limit = 0
        self.least = self._least(surest) if surest < 1 else -inf

    def filtered(self, split: Split, rules: Rules) -> Iterator[Encoded]:
        """What `SplitWriter.fill` writes: the pairs that the rules let in.

        Raises:
            DataError: there are not as many lines as sources, or other things than a score and ids in them.
        """
        inputs, first = iter(self.sources), 0
        with self.hypotheses.open("rb") as file:
            while some := list(islice(inputs, CHUNK_LINES)):
                yield self._chunk(some, list(islice(file, len(some))), rules, max(0, self.own - first))
                first += len(some)
            if file.read(1):
                raise self._damaged()

    def _chunk(self, inputs: Sequence[list[int]], outputs: Sequence[bytes], rules: Rules, own: int) -> Encoded:
        """own: how many of these, at the front, are training pairs."""
        scores, rows = [], []
        for line in outputs:
            score, row = self._parsed(line)
            scores.append(score)
            rows.append(row)
        if len(rows) != len(inputs):
            raise self._damaged()
        source, target = Ragged.of(inputs), Ragged.of(rows)
        most = self._most(torch.from_numpy(source.lengths))
        kept, dropped = filter_pairs(source.lengths, target.lengths, set(), rules)
        unsure = kept & (np.array(scores) < self.least)
        unsure[:own] = False
        dropped["unsure"] = int(unsure.sum())
        kept &= ~unsure
        self.at_limit += int((kept & (target.lengths >= most)).sum())
        numbers = np.flatnonzero(kept).tolist() if rules.deduplicate else []
        keys = [key(str(inputs[row]), str(rows[row])) for row in numbers]
        return Encoded(len(rows), source.keep(kept), target.keep(kept), keys, ([], []), dropped, 0)

    def _most(self, lengths: torch.Tensor) -> np.ndarray:
        """Tokens that an output may have, for each source. lengths: of the sources."""
        recipe = self.sources.recipe
        if recipe.ar_stream == "masks":  # its length is predicted
            return np.full(len(lengths), recipe.model.max_length - 2)
        return length_limit(lengths, recipe.model.max_length, self.options).numpy() - 1  # EOS

    def _parsed(self, line: bytes) -> tuple[float, list[int]]:
        score, tab, ids = line.partition(b"\t")
        try:
            row = [int(word) for word in ids.split()]
            if tab and isfinite(float(score)) and all(0 <= index < self.size for index in row):
                return float(score), row
        except ValueError:
            pass
        raise self._damaged()

    def _least(self, surest: float) -> float:
        """The lowest score that stays of those of further sources whose output is not empty."""
        with self.hypotheses.open("rb") as file:
            found = map(self._parsed, islice(file, self.own, None))
            scores = np.fromiter((score for score, row in found if row), np.float64)
        if not len(scores):
            return 0.0  # nothing to choose from
        return float(np.sort(scores)[-max(1, round(surest * len(scores)))])

    def _damaged(self) -> DataError:
        return DataError(f"{self.hypotheses} is damaged: it is not a score and known ids for each source", START_OVER)
