"""JANUS reads its AR stream and its NAR and AUX stream in one decoder call: is that faster than two calls?

    python benchmarks/joined_calls.py --shape 256/1024

One call multiplies larger matrices; but the streams, which must not see each other, share one attention matrix, and
what is masked out between them is computed all the same. Times the decoder, forward and backward, both ways in turns,
over sentences of one length in batches of about as many target tokens. Medians over the turns, with their range.

The arithmetic of two calls is given as a share of that of one, matrix products alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import shared
import torch
from torch import Tensor

from janus_cli import console
from janus_cli.core.model import Memory, Transformer
from janus_cli.core.objectives.base import decoder_flops
from janus_cli.core.stream import NEVER, Stream, beside
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import UsageError
from janus_cli.lab.rows import Spread, rotated
from janus_cli.recipe import Recipe
from janus_cli.training.model import build_model
from janus_cli.training.trainer import plan_of
from janus_cli.world import autocast

LENGTHS = (15, 60, 120)
VOCABULARY = 8000  # few of the words are looked up; nothing is predicted
CLEAR = 0.05  # by so much must two calls be faster to be worth a word
SPAN = 2048.0  # longer than any target


def in_span(stream: Stream, index: int) -> Stream:
    """The same slots in the `index`-th span of time: slots of different spans do not attend to each other."""
    start = index * SPAN
    birth = torch.where(stream.birth == NEVER, NEVER, stream.birth.clamp(min=0.0) + start)
    return stream.replace(time=stream.time + start, birth=birth, death=stream.death.clamp(max=SPAN) + start)


def join(streams: Sequence[Stream]) -> tuple[Stream, Callable[[Tensor], list[Tensor]]]:
    """One decoder call for streams that must not see each other: each gets its own span of time.

    Returns the joined stream and the way back: (B, L, D) -> one (B, L_i, D) for each stream.
    """
    joined = beside(*(in_span(stream, index) for index, stream in enumerate(streams)))
    keys = [s.keys for s in streams]
    others = [s.tokens.shape[1] - s.keys for s in streams]

    def apart(states: Tensor) -> list[Tensor]:
        parts = states.split([*keys, *others], dim=1)
        return [torch.cat([parts[i], parts[len(keys) + i]], dim=1) for i in range(len(keys))]

    return joined, apart


@dataclass
class Setting:
    """A batch of one length in one precision, ready for the decoder, and the seconds that it took each way."""

    recipe: Recipe
    words: int
    model: Transformer
    streams: list[Stream]
    memory: Memory
    slopes: list[Tensor]  # of the loss by the states of each stream
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"one": [], "two": []})

    def states(self, way: str) -> list[Tensor]:
        """What the decoder makes of the streams: (B, L_i, D) for each."""
        if way == "two":
            return [self.model.decode(stream, self.memory) for stream in self.streams]
        joined, apart = join(self.streams)
        return apart(self.model.decode(joined, self.memory))

    def step(self, way: str) -> float:
        """Seconds of forward and backward."""
        device = self.memory.states.device
        self.model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        with autocast(self.recipe.training.precision, device):
            states = self.states(way)
        torch.autograd.backward(states, [slope.to(made.dtype) for slope, made in zip(self.slopes, states, strict=True)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    def arithmetic(self) -> float:
        """FLOPs of two calls / FLOPs of one."""
        rows, source = self.memory.real.shape
        knobs = self.recipe.model
        # Keys and values of the source are made once, whatever the number of calls.
        again = 2 * rows * 2 * source * knobs.width**2 * knobs.decoder_layers
        two = sum(decoder_flops(knobs, 0, source, stream) for stream in self.streams) - again
        return two / decoder_flops(knobs, 0, source, join(self.streams)[0])


def prepared(recipe: Recipe, words: int, tokens: int, device: torch.device) -> Setting:
    """The model, a batch and an encoded source, which the decoder's gradients reach and pass no further."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, VOCABULARY, VOCABULARY).to(device).train()
    batch = shared.made_up_batch(max(1, tokens // (words + 1)), words, VOCABULARY)
    plan = plan_of(batch, recipe, 0).to(device)
    batch = batch.to(device)
    with torch.no_grad(), autocast(recipe.training.precision, device):
        memory = model.encode(batch.source, batch.source_real)
    kept = tuple((keys.requires_grad_(), values.requires_grad_()) for keys, values in memory.keys_values)
    streams = list(plan.streams.values())
    slopes = [torch.randn(*stream.tokens.shape, recipe.model.width, device=device) for stream in streams]
    return Setting(recipe, words, model, streams, replace(memory, keys_values=kept), slopes)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = shared.parser(__doc__)
    parser.add_argument("--length", action="append", dest="lengths", type=shared.positive, help="words of a sentence")
    parser.add_argument("--precision", action="append", dest="precisions", choices=("float32", "bf16"))
    parser.add_argument("--tokens", type=shared.positive, default=3500, help="target tokens of a batch, EOS counted")
    parser.add_argument("--turns", type=shared.positive, default=5)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Times as asked and prints the table."""
    asked = options(arguments)
    device = choose_device(asked.device)
    settings = []
    for precision in asked.precisions or ["float32", "bf16"]:
        recipe = shared.load(asked, "janus", precision)
        for words in asked.lengths or LENGTHS:
            if words + 2 > recipe.model.max_length:
                most = recipe.model.max_length
                raise UsageError(f"--length {words} does not fit model.max_length {most}", "raise it with --set")
            settings.append((recipe, words))
    shared.start(asked, asked.device)
    keep_freed_memory()
    rows = []
    with console.progress("timing", len(settings) * (asked.turns + 1)) as bar:
        for recipe, words in settings:
            setting = prepared(recipe, words, asked.tokens, device)
            measure(setting, asked.turns, bar.advance)
            rows.append(row(setting))
    title = f"decoder, forward and backward; {asked.threads} threads, {asked.turns} turns; median (lowest-highest)"
    columns = ("", "words", "sentences", "one call, s", "two calls, s", "two / one", "arithmetic", "two calls win")
    console.table(title, columns, rows)


def measure(setting: Setting, turns: int, advance: Callable[[int], None]) -> None:
    """Both ways in every turn, the first to go changing."""
    for turn in range(-1, turns):
        for way in rotated(list(setting.seconds), turn):
            taken = setting.step(way)
            if turn >= 0:
                setting.seconds[way].append(taken)
        advance(1)


def row(setting: Setting) -> tuple[str, ...]:
    """Of the table."""
    one, two = setting.seconds["one"], setting.seconds["two"]
    ratio = Spread.of([second / first for first, second in zip(one, two, strict=True)])
    return (
        setting.recipe.training.precision, str(setting.words), str(len(setting.memory.real)),
        *(shared.ranged(Spread.of(values), ".3f") for values in (one, two)), shared.ranged(ratio, ".2f"),
        f"{setting.arithmetic():.2f}", "yes" if ratio.median < 1 - CLEAR else "",
    )  # fmt: skip


if __name__ == "__main__":
    shared.run(main)
