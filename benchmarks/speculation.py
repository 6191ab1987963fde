"""Is speculative decoding faster than greedy search, and is its text greedy's? Sentences one by one, on a CPU.

    python benchmarks/speculation.py RUN FILE… [--sentences 500] [--turns 5] [--threads 1] [--set verify_window=7]

Three searches take turns in this process, in ONNX Runtime where they can: greedy search with scores, which computes all
logits, greedy search without, and speculative search without. The texts of the last two are compared with the first
one's. A sentence's time is the median of its turns (CPU time, if there is one thread, so that other programs disturb
less). Where texts differ, both tokens at the first difference are scored in float64: a lead within 1e-5 nats is a tie;
anything more is a mistake: exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import shared
import torch
from lossless import lead_of

from janus_cli.core.batch import EOS, pad
from janus_cli.core.search import Output
from janus_cli.data.lines import Lines
from janus_cli.decoding.modes import Plan, choose, own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.engines.engine import Engine
from janus_cli.training.checkpoint import find_checkpoint

TURN = 50  # sentences
TIE = 1e-5  # nats
SCORED = "greedy with scores"


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("files", type=Path, nargs="+")
    options.add_argument("--sentences", type=int, default=500)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a knob of mode spec")
    asked = options.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    run, folder = find_checkpoint(asked.run, None)
    recipe = own_recipe(folder, [])
    model, tokenizers = read_model(run, folder, head=True)
    knobs = {key: int(value) if value.isdigit() else value for key, _, value in (s.partition("=") for s in asked.set)}
    greedy = choose(recipe, {"mode": "ar", "beam": 1})
    plans = {SCORED: greedy, "greedy": greedy, "spec": choose(recipe, {"mode": "spec", **knobs})}
    engine, side = Engine(model), recipe.ar_stream
    for name, plan in plans.items():
        sys.stdout.write(f"{name}: {engine.name(plan.mode, plan.options, side)}\n")
    sys.stdout.write(f"draft head: {'yes' if model.draft_head else 'none'}\n")
    mistakes = 0
    for file in asked.files:
        lines = [line for line in Lines(file) if line.strip()][: asked.sentences]
        sources = [pad([[*ids[: recipe.reads], EOS]]) for ids in tokenizers.source.encode(lines)]
        clock = time.thread_time if asked.threads == 1 else time.perf_counter
        outputs, seconds = measured(engine, plans, sources, asked.turns, clock)
        ties, wrong = differences(model, sources, outputs, side or "content")
        mistakes += wrong
        report(file.name, outputs, seconds, ties, wrong, int(plans["spec"].drafts))
    return 1 if mistakes else 0


def measured(
    engine: Engine, plans: dict[str, Plan], sources: list[torch.Tensor], turns: int, clock: Any
) -> tuple[dict[str, list[Output]], dict[str, list[float]]]:
    """For each plan, the output of each sentence and its time in seconds."""
    outputs: dict[str, list[Output]] = {name: [] for name in plans}
    times: dict[str, list[list[float]]] = {name: [[] for _ in sources] for name in plans}
    for turn in range(turns):
        for start in range(0, len(sources), TURN):
            for name, plan in plans.items():
                how = plan.mode, plan.options, plan.recipe.ar_stream, False, name == SCORED
                engine(sources[start], *how)  # its weights are in the CPU's cache again
                for place in range(start, min(start + TURN, len(sources))):
                    begun = clock()
                    found = engine(sources[place], *how)
                    times[name][place].append(clock() - begun)
                    if not turn:
                        outputs[name].append(found[0][0])
    return outputs, {name: [median(each) for each in some] for name, some in times.items()}


def differences(
    model: Any, sources: list[torch.Tensor], outputs: dict[str, list[Output]], side: Any
) -> tuple[int, int]:
    """How many texts differ by a tie, and how many by more."""
    ties = wrong = 0
    for source, one, *others in zip(sources, outputs[SCORED], outputs["greedy"], outputs["spec"], strict=True):
        different = [other for other in others if other.tokens != one.tokens]
        if different:
            tied = all(lead_of(model, source, one.tokens, other.tokens, side) <= TIE for other in different)
            ties, wrong = ties + tied, wrong + (not tied)
    return ties, wrong


def report(
    name: str, outputs: dict[str, list[Output]], seconds: dict[str, list[float]], ties: int, wrong: int, drafts: int
) -> None:
    """One paragraph about a file. drafts: passes that only draft, of each sentence."""
    count, written = len(outputs["spec"]), sum(len(output.tokens) + 1 for output in outputs["greedy"])
    passes = {key: mean(output.passes for output in some) for key, some in outputs.items()}
    verified = count * (passes["spec"] - drafts)
    total = {key: sum(some) for key, some in seconds.items()}
    sys.stdout.write(
        f"{name}: {count:,} sentences of {written / count:.1f} tokens, EOS included\n"
        f"  equal texts {count - ties - wrong:,}, ties {ties}, others {wrong}\n"
        f"  passes {passes['greedy']:.2f} greedy, {passes['spec']:.2f} spec, the draft's included; "
        f"{written / verified:.2f} tokens a verifying pass, {written / verified - 1:.2f} of them drafted\n"
        f"  ms a sentence, p50: {', '.join(f'{1000 * median(some):.2f} {key}' for key, some in seconds.items())}\n"
        f"  all together, times as fast: spec {total['greedy'] / total['spec']:.2f} as greedy, "
        f"greedy {total[SCORED] / total['greedy']:.2f} as with scores\n"
    )


if __name__ == "__main__":
    shared.run(main)
