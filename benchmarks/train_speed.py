"""Times training steps of several objectives and precisions against each other, and against Hugging Face.

    python benchmarks/train_speed.py --prepared data/multi30k.de-en
    python benchmarks/train_speed.py --shape 256/1024 --against transformers

Each contestant has a process of its own; they take turns over the same batches, and each turn begins with the next one.
Prints for each: seconds a step, target tokens/s, the share of this machine's matrix-product rate that the step's own
products come to, which part of the time went into making batches and noise, and the most memory that its process held;
then the ratios, turn by turn, beside the bars that they are to clear. Medians over the turns, with their range.

`transformers` is MarianMTModel of the recipe's shape and dropout, tied as the recipe ties, in a bare loop: the same
batches, the same fused AdamW, cross-entropy with label smoothing 0.1. float32, or with -bf16 under autocast.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import shared
from trainings import HUGGING_FACE, Entry, Turn, begin, turn

from janus_cli import console
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.prepared import open_prepared
from janus_cli.lab import peers
from janus_cli.lab.rows import Spread, rotated
from janus_cli.recipe import Recipe
from janus_cli.system import load_average

PRECISIONS = ("float32", "bf16")
PEERS = {HUGGING_FACE: "float32", f"{HUGGING_FACE}-bf16": "bf16"}
# The bars.
AR_AGAINST_PEER = {"bf16": 1.6, "float32": 1.0}  # of its tokens/s, at least
JANUS_AGAINST_AR = 3.2  # of its step, at most
PEAK = 1.5 * 2**30
LOADING = 0.03


@dataclass
class Contestant:
    """Somebody in a process of its own, and how the turns went so far."""

    entry: Entry
    call: shared.Call
    parameters: int = 0
    turns: list[Turn] = field(default_factory=list)

    @property
    def name(self) -> tuple[str, str]:
        return self.entry.who, self.entry.recipe.training.precision

    def spread(self, what: str) -> Spread:
        return Spread.of([getattr(each, what) for each in self.turns])


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = shared.parser(__doc__)
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="of `janus preprocess`; without: made-up text")
    parser.add_argument("--vocabulary", type=shared.positive, help="words (with --shape 8000, else the recipe's)")
    parser.add_argument("--batch-tokens", type=shared.positive, help="with --shape 4096, else the recipe's")
    parser.add_argument("--words", type=shared.positive, default=14, help="mean length of a made-up sentence")
    parser.add_argument("--pairs", type=shared.positive, default=20_000, help="made-up ones")
    parser.add_argument("--objective", action="append", dest="objectives", choices=sorted(OBJECTIVES))
    parser.add_argument("--precision", action="append", dest="precisions", choices=PRECISIONS)
    parser.add_argument("--against", action="append", default=[], choices=tuple(PEERS))
    parser.add_argument("--turns", type=shared.positive, default=5)
    parser.add_argument("--steps", type=shared.positive, default=3, help="of a turn")
    parser.add_argument("--warm-up", type=shared.positive, default=2, help="steps; a GPU wants more")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    if asked.shape:
        asked.vocabulary = asked.vocabulary or shared.SHAPE_VOCABULARY
        asked.batch_tokens = asked.batch_tokens or shared.SHAPE_BATCH_TOKENS
    asked.objectives, asked.precisions = asked.objectives or ["ar", "janus"], asked.precisions or list(PRECISIONS)
    return asked


def main(arguments: Sequence[str] | None) -> None:
    """Times as asked and prints the tables."""
    asked = options(arguments)
    if asked.against:
        peers.load(HUGGING_FACE)
    who = [
        (name, precision) for name in dict.fromkeys(asked.objectives) for precision in dict.fromkeys(asked.precisions)
    ]
    who += [(HUGGING_FACE, PEERS[name]) for name in dict.fromkeys(asked.against)]
    recipes = {
        (name, precision): shared.load(
            asked, "ar" if name == HUGGING_FACE else name, precision, asked.vocabulary, asked.batch_tokens
        )
        for name, precision in who
    }
    shared.start(asked, asked.device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        store = pairs(asked, next(iter(recipes.values())), Path(folder))
        contestants = []
        for name, recipe in recipes.items():
            entry = Entry(name[0], recipe, store, asked.device)
            contestants.append(Contestant(entry, closing.enter_context(shared.apart(asked.threads))))
            contestants[-1].parameters = contestants[-1].call(begin, entry)
        take_turns(contestants, asked.turns, asked.steps, asked.warm_up)
    report(asked, contestants)


def pairs(asked: argparse.Namespace, recipe: Recipe, folder: Path) -> Path:
    """The training pairs, checked or made."""
    if asked.prepared:
        return open_prepared(recipe, asked.prepared).folder
    most = min(recipe.data.source_limit, recipe.data.target_limit, recipe.training.batch_tokens - 2)
    shared.made_up_store(folder, asked.pairs, asked.words, most, recipe.tokenizer.vocabulary)
    return folder


def take_turns(contestants: Sequence[Contestant], turns: int, steps: int, warm_up: int) -> None:
    """Warms up, then lets each do its steps in every turn."""
    with console.progress("timing", (turns + 1) * len(contestants)) as bar:
        for each in contestants:
            each.call(turn, warm_up)
            bar.advance()
        for number in range(turns):
            for each in rotated(contestants, number):
                each.turns.append(each.call(turn, steps))
                bar.advance()


def report(asked: argparse.Namespace, contestants: Sequence[Contestant]) -> None:
    """Both tables."""
    rows = []
    for each in contestants:
        seconds, used = each.spread("seconds_a_step"), each.turns[-1].utilisation
        rows.append((
            each.entry.label, f"{each.parameters / 1e6:.2f} M", shared.ranged(seconds, ".3f"),
            f"{each.spread('tokens_a_second').median:,.0f}",
            "" if used is None else f"{each.spread('utilisation').median:.0%}",
            f"{each.spread('loading').median:.1%}", f"{each.turns[-1].peak / 2**20:,.0f}",
        ))  # fmt: skip
    title = f"{asked.turns} turns of {asked.steps} steps, {asked.threads} threads; median (lowest-highest)"
    columns = ("", "weights", "s a step", "target tokens/s", "utilisation", "batches, noise", "peak MiB")
    console.table(title, columns, rows)
    console.table("bars", ("", "measured", "bar", "cleared"), bars(contestants))
    sys.stdout.write(f"load average at the end: {load_average()}\n")


def bars(contestants: Sequence[Contestant]) -> list[tuple[str, str, str, str]]:
    """What is measured against what, the value, the bar where there is one, and whether it is cleared."""
    by_name = {each.name: each for each in contestants}
    rows = []
    for (who, precision), each in by_name.items():
        for peer in (key for key in by_name if key[0] == HUGGING_FACE != who):
            bar = AR_AGAINST_PEER[precision] if who == "ar" and peer[1] == "float32" else None
            found = by_turn(each, by_name[peer], "tokens_a_second")
            words = "" if bar is None else f"at least {bar:.1f}"
            verdict = "" if bar is None else said(found.median >= bar)
            rows.append(
                (f"tokens/s: {each.entry.label} / {' '.join(peer)}", shared.ranged(found, ".2f"), words, verdict)
            )
        if who == "janus" and ("ar", precision) in by_name:
            found = by_turn(each, by_name["ar", precision], "seconds_a_step")
            rows.append((
                f"step: janus / ar, {precision}", shared.ranged(found, ".2f"), f"at most {JANUS_AGAINST_AR:.1f}",
                said(found.median <= JANUS_AGAINST_AR),
            ))  # fmt: skip
    ours = [each for each in contestants if each.entry.who != HUGGING_FACE]
    peak, loading = max(each.turns[-1].peak for each in ours), max(each.spread("loading").median for each in ours)
    rows.append(("largest peak of ours", f"{peak / 2**30:.2f} GiB", f"{PEAK / 2**30:.1f} GiB", said(peak <= PEAK)))
    rows.append(("most for batches and noise", f"{loading:.1%}", f"below {LOADING:.0%}", said(loading < LOADING)))
    return rows


def by_turn(one: Contestant, other: Contestant, what: str) -> Spread:
    """The ratio of each turn."""
    return Spread.of([
        getattr(mine, what) / getattr(theirs, what) for mine, theirs in zip(one.turns, other.turns, strict=True)
    ])  # fmt: skip


def said(cleared: bool) -> str:
    return "yes" if cleared else "no"


if __name__ == "__main__":
    shared.run(main)
