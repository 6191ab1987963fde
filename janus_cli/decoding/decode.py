"""`janus decode`: which checkpoint, which lines, how to decode them, and where the hypotheses go."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import torch

from janus_cli import console
from janus_cli.data.lines import STDIN, Lines, cleaner
from janus_cli.decoding.modes import Plan, choose, own_recipe
from janus_cli.decoding.records import Form, Progress, Record, Records, as_json
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Result, plain, read_translator
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
    if text is not None and split is not None:
        raise UsageError("--input and --split exclude each other", "leave one of them out")
    chosen = begin(device, threads, resume=resume, force=force)

    def prepare(trained: Run, folder: Path) -> _Decoding:
        """Checks everything that can be checked beforehand, then loads the model."""
        plan = choose(own_recipe(folder, changes), options or {})
        job = _Decoding(trained, folder, plan, text, split or "test", None if out == STDIN else out, jsonl, trace)
        job.name_files([*words, "--run", str(trained.path)], is_named=checkpoint is not None, force=force)
        if job.records is not None:
            earlier = job.records.earlier_header() if resume and checkpoint is None else {}
            other = trained.checkpoints / str(earlier.get("checkpoint"))
            if earlier.get("sha256") != job.weights and other.is_dir() and fingerprint(other) == earlier["sha256"]:
                return prepare(trained, other)  # `best` has moved since
            job.records.check(resume=resume, force=force)
        elif resume:
            raise UsageError("--resume: what goes to stdout is not kept", "add --out FILE")
        job.announce("would decode" if dry_run else "decoding", job.lines.name, f"{plan.mode}, ", "lines")
        if plan.doubt is not None:
            console.warn(plan.doubt)
        if not dry_run:
            job.load(chosen)
        return job

    with interruptible():
        job = read_checkpoint(run, checkpoint, prepare)
        return job.summary if dry_run else job.decode(chosen)


def begin(device: str, threads: int | None, *, resume: bool, force: bool) -> torch.device:
    """What `decode` and `distill` begin with; the device to compute on."""
    if resume and force:
        raise UsageError("--resume and --force exclude each other", "--resume continues, --force starts over")
    if threads:
        torch.set_num_threads(threads)
    return choose_device(device)


class Job:
    """A checkpoint and how it decodes. records: None where nothing is kept. seconds: of decoding, in all processes."""

    def __init__(self, run: Run, folder: Path, plan: Plan) -> None:
        self.run, self.folder, self.plan, self.weights = run, folder, plan, fingerprint(folder)
        self.records: Records | None = None
        self.seconds = 0.0

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what is written; after running out of memory, batches may be smaller."""
        return {name: value for name, value in self.plan.used.items() if name != "batch_sentences"}

    def announce(self, what: str, lines: str, mode: str, unit: str) -> None:
        """Says what comes."""
        used = ", ".join(f"{name} {value}" for name, value in self.plan.used.items())
        console.say(f"{what} {lines} with {self.run.path}, checkpoint {self.folder.name}: {mode}{used}")
        if self.records is not None and self.records.resumed:
            console.say(f"resuming after {self.records.progress.done:,} finished {unit}")

    def load(self, device: torch.device) -> None:
        """Loads the model: nothing of the checkpoint is needed after this."""
        keep_freed_memory()
        self.translator = read_translator(self.run, self.folder, self.plan, device)
        self.step = read_json(self.folder / STATE).get("step")

    def windows(
        self, lines: Iterable[str], *, full: bool, trace: int = 0
    ) -> Iterator[tuple[list[Result], list[Record]]]:
        """Decodes the lines that are left, and adds their records. full, trace: what the records hold."""
        timing, begun = self.translator.timing, self.records.progress if self.records else Progress()
        timing.sentences, timing.tokens, timing.passes = begun.done, begun.tokens, begun.passes
        started = perf_counter()
        for window in self.translator.windows(lines, begun.done):
            records = [result.record(full=full, traced=result.index < trace) for result in window]
            self.seconds = begun.seconds + perf_counter() - started
            if self.records is not None:
                self.records.add(records, timing.tokens, timing.passes, self.seconds)
            yield window, records
        self.seconds = begun.seconds + perf_counter() - started


class _Decoding(Job):
    """split: what is decoded, if not the file `text`. out: the file or device that the user named. trace: so many lines
    are shown.
    """

    def __init__(
        self, run: Run, folder: Path, plan: Plan, text: Path | None, split: str, out: Path | None, jsonl: bool,
        trace: int,
    ) -> None:  # fmt: skip
        super().__init__(run, folder, plan)
        self.split, self.out, self.jsonl, self.trace = None if text else split, out, jsonl, trace
        self.out_is_file = out is not None and (out.is_file() or not out.exists())
        if text is None:
            source, self.reference = find_split(run, plan.recipe, split)
            self.lines = Lines(source)
        elif text == STDIN or text.exists():
            self.lines = Lines(text, cleaner(plan.recipe.data.clean))
        else:
            raise DataError(f"{text} does not exist")
        self.summary: dict[str, Any] = {
            "run": str(run.path), "checkpoint": folder.name, "objective": plan.recipe.objective.name,
            "mode": plan.mode, "label": plan.label, "split": self.split, "input": self.lines.name,
            "options": plan.used,
        }  # fmt: skip

    def asked(self, record: Record) -> bytes:
        """A record as the user wants to read it."""
        return as_json(record) if self.jsonl else plain(record, self.plan.options.nbest)

    def kept(self, suffix: str) -> Path:
        """A file of the decoded split."""
        return self.run.decoded / f"{self.stem}.{suffix}"

    def name_files(self, words: list[str], *, is_named: bool, force: bool) -> None:
        """Decides which files are made: a split's two, and the one that the user named.

        words: the command that resumes, is_named: whether it names a checkpoint, which becomes part of the names then.
        """
        parts = [self.split or "", self.plan.label, *([self.folder.name] if is_named else [])]
        self.stem = re.sub(r"[^A-Za-z0-9._-]", "-", ".".join(parts))
        files = {self.kept(suffix): True for suffix in ("txt", "jsonl")} if self.split else {}
        if self.out is not None and self.out_is_file:
            if self.out.resolve() in {path.resolve() for path in files}:
                raise UsageError(f"{self.out} is written anyway", "leave out --out")
            files[self.out] = force
        if self.split is None or is_named:
            words += ["--checkpoint", self.run.name_of(self.folder)]
        fed = " (with the same text on stdin)" if self.lines.path == STDIN else ""
        asked = {"mode": self.plan.mode, "jsonl": self.jsonl and self.out in files, "trace": self.trace}
        if files:
            self.records = Records(
                self.kept("jsonl") if self.split else next(iter(files)), files, (self.folder.name, self.weights),
                {**asked, **self.deciding}, shlex.join(["janus", "decode", *words, "--resume"]) + fed, ELSEWHERE,
            )  # fmt: skip

    def decode(self, device: torch.device) -> dict[str, Any]:
        """Decodes and writes everything; returns the summary."""
        self.summary |= {"step": self.step, "sha256": self.weights}
        if self.split is not None:
            self._make_folder()
        with self.records.opened() if self.records else self._unkept():
            self._write()
            if self.records:
                forms: list[Form] = [plain, as_json] if self.split else []
                self.records.publish([*forms, self.asked][: len(self.records.files)])
            self._warn()
            self.summary |= self._measured(device)
            if self.split is not None:
                self._keep_summary()
        return self.summary

    def _make_folder(self) -> None:
        try:
            self.run.decoded.mkdir(exist_ok=True)
        except OSError as problem:
            message = f"{self.run.decoded} cannot be written: {problem.strerror}"
            raise DataError(message, "decode a text with --input FILE instead") from None
        if self.kept("txt").exists() and not (self.records and self.records.resumed):
            console.say(f"replacing {self.kept('txt')}")

    @contextmanager
    def _unkept(self) -> Iterator[None]:
        try:
            yield
        except Interrupt as stop:
            message = f"{stop} after {self.translator.timing.sentences:,} lines"
            raise Stopped(stop.number, message, "--out FILE keeps them for --resume") from None

    def _write(self) -> None:
        """Decodes all lines, and writes them to the stream."""
        lines, width = iter(self.lines), shutil.get_terminal_size().columns
        self.translator.traced = self.trace
        with ExitStack() as stack:
            stream = self._stream(stack)

            def flow(records: Iterable[Record]) -> None:
                if stream is not None:
                    stream.write(b"".join(map(self.asked, records)))
                    stream.flush()

            for earlier in self.records.replay(lines) if self.records else ():  # who reads the stream gets all lines
                flow(earlier)
            # A bar would be drawn into the lines that a person reads.
            if not self.trace and not (stream is sys.stdout.buffer and sys.stdout.isatty()):
                begun = self.records.progress.done if self.records else 0
                bar = console.progress("decoding", self.lines.count(), start=begun)
                self.translator.advance = stack.enter_context(bar).advance
            for window, records in self.windows(lines, full=self.jsonl or bool(self.split), trace=self.trace):
                flow(records)
                for result in window[: max(0, self.trace - window[0].index)]:
                    for line in shown(result, width):
                        console.say(line)

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
        lines, translator = self.lines, self.translator
        if lines.bad_utf8:
            console.warn(f"{lines.name}: lines that are not UTF-8: {lines.bad_utf8:,}; the bad bytes were replaced")
        if cut := max(translator.truncated, lines.cut):
            console.warn(f"{lines.name}: lines cut to the {translator.longest} tokens that the model reads: {cut:,}")

    def _measured(self, device: torch.device) -> dict[str, Any]:
        """Says how fast it was, and returns it. Batches are known only if no other process did a part of it."""
        timing, whole = self.translator.timing, not (self.records and self.records.resumed)
        mean, p95 = timing.latency()
        batch = self.plan.options.batch_sentences
        batches = f"; a batch of up to {batch} took {1000 * mean:.0f} ms from start to end, p95 {1000 * p95:.0f} ms"
        rates = [count / max(self.seconds, 1e-9) for count in (timing.sentences, timing.tokens)]
        passes = timing.passes / max(1, timing.sentences)
        console.say(
            f"{timing.sentences:,} sentence{'s' * (timing.sentences != 1)} in {self.seconds:.1f} s: "
            f"{rates[0]:.1f} sentences/s, {rates[1]:.0f} tokens/s, {passes:.1f} decoder passes a sentence"
            f"{batches if whole else ''} (loading the model not counted)"
        )
        return {
            "sentences": timing.sentences, "tokens": timing.tokens, "seconds": round(self.seconds, 3),
            "sentences_per_second": round(rates[0], 3), "tokens_per_second": round(rates[1], 3),
            "passes_mean": round(passes, 3), "batches": len(timing.seconds) if whole else None,
            "batch_latency_ms": {"mean": round(1000 * mean, 3), "p95": round(1000 * p95, 3)} if whole else None,
            "threads": torch.get_num_threads(), "device": str(device), "torch": torch.__version__,
        }  # fmt: skip

    def _keep_summary(self) -> None:
        """Writes the reference and the summary beside the hypotheses; the summary last: `janus score` looks for it."""
        text, references = self.kept("txt"), []
        if self.reference is not None:
            references = [f"{self.split}.reference.txt"]
            write_atomically(self.run.decoded / references[0], self.reference.read_bytes())
        self.summary |= {"hypotheses": text.name, "records": self.kept("jsonl").name, "references": references}
        summary = json.dumps(self.summary, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.kept("json"), summary.encode(errors="backslashreplace"))
        console.say(f"kept as {text} (.jsonl, .json); score it with `janus score {text}`")
