"""Text with typing errors as sources of the text itself: a task whose outputs nearly are their sources.

    python benchmarks/noisy_copy.py --train mono.en --valid valid.en --test valid.en --out typos
    janus train --recipe multi30k --data-dir typos --set data.source=src --set data.target=tgt --set data.downloads=[]
    python benchmarks/speculation.py RUN typos/test.src --set redraft=source

A word of at least four letters has, with --share, one error: two neighbouring letters swapped, one left out, or one
written twice.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import shared

from janus_cli import console
from janus_cli.data.lines import Lines
from janus_cli.files import write_atomically

SHORTEST = 4  # letters of a word that may have an error


def mistyped(word: str, draws: random.Random) -> str:
    at = draws.randrange(1, len(word) - 1)
    first, here, there = word[:at], word[at], word[at + 1 :]
    return draws.choice((first + there[0] + here + there[1:], first + there, first + here + here + there))


def noisy(line: str, share: float, draws: random.Random) -> str:
    words = (
        mistyped(word, draws) if len(word) >= SHORTEST and draws.random() < share else word for word in line.split()
    )
    return " ".join(words)


def main(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    splits = ("train", "valid", "test")
    for split in splits:
        parser.add_argument(f"--{split}", type=Path, required=True, metavar="FILE", help="lines of plain text")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--share", type=float, default=0.15, help="of words that have an error")
    parser.add_argument("--lines", type=shared.positive, default=100_000, help="of each file, at most")
    parser.add_argument(
        "--words", type=shared.positive, default=40, help="of a line, at most; longer ones are left out"
    )
    asked, draws = parser.parse_args(arguments), random.Random(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    for split in splits:
        texts = [" ".join(line.split()) for line in Lines(getattr(asked, split), strict=True)]
        texts = [text for text in texts if 0 < len(text.split()) <= asked.words][: asked.lines]
        for ending, lines in (("src", [noisy(text, asked.share, draws) for text in texts]), ("tgt", texts)):
            write_atomically(asked.out / f"{split}.{ending}", "".join(f"{line}\n" for line in lines).encode())
        console.say(f"{split}: {len(texts):,} lines")


if __name__ == "__main__":
    shared.run(main)
