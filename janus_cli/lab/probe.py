"""What a run's model does with sentences of the validation split: calibration, lengths, a few traced decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from janus_cli.core.batch import Batch
from janus_cli.core.generate import Generator
from janus_cli.core.model import Transformer
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.core.search.mask_predict import predicted_lengths
from janus_cli.data.batching import Lengths, load_batch
from janus_cli.data.store import Store, store_files
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import choose, own_recipe
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Translator, read_model
from janus_cli.errors import DataError
from janus_cli.files import read_json
from janus_cli.lab.calibration import Reliability, reliability
from janus_cli.lab.rows import sentences
from janus_cli.recipe import Recipe
from janus_cli.runs import Run, prepared_file
from janus_cli.training.checkpoint import STATE

SPLIT = "valid"
TRACED = 3  # sentences decoded and shown
BINS = 10  # of confidence, equal in width (Guo et al. 2017, figure 1)
SEED = 1  # which sentences of the split
COLUMNS = 110  # of a trace; narrower screens scroll


@dataclass(frozen=True)
class TracedSentence:
    """A sentence, counted from 0. decodes: the label of a decoding mode, what it wrote, and the lines of its trace."""

    index: int
    source: str
    reference: str
    decodes: list[tuple[str, str, list[str]]]


@dataclass(frozen=True)
class Probe:
    """What one checkpoint did.

    sentences: how many were read, and how many there are. lengths: predicted and real target tokens of each sentence;
    None without a length head.
    """

    checkpoint: str
    step: int | None
    sentences: tuple[int, int]
    reliability: dict[str, Reliability]
    lengths: tuple[Lengths, Lengths] | None
    traced: list[TracedSentence]


def open_store(run: Run, recipe: Recipe, split: str) -> Store:
    """A split of the data that a run was trained with.

    Raises:
        DataError: it is gone or was changed.
    """
    manifest = read_json(run.manifest)
    if f"{split}.arrow" in manifest.get("files", {}):
        raise DataError(
            f"{run.path} was started by an earlier version of janus, whose data cannot be read",
            "prepare the text again, and start the run again",
        )
    paths = [prepared_file(run, recipe, name) for name in store_files(split)]
    if paths[0] is None:
        raise DataError(f"the data of {run.path} has no {split} split")
    return Store.open(paths[0].parent, split)


def probe(count: int, device: torch.device, run: Run, folder: Path) -> Probe:
    """Lets the checkpoint in `folder` predict `count` sentences of the validation split, the same ones every time.

    Raises:
        DataError: the split is gone or was changed.
        CheckpointError: the checkpoint is damaged.
        OutOfMemoryError: decoding did not fit into memory.
    """
    recipe = own_recipe(folder, ())
    store, texts = open_store(run, recipe, SPLIT), sentences(run, recipe, SPLIT)
    model, tokenizers = read_model(run, folder, device)
    step = read_json(folder / STATE).get("step")
    chosen = sampled(len(store), count)
    order = chosen[np.argsort(store.lengths()[0][chosen], kind="stable")]
    size = recipe.decoding.batch_sentences
    batches = [load_batch(store, order[start : start + size]) for start in range(0, len(order), size)]
    return Probe(
        folder.name, step if isinstance(step, int) else None, (len(chosen), len(store)),
        reliability(model, recipe, batches, BINS),
        predicted(model, batches) if OBJECTIVES[recipe.objective.name].lengths else None,
        _traced(Generator(model), tokenizers, recipe, texts, spread(order, TRACED)),
    )  # fmt: skip


def sampled(count: int, most: int) -> Lengths:
    """Up to `most` of the numbers 0 .. count - 1, in order; the same ones every time."""
    if most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def spread(order: Lengths, count: int) -> list[int]:
    """Up to `count` of these, evenly spread, without the extremes; all different."""
    places = ((np.arange(count) + 1) * len(order) // (count + 1)).tolist() if len(order) else []
    return list(dict.fromkeys(int(order[place]) for place in places))


@torch.inference_mode()
def predicted(model: Transformer, batches: Sequence[Batch]) -> tuple[Lengths, Lengths]:
    """The likeliest target length of each sentence, as decoding takes it, and the real one; tokens without EOS."""
    guesses, real = [], []
    for batch in batches:
        there = batch.to(model.output_weight.device)
        logits = model.length_logits(model.encode(there.source, there.source_real))
        guesses += predicted_lengths(logits, 1, model.knobs.max_length - 2)[:, 0].tolist()
        real += batch.target_lengths.tolist()
    return np.array(guesses, np.int64), np.array(real, np.int64)


def _traced(
    generator: Generator, tokenizers: Tokenizers, recipe: Recipe, texts: tuple[list[str], list[str] | None],
    rows: Sequence[int],
) -> list[TracedSentence]:  # fmt: skip
    """These sentences, each decoded autoregressively and non-autoregressively, as far as the objective can."""
    sources, references = texts
    traced = [TracedSentence(row, sources[row], references[row] if references else "", []) for row in rows]
    single = replace(recipe, decoding=replace(recipe.decoding, nbest=1))
    for side in OBJECTIVES[recipe.objective.name].sides:
        plan = choose(single, {"mode": side})
        translator = Translator(generator, tokenizers, plan, traced=len(rows))
        results = (result for window in translator.windows([sources[row] for row in rows]) for result in window)
        for sentence, result in zip(traced, results, strict=True):
            trace = islice(shown(result, COLUMNS), 1, None)  # the first line repeats the source
            sentence.decodes.append((plan.label, result.text, list(trace)))
    return traced
