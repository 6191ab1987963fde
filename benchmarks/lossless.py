"""Is speculative decoding lossless? Decodes whole texts with `ar` greedy and `spec`, and compares token for token.

    python benchmarks/lossless.py RUN FILE… [--batch-sentences 64] [--threads 2] [--set redraft=ar]

Where a sentence differs, both tokens at the first difference are scored in float64: a lead within float32 rounding
(about 1e-5 nats) is a tie that the shape of the computation decided; anything more is a mistake: exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import shared
import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD, pad
from janus_cli.core.knobs import ARStream
from janus_cli.core.model import Transformer
from janus_cli.core.steps import log_probabilities
from janus_cli.core.stream import ar_step
from janus_cli.data.lines import Lines
from janus_cli.data.tokenizer import Tokenizers, load_tokenizers
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.translate import Result, Translator
from janus_cli.engines.engine import Engine
from janus_cli.training.checkpoint import find_checkpoint
from janus_cli.training.model import load_model

ROUNDING = 1e-4  # nats


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("files", type=Path, nargs="+")
    options.add_argument("--batch-sentences", type=int, default=64)
    options.add_argument("--threads", type=int)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a knob of mode spec")
    asked = options.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    run, folder = find_checkpoint(asked.run, None)
    recipe, model, tokenizers = own_recipe(folder, []), load_model(folder), load_tokenizers(run.path)
    knobs = {key: int(value) if value.isdigit() else value for key, _, value in (s.partition("=") for s in asked.set)}
    generator, batch = Engine(model), {"batch_sentences": asked.batch_sentences}
    plans = [choose(recipe, {"mode": "ar", "beam": 1, **batch}), choose(recipe, {"mode": "spec", **knobs, **batch})]
    mistakes = 0
    for file in asked.files:
        found, reports = [], []
        for plan in plans:
            translator = Translator(generator, tokenizers, plan)
            found.append([*translator.results(Lines(file))])
            timing = translator.timing
            seconds, passes = sum(timing.seconds), timing.passes / max(1, timing.sentences)
            reports.append(f"{plan.label} {passes:.2f} passes a sentence, {timing.sentences / seconds:.1f} sentences/s")
        pairs = zip(*found, strict=True)
        side: Any = plans[0].recipe.ar_stream or "content"
        leads = [lead(model, tokenizers, side, *pair) for pair in pairs if ids(pair[0]) != ids(pair[1])]
        mistakes += sum(value > ROUNDING for value in leads)
        said = f"{file.name}: {len(found[0]):,} sentences, {len(leads)} differ; {'; '.join(reports)}\n"
        if leads:
            said += f"  leads of the first differing tokens, nats: {', '.join(f'{value:.1e}' for value in leads)}\n"
        sys.stdout.write(said)
    return 1 if mistakes else 0


def ids(result: Result) -> list[int]:
    return result.outputs[0].tokens


def lead(model: Transformer, tokenizers: Tokenizers, ar_stream: ARStream, one: Result, other: Result) -> float:
    """`lead_of` two results."""
    source = pad([[*tokenizers.source.encode([one.source])[0], EOS]])
    return lead_of(model, source, ids(one), ids(other), ar_stream)


def lead_of(model: Transformer, source: Tensor, one: list[int], other: list[int], ar_stream: ARStream) -> float:
    """How far apart the two candidates are at the first difference of two outputs, in float64. source (1, S)."""
    a, b = [*one, EOS], [*other, EOS]
    place = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    exact = Transformer(model.knobs, model.source_table.num_embeddings, model.target_table.num_embeddings,
                        length_head=model.length_table is not None)  # fmt: skip
    exact.load_weights(model.weights())
    exact = exact.double().eval()
    with torch.inference_mode():
        tokens = torch.tensor([[BOS, *a[:place]]])
        stream = ar_step(tokens, torch.tensor([0]), tokens != PAD, ar_stream)
        logps = log_probabilities(exact, exact.decode(stream, exact.encode(source, source != PAD))[0, -1:])[0]
    return abs(float(logps[a[place]] - logps[b[place]]))


if __name__ == "__main__":
    shared.run(main)
