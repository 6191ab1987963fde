"""One `janus decode`, from options to written hypotheses: which checkpoint, which lines, where to."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import torch

from janus_cli import console
from janus_cli.data.cleaning import cleaner
from janus_cli.decoding import results, summary
from janus_cli.decoding.journal import writable
from janus_cli.decoding.lines import STDIN, Reader
from janus_cli.decoding.plan import choose, unlearnt
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translator import Result, Translator
from janus_cli.decoding.unfinished import Unfinished
from janus_cli.decoding.where import Place, checkpoint_name, find_split, load, own_recipe, read_checkpoint
from janus_cli.device import Interrupt, choose_device, interruptible, keep_freed_memory
from janus_cli.errors import DataError, Stopped, UsageError
from janus_cli.files import read_json
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training.checkpoint import STATE, fingerprint


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus decode`.

    given: options of the decoding section. words: the command line's options but for --run, --checkpoint, --resume and
    --force, to tell the user how to go on.
    """

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
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    words: Sequence[str] = ()


@dataclass
class Job:
    """All that decoding needs. about: the summary so far. translator: None in a dry run.

    place: where a split is kept. files: those that are kept if this is stopped, None where all goes to stdout.
    """

    about: dict[str, Any]
    reader: Reader
    place: Place | None
    files: Unfinished | None
    translator: Translator | None = None


def run_decoding(request: Request) -> dict[str, Any]:
    """Decodes as asked and returns the summary; a dry run returns what it would begin with."""
    if request.resume and request.force:
        raise UsageError("--resume and --force exclude each other", "--resume goes on, --force starts over")
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    with interruptible():
        job = read_checkpoint(request.run, request.checkpoint, partial(_job, request, device))
        if job.translator is None:
            return job.about
        if job.place is not None:
            _make(job.place.folder)
            if job.place.path("txt").exists() and not request.resume:
                console.say(f"replacing {job.place.path('txt')}")
        with job.files.opened() if job.files else _unkept(job.translator):
            seconds = _write(request, job, job.translator)
            if job.files:
                job.files.finish()
            summary.warn(job.translator, job.reader)
            whole = job.files is None or not job.files.resumed
            job.about |= summary.measured(job.translator, seconds, device, whole=whole)
            if job.place is not None:
                job.about |= summary.keep(job.place, job.about)
        return job.about


def _job(request: Request, device: torch.device, run: Run, folder: Path) -> Job:
    """Checks everything that can be checked beforehand, then loads the model."""
    recipe = own_recipe(folder, request.changes)
    plan = choose(recipe, request.given)
    reader, place = _input(request, run, recipe, plan.label, folder)
    about = {
        "run": str(run.path), "checkpoint": folder.name, "objective": recipe.objective.name, "mode": plan.mode,
        "label": plan.label, "split": place.split if place else None, "input": reader.name, "options": plan.used,
    }  # fmt: skip
    targets = _targets(request, place)
    files, weights = None, fingerprint(folder)
    if targets:
        # Batches of another size give the same hypotheses: who ran out of memory may go on with smaller ones.
        options = {name: value for name, value in plan.used.items() if name != "batch_sentences"}
        asked = {"mode": plan.mode, "jsonl": request.jsonl and _named(request) in targets, "trace": request.trace}
        files = Unfinished(targets, (folder.name, weights), {**asked, **options}, _again(request, run, folder, place))
        begun = files.journal.about() if request.resume and request.checkpoint is None else {}
        other = run.checkpoints / str(begun.get("checkpoint"))
        if begun.get("sha256") != weights and other.is_dir() and fingerprint(other) == begun["sha256"]:
            return _job(request, device, run, other)  # `best` has moved since
        files.check(resume=request.resume, force=request.force)
    elif request.resume:
        raise UsageError("--resume: what goes to stdout is not kept", "add --output FILE")
    console.say(
        f"{'would decode' if request.dry_run else 'decoding'} {reader.name} with {run.path}, checkpoint {folder.name}: "
        + ", ".join([plan.mode, *(f"{name} {value}" for name, value in plan.used.items())])
    )
    if (doubt := unlearnt(recipe, plan)) is not None:
        console.warn(doubt)
    if files is not None and files.resumed:
        console.say(f"going on after {files.point.lines:,} finished lines")
    job = Job(about, reader, place, files)
    if request.dry_run:
        return job
    keep_freed_memory()
    model, tokenizers = load(run, folder, device, plan.options.precision)
    job.about |= {"step": read_json(folder / STATE).get("step"), "sha256": weights}
    job.translator = Translator(model, tokenizers, plan, request.trace)
    return job


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


def _named(request: Request) -> Path | None:
    return None if request.output == STDIN else request.output


def _targets(request: Request, place: Place | None) -> dict[Path, bool]:
    """The files to make, and whether they may replace what is there: a split's two, and the one that the user named."""
    targets = {place.path(suffix): True for suffix in ("txt", "jsonl")} if place else {}
    output = _named(request)
    if output is not None and (output.is_file() or not output.exists()):
        if output.resolve() in {target.resolve() for target in targets}:
            raise UsageError(f"{output} is made in any case", "leave out --output")
        targets[output] = request.force
    return targets


def _again(request: Request, run: Run, folder: Path, place: Place | None) -> str:
    """The command that goes on with what this one began, with the run and the checkpoint that were taken."""
    words = [*request.words, "--run", str(run.path)]
    if place is None or request.checkpoint is not None:  # otherwise the name would become part of the split's files
        words += ["--checkpoint", checkpoint_name(run, folder)]
    fed = " (with the same text on stdin)" if request.input == STDIN else ""
    return shlex.join(["janus", "decode", *words, "--resume"]) + fed


def _write(request: Request, job: Job, translator: Translator) -> float:
    """Decodes all lines and writes them wherever they go; returns the seconds it took, loading left out."""
    nbest, tokenizer, timing = translator.plan.options.nbest, translator.tokenizers.target, translator.timing
    width = shutil.get_terminal_size().columns
    first, lines = 0, iter(job.reader)
    with ExitStack() as stack:
        stream = _stream(request, stack, job.place is not None)
        before = 0.0
        if job.files is not None:
            begun = job.files.point
            first, lines, before = begun.lines, job.files.skipped(lines), begun.seconds
            timing.sentences, timing.tokens, timing.passes = first, begun.tokens, begun.passes
            if stream is not None and first:
                _replay(stream, job.files.partials[1], first, request.jsonl, nbest)
        # A bar would be drawn into the lines that a person reads.
        read_here = request.trace or (stream is sys.stdout.buffer and sys.stdout.isatty())
        bar = None if read_here else console.progress("decoding", job.reader.count(), start=first)
        if bar is not None:
            translator.advance = stack.enter_context(bar).advance
        started = perf_counter()
        for some in translator.windows(lines, first):
            json_lines = results.records(some, tokenizer, request.trace) if request.jsonl or job.place else b""
            asked = json_lines if request.jsonl else results.plain(some, nbest)
            if job.files is not None:
                kept = [results.plain([_best(result) for result in some], 1), json_lines] if job.place else []
                parts = [*kept, asked][: len(job.files.targets)]  # `asked` goes to the stream if no file was named
                seconds = before + perf_counter() - started
                sources = [result.source for result in some]
                job.files.write(parts, sources, timing.tokens, timing.passes, seconds)
            if stream is not None:
                stream.write(asked)
                stream.flush()
            for result in some[: max(0, request.trace - some[0].index)]:
                for line in shown(result, tokenizer, width):
                    console.say(line)
        return before + perf_counter() - started


def _best(result: Result) -> Result:
    return Result(result.index, result.source, result.outputs[:1], result.texts[:1])


def _stream(request: Request, stack: ExitStack, kept: bool) -> BinaryIO | None:
    """Where the hypotheses flow: a device or pipe that was named, else stdout unless nobody needs them there."""
    output = _named(request)
    if output is None:
        return None if kept and sys.stdout.isatty() else sys.stdout.buffer
    if output.is_file() or not output.exists():
        return None
    with writable(output):
        return stack.enter_context(output.open("wb"))


def _replay(stream: BinaryIO, records: Path, lines: int, jsonl: bool, nbest: int) -> None:
    """Whoever reads the stream gets all lines, also those that an earlier process decoded."""
    with records.open("rb") as file:
        for line in islice(file, lines):
            stream.write(line if jsonl else results.plain_again(line, nbest))
    stream.flush()


@contextmanager
def _unkept(translator: Translator) -> Iterator[None]:
    try:
        yield
    except Interrupt as stop:
        raise Stopped(
            stop.number, f"{stop} after {translator.timing.sentences:,} lines", "--output FILE keeps them for --resume"
        ) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise DataError(
            f"{folder} cannot be written: {problem.strerror}", "decode a text with --input FILE instead"
        ) from None
