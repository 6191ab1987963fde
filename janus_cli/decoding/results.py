"""Results as plain text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from janus_cli.core.search import Output
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.decoding.translator import Result

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


def scored(results: Sequence[Result]) -> bytes:
    """A line `score<TAB>text` for each result: its best hypothesis."""
    return "".join(f"{result.outputs[0].score:.{DIGITS}f}\t{result.texts[0]}\n" for result in results).encode()


def plain_again(line: bytes, nbest: int) -> bytes:
    """What `plain` gives for the result that one line of `records` was made from."""
    about = json.loads(line)
    if nbest == 1:
        return f"{about['hypothesis']}\n".encode()
    return "".join(
        f"{about['index']}\t{found['score']:.{DIGITS}f}\t{found['hypothesis']}\n"
        for found in about.get("nbest", [about])
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
