"""More source text of the kind, for `janus distill --source`: training sentences crossed with each other.

    python benchmarks/cross_sources.py train.de --lines 200000 --without valid.de test.de > more.de
    janus distill RUN --source more.de --surest 0.7

A line is the beginning of one sentence and the end of another, joined at two words in a row that both have: "ein Mann
auf einem | Pferd" and "sitzt auf einem | roten Ball" give "ein Mann auf einem roten Ball". It has 5 words at the least.
Many are odd; --surest leaves out those that the teacher is at a loss with. Lines that are training sentences, that were
written already, or that stand in a file of --without (no held-out source may become a training source) are not written.
All files may be .gz.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import shared

from janus_cli import console
from janus_cli.data.lines import Lines

TRIES = 100  # for each line wanted, before giving up
SHORTEST = 5  # words of a line


def crossed(sentences: Sequence[str], seed: int, longest: int) -> Iterator[str]:
    """Endless: sentences joined at two words in a row that both have, of at most `longest` words."""
    draws = random.Random(seed)
    words = [sentence.split() for sentence in sentences]
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for number, sentence in enumerate(words):
        for at in range(1, len(sentence) - 2):
            places[sentence[at], sentence[at + 1]].append((number, at))
    if not places:
        return
    while True:
        number = draws.randrange(len(words))
        first = words[number]
        if len(first) < 4:
            yield ""
            continue
        cut = draws.randrange(1, len(first) - 2)
        other, at = draws.choice(places[first[cut], first[cut + 1]])
        line = first[:cut] + words[other][at:]
        yield " ".join(line) if other != number and SHORTEST <= len(line) <= longest else ""


def lines_of(path: Path) -> list[str]:
    """With single spaces between words.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    return [" ".join(line.split()) for line in Lines(path, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="source side of the training text, a sentence a line")
    parser.add_argument("--lines", type=shared.positive, default=100_000, help="how many to write")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="files of lines that must not come out")
    parser.add_argument("--longest", type=shared.positive, default=25, help="words of a line")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    sentences = lines_of(given.file)
    known = {"", *sentences, *(line for path in given.without for line in lines_of(path))}
    written = 0
    for tried, line in enumerate(crossed(sentences, given.seed, given.longest)):
        if written == given.lines or tried == TRIES * given.lines:
            break
        if line not in known:
            known.add(line)
            written += 1
            sys.stdout.write(f"{line}\n")
    if written < given.lines:
        console.warn(f"{written:,} lines instead of {given.lines:,}: these sentences share too little")


if __name__ == "__main__":
    shared.run(main)
