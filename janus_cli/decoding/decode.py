"""`janus decode`, and the base that it shares with `janus distill`: a checkpoint decodes lines into kept records."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby, zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

from janus_cli import console, documents
from janus_cli.console import counted
from janus_cli.data.extract import source_lines
from janus_cli.data.lines import STDIN, Lines, opened
from janus_cli.data.prepared import find_references, find_split
from janus_cli.data.references import prepared_references
from janus_cli.decoding.modes import UNFLAGGED, Plan, changed, choose, own_recipe
from janus_cli.decoding.notes import tell
from janus_cli.decoding.records import OVERWRITE, READING, Form, Progress, Record, Records, as_json, differences
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Result, Translator, as_text, read_translator
from janus_cli.device import interruptible, keep_freed_memory, name_device
from janus_cli.errors import DataError, Interrupt, Stopped, UsageError, check_machine
from janus_cli.files import must_not_dangle, write_atomically, write_json
from janus_cli.recipe import Recipe
from janus_cli.runs import Run, text_name
from janus_cli.scoring import repeats
from janus_cli.scoring.judge import one_text
from janus_cli.system import take_threads, threads, waiting_on_stdin
from janus_cli.terminal import command
from janus_cli.training import draft_head
from janus_cli.training.checkpoint import fingerprint, read_checkpoint, read_state

ELSEWHERE = "name another file with --out"
FIRST_LINES = 1000  # whose outputs are compared with each other
ANOTHER_TEXT = "with the hypotheses of another text"
SPLIT_ELSEWHERE = "decode a text with --input FILE --out FILE, which needs no folder of the run"


@dataclass(kw_only=True)
class Job(ABC):
    """One call of `janus decode` or `janus distill`. The fields are the options of the command.

    options: names and values of the decoding section. trace: the number of first lines to show a trace of. words: the
    command line without the run, --checkpoint, --resume and --force, to tell the user how to resume.
    """

    run: Path | None = None
    checkpoint: Path | None = None
    out: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    trace: int = 0
    words: Sequence[str] = ()
    # Found out by `_prepare` and `survey`:
    plan: Plan = field(init=False)
    what: str = field(init=False)  # name of the input, for messages
    trained: Run = field(init=False)
    folder: Path = field(init=False)  # of the checkpoint
    weights: str = field(init=False)  # their sha256
    step: int | None = field(init=False)  # updates that they have had
    records: Records | None = field(init=False)  # None where nothing is kept
    progress: Progress = field(init=False)
    resumed: bool = field(init=False)
    complete: bool = field(init=False)  # before anything was done: nothing is to do
    translator: Translator = field(init=False)
    chosen_device: str = field(init=False)

    def do(self) -> None:
        """Decodes everything; a dry run checks the same and says what would be done.

        Raises:
            JanusError: see `errors.py`; a signal raises Stopped.
        """
        if self.resume and self.force:
            raise UsageError("--resume and --force exclude each other", "--resume continues, --force starts over")
        self.chosen_device = name_device(self.device)
        with interruptible():
            read_checkpoint(self.run, self.checkpoint, self._prepare)
            if not (self.dry_run or self.complete):
                with self.records.opened() if self.records else self._unkept():
                    self.write()

    def _prepare(self, run: Run, folder: Path) -> None:
        """Checks all that can be checked beforehand, then loads the model; the checkpoint is not read after that."""
        self.trained, self.folder, self.progress, self.resumed, self.complete = run, folder, Progress(), False, False
        recipe, self.weights = own_recipe(folder, self.changes), fingerprint(folder)
        self.records = self.survey(recipe)
        if self.records is not None:
            earlier = self.records.earlier_header() if self.resume and self.checkpoint is None else {}
            begun, other = earlier.get("sha256"), run.checkpoints / str(earlier.get("checkpoint"))
            if begun != self.weights and other.is_dir() and fingerprint(other) == begun:
                self._prepare(run, other)  # `best` has moved since
                return
            if self.resume and (ready := self.records.finished()):
                if unlike := self.unlike_finished():
                    raise UsageError(f"{ready} is finished already, {unlike}", OVERWRITE)
                console.say(f"{ready} is already complete")
                self.complete = True
                return
            self.records.check(resume=self.resume, force=self.force)
            self.progress = self.records.progress
            self.resumed = self.records.resumed
        elif self.resume:
            raise UsageError("--resume needs --out: what goes to stdout is not kept", "add --out FILE")
        device = self.chosen_device.partition(":")[0]
        why = self.plan.without_graph(device, trace=self.trace > 0)
        options = self.plan.used if why else self.plan.used_in_graph
        if device != "cuda":
            options.pop("cuda_graphs", None)
        options["engine"] = f"torch ({why})" if why else "onnx"
        used = ", ".join([self.plan.mode, *(f"{name} {value}" for name, value in options.items())])
        verb = "would decode" if self.dry_run else "decoding"
        of = " (of an unfinished training)" if run.is_unfinished else ""
        console.say(f"{verb} {self.what} with {run.path}, checkpoint {folder.name}{of}: {used}")
        if self.resumed:
            console.say(f"resuming after {counted(self.progress.done, 'finished line')}")
        for warning in self.plan.warnings:
            console.warn(warning)
        if self.plan.drafts:
            self._tell_of_head(why)
        if not self.dry_run:
            keep_freed_memory()
            self.translator = read_translator(run, folder, self.plan, self.chosen_device, self.trace > 0)
            if self.threads:
                take_threads(self.threads)
            self.step = read_state(folder).get("step")

    def _tell_of_head(self, why: str) -> None:
        """Says that a draft head is there in vain, or missing. why: torch searches, which has no use for it."""
        is_there = (self.folder / draft_head.FILE).is_file()
        if why and is_there:
            console.warn(f"the checkpoint's draft head is not used, so this may be slower than greedy search: {why}")
        elif not why and not is_there:
            make = draft_head.made_by(self.trained, self.folder)
            console.say(
                f"it is faster with a draft head (where its training data is missing, add --source FILE): {make}"
            )

    @abstractmethod
    def survey(self, recipe: Recipe) -> Records | None:
        """Sets `plan` and `what`; returns the records that keep the results, None if they are not kept."""

    @abstractmethod
    def unlike_finished(self) -> str:
        """How the output that is there differs from what is asked for; empty if it does not."""

    def differs(self, about: Mapping[str, Any], before: Mapping[str, Any] = {}, now: Mapping[str, Any] = {}) -> str:
        """As `unlike_finished`, of weights, options, and what else. about: the finished output's summary."""
        if about.get("sha256") != self.weights:
            return f"with the weights of {about.get('checkpoint')}; those of {self.folder.name} are others"
        options = {name: value for name, value in about.get("options", {}).items() if name != "batch_sentences"}
        different = differences({**options, **before}, json.loads(json.dumps({**self.deciding, **now})))
        return f"with {different}" if different else ""

    @abstractmethod
    def write(self) -> None:
        """Decodes, and writes the results."""

    @contextmanager
    def _unkept(self) -> Iterator[None]:
        try:
            yield
        except Interrupt as stop:
            message = f"{stop} after {counted(self.progress.done, 'line')}"
            raise Stopped(stop.number, message, "--out FILE keeps them for --resume") from None

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that the results depend on; not batch_sentences, so that a resumed job may lower it."""
        return {name: value for name, value in self.plan.used.items() if name != "batch_sentences"}

    def decoded(self, lines: Iterator[str], *, full: bool) -> Iterator[tuple[list[Result], list[Record]]]:
        """Windows of results and their records (see `Result.record`); of an earlier process, the records only."""
        for earlier in self.records.replay(lines) if self.records else ():
            yield [], [earlier]
        before, started, timing = self.progress, perf_counter(), self.translator.timing
        shown = self.translator.advance

        def advance(count: int) -> None:
            shown(count)
            if self.records is not None:
                self.records.unkept += count

        self.translator.advance = advance
        for window in self.translator.windows(lines, before.done):
            records = [result.record(full=full, traced=result.index < self.translator.traced) for result in window]
            self.progress = Progress(
                before.done + timing.sentences, before.tokens + timing.tokens, before.passes + timing.passes,
                before.seconds + perf_counter() - started - self.translator.generator.setting_up,
                Counter(before.counts) + timing.counts,
            )  # fmt: skip
            if self.records is not None:
                self.records.add(records, self.progress)
            yield window, records


@dataclass(kw_only=True)
class Decode(Job):
    """`janus decode`. column: of `text`, if that is a table."""

    text: Path | None = None
    column: str | None = None
    split: str | None = None
    jsonl: bool = False
    lines: Lines = field(init=False)
    references: dict[str, Path] = field(init=False, default_factory=dict)  # to keep, by name
    label: str = field(init=False)  # see `Plan.label`; with the limit of AR outputs, where --set has changed it
    stem: Path = field(init=False)  # of the files of a split, without suffix
    forms: dict[Path, Form] = field(init=False)  # output files, and what a record becomes in each

    def survey(self, recipe: Recipe) -> Records | None:
        if self.text is not None and self.split is not None:
            raise UsageError("--input and --split exclude each other", "leave one of them out")
        if self.column is not None and self.text is None:
            raise UsageError("--column needs a table to read", "name one with --input")
        if self.text == STDIN and sys.stdin.isatty():
            self.options = {**self.options, "batch_sentences": self.options.get("batch_sentences") or 1}
            console.say("type a line and press Enter; Ctrl-D ends")
        self.plan = choose(recipe, self.options, changed(self.changes))
        if self.text is None:
            if self.split is None and waiting_on_stdin():
                console.warn("there is text on stdin, which is not read: --input - decodes it")
            self.split = self.split or "test"
            self._find_split(recipe, self.split)
        elif self.text == STDIN or self.text.exists():
            self.lines = source_lines(recipe.data, self.text, self.column)
        else:
            raise DataError(f"{self.text} does not exist", "name a text file, plain or .gz")
        self.what = self.lines.name
        self.out = None if self.out == STDIN else self.out
        if self.out is not None:
            must_not_dangle(self.out)
            texts = [self.lines.path, *self.references.values()]
            if any(each.is_file() and self.out.exists() and self.out.samefile(each) for each in texts):
                raise UsageError(f"{self.out} is the text itself, which would be lost", ELSEWHERE)
        self.label = ".".join([self.plan.label, *self._changed()])
        parts = [self.split, self.label, self.folder.name if self.checkpoint else None]
        self.stem = self.trained.decoded / re.sub(r"[^A-Za-z0-9._-]", "-", ".".join(filter(None, parts)))
        self.forms: dict[Path, Form] = {self.kept("txt"): as_text, self.kept("jsonl"): as_json} if self.split else {}
        files = dict.fromkeys(self.forms, True)
        if self.out is not None and (self.out.is_file() or not self.out.exists()):
            references = (self.trained.decoded / name for name in self.references)
            own = {self.kept("json"), *references, *files} if self.split else set()
            if self.out.resolve() in {path.resolve() for path in own}:
                raise UsageError(f"{self.out} is written anyway", "leave out --out")
            self.forms[self.out], files[self.out] = self.asked, self.force
        if not files:
            return None
        words: list[object] = ["janus", "decode", *self.words, "--run", self.trained.path]
        if self.split is None or self.checkpoint is not None:
            words += ["--checkpoint", self.trained.name_of(self.folder)]
        asked: dict[str, Any] = {"mode": self.plan.mode, "jsonl": self.jsonl and self.out in files, "trace": self.trace}
        asked |= {"column": self.column} if self.column else {}
        return Records(
            self.kept("jsonl") if self.split else next(iter(files)), files, (self.folder.name, self.weights),
            {**asked, **self.deciding}, make_folder=self.split is not None,
            elsewhere=SPLIT_ELSEWHERE if self.split else ELSEWHERE,
            command=command(*words, "--resume") + " (with the same text on stdin)" * (self.text == STDIN),
        )  # fmt: skip

    def _find_split(self, recipe: Recipe, split: str) -> None:
        """Sets `lines`, and `references`: of those, the last file is what to score against."""
        source, target = find_split(self.trained, recipe, split)
        self.lines, several = Lines(source), find_references(self.trained, recipe, split)
        if target is not None:
            self.references[f"{split}.reference.txt"] = target
        if several is not None and several != target:
            self.references[text_name(split, "references")] = several

    def _changed(self) -> Iterator[str]:
        """Parts of the label: what --set has changed, and no flag changes."""
        own = own_recipe(self.folder, ()).decoding if self.changes else self.plan.options
        for name, short in UNFLAGGED.items():
            value = getattr(self.plan.options, name)
            if self.plan.reads(name) and value != getattr(own, name):
                if isinstance(value, tuple):
                    value = hashlib.sha256(str(value).encode()).hexdigest()[:8]
                yield f"{short}{'' if value is True else value}".removesuffix(".0")

    def kept(self, suffix: str) -> Path:
        """A file of the decoded split."""
        return Path(f"{self.stem}.{suffix}")

    def asked(self, record: Record) -> bytes:
        """A record in the format asked for: JSON or plain text."""
        return as_json(record) if self.jsonl else as_text(record, self.plan.options.nbest)

    def unlike_finished(self) -> str:
        assert self.out is not None
        if self.split is None:
            return self._unlike_text(self.out)
        if not self.kept("json").is_file():
            return f"with other options or weights: {self.kept('json')} is not there"
        if other := self.differs(documents.read(self.kept("json"), documents.DecodedSplit)):
            return other
        texts = iter(self.lines)
        with opened(self.kept("jsonl")) as records, opened(self.out) as file:
            for line in records:
                record = documents.parsed_line(line, documents.Record)
                if not record or next(texts, None) != record["source"]:
                    return ANOTHER_TEXT
                data = self.asked(record)
                if file.read(len(data)) != data:
                    return f"with other lines than {self.kept('jsonl')}"
            rest = file.read(1)
        return ANOTHER_TEXT if rest or next(texts, None) is not None else ""

    def _unlike_text(self, out: Path) -> str:
        """`unlike_finished` of an output that alone tells how it was made: by the numbers of its lines, or sources."""
        console.warn(f"no record says with which weights and options {out} was made")
        found: Iterator[object]
        expected: Iterator[object] = iter(self.lines)
        with opened(out) as file:
            if self.jsonl:
                found = (documents.parsed_line(line, documents.Record).get("source") for line in file)
            elif self.plan.options.nbest > 1:
                found = (number for number, _ in groupby(line.partition(b"\t")[0] for line in file))
                expected = (str(index).encode() for index, _ in enumerate(self.lines))
            else:
                found, expected = (None for _ in file), (None for _ in self.lines)
            same = all(one == other for one, other in zip_longest(found, expected, fillvalue=b""))
        return "" if same else ANOTHER_TEXT

    def write(self) -> None:
        if self.split and self.kept("txt").exists() and not self.resumed:
            console.say(f"replacing {self.kept('txt')}")
        width = shutil.get_terminal_size().columns
        self.translator.traced = self.trace
        self.translator.scores = bool(self.records or self.jsonl or self.trace) or self.plan.options.nbest > 1
        outputs = dict[str, str]()  # by source, of the first lines
        with ExitStack() as stack:
            stream = self._stream(stack)
            # On a terminal, a bar would be drawn into the output.
            if not self.trace and not (stream is sys.stdout.buffer and sys.stdout.isatty()):
                bar = console.progress("decoding", self.lines.count(), start=self.progress.done)
                self.translator.advance = stack.enter_context(bar).advance
            # The stream gets all lines, those of an earlier process too.
            for results, records in self.decoded(iter(self.lines), full=self.jsonl or bool(self.split)):
                if stream is not None:
                    stream.write(b"".join(map(self.asked, records)))
                    stream.flush()
                if len(outputs) < FIRST_LINES:
                    outputs |= {record["source"]: record["hypothesis"] for record in records}
                for result in results:
                    for line in shown(result, width) if result.index < self.trace else ():
                        console.say(line)
        if self.records is not None:
            self.records.publish(self.forms.values())
        if not self.progress.done:
            console.warn(f"{self.lines.name} is empty: there is nothing to decode")
        if said := one_text(list(outputs.values())):
            console.warn(f"{self.lines.name}: of different sources, {said}")
        self._summarise()

    def _stream(self, stack: ExitStack) -> BinaryIO | None:
        """Where hypotheses are streamed: the named device or pipe, else stdout; None if only files are written."""
        if self.out in self.forms:
            return None
        if self.out is None:
            return None if self.split is not None and sys.stdout.isatty() else sys.stdout.buffer
        try:
            return stack.enter_context(self.out.open("wb"))
        except OSError as problem:
            check_machine(problem)
            raise DataError(f"{self.out} cannot be written: {problem.strerror}", ELSEWHERE) from None

    def _summarise(self) -> None:
        """Reports replaced bytes, cut lines and speed; then writes a split's summary, which `janus score` looks for."""
        lines, translator = self.lines, self.translator
        if lines.bad_utf8:
            console.warn(
                f"{lines.name}: lines that are not UTF-8: {lines.bad_utf8:,}; the bad bytes were replaced; if it has "
                "another encoding, convert it: `iconv -f ENCODING -t UTF-8`"
            )
        # Some lines were cut before they were tokens.
        tell(lines.name, {**self.progress.counts, "cut": max(self.progress.counts.get("cut", 0), lines.cut)}, self.plan)
        done, tokens, passes, seconds, counts, _ = self.progress
        rates = [count / max(seconds, 1e-9) for count in (done, tokens)]
        passes_mean = passes / max(1, done)
        whole = not self.resumed  # times of an earlier process's batches are not known
        mean, p95 = (1000 * value for value in translator.timing.latency())
        latency = (
            f"; a batch of up to {self.plan.options.batch_sentences} took {mean:.0f} ms from start to end, "
            f"p95 {p95:.0f} ms"
        )
        setting_up = translator.generator.setting_up
        aside = "loading the model" + (f" and {setting_up:.1f} s of setting up" if setting_up > 0.05 else "")
        console.say(
            f"{counted(done, 'sentence')} in {seconds:.1f} s: {rates[0]:.1f} sentences/s, {rates[1]:.0f} tokens/s, "
            f"{passes_mean:.1f} decoder passes a sentence{latency if whole else ''} ({aside} not counted)"
        )
        if self.out is not None:
            console.say(f"written to {self.out}")
        if self.split is None:
            return
        *_, file = [None, *self.references.values()]
        repeated = repeats.rates(
            Lines(self.kept("txt")), prepared_references(file.parent, self.split) if file else None
        )
        if said := repeats.in_words(repeated):
            console.say(said)
        for name, file in self.references.items():
            write_atomically(self.trained.decoded / name, file.read_bytes())
        options, objective = self.plan.used, self.plan.recipe.objective.name
        summary = {
            "run": str(self.trained.path), "checkpoint": self.folder.name,
            "objective": objective, "mode": self.plan.mode, "label": self.label, "split": self.split,
            "input": lines.name, "options": options, "step": self.step,
            "sha256": self.weights, "sentences": done, "tokens": tokens, "seconds": round(seconds, 3),
            "sentences_per_second": round(rates[0], 3), "tokens_per_second": round(rates[1], 3),
            "passes_mean": round(passes_mean, 3), **self.progress.reading,
            "repeats": {name: rate and round(rate, 5) for name, rate in repeated.items()},
            "counts": {name: count for name, count in counts.items() if name not in READING},
            "batches": len(translator.timing.seconds) if whole else None,
            "batch_latency_ms": {"mean": round(mean, 3), "p95": round(p95, 3)} if whole else None,
            "threads": threads(), "device": self.chosen_device, "torch": version("torch"),
            "hypotheses": self.kept("txt").name, "records": self.kept("jsonl").name,
            "references": list(self.references)[-1:],
        }  # fmt: skip
        write_json(self.kept("json"), summary)
        console.say(
            f"kept as {self.kept('txt')} (.jsonl, .json); score it with `{command('janus', 'score', self.kept('txt'))}`"
        )
