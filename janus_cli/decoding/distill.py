"""`janus distill`: a teacher decodes the sources of its training data, and the outputs become training targets.

Outputs are kept as ids: encoding their text again could split words into other pieces than the teacher wrote.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from janus_cli import console, documents, recipe_load, runs
from janus_cli.console import counted
from janus_cli.core.batch import UNK
from janus_cli.core.generate import length_limit
from janus_cli.core.knobs import ONE_BEST, Decoding
from janus_cli.data import filters
from janus_cli.data.corpus import CHUNK_LINES, Split
from janus_cli.data.encode import Encoded, pair_hash
from janus_cli.data.extract import source_lines
from janus_cli.data.lines import TextFile, check
from janus_cli.data.prepare import PREPARED, is_prepared, write_manifest, write_split
from janus_cli.data.prepared import Prepared, data_of, fingerprints, knows_no_data, open_prepared, prepare_again
from janus_cli.data.store import Ragged, store_files
from janus_cli.data.stored import digest
from janus_cli.data.tables import column_of_each
from janus_cli.data.tokenizer import Tokenizer, Tokenizers
from janus_cli.decoding.decode import Job
from janus_cli.decoding.modes import changed, choose
from janus_cli.decoding.notes import tell
from janus_cli.decoding.records import START_OVER, Record, Records
from janus_cli.decoding.translate import DIGITS
from janus_cli.errors import DataError, UsageError
from janus_cli.files import MANIFEST, copy_files, must_be_free, whole_folder
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.terminal import command

ELSEWHERE = "name another folder with --out"
DAMAGED = "what was decoded is damaged: it is not a score and known ids for each source"


@dataclass(kw_only=True)
class Distill(Job):
    """`janus distill`. source: files of more text to decode. column: of the tables among them.

    surest: the share of its outputs to keep, see `write`. words: also without --out.
    """

    source: Sequence[Path] = ()
    column: str | None = None
    surest: float = 1.0

    def survey(self, recipe: Recipe) -> Records:
        """As `Job.survey`; also sets `target`, the folder to make, and `teacher`, for its manifest."""
        if self.surest < 1 and not self.source:
            raise UsageError(
                "--surest chooses among the lines of --source, and there is none", "name text with --source"
            )
        must_have_sources(recipe, "distil")
        if "ar" not in recipe.objective.sides:
            raise UsageError(
                f"{self.trained.path} was trained with objective {recipe.objective.name}: it has no autoregressive "
                "side to distil",
                "name a run of objective ar or janus",
            )
        for change in self.changes:
            if change.startswith(tuple(f"decoding.{name}=" for name in ("mode", *ONE_BEST))):
                raise UsageError(
                    f"--set {change}: a teacher writes one output, the likeliest that it finds from left to right",
                    "leave it out",
                )
        self.plan = choose(recipe, {"mode": "ar", **ONE_BEST, **self.options}, changed(self.changes))
        self.target = self.out or runs.distilled_dir(recipe)
        if not self.resume:  # a resumed job has the permission of the first call
            must_be_free(self.target, force=self.force, is_ours=is_prepared, what=PREPARED)
        prepared = prepared_of(self.trained, recipe)
        self.sources = Sources(prepared, recipe, self.source, self.column)
        texts = f" and {counted(self.sources.lines, 'line')} of text" if self.source else ""
        texts += f", of which the surest {100 * self.surest:g} % stay," if self.surest < 1 else ""
        own = counted(len(prepared.train), "training source")
        self.what = f"the {own} of {prepared.folder}{texts} into {self.target}"
        name = self.trained.name_of(self.folder)
        words = ["janus", "distill", self.trained.path, "--checkpoint", name, *self.words]
        self.teacher = {
            "run": str(self.trained.path), "checkpoint": name, "sha256": self.weights,
            "objective": recipe.objective.name, "options": self.plan.used, "device": self.chosen_device,
            "torch": torch.__version__, "command": command(*words), "prepared": str(prepared.folder.resolve()),
            "fingerprint": prepared.train.fingerprint, **self.sources.described(),
            **({"column": self.column} if self.column else {}),
        }  # fmt: skip
        place = ["--out", str(self.out)] if self.out else []
        return Records(
            self.target, {self.target: self.force}, (name, self.weights), {**self.deciding, **_data(self.teacher)},
            command=command(*words, *place, "--resume"), elsewhere=ELSEWHERE, make_folder=True,
        )  # fmt: skip

    def unlike_finished(self) -> str:
        manifest = documents.read(self.target / MANIFEST, documents.Manifest) if is_prepared(self.target) else {}
        if "distilled" not in manifest:
            must_be_free(self.target, force=False, is_ours=is_prepared, what=PREPARED)
        before = manifest["distilled"]
        return self.differs(
            before, {**_data(before), "surest": before.get("surest", 1)}, {**_data(self.teacher), "surest": self.surest}
        )

    def write(self) -> None:
        """Decodes, makes the folder, and says how to train on it."""
        assert self.records is not None
        both = self.translator.tokenizers
        self.translator.tokenizers = Tokenizers(IdLines(both.source), IdLines(both.target), both.files)
        lines = (" ".join(map(str, ids)) for ids in self.sources)
        with console.progress("distilling", len(self.sources), start=self.progress.done) as bar:
            self.translator.advance = bar.advance
            for _ in self.decoded(lines, full=False):
                pass
        progress = self.progress
        teacher = {**self.teacher, "step": self.step, "seconds": round(progress.seconds, 3), **progress.reading}
        killed = progress.published and is_prepared(self.target) and not self.unlike_finished()  # it is this result
        force = self.records.files[self.target] or killed
        must_be_free(self.target, force=force, is_ours=is_prepared, what=PREPARED)
        self.records.note_published()
        manifest = write(self.sources, self.records, self.target, teacher, surest=self.surest, force=force)
        found, counts = manifest["distilled"], self.progress.counts
        # Only the search knows what else the limit may have cut, and earlier versions have not counted it.
        limited = max(found["at_limit"], counts.get("limit", 0))
        tell(str(self.target), {**counts, "unk": found["unk"], "limit": limited}, self.plan)
        name, own = self.plan.recipe.name, self.plan.recipe
        known: object = self.trained.recipe  # whose text and tokenizer this data has
        if name in recipe_load.available():
            shipped = recipe_load.load(name)
            known = name if (shipped.data, shipped.tokenizer) == (own.data, own.tokenizer) else known
        following = command(
            "janus", "train", "--recipe", known, "--objective", "cmlm", "--prepared", self.target,
            "--run", runs.RUNS / f"{name}-cmlm-distilled",
        )  # fmt: skip
        pairs = counted(manifest["splits"]["train"]["kept"], "pair")
        console.say(f"{pairs} written to {self.target}; next: {following}")


def _data(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """What was decoded, to compare: the training data, and further files with their column."""
    files = {file["path"]: file["sha256"][:12] for file in teacher.get("sources", ())}
    column = {"column": teacher["column"]} if "column" in teacher else {}
    return {"data": teacher.get("fingerprint"), **({"source": files} if files else {}), **column}


def must_have_sources(recipe: Recipe, what: str) -> None:
    """Raises UsageError for a pre-training: its sources are made from its targets as it trains."""
    if recipe.data.is_plain:
        raise UsageError(
            f"{recipe.name} is plain text (data.task denoising), which has no sources to {what}",
            "fine-tune the run on pairs first, with `janus train --from`",
        )


def prepared_of(run: Run, recipe: Recipe) -> Prepared:
    """The data that the run was trained on.

    Raises:
        DataError: it is gone, or was prepared again from other text.
    """
    prepared = open_prepared(recipe, data_of(run, recipe), ("--recipe", str(run.recipe)), of_run=True)
    if knows_no_data(run):
        before, now = (each["files"] for each in (run.read_manifest(), prepared.manifest))
        is_its_own = all(before[name]["sha256"] == now[name]["sha256"] for name in prepared.tokenizers.files)
    else:
        is_its_own = fingerprints(prepared.manifest) == fingerprints(run.read_manifest())
    if not is_its_own:
        raise DataError(
            f"{prepared.folder} is not the data that {run.path} was trained on", prepare_again(prepared, run, recipe)
        )
    return prepared


class Sources:
    """Ids of the sources to decode: those of the training pairs, then those of each file's lines. Iterable repeatedly.

    Raises:
        DataError: a file cannot be used (see `lines.check`), or has changed.
    """

    def __init__(
        self, prepared: Prepared, recipe: Recipe, files: Sequence[Path] = (), column: str | None = None
    ) -> None:
        self.prepared, self.recipe = prepared, recipe
        columns = column_of_each(files, column)
        self.texts = [
            source_lines(recipe.data, path, own, strict=True) for path, own in zip(files, columns, strict=True)
        ]
        self.files = [check(text) for text in self.texts]
        self.lines = sum(file.lines for file in self.files)

    def __len__(self) -> int:
        return len(self.prepared.train) + self.lines

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self.prepared.train)):
            yield self.prepared.train.pair(index)[0].tolist()
        for text, file in zip(self.texts, self.files, strict=True):
            if digest(file.path) != file.sha256:
                raise DataError(f"{file.path} was changed meanwhile", "restore it, and continue with --resume")
            lines = iter(text)
            while chunk := list(islice(lines, CHUNK_LINES)):
                yield from self.prepared.tokenizers.source.encode(chunk)

    def described(self) -> dict[str, Any]:
        """The files, for the manifest; empty if there are none."""
        files = [{"path": str(file.path.resolve()), "lines": file.lines, "sha256": file.sha256} for file in self.files]
        return {"sources": files} if files else {}


class IdLines:
    """A tokenizer for lines of ids, such as `17 5 230`. like: the tokenizer that the ids belong to."""

    def __init__(self, like: Tokenizer) -> None:
        self.size, self.pieces = like.size, like.pieces

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in line.split()] for line in lines]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def write(
    sources: Sources, outputs: Iterable[Record], out: Path, teacher: Mapping[str, Any], *, surest: float = 1.0,
    force: bool,
) -> dict[str, Any]:  # fmt: skip
    """Makes the folder `out`, complete or not at all: the data of `sources.prepared` with other training pairs.

    outputs: the teacher's output (score, and ids as hypothesis) for each source; read twice. teacher: for the manifest,
    whose `distilled` it becomes; its `options` are the decoding options. surest: the share to keep of the non-empty
    outputs for further sources: those with the highest scores, and all that tie with the lowest of them.
    Memory is bounded (but see `prepare` for `data.deduplicate`; surest < 1 needs 16 bytes a further source).

    Raises:
        DataError: no pair is left, an output is damaged, or a source file has changed.
        UsageError: `out` exists, and `force` is not given.
    """
    prepared = sources.prepared
    before, count = prepared.manifest, len(sources)
    pairs = _Pairs(sources, outputs, Decoding(**teacher["options"]))
    target = pairs.survey(surest)
    source = TextFile(prepared.folder, count, 0, prepared.train.fingerprint)
    with whole_folder(out, force=force, is_ours=is_prepared, what=PREPARED) as folder:
        copy_files([name for name in before["files"] if name not in store_files("train")], prepared.folder, folder)
        origin = {"data": prepared.train.fingerprint, "teacher": teacher["sha256"]}
        split = Split("train", {"source": source, "target": target})
        train = write_split(folder, split, pairs.filtered(), prepared.tokenizers, origin)
        if not train["kept"]:
            knobs = "".join(
                f"prepare with a looser {each}, or " for each in filters.loosen(train["dropped"], sources.recipe.data)
            )
            raise DataError(
                f"none of the teacher's outputs makes a training pair: {filters.reasons(train['dropped'])}",
                f"{knobs}take a better teacher or another checkpoint; {START_OVER}",
            )
        filters.tell("train", train, sources.recipe.data)
        train["text"]["source"] = before["splits"]["train"]["text"]["source"]
        distilled = {**teacher, "at_limit": pairs.at_limit, "unk": pairs.unknown}
        if surest < 1:
            distilled |= {"surest": surest, "least_score": pairs.least}
        splits = {**before["splits"], "train": train}
        return write_manifest(folder, {**before, "splits": splits, "distilled": distilled})


class _Pairs:
    """Sources with the teacher's outputs.

    at_limit: kept pairs so far whose output has the maximum length; unknown: whose output has an <unk>. least: the
    lowest score kept of further sources.
    """

    def __init__(self, sources: Sources, outputs: Iterable[Record], options: Decoding) -> None:
        self.sources, self.outputs, self.options = sources, outputs, options
        self.at_limit, self.unknown, self.least = 0, 0, -inf

    def survey(self, surest: float) -> TextFile:
        """Reads all outputs once: returns their digest, as lines `score<TAB>ids`, and finds `least`.

        Raises:
            DataError: there are not as many as sources, or one is no score with known ids.
        """
        digest, size, count, scores = hashlib.sha256(), 0, 0, array("d")
        for score, ids in map(self._parsed, self.outputs):
            line = f"{score:.{DIGITS}f}\t{' '.join(map(str, ids))}\n".encode()
            digest.update(line)
            size, count = size + len(line), count + 1
            if ids and surest < 1 and count > len(self.sources.prepared.train):
                scores.append(score)
        if count != len(self.sources):
            raise DataError(DAMAGED, START_OVER)
        if surest < 1:
            self.least = float(np.sort(scores)[-max(1, round(surest * len(scores)))]) if scores else 0.0
        return TextFile(Path(), count, size, digest.hexdigest())

    def filtered(self) -> Iterator[Encoded]:
        """The pairs that the recipe's data section admits, for `write_split`."""
        data, own = self.sources.recipe.data, len(self.sources.prepared.train)
        pairs = zip(self.sources, map(self._parsed, self.outputs), strict=True)
        while chunk := list(islice(pairs, CHUNK_LINES)):
            inputs, outputs = [ids for ids, _ in chunk], [ids for _, (_, ids) in chunk]
            (source, long), target = filters.shortened(data, Ragged.of(inputs)), Ragged.of(outputs)
            kept, dropped, _ = filters.filter_pairs("train", data, source.lengths, target.lengths, set())
            unsure = kept & (np.array([score for _, (score, _) in chunk]) < self.least)
            unsure[: max(0, own)] = False
            own -= len(chunk)
            dropped["unsure"] = int(unsure.sum())
            kept &= ~unsure
            self.at_limit += int((kept & (target.lengths >= self._most(torch.from_numpy(source.lengths)))).sum())
            self.unknown += sum(UNK in ids for ids in compress(outputs, kept))
            compared = np.flatnonzero(kept).tolist() if data.deduplicate else []
            keys = [pair_hash(str(inputs[index]), str(outputs[index])) for index in compared]
            cut = int((long & kept).sum())
            yield Encoded(len(chunk), source.keep(kept), target.keep(kept), dropped, keys, long=cut)

    def _most(self, lengths: torch.Tensor) -> np.ndarray:
        """The most tokens that an output may have. lengths: of the sources."""
        recipe = self.sources.recipe
        if recipe.ar_stream == "masks":  # its length is predicted
            return np.full(len(lengths), recipe.model.max_length - 2)
        return length_limit(lengths, recipe.model.max_length, self.options).numpy() - 1  # EOS

    def _parsed(self, record: Record) -> tuple[float, list[int]]:
        try:
            score, ids = float(record["score"]), [int(word) for word in record["hypothesis"].split()]
            if isfinite(score) and all(0 <= index < self.sources.prepared.tokenizers.target.size for index in ids):
                return score, ids
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        raise DataError(DAMAGED, START_OVER)
