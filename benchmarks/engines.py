"""Do the graphs of ONNX Runtime write what torch writes, and how much faster? Decodes whole texts with both.

    python benchmarks/engines.py RUN FILE… [--threads 1] [--batch-sentences 64] [--mode ar.beam1 --mode nar4.lb5 …]

Texts that differ are printed with both scores: of equally likely texts rounding may choose either. Times are of whole
texts, engines one after the other: for figures use `janus bench`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import shared
import torch

from janus_cli.data.lines import Lines
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.translate import Result, Translator
from janus_cli.engines.engine import Engine
from janus_cli.lab.labels import matching, row_options
from janus_cli.training.checkpoint import find_checkpoint
from janus_cli.training.model import load_model

MODES = ("ar.beam1", "ar.beam5", "nar1.lb5", "nar4.lb5", "nar10.lb5", "nar4.lb5.rerank")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--batch-sentences", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--mode", action="append", metavar="NAME", help="as of `janus bench`; repeat")
    parser.add_argument("--no-scores", action="store_true", help="ask for texts alone, one by one")
    asked = parser.parse_args(arguments)
    batch = 1 if asked.no_scores else asked.batch_sentences
    if asked.threads:
        torch.set_num_threads(asked.threads)
    run, folder = find_checkpoint(asked.run, None)
    recipe, tokenizers, engine = own_recipe(folder, []), load_tokenizers(run.path), Engine(load_model(folder))
    modes = sorted(matching(asked.mode or MODES))
    different = 0
    for file in asked.files:
        for mode in modes:
            found: list[list[Result]] = []
            seconds = []
            for name in ("torch", "auto"):
                options = {**row_options([mode])[mode], "batch_sentences": batch, "engine": name}
                translator = Translator(engine, tokenizers, choose(recipe, options), scores=not asked.no_scores)
                found.append([*translator.results(Lines(file))])
                seconds.append(sum(translator.timing.seconds))
            pairs = [pair for pair in zip(*found, strict=True) if pair[0].text != pair[1].text]
            different += len(pairs)
            sys.stdout.write(
                f"{file.name} {mode}: {len(pairs)} of {len(found[0]):,} texts differ; torch "
                f"{len(found[0]) / seconds[0]:.1f} sentences/s, ONNX Runtime {seconds[0] / seconds[1]:.2f} times\n"
            )
            for one, other in pairs[:5]:
                sys.stdout.write(f"  {one.text}  {one.score:.6f}\n  {other.text}  {other.score:.6f}\n")
    return 1 if different else 0


if __name__ == "__main__":
    shared.run(main)
