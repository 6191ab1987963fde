"""Where hypotheses and references come from: files, stdin, or what `janus decode` left in a run.

`runs/<run>/decode/<split>.<label>.json` is the summary of one decoding; its "hypotheses" and "references" name text
files in the same folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from janus_cli import console, documents, recipe_load
from janus_cli.data.extract import source_names
from janus_cli.data.lines import STDIN, is_stream
from janus_cli.data.references import by_column, references
from janus_cli.data.tables import HEAD, Column, Texts, is_json_lines, table_of_lines, text_or_column
from janus_cli.errors import DataError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import RUNS, Run, find_run, pretrained, run_around
from janus_cli.terminal import command

Decoding = tuple[Path, list[Path]]  # hypotheses; references, none if the split has no target
MOST_LINES = 10_000_000  # about a gigabyte; an endless pipe ends here
HYPOTHESIS, NBEST = ("hypothesis",), "nbest"  # keys of `janus decode --jsonl`
NBEST_LINE = re.compile(r"([0-9]+)\t-?(?:[0-9]+\.[0-9]{6}|inf)\t(.*)")  # index, score, text


def newest_decoding(run: Path | None) -> Decoding:
    """The newest decoding, of the named run or of any under `runs/`.

    Raises:
        DataError: nothing was, or the summary is damaged.
        UsageError: there is no such run.
    """
    newest = find_run(run)
    runs = [newest] if run is not None else [Run(each.parent) for each in RUNS.glob("*/recipe.yaml")]
    summaries = [file for each in runs for file in each.decoded.glob("*.json")]
    if not summaries:
        raise DataError(
            f"nothing was decoded with {newest.path} yet",
            f"run `{command('janus', 'decode', '--run', newest.path)}`, or name a file",
        )
    return decoding_of(max(summaries, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def decoding_like(first: Path, place: Path) -> Path:
    """What is to be compared with `first`: a file itself; of a run, its decoding of this name, else the newest.

    Raises what `newest_decoding` does, and UsageError if both are decodings, and of different splits.
    """
    is_run = pretrained(place) or any((folder / "recipe.yaml").is_file() for folder in (place, RUNS / place))
    other = place
    if place != STDIN and is_run:
        alike = find_run(place).decoded / first.name
        other = alike if alike.is_file() else newest_decoding(place)[0]
    splits = [_split_of(path) for path in (first, other)]
    if all(splits) and splits[0] != splits[1]:
        run = run_around(other)
        decode = command("janus", "decode", "--run", run.path if run else "RUN", "--split", splits[0])
        raise UsageError(
            f"{first} is of the {splits[0]} split, {other} of the {splits[1]} split: they cannot be compared",
            f"decode the same split, in the same mode: `{decode}`",
        )
    return other


def _split_of(hypotheses: Path) -> str:
    """The split of hypotheses that `janus decode` wrote, as their summary says; empty for others."""
    summary = _summary_of(hypotheses)
    return str(documents.read(summary, documents.DecodedSplit).get("split") or "") if summary else ""


def find_references(hypotheses: Path, run: Path | None) -> list[Path]:
    """The references beside hypotheses that `janus decode` wrote; for stdin, or other hypotheses with a run, those of
    the newest decoding.

    Raises:
        DataError: there are none, or no hypotheses.
        UsageError: there is no such run.
    """
    if hypotheses != STDIN and not hypotheses.exists():
        raise DataError(f"{hypotheses} does not exist", "`janus decode` writes hypotheses to RUN/decode/")
    if summary := _summary_of(hypotheses):
        decoded, references = decoding_of(summary)
    elif hypotheses == STDIN or run is not None:
        decoded, references = newest_decoding(run)
    else:
        hint = "name one with --reference FILE, or a run with --run"
        raise DataError(f"there is no reference for {hypotheses}", hint)
    if not references:
        raise DataError(f"{decoded} was decoded without a reference", "name one with --reference FILE")
    return references


def records_of(hypotheses: Path) -> Path | None:
    """The records of hypotheses that `janus decode` wrote, which hold their sources; None if there are none."""
    records = hypotheses.with_suffix(".jsonl")  # <split>.<label>.txt, .jsonl and .json belong together
    return records if records.is_file() and _summary_of(hypotheses) else None


def _summary_of(hypotheses: Path) -> Path | None:
    """What `janus decode` wrote of these hypotheses; None if it did not, and for just a JSON of this name."""
    summary = hypotheses.with_suffix(".json")
    with suppress(DataError, OSError):
        if hypotheses != STDIN and "hypotheses" in documents.read(summary, documents.Document):
            return summary
    return None


def decoding_of(path: Path) -> Decoding:
    """What the summary of a decoding names. Raises DataError if it is damaged."""
    summary = documents.read(path, documents.DecodedSplit)
    names = [summary["hypotheses"], *(summary.get("references") or [])]
    if outside := [name for name in names if not name or Path(name).name != name]:
        raise DataError(f"{path} is damaged: {outside[0]!r} is not a file name", "run `janus decode` again")
    hypotheses, *references = map(path.with_name, names)
    return hypotheses, references


def read_hypotheses(path: Path, column: str | None = None) -> list[str]:
    """The lines of a text file or of stdin (`-`), or a column of a table; of JSON lines by default "hypothesis".

    Text is taken for JSON lines if its name says so, or if its first lines are objects with a hypothesis. Of an n-best
    list, as `janus decode --nbest` writes it, the best hypothesis of each line.

    Raises:
        DataError: the file cannot be read or is no UTF-8, or a row has no such text.
    """
    text = text_or_column(path, HYPOTHESIS, column)
    lines = list(islice(text, MOST_LINES + 1))
    if len(lines) > MOST_LINES:
        raise DataError(
            f"{text.name} has more than {MOST_LINES:,} lines, and scoring needs all of them in memory",
            "score it in parts; is it the output of a decoding?",
        )
    texts = text.texts if isinstance(text, Column) else None
    if column is None and is_stream(path) and is_json_lines(lines[:HEAD], HYPOTHESIS):
        texts = Texts(table_of_lines(path, lines[:HEAD]), HYPOTHESIS, single=True, lines=lines)
        lines = [str(cell) for _, (cell,) in texts]
    is_nbest = texts and [*texts.columns] == [*HYPOTHESIS] and NBEST in texts.table.names
    best = lines if is_nbest else _best(lines)
    if best or re.search(rf"\.{NBEST}[0-9]+\.", path.name):  # the text of a split holds nothing else
        console.say(f"{text.name}: of an n-best list, only the best hypothesis of each line is judged")
    return best or lines


def _best(lines: list[str]) -> list[str]:
    """The first hypothesis of each line of an n-best list in plain text; none if it is other text."""
    found = [NBEST_LINE.fullmatch(line) for line in lines]
    best: dict[str, str] = {}
    if all(found):
        for match in filter(None, found):
            best.setdefault(match[1], match[2])
    return [*best.values()]


def read_references(path: Path, columns: Sequence[str] = ()) -> list[list[str | None]]:
    """The references in a file: lists of N lines, None if a line has fewer than others; see `references`.

    Raises:
        DataError: it cannot be read, is no UTF-8, or has no such columns.
    """
    return by_column(references(path, columns)) or [[]]


def recipe_of(run: Run) -> Recipe | None:
    """The recipe of a run; None if it has mistakes."""
    with suppress(UsageError):
        return recipe_load.load(str(run.recipe))
    return None


def warn_of_sources(columns: Sequence[str], run: Run | None) -> None:
    """Warns if a column that is read as references is the source in the recipe of the run that was decoded."""
    if columns and run and set(columns) & set(source_names(recipe_load.load(str(run.recipe)).data)):
        console.warn(f"--reference-column {' '.join(columns)}: that is the source in the recipe of {run.path}")
