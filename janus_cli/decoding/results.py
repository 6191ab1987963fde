"""Results as plain text and as JSON, and the files they go to."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from janus_cli.core.decoders import Output
from janus_cli.decoding.translator import Result
from janus_cli.errors import DataError
from janus_cli.runs import sync_folder
from janus_cli.text.tokenizer import Tokenizer

DIGITS = 6  # of scores and log-probabilities


def plain(results: Sequence[Result], nbest: int) -> bytes:
    """A line for each result; with `nbest` > 1 a line `index<TAB>score<TAB>text` for each hypothesis."""
    if nbest == 1:
        return "".join(f"{result.texts[0]}\n" for result in results).encode()
    return "".join(
        f"{result.index}\t{output.score:.{DIGITS}f}\t{text}\n"
        for result in results
        for output, text in zip(result.outputs, result.texts, strict=True)
    ).encode()


def records(results: Sequence[Result], tokenizer: Tokenizer, traced: int) -> bytes:
    """A JSON object and a line end for each result; see `record`."""
    lines = (json.dumps(record(result, tokenizer, result.index < traced), ensure_ascii=False) for result in results)
    return "".join(f"{line}\n" for line in lines).encode()


def record(result: Result, tokenizer: Tokenizer, traced: bool = False) -> dict[str, Any]:
    """index (from 0), source, the fields of the best hypothesis, and, where there are several, all of them as nbest."""
    hypotheses = [
        _fields(output, text, tokenizer, traced) for output, text in zip(result.outputs, result.texts, strict=True)
    ]
    more = {"nbest": hypotheses} if len(hypotheses) > 1 else {}
    return {"index": result.index, "source": result.source, **hypotheses[0], **more}


def _fields(output: Output, text: str, tokenizer: Tokenizer, traced: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "hypothesis": text,
        "score": round(output.score, DIGITS),
        "tokens": tokenizer.pieces(output.tokens),
        "ids": output.tokens,
        "logps": _rounded(output.logps),
        "length": output.length,
        "passes": output.passes,
    }
    if traced and output.trace:
        fields["trace"] = [
            {
                "iteration": number,
                "tokens": tokenizer.pieces(iteration.tokens),
                "logp": _rounded(iteration.logps),
                "hidden": iteration.hidden,
            }
            for number, iteration in enumerate(output.trace, 1)
        ]
    return fields


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


@contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete; what is no plain file (/dev/null, a pipe) is written to.

    Raises:
        DataError: it cannot be made.
    """
    special = path.exists() and not path.is_file()
    written = path if special else path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        file = written.open("wb")
    except OSError as problem:
        raise DataError(f"{path} cannot be written: {problem.strerror}", "name another file with --output") from None
    try:
        with file:
            yield file
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            written.replace(path)
            sync_folder(path.parent)
    except BaseException:
        if not special:
            written.unlink(missing_ok=True)
        raise
