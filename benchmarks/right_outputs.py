"""How many outputs on the demo's made-up text are right, and their BLEU against all that would be.

    janus compare --recipe demo --seeds 1,2 …
    python benchmarks/right_outputs.py data/demo.src-tgt runs/compare-demo/outputs/*.txt

Each input of that text has four right outputs, of which the test split holds one. BLEU against that one depends on
which of the four a model happens to like: it moves by points where the share of right outputs does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import shared

from janus_cli.data.synthetic import is_valid, translations
from janus_cli.errors import DataError
from janus_cli.lab.tables import markdown
from janus_cli.scoring.judge import Judge


def main(arguments: Sequence[str] | None) -> None:
    """Prints a Markdown table, a row a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="the demo's data")
    parser.add_argument("outputs", type=Path, nargs="+", help="what decoding its test split gave")
    asked = parser.parse_args(arguments)
    sources = _lines(asked.prepared / "test.source.txt")
    try:
        references = [list(texts) for texts in zip(*map(translations, sources), strict=True)]
    except ValueError as problem:
        raise DataError(f"{asked.prepared} is not the demo's data: {problem}") from None
    cells = []
    for path in asked.outputs:
        texts = _lines(path)
        if len(texts) != len(sources):
            raise DataError(f"{path} has {len(texts):,} lines for {len(sources):,} inputs")
        right = sum(map(is_valid, sources, texts)) / len(sources)
        cells.append([path.stem, f"{100 * right:.1f}", f"{Judge('bleu').score(texts, references).value:.1f}"])
    sys.stdout.write(
        markdown(dict.fromkeys(["outputs", "right, %", "BLEU against all that is right"], ""), cells) + "\n"
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode().split("\n")[:-1]
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from None


if __name__ == "__main__":
    shared.run(main)
