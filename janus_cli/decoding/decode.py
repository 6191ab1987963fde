"""`janus decode`: which checkpoint, which lines, how to decode them, and where the hypotheses go."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import torch

from janus_cli import console
from janus_cli.data.lines import STDIN, Lines, cleaner
from janus_cli.decoding.modes import Plan, choose, own_recipe
from janus_cli.decoding.records import Form, Record, Records, as_json
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import plain, read_translator
from janus_cli.device import Interrupt, choose_device, interruptible, keep_freed_memory
from janus_cli.errors import DataError, Stopped, UsageError
from janus_cli.files import read_json, write_atomically
from janus_cli.runs import Run, find_split
from janus_cli.training.checkpoint import STATE, fingerprint, read_checkpoint

ELSEWHERE = "name another file with --out"


def decode(
    *, run: Path | None = None, checkpoint: Path | None = None, text: Path | None = None, split: str | None = None,
    out: Path | None = None, jsonl: bool = False, trace: int = 0, options: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (), device: str = "auto", threads: int | None = None, resume: bool = False,
    force: bool = False, dry_run: bool = False, words: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Decodes a text, or a split of the run's data; see the options of `janus decode`.

    options: names and values of the decoding section. trace: show how the first so many lines came about. words: the
    command line but for --run, --checkpoint, --resume and --force, to tell the user how to resume.

    Returns:
        The summary; of a dry run, what it would begin with.

    Raises:
        JanusError: see `errors.py`; a signal raises Stopped.
    """
    if resume and force:
        raise UsageError("--resume and --force exclude each other", "--resume goes on, --force starts over")
    if text is not None and split is not None:
        raise UsageError("--input and --split exclude each other", "leave one of them out")
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)

    def prepare(found: Run, folder: Path) -> _Job:
        """Checks everything that can be checked beforehand, then loads the model."""
        plan = choose(own_recipe(folder, changes), options or {})
        kept = None if text else _Split.of(found, plan, split or "test", "" if checkpoint is None else folder.name)
        job = _Job(found, folder, plan, kept, text, None if out == STDIN else out, jsonl, trace)
        job.keep([*words, "--run", str(found.path)], named=checkpoint is not None, force=force)
        if job.records is not None:
            begun = job.records.begun_with() if resume and checkpoint is None else {}
            other = found.checkpoints / str(begun.get("checkpoint"))
            if begun.get("sha256") != job.weights and other.is_dir() and fingerprint(other) == begun["sha256"]:
                return prepare(found, other)  # `best` has moved since
            job.records.check(resume=resume, force=force)
        elif resume:
            raise UsageError("--resume: what goes to stdout is not kept", "add --out FILE")
        job.announce("would decode" if dry_run else "decoding")
        if not dry_run:
            job.load(chosen)
        return job

    with interruptible():
        job = read_checkpoint(run, checkpoint, prepare)
        return job.summary if dry_run else job.decode(chosen)


@dataclass(frozen=True)
class _Split:
    """A split of the run's data: its text, its reference if it has one, and what the decoded files are named after."""

    name: str
    source: Path
    reference: Path | None
    stem: Path

    @classmethod
    def of(cls, run: Run, plan: Plan, name: str, checkpoint: str) -> _Split:
        """checkpoint: becomes part of the names, if not empty."""
        stem = ".".join(filter(None, [name, plan.label, checkpoint]))
        return cls(name, *find_split(run, plan.recipe, name), run.decoded / re.sub(r"[^A-Za-z0-9._-]", "-", stem))

    def path(self, suffix: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{suffix}")


class _Job:
    """One decoding.

    split: what is decoded, if not the file `text`. out: the file or device that the user named. trace: so many lines
    are shown. records: None where all goes to a stream and nothing is kept.
    """

    def __init__(
        self, run: Run, folder: Path, plan: Plan, split: _Split | None, text: Path | None, out: Path | None,
        jsonl: bool, trace: int,
    ) -> None:  # fmt: skip
        self.run, self.folder, self.plan, self.split, self.out = run, folder, plan, split, out
        self.jsonl, self.trace, self.weights = jsonl, trace, fingerprint(folder)
        if split is not None:
            self.reader = Lines(split.source)
        elif text == STDIN or (text is not None and text.exists()):
            self.reader = Lines(text, cleaner(plan.recipe.data.clean))
        else:
            raise DataError(f"{text} does not exist")
        self.records: Records | None = None
        self.out_is_file = out is not None and (out.is_file() or not out.exists())
        self.summary: dict[str, Any] = {
            "run": str(run.path), "checkpoint": folder.name, "objective": plan.recipe.objective.name,
            "mode": plan.mode, "label": plan.label, "split": split.name if split else None,
            "input": self.reader.name, "options": plan.used,
        }  # fmt: skip

    def asked(self, record: Record) -> bytes:
        """A record as the user wants to read it."""
        return as_json(record) if self.jsonl else plain(record, self.plan.options.nbest)

    def keep(self, words: list[str], *, named: bool, force: bool) -> None:
        """Decides which files are made: a split's two, and the one that the user named.

        words: the command, named: whether it names a checkpoint; for the command that resumes.
        """
        files = {self.split.path(suffix): True for suffix in ("txt", "jsonl")} if self.split else {}
        if self.out is not None and self.out_is_file:
            if self.out.resolve() in {path.resolve() for path in files}:
                raise UsageError(f"{self.out} is made in any case", "leave out --out")
            files[self.out] = force
        if not files:
            return
        if self.split is None or named:  # otherwise the checkpoint would become part of the split's file names
            words += ["--checkpoint", self.run.name_of(self.folder)]
        fed = " (with the same text on stdin)" if self.reader.path == STDIN else ""
        # Batches of another size give the same hypotheses: who ran out of memory may resume with smaller ones.
        options = {name: value for name, value in self.plan.used.items() if name != "batch_sentences"}
        asked = {"mode": self.plan.mode, "jsonl": self.jsonl and self.out in files, "trace": self.trace}
        self.records = Records(
            self.split.path("jsonl") if self.split else next(iter(files)), files, (self.folder.name, self.weights),
            {**asked, **options}, shlex.join(["janus", "decode", *words, "--resume"]) + fed, ELSEWHERE,
        )  # fmt: skip

    def announce(self, what: str) -> None:
        """Says what comes."""
        console.say(
            f"{what} {self.reader.name} with {self.run.path}, checkpoint {self.folder.name}: "
            + ", ".join([self.plan.mode, *(f"{name} {value}" for name, value in self.plan.used.items())])
        )
        if self.plan.doubt is not None:
            console.warn(self.plan.doubt)
        if self.records is not None and self.records.resumed:
            console.say(f"going on after {self.records.progress.done:,} finished lines")

    def load(self, device: torch.device) -> None:
        """Loads the model: nothing of the checkpoint is needed after this."""
        keep_freed_memory()
        self.translator = read_translator(self.run, self.folder, self.plan, device)
        self.translator.traced = self.trace
        self.summary |= {"step": read_json(self.folder / STATE).get("step"), "sha256": self.weights}

    def decode(self, device: torch.device) -> dict[str, Any]:
        """Decodes and writes everything; returns the summary."""
        if self.split is not None:
            self._make_folder(self.split)
        with self.records.opened() if self.records else self._unkept():
            seconds = self._write()
            if self.records:
                kept: list[Form] = [plain, as_json] if self.split else []
                self.records.publish([*kept, self.asked][: len(self.records.files)])
            self._warn()
            self.summary |= self._measured(seconds, device)
            if self.split is not None:
                self._keep_summary(self.split)
        return self.summary

    def _make_folder(self, split: _Split) -> None:
        folder, text = split.stem.parent, split.path("txt")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as problem:
            raise DataError(
                f"{folder} cannot be written: {problem.strerror}", "decode a text with --input FILE instead"
            ) from None
        if text.exists() and not (self.records and self.records.resumed):
            console.say(f"replacing {text}")

    @contextmanager
    def _unkept(self) -> Iterator[None]:
        try:
            yield
        except Interrupt as stop:
            lines = f"{stop} after {self.translator.timing.sentences:,} lines"
            raise Stopped(stop.number, lines, "--out FILE keeps them for --resume") from None

    def _write(self) -> float:
        """Decodes all lines and writes them wherever they go; returns the seconds it took, loading left out."""
        translator, timing, lines, before = self.translator, self.translator.timing, iter(self.reader), 0.0
        full, width = self.jsonl or self.split is not None, shutil.get_terminal_size().columns
        with ExitStack() as stack:
            stream = self._stream(stack)
            if self.records is not None:
                timing.sentences, timing.tokens, timing.passes, before = astuple(self.records.progress)[:4]
                for record in self.records.kept(lines):  # who reads the stream gets all lines
                    if stream is not None:
                        stream.write(self.asked(record))
            # A bar would be drawn into the lines that a person reads.
            if not self.trace and not (stream is sys.stdout.buffer and sys.stdout.isatty()):
                bar = console.progress("decoding", self.reader.count(), start=timing.sentences)
                translator.advance = stack.enter_context(bar).advance
            started = perf_counter()
            for window in translator.windows(lines, timing.sentences):
                records = [result.record(full=full, traced=result.index < self.trace) for result in window]
                if self.records is not None:
                    self.records.add(records, timing.tokens, timing.passes, before + perf_counter() - started)
                if stream is not None:
                    stream.write(b"".join(map(self.asked, records)))
                    stream.flush()
                for result in window[: max(0, self.trace - window[0].index)]:
                    for line in shown(result, width):
                        console.say(line)
            return before + perf_counter() - started

    def _stream(self, stack: ExitStack) -> BinaryIO | None:
        """Where the hypotheses flow: a device or pipe that was named, else stdout unless nobody needs them there."""
        if self.out is None:
            return None if self.split is not None and sys.stdout.isatty() else sys.stdout.buffer
        if self.out_is_file:
            return None
        try:
            return stack.enter_context(self.out.open("wb"))
        except OSError as problem:
            raise DataError(f"{self.out} cannot be written: {problem.strerror}", ELSEWHERE) from None

    def _warn(self) -> None:
        """Says what had to be mended in the text."""
        reader, translator = self.reader, self.translator
        if reader.bad_utf8:
            console.warn(f"{reader.name}: lines that are not UTF-8: {reader.bad_utf8:,}; the bad bytes were replaced")
        if cut := max(translator.truncated, reader.cut):
            console.warn(f"{reader.name}: lines cut to the {translator.longest} tokens that the model reads: {cut:,}")

    def _measured(self, seconds: float, device: torch.device) -> dict[str, Any]:
        """Says how fast it was, and returns it. Batches are known only if no other process did a part of it."""
        timing, whole = self.translator.timing, not (self.records and self.records.resumed)
        mean, p95 = timing.latency()
        batch = self.plan.options.batch_sentences
        batches = f"; a batch of up to {batch} took {1000 * mean:.0f} ms from start to end, p95 {1000 * p95:.0f} ms"
        rates = [count / max(seconds, 1e-9) for count in (timing.sentences, timing.tokens)]
        passes = timing.passes / max(1, timing.sentences)
        console.say(
            f"{timing.sentences:,} sentence{'s' * (timing.sentences != 1)} in {seconds:.1f} s: "
            f"{rates[0]:.1f} sentences/s, {rates[1]:.0f} tokens/s, {passes:.1f} decoder passes a sentence"
            f"{batches if whole else ''} (loading the model not counted)"
        )
        return {
            "sentences": timing.sentences, "tokens": timing.tokens, "seconds": round(seconds, 3),
            "sentences_per_second": round(rates[0], 3), "tokens_per_second": round(rates[1], 3),
            "passes_mean": round(passes, 3), "batches": len(timing.seconds) if whole else None,
            "batch_latency_ms": {"mean": round(1000 * mean, 3), "p95": round(1000 * p95, 3)} if whole else None,
            "threads": torch.get_num_threads(), "device": str(device), "torch": torch.__version__,
        }  # fmt: skip

    def _keep_summary(self, split: _Split) -> None:
        """Writes the reference and the summary beside the hypotheses; the summary last: `janus score` looks for it."""
        text, references = split.path("txt"), []
        if split.reference is not None:
            references = [f"{split.name}.reference.txt"]
            write_atomically(text.with_name(references[0]), split.reference.read_bytes())
        self.summary |= {"hypotheses": text.name, "records": split.path("jsonl").name, "references": references}
        summary = json.dumps(self.summary, indent=1, ensure_ascii=False) + "\n"
        write_atomically(split.path("json"), summary.encode(errors="backslashreplace"))
        console.say(f"kept as {text} (.jsonl, .json); score it with `janus score {text}`")
