"""The trace of a hypothesis for the terminal: columns of tokens, readable in black and white."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from janus_cli.console import cell_len
from janus_cli.core.search import Iteration
from janus_cli.decoding.translate import Result
from janus_cli.terminal import visible

GAP = "____"
Rows = Sequence[tuple[str, Sequence[str]]]  # a name and a cell for each token


def shown(result: Result, width: int) -> Iterator[str]:
    """The trace of the best hypothesis, line by line.

    Mask-predict: the lengths that were tried, if several, how likely each is, and the scores of those that went on.
    Then each pass: the tokens it reads (`____` is hidden), those it writes, how sure each is, and `^` under those that
    it hides again, `=` if because they repeat. Left to right: the tokens and how sure each is.
    """
    output, pieces = result.outputs[0], result.tokenizer.pieces
    yield f"sentence {result.index + 1}: {visible(result.source)}"
    if len(output.tried) > 1:
        yield f"lengths tried: {', '.join(_tried(*each) for each in output.tried)}"
    if not output.trace:
        end = ["</s>"] * (len(output.logps) - len(output.tokens))
        yield from _columns([("writes", pieces(output.tokens) + end), ("sure", _sure(output.logps))], width)
    read = [GAP] * len(output.trace[0].tokens) if output.trace else []
    for number, iteration in enumerate(output.trace, 1):
        yield f"pass {number} of {len(output.trace)}"
        written = pieces(iteration.tokens)
        rows = [("reads", read), ("writes", written), ("sure", _sure(iteration.logps))]
        if any(iteration.hidden):
            rows.append(("hides", _hides(iteration)))
        yield from _columns(rows, width)
        read = [GAP if hidden else piece for hidden, piece in zip(iteration.hidden, written, strict=True)]
    yield f"result, score {output.score:.3f}: {visible(result.text)}"


def _hides(iteration: Iteration) -> list[str]:
    signs = ["^" if hidden else "" for hidden in iteration.hidden]
    return ["=" if repeated else sign for sign, repeated in zip_longest(signs, iteration.repeated)]


def _tried(length: int, logp: float, score: float | None) -> str:
    return f"{length} ({math.exp(logp):.0%}{'' if score is None else f', score {score:.3f}'})"


def _sure(logps: Sequence[float]) -> list[str]:
    return [f"{100 * math.exp(logp):.0f}%" for logp in logps]


def _columns(rows: Rows, width: int) -> Iterator[str]:
    """The rows under each other, cells aligned; broken into blocks that fit into `width`."""
    cells = [[visible(cell) for cell in values] for _, values in rows]
    sizes = [max(cell_len(row[place]) for row in cells) for place in range(len(cells[0]))]
    start = 0
    while start < len(sizes):
        end, used = start + 1, 10 + sizes[start]
        while end < len(sizes) and used + 1 + sizes[end] <= width:
            used += 1 + sizes[end]
            end += 1
        for (name, _), row in zip(rows, cells, strict=True):
            padded = (row[place] + " " * (sizes[place] - cell_len(row[place])) for place in range(start, end))
            yield f"  {name:<7} {' '.join(padded)}".rstrip()
        start = end
