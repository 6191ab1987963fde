"""`janus draft-head`: fits the head that makes speculative decoding's drafts, on the model's own outputs and drafts."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from janus_cli import console
from janus_cli.console import counted
from janus_cli.core.batch import EOS, MASK, PAD, pad
from janus_cli.core.draft_head import Draft, Examples, examples, fit
from janus_cli.core.knobs import ONE_BEST
from janus_cli.core.model import Transformer
from janus_cli.core.search.mask_predict import masks, predicted_lengths
from janus_cli.core.shapes import CANDIDATES
from janus_cli.core.steps import log_probabilities
from janus_cli.core.stream import framed, masked
from janus_cli.core.writing import never_written
from janus_cli.data.extract import source_lines
from janus_cli.data.tokenizer import Tokenizer
from janus_cli.decoding.distill import must_have_sources, prepared_of
from janus_cli.decoding.modes import Plan, choose, own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.engines.engine import Engine
from janus_cli.errors import DataError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.terminal import command
from janus_cli.training import draft_head
from janus_cli.training.checkpoint import find_checkpoint

SEED = 1
BATCH = 64  # sentences
FEW = 500


def make_head(
    *, run: Path | None, checkpoint: Path | None, source: Path | None, column: str | None, sentences: int, force: bool
) -> None:
    """`janus draft-head`. source: text to draft for; None: that of the training data. sentences: of it, at most.

    Raises UsageError if the model cannot draft, or has a head; DataError if there is no source.
    """
    trained, folder = find_checkpoint(run, checkpoint)
    recipe = own_recipe(folder, [])
    choose(recipe, {"mode": "spec", "redraft": "nar"})  # refuses models that cannot draft
    greedy = choose(recipe, {"mode": "ar", "beam": 1, **ONE_BEST})
    if (folder / draft_head.FILE).exists() and not force:
        raise UsageError(f"{trained.shown(folder / draft_head.FILE)} exists", "replace it with --force")
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"{trained.shown(folder)} may not be written to", "copy the folder, or name a published one pretrained:NAME"
        )
    model, tokenizers = read_model(trained, folder, head=False)
    lines = _sources(trained, recipe, tokenizers.source, source, column, sentences)
    if len(lines) < FEW:
        console.warn(f"{counted(len(lines), 'sentence')} may be too few: to help with other text, use {FEW:,} or more")
    console.say(f"drafting {counted(len(lines), 'sentence')} with {trained.path}, checkpoint {folder.name}")
    begun = time.monotonic()
    found = [*_drafted(model, lines, greedy)]
    every = Examples(*(torch.cat(part) for part in zip(*found, strict=True)))
    if not bool(((every.candidates == every.following[:, None]) & (every.logps > -1e29)).any()):
        raise DataError("no token of greedy's outputs is among those drafted", "train the model for longer")
    head, right = fit(model.output_weight.detach(), every)
    file = draft_head.write(folder, {name: each.contiguous().numpy() for name, each in head._asdict().items()})
    console.say(
        f"{trained.shown(file)}: {file.stat().st_size:,} bytes, in {time.monotonic() - begun:.0f} s; given the right "
        f"tokens before, {100 * right:.0f} % of drafted tokens match greedy search (on a held-out tenth of "
        f"{counted(len(every.last), 'token')})"
    )
    words = ["janus", "decode", "--run", trained.path, "--mode", "spec", "--batch-sentences", "1"]
    if checkpoint is not None:
        words += ["--checkpoint", trained.name_of(folder)]
    console.say(f"next: {command(*words)}")


def _sources(
    run: Run, recipe: Recipe, tokenizer: Tokenizer, source: Path | None, column: str | None, most: int
) -> list[list[int]]:
    """Ids of the sources, without EOS, of at most the length that the model reads; in order of length."""
    choice = random.Random(SEED)
    if source:
        text = [line for line in source_lines(recipe.data, source, column, strict=True) if line.strip()]
        ids = tokenizer.encode(choice.sample(text, min(most, len(text))))
    else:
        must_have_sources(recipe, "draft for")
        try:
            train = prepared_of(run, recipe).train
        except DataError as problem:  # as for a model that was published
            raise DataError(problem.message, f"name source text with --source; or {problem.hint}") from None
        rows = choice.sample(range(len(train)), min(most, len(train)))
        ids = [train.pair(row)[0].tolist() for row in rows]
    if not ids:
        raise DataError(f"{source} has no text", "name text with --source")
    return sorted((row[: recipe.reads] for row in ids), key=len)


def _drafted(model: Transformer, lines: Sequence[Sequence[int]], greedy: Plan) -> Iterator[Examples]:
    engine = Engine(model)
    with console.progress("drafting", len(lines)) as bar:
        for start in range(0, len(lines), BATCH):
            source = pad([[*ids, EOS] for ids in lines[start : start + BATCH]])
            outputs = engine(source, "ar", greedy.options, greedy.recipe.ar_stream)
            with torch.inference_mode():
                draft = candidates(model, source, greedy)
            yield examples(draft, pad([each[0].tokens or [PAD] for each in outputs]))
            bar.advance(len(source))


def candidates(model: Transformer, source: torch.Tensor, plan: Plan) -> Draft:
    """The likeliest tokens of each place of one NAR pass, at the likeliest length. source (B, S)."""
    memory = model.encode(source, source != PAD)
    lengths, _ = predicted_lengths(model.length_logits(memory), 1, model.knobs.max_length - 2)
    target = framed(masks(lengths[:, 0]))
    states = model.decode(masked(target, (target == MASK).long()), memory)[:, 1:-1]
    logps = log_probabilities(model, states.flatten(0, 1), never_written(plan.options).or_eos)
    sure, tokens = (each.view(*states.shape[:2], -1) for each in logps.topk(CANDIDATES, dim=1))
    return Draft(tokens, sure, lengths[:, 0])
