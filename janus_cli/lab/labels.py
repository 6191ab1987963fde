"""The names of rows in a bench or a comparison, and how often they are timed.

Cheap to import: a mistyped name is refused before torch is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from janus_cli.errors import UsageError
from janus_cli.recipe_load import guess

MODES = ("ar", "nar", "semi", "spec")
BATCHES = (16, 32, 64, 128)  # tried for the best throughput
REPEATS = 3  # timings of each row
WARMUP = 8  # sentences decoded untimed, for each row and batch size
NUMBER = "[1-9][0-9]{0,8}"
KEEPING = r"(?:\.keep(?P<keep_lengths>[0-9]{1,9}))?"
LENGTH_BEAMS = ("1", "5", "5.rerank")  # of mask-predict, where a name gives its passes alone
USUAL = (
    "ar.beam1", "ar.beam5",
    *(f"nar{iters}.lb{width}" for iters in (1, 4, 10) for width in LENGTH_BEAMS),
    "nar.eos", "semi2", "semi4", "spec", "spec.redraft-ar",
)  # fmt: skip
LABELS: dict[str, dict[str, Any]] = {  # pattern of a label, and the options that it sets besides its numbers
    rf"ar\.beam(?P<beam>{NUMBER})": {"mode": "ar"},
    rf"nar(?P<iters>{NUMBER})\.lb(?P<length_beam>{NUMBER})": {"mode": "nar", "rerank": "none"},
    rf"nar(?P<iters>{NUMBER})\.lb(?P<length_beam>{NUMBER})\.rerank{KEEPING}": {"mode": "nar", "rerank": "ar"},
    rf"nar(?P<iters>{NUMBER})\.lb(?P<length_beam>{NUMBER})\.rerank-nar{KEEPING}": {"mode": "nar", "rerank": "nar"},
    r"nar\.eos": {"mode": "nar"},  # without lengths: one pass, up to EOS
    rf"semi(?P<block>{NUMBER})": {"mode": "semi"},
    r"spec": {"mode": "spec", "redraft": "nar"},
    r"spec\.redraft-ar": {"mode": "spec", "redraft": "ar"},
    r"spec\.redraft-source": {"mode": "spec", "redraft": "source"},
}

ENDINGS: dict[str, dict[str, Any]] = {  # of a label, and the options that they set
    "": {}, ".onnx": {"engine": "onnx"}, ".torch": {"engine": "torch"}, ".int8": {"precision": "int8"},
}  # fmt: skip


def row_options(names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Decoding options, by label, of the usual rows and of those with other numbers among `names`.

    These are labels, or passes of mask-predict alone (nar6), which stand for the usual length beams.

    Labels are those of `Plan.label`, without the options that the recipe sets for every row.
    """
    rows = {}
    started = [f"{name}.lb{end}" for name in names if re.fullmatch(f"nar{NUMBER}", name) for end in LENGTH_BEAMS]
    for name in (*USUAL, *started, *names):
        for pattern, options in LABELS.items():
            if match := re.fullmatch(rf"{pattern}(?P<ending>\.onnx|\.torch|\.int8)?", name):
                found = match.groupdict(default="")
                ending = ENDINGS[found.pop("ending")]
                rows[name] = options | {knob: int(number) for knob, number in found.items() if number} | ending
    return rows


def matching(names: Sequence[str], option: str = "--mode") -> dict[str, dict[str, Any]]:
    """The `row_options` that these names stand for, see `select`. Raises UsageError if one, of `option`, has no row."""
    rows, labels = row_options(names), set[str]()
    for name in names:
        found = [
            label for label, options in rows.items()
            if name == label or (name not in rows and (name == options["mode"] or label.startswith(f"{name}.")))
        ]  # fmt: skip
        if not found:
            raise UsageError(
                f"{option} {name}: there is no such row{guess(name, [*MODES, *rows])}",
                f"rows: {', '.join([*MODES, *rows])}, or other numbers, as ar.beam4, nar6, nar6.lb3.rerank or semi7; "
                "behind each .onnx, .torch or .int8",
            )
        labels.update(found)
    return {label: options for label, options in rows.items() if label in labels}
