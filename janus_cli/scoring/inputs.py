"""Where hypotheses and references come from: files, stdin, or what `janus decode` left in a run.

`runs/<run>/decode/<split>.<label>.json` is the summary of one decoding; its "hypotheses" and "references" name text
files in the same folder.
"""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

from janus_cli.data.lines import STDIN, Lines, name_of
from janus_cli.errors import DataError
from janus_cli.files import read_json
from janus_cli.runs import RUNS, Run, find_run

Decoding = tuple[Path, list[Path]]  # hypotheses; references, none if the split has no target


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
            f"nothing was decoded with {newest.path} yet", f"run `janus decode --run {newest.path}`, or name a file"
        )
    return _read_summary(max(summaries, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def find_references(hypotheses: Path, run: Path | None) -> list[Path]:
    """The references beside hypotheses that `janus decode` wrote; for stdin, or other hypotheses with a run, those of
    the newest decoding.

    Raises:
        DataError: there are none, or no hypotheses.
        UsageError: there is no such run.
    """
    if hypotheses != STDIN and not hypotheses.exists():
        raise DataError(f"{hypotheses} does not exist", "`janus decode` writes hypotheses to RUN/decode/")
    summary = hypotheses.with_suffix(".json")  # <split>.<label>.txt, .jsonl and .json belong together
    if hypotheses != STDIN and summary.is_file():
        decoded, references = _read_summary(summary)
    elif hypotheses == STDIN or run is not None:
        decoded, references = newest_decoding(run)
    else:
        hint = "name one with --reference FILE, or a run with --run"
        raise DataError(f"there is no reference for {hypotheses}", hint)
    if not references:
        raise DataError(f"{decoded} was decoded without a reference", "name one with --reference FILE")
    return references


def _read_summary(path: Path) -> Decoding:
    summary = read_json(path)
    hypotheses, references = summary.get("hypotheses"), summary.get("references") or []
    for name in [hypotheses, *references] if isinstance(references, list) else [references]:
        if not isinstance(name, str) or Path(name).name != name or not isinstance(references, list):
            raise DataError(f"{path} is damaged: {name!r} is not a file name", "run `janus decode` again")
    return path.with_name(str(hypotheses)), [path.with_name(name) for name in references]


def read_hypotheses(path: Path) -> list[str]:
    """The lines of a text file or of stdin (`-`), or the field "hypothesis" of each line of `janus decode --jsonl`.

    Raises:
        DataError: the file cannot be read, or a line is no such JSON or no UTF-8.
    """
    lines = list(Lines(path, strict=True))
    if path.suffix == ".jsonl" or (path == STDIN and lines and lines[0].startswith('{"')):
        return [_hypothesis(line, f"{name_of(path)}:{number}") for number, line in enumerate(lines, 1)]
    return lines


def _hypothesis(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as problem:
        raise DataError(f"{place} is not JSON: {problem}") from None
    text = record.get("hypothesis") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f'{place} has no text under "hypothesis"', "score the output of `janus decode --jsonl`, or plain text"
        )
    return text


def read_references(path: Path) -> list[list[str | None]]:
    """The references in a file: lists of N lines, None if a line has fewer references than others.

    A `.tsv` file holds several a line, between tabs.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    lines = list(Lines(path, strict=True))
    if path.suffix != ".tsv":
        return [[*lines]]
    # An empty cell is no reference; a line of empty cells has one reference, the empty text.
    cells = [[cell for cell in line.split("\t") if cell] or [""] for line in lines]
    return [list(column) for column in zip_longest(*cells)] or [[]]
