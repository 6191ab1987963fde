"""One `janus decode`, from options to written hypotheses: which checkpoint, which lines, where to."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import torch

from janus_cli import console, runs
from janus_cli.decoding import results
from janus_cli.decoding.lines import STDIN, Reader
from janus_cli.decoding.plan import choose
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translator import Result, Translator
from janus_cli.decoding.where import Place, find_checkpoint, find_split, own_recipe
from janus_cli.errors import CheckpointError, DataError, UsageError
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.text.corpus import cleaner
from janus_cli.text.tokenizer import load_tokenizers
from janus_cli.training.checkpoint import MODEL, STATE, load_model
from janus_cli.training.distributed import choose_device, keep_freed_memory


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus decode`. given: options of the decoding section."""

    run: Path | None = None
    checkpoint: Path | None = None
    input: Path | None = None
    split: str | None = None
    output: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()
    jsonl: bool = False
    trace: int = 0
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    dry_run: bool = False


def run_decoding(request: Request) -> dict[str, Any]:
    """Decodes as asked and returns the summary; a dry run returns what it would begin with."""
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    run, folder = find_checkpoint(request.run, request.checkpoint)
    recipe = own_recipe(folder, request.changes)
    plan = choose(recipe, request.given)
    reader, place = _input(request, run, recipe, plan.label, folder)
    if request.output is not None and request.output.is_file() and not request.force:
        raise UsageError(f"{request.output} is there already", "overwrite it with --force, or name another file")
    about = {
        "run": str(run.path), "checkpoint": folder.name, "objective": recipe.objective.name, "mode": plan.mode,
        "label": plan.label, "split": place.split if place else None, "input": reader.name, "options": plan.used,
    }  # fmt: skip
    console.say(
        f"{'would decode' if request.dry_run else 'decoding'} {reader.name} with {run.path}, checkpoint {folder.name}: "
        + ", ".join([plan.mode, *(f"{name} {value}" for name, value in plan.used.items())])
    )
    if request.dry_run:
        return about
    keep_freed_memory()
    model, tokenizers = load_model(folder, device), load_tokenizers(run.path)
    sizes = model.source_table.num_embeddings, model.target_table.num_embeddings
    if sizes != (tokenizers.source.size, tokenizers.target.size):
        raise CheckpointError(f"{folder} was not trained with the tokenizer in {run.path}", "name its run with --run")
    translator = Translator(model, tokenizers, plan, request.trace)
    seconds = _write(request, translator, reader, place)
    _warn(translator, reader)
    about |= _measured(translator, seconds, device) | {
        "step": runs.read_json(folder / STATE).get("step"),
        "sha256": runs.read_json(folder / "manifest.json")["files"][MODEL]["sha256"],
    }
    if place is not None:
        about |= _keep(place, about)
    return about


def _input(request: Request, run: Run, recipe: Recipe, label: str, folder: Path) -> tuple[Reader, Place | None]:
    """The lines, and for a split the place in the run where the results are kept."""
    if request.input is None:
        if request.checkpoint is not None:
            label += f".{folder.name}"
        return find_split(run, recipe, request.split or "test", label)
    if request.split is not None:
        raise UsageError("--input and --split exclude each other", "leave one of them out")
    if request.input != STDIN and not request.input.exists():
        raise DataError(f"{request.input} does not exist")
    return Reader(request.input, cleaner(recipe.data.clean)), None


def _write(request: Request, translator: Translator, reader: Reader, place: Place | None) -> float:
    """Decodes all lines and writes them wherever they go; returns the seconds it took, loading left out."""
    nbest, tokenizer = translator.plan.options.nbest, translator.tokenizers.target
    width = shutil.get_terminal_size().columns
    total = None
    if place is not None:
        with reader.path.open("rb") as file:
            total = sum(1 for _ in file)
    started = perf_counter()
    with ExitStack() as stack:
        asked = _asked(request, stack, place is not None)
        kept: dict[str, BinaryIO] = {}
        if place is not None:
            _make(place.folder)
            if place.path("txt").exists():
                console.say(f"replacing {place.path('txt')}")
            kept = {suffix: stack.enter_context(results.growing(place.path(suffix))) for suffix in ("txt", "jsonl")}
        # A bar would be drawn into the lines that a person reads.
        read_here = request.trace or (asked is sys.stdout.buffer and sys.stdout.isatty())
        bar = None if read_here else stack.enter_context(console.progress("decoding", total))
        for some in translator.windows(reader):
            json_lines = results.records(some, tokenizer, request.trace) if request.jsonl or kept else b""
            if asked is not None:
                asked.write(json_lines if request.jsonl else results.plain(some, nbest))
                asked.flush()
            if kept:
                kept["txt"].write(results.plain([_best(result) for result in some], 1))
                kept["jsonl"].write(json_lines)
            for result in some[: max(0, request.trace - some[0].index)]:
                for line in shown(result, tokenizer, width):
                    console.say(line)
            if bar is not None:
                bar.advance(len(some))
    return perf_counter() - started


def _best(result: Result) -> Result:
    return Result(result.index, result.source, result.outputs[:1], result.texts[:1])


def _asked(request: Request, stack: ExitStack, kept: bool) -> BinaryIO | None:
    """Where the hypotheses go besides the run's folder: the named file, or stdout unless nobody needs them there."""
    if request.output is not None and request.output != STDIN:
        return stack.enter_context(results.growing(request.output))
    return None if kept and sys.stdout.isatty() else sys.stdout.buffer


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise DataError(
            f"{folder} cannot be written: {problem.strerror}", "decode a text with --input FILE instead"
        ) from None


def _warn(translator: Translator, reader: Reader) -> None:
    if reader.bad_utf8:
        console.warn(f"{reader.name}: lines that are not UTF-8: {reader.bad_utf8:,}; the bad bytes were replaced")
    if cut := max(translator.truncated, reader.cut):
        console.warn(f"{reader.name}: lines cut to the {translator.longest} tokens that the model reads: {cut:,}")


def _measured(translator: Translator, seconds: float, device: torch.device) -> dict[str, Any]:
    """Says how fast it was, and returns it."""
    timing = translator.timing
    mean, p95 = timing.latency()
    batch = translator.plan.options.batch_sentences
    rates = [count / max(seconds, 1e-9) for count in (timing.sentences, timing.tokens)]
    passes = timing.passes / max(1, timing.sentences)
    console.say(
        f"{timing.sentences:,} sentence{'s' * (timing.sentences != 1)} in {seconds:.1f} s: {rates[0]:.1f} sentences/s, "
        f"{rates[1]:.0f} tokens/s, {passes:.1f} decoder passes a sentence; a batch of up to {batch} took "
        f"{1000 * mean:.0f} ms from start to end, p95 {1000 * p95:.0f} ms (loading the model not counted)"
    )
    return {
        "sentences": timing.sentences, "tokens": timing.tokens, "seconds": round(seconds, 3),
        "sentences_per_second": round(rates[0], 3), "tokens_per_second": round(rates[1], 3),
        "passes_mean": round(passes, 3), "batches": len(timing.seconds),
        "batch_latency_ms": {"mean": round(1000 * mean, 3), "p95": round(1000 * p95, 3)},
        "threads": torch.get_num_threads(), "device": str(device), "torch": torch.__version__,
    }  # fmt: skip


def _keep(place: Place, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the summary and the reference beside the hypotheses; the summary last, `janus score` starts from it."""
    references = []
    if place.target is not None:
        references = [f"{place.split}.reference.txt"]
        runs.write_atomically(place.folder / references[0], place.target.read_bytes())
    files = {"hypotheses": place.path("txt").name, "records": place.path("jsonl").name, "references": references}
    runs.write_atomically(
        place.path("json"), (json.dumps({**about, **files}, indent=1, ensure_ascii=False) + "\n").encode()
    )
    console.say(f"kept as {place.path('txt')} (.jsonl, .json); score it with `janus score {place.path('txt')}`")
    return files
