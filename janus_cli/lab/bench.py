"""`janus bench`: every decoding mode of a run in one table, beside the tools that users would pick instead."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console
from janus_cli.decoding.modes import own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.engines.engine import Engine
from janus_cli.errors import DataError, JanusError, UsageError, require
from janus_cli.export.source import Source
from janus_cli.files import write_atomically
from janus_cli.lab import machine, peers, plots, processes, rows
from janus_cli.lab.labels import row_options
from janus_cli.lab.rows import Decoded, Row, Spread, Work, janus_row, measure, rotated
from janus_cli.lab.tables import json_file, markdown, must_be_free, render, without_empty
from janus_cli.lab.threads import in_words, to_try
from janus_cli.measures import MEASURES
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring.glge import tell_of_validations
from janus_cli.scoring.judge import judge_of_run, must_be_read
from janus_cli.scoring.scores import References
from janus_cli.system import load_average
from janus_cli.training.checkpoint import MODEL, find_checkpoint, fingerprint, read_state

SPLIT = "test"
SENTENCES = 1000  # timed in batches; quality uses the whole split
SINGLES = 100  # timed one by one
SEED = 1  # of the choice of sentences
BASELINES = ("ar.beam1", "ar.beam5")  # rows that speeds are relative to
MEBI = 1 << 20
COLUMNS = {  # after the mode and the score
    "passes": ".1f", "batch 1: p50 ms": "", "p95 ms": "", "sentences/s": "", "batch": "", "threads": "",
    "MiB": ",.0f", "disk MiB": ",.1f", "load s": ".2f", "start s": ".2f",
}  # fmt: skip


def sampled(run: Run, recipe: Recipe, count: int | None) -> tuple[list[str], References | None]:
    """Lines of the test split and their references, in order; all of them, or `count`, the same ones every time."""
    lines, references = rows.sentences(run, recipe, SPLIT), rows.references_of(run, recipe, SPLIT)
    chosen = _some(range(len(lines)), len(lines) if count is None else count, random.Random(SEED))
    if not any(lines[index].strip() for index in chosen):
        raise DataError(f"the {SPLIT} split of {run.path} has no text", "prepare the data again, with text for it")
    columns = None if references is None else [[column[index] for index in chosen] for column in references]
    return [lines[index] for index in chosen], columns


def _some(items: Sequence[Any], count: int, choice: random.Random) -> list[Any]:
    """`count` random items, or all if there are fewer, in their order."""
    if count >= len(items):
        return list(items)
    return [items[index] for index in sorted(choice.sample(range(len(items)), count))]


@dataclass
class Built:
    """A row with its outputs, and what its other processes need.

    build: makes the row. imports: its libraries. first: line and threads -> what `startup` takes. disk: bytes.
    memory, starts: measured in processes of their own, see `processes`; None and empty where that failed.
    """

    row: Row
    decoded: Decoded
    build: Callable[[], Row]
    first: Callable[..., Mapping[str, Any]]
    disk: int
    imports: Callable[[], object] | None = None
    memory: dict[str, int | None] | None = None
    starts: list[dict[str, float]] = field(default_factory=list)

    @property
    def start(self) -> dict[str, Any] | None:
        """Median and range of its starts, and every raw number."""
        if not self.starts:
            return None
        named = {name: [each[name] for each in self.starts] for name in self.starts[0]}
        return {name: {**asdict(Spread.of(taken)), "each": taken} for name, taken in named.items()}


class Bench:
    """A run and its measurement, checked and loaded: whatever can go wrong does so before measuring.

    The options are those of `janus bench`; batches, repeats, warmup: see `rows.Work`.

    Raises:
        UsageError: options that do not fit the run, an extra that is missing, or files that are there already.
        DataError, CheckpointError: the test split or the checkpoint is missing or damaged.
    """

    def __init__(
        self, *, run: Path | None, checkpoint: Path | None, modes: Sequence[str], sentences: int | None,
        batches: Sequence[int], repeats: int, warmup: int, against: Sequence[peers.Peer], changes: Sequence[str],
        out: Path | None, plot: Path | None, device: str, threads: int | None, force: bool, metric: str | None,
        tokenize: str | None,
    ) -> None:  # fmt: skip
        load_before = load_average()
        torch.set_num_threads(threads or torch.get_num_threads())
        self.device, self.changes = choose_device(device), changes
        self.out, self.plot = out, plot
        self.run, self.folder = find_checkpoint(run, checkpoint)
        self.recipe = own_recipe(self.folder, changes)
        self._check(force)
        self.judge = judge_of_run(self.run, metric, tokenize)
        must_be_read(tokenize, [self.judge.metric])
        self.judge.must_be_at_hand()
        self.judge.introduce()
        tell_of_validations(self.recipe, self.run.path)
        self.selection = rows.select(self.recipe, modes, self.device.type)
        self.against = [peer for peer in against if self._has(peer)]
        self.lines, self.references = sampled(self.run, self.recipe, sentences)
        choice = random.Random(SEED)
        batched = _some(self.lines, SENTENCES, choice)
        singles = _some([line for line in self.lines if line.strip()], SINGLES, choice)
        settings = to_try(threads, self.device)
        self.work = Work(batched, singles, tuple(dict.fromkeys(batches)), repeats, warmup, settings)
        self.machine = {**machine.describe(self.device), "load": load_before}
        if len(settings) > 1:
            self.machine["threads"] = None  # each row has its own
        self.warnings: list[str] = []
        if reason := machine.too_busy(load_before, self.machine["cores"]):
            self._warn(reason)
        drafting = any(plan.drafts for plan in self.selection.plans.values())
        precision = self.recipe.decoding.precision
        model, self.tokenizers = read_model(self.run, self.folder, self.device, precision, head=drafting)
        self.generator = Engine(model)
        longest = self.recipe.reads
        if cut := sum(len(ids) > longest for ids in self.tokenizers.source.encode(self.lines)):
            self._warn(f"{console.counted(cut, 'line')} cut to the {longest} tokens that the model reads")
        self.rows = [janus_row(*named, self.generator, self.tokenizers) for named in self.selection.plans.items()]
        self.labels = [
            *self.selection.plans,
            *(label for peer in self.against for label in peers.labels(peer, self.device)),
        ]

    def _has(self, peer: peers.Peer) -> bool:
        """Whether a peer has such a model; notes why not. Raises UsageError if it is not installed."""
        peers.load(peer)
        try:
            peers.must_fit(peer, self.recipe)
        except UsageError as problem:
            self.selection.left_out[peer] = problem.message
            return False
        return True

    def _check(self, force: bool) -> None:
        """Raises UsageError if a change sets an option that rows set themselves, or a file is in the way."""
        taken = {"nbest", "temperature", "diversity"}.union(*row_options().values())
        for change in self.changes:
            if change.partition("=")[0].removeprefix("decoding.") in taken:
                hint = "name rows, as in --mode ar.beam4,nar6.lb3"
                raise UsageError(f"--set {change}: each row sets this itself", hint)
        if self.plot is not None:
            require("matplotlib", "bench")
        for path in filter(None, (self.out, self.plot)):
            must_be_free(path, force=force)

    def _warn(self, text: str) -> None:
        """Warns now, and again under the table."""
        self.warnings.append(text)
        console.warn(text)

    @property
    def translations(self) -> int:
        """Sentences decoded in total: quality, timing, memory, start."""
        each = len(self.lines) + len(self.work.lines) + self.work.repeats
        several = [False for _ in self.rows]
        several += [peers.several(peer, self.device) for peer in self.against for _ in peers.labels(peer, self.device)]
        return sum(each + self.work.translations(at_once) for at_once in several)

    def announce(self, verb: str) -> None:
        """Says what is measured, on what, and what is left out."""
        work, where = self.work, machine.in_words(self.machine)
        console.say(f"{verb} {self.run.path}, checkpoint {self.folder.name}, on {where}: {', '.join(self.labels)}")
        for label, reason in self.selection.left_out.items():
            console.say(f"left out: {label}: {reason}")
        count, repeats = console.counted(len(self.lines), "sentence"), console.counted(work.repeats, "repeat")
        console.say(
            f"quality on {count}, batches of {', '.join(map(str, work.batches))} on {len(work.lines):,}, one by one "
            f"{len(work.singles):,}; {repeats}, {work.warmup} to warm up"
        )

    def dry_run(self) -> None:
        """Says what `measure` would do and how long it would take at most, from a few sentences decoded one by one."""
        self.announce("would measure")
        probe = self.work.singles[: max(1, self.work.warmup)]
        measure(self.rows, Work(probe, probe, (1,), 1, 1), lambda *_: None)
        seconds = sum(sum(row.singles[0]) / len(probe) for row in self.rows)
        most = console.duration(seconds * self.translations / len(self.labels))
        beside = " (peers not counted)" if self.against else ""
        console.say(f"{self.translations:,} translations: at most {most}{beside}; batches make it several times faster")

    def measure(self) -> dict[str, Any]:
        """Measures; returns all results as plain values, and writes them to the run and to the named files."""
        self.announce("measuring")
        keep_freed_memory()
        results = {  # a training may prune the checkpoint while its rows are measured
            "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": str(self.run.path), "checkpoint": self.folder.name, "changes": list(self.changes),
            "step": read_state(self.folder).get("step"), "sha256": fingerprint(self.folder),
            "objective": self.recipe.objective.name, "scoring": self.judge.plain, "split": SPLIT,
            "machine": self.machine,
        }  # fmt: skip
        results |= self._measure()
        try:
            console.say(f"kept as {keep(self.run, results)}")
        except OSError as problem:  # the run may belong to another user
            folder = self.run.path / "bench"
            console.warn(f"{folder} cannot be written: {problem.strerror}; only the files of --out and --plot are kept")
        if self.out is not None:
            write_atomically(self.out, json_file(results))
        if self.plot is not None:
            write_atomically(self.plot, plots.quality_against_latency(results))
        return results

    def _measure(self) -> dict[str, Any]:
        """Quality, then timing, then memory and start: decoding everything once for quality is also a warm-up.

        Every row of a peer has a process of its own, which lives until the end.
        """
        with ExitStack() as closing, console.progress("measuring", self.translations) as bar:

            def decode(row: Row) -> Decoded:
                found = row.translate(self.lines, self.recipe.decoding.batch_sentences)
                bar.advance(len(self.lines), f"{row.label}: quality")
                return found

            every = [self._ours(row, decode(row)) for row in self.rows]
            exported = Path(closing.enter_context(tempfile.TemporaryDirectory()))
            for peer in self.against:
                setting = self._setting(peer, exported / peer)
                for label in peers.labels(peer, self.device):
                    build, imports = partial(peers.row, setting, label), partial(peers.load, peer)
                    row, _ = closing.enter_context(processes.remote(label, build, self.device, imports))
                    first, disk = partial(peers.first, setting, label), peers.disk_bytes(setting, label)
                    every.append(Built(row, decode(row), build, first, disk, imports))
            measure([built.row for built in every], self.work, bar.advance)
            for built in every:
                built.memory = self._memory(built)
                bar.advance(len(self.work.lines), f"{built.row.label}: memory")
            for built in (built for turn in range(self.work.repeats) for built in rotated(every, turn)):
                self._start(built)
                bar.advance(1, f"{built.row.label}: start")
        return self._results(every)

    def _ours(self, row: Row, decoded: Decoded) -> Built:
        """A row of ours, which runs in this process."""
        about = {
            "label": row.label, "run": str(self.run.path), "folder": str(self.folder), "changes": list(self.changes),
            "device": str(self.device),
        }  # fmt: skip
        build = partial(rows.load, row.label, self.run, self.folder, self.changes, self.device)
        files = [self.folder / MODEL, *(self.run.path / name for name in self.tokenizers.files)]
        return Built(row, decoded, build, partial(dict, about), sum(file.stat().st_size for file in files))

    def _setting(self, peer: peers.Peer, exported: Path) -> peers.Setting:
        """The setting of a peer, whose models are exported there."""
        about = dict.fromkeys(("run", "checkpoint", "step", "objective", "sha256", "janus"), "of a bench")
        source = Source(self.recipe, self.generator.model, self.tokenizers, self.run.path, {}, about)
        peers.export(peer, source, self.device, exported)
        return peers.Setting(peer, self.recipe, self.tokenizers, self.device, exported, self.run.path)

    def _memory(self, built: Built) -> dict[str, int | None] | None:
        """Peak memory: on a CPU, of a process that decodes once.

        On a GPU, of torch, counted anew for each row: weights and one decoding.
        """
        row = built.row
        try:
            if self.device.type == "cpu":
                return processes.peak_memory(row, built.build, self.work.lines, self.device, built.imports)
            if row.engine == "ctranslate2":
                return None  # its memory is not torch's
            self.generator.forget()  # recordings of other rows
            torch.cuda.reset_peak_memory_stats(self.device)
            peak = row.translate(self.work.lines, row.batch).peak
            return {"before": 0, "peak": torch.cuda.max_memory_allocated(self.device) if peak is None else peak}
        except JanusError as problem:
            self._warn(f"{row.label}: its memory could not be measured: {problem.message}")
            return None

    def _start(self, built: Built) -> None:
        """Times a process that starts, reads the model and decodes a sentence."""
        row = built.row
        about = built.first(line=self.work.singles[0], threads=row.one_by_one.each)
        try:
            built.starts.append(processes.first_sentence(row.label, row.engine, about))
        except JanusError as problem:
            self._warn(problem.message)

    def _results(self, every: Sequence[Built]) -> dict[str, Any]:
        """The measurements as plain values."""
        work = self.work
        bases = [built.row for built in every if built.row.label in BASELINES or built.row.mode == "peer"]

        def plain(built: Built) -> dict[str, Any]:
            row, passes, score = built.row, built.decoded.passes, None
            if self.references is not None:
                score = self.judge.score(built.decoded.texts, self.references)
            return {
                "label": row.label, "mode": row.mode, "engine": row.engine, "options": dict(row.options),
                "quality": score and {"metric": score.name, "value": score.value, "signature": score.signature},
                "passes": None if passes is None else passes / len(self.lines),
                **row.timings(len(work.lines)),
                "memory": built.memory, "disk": built.disk, "start": built.start,
                "ratios": {base.label: row.speed_against(base) for base in bases},
            }  # fmt: skip

        return {
            "work": {
                "sentences": len(self.lines), "lines": len(work.lines), "singles": len(work.singles),
                "batches": list(work.batches), "repeats": work.repeats, "warmup": work.warmup, "seed": SEED,
                "threads": [str(each) for each in work.threads],
            },
            "rows": [plain(built) for built in every],
            "left_out": self.selection.left_out, "warnings": self.warnings,
        }  # fmt: skip


def keep(run: Run, results: Mapping[str, Any]) -> Path:
    """Writes bench/<date>.json into the run, never over another. Raises OSError if it cannot be written."""
    folder, stem = run.path / "bench", time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(exist_ok=True)
    for number in count(1):
        path = folder / (f"{stem}-{number}.json" if number > 1 else f"{stem}.json")
        with suppress(FileExistsError):
            path.touch(exist_ok=False)  # reserves the name
            break
    write_atomically(path, json_file(results))
    return path


def table(results: Mapping[str, Any]) -> str:
    """Conditions, the table, speeds relative to peers, and notes, as Markdown."""
    measured = results["rows"]
    bases = [base for base in BASELINES if any(base in row["ratios"] for row in measured)]
    beside = [row["label"] for row in measured if row["mode"] == "peer"]
    measure = MEASURES[results["scoring"]["metric"]]
    columns = {"mode": "", measure.head: ".2f", **COLUMNS, **{f"× {base}": "" for base in bases}}
    values = [_values(row) + [_ratio(row, base) for base in bases] for row in measured]
    tables = [markdown(*without_empty(columns, values))]
    if beside:
        ours = [[row["label"], *(_ratio(row, peer) for peer in beside)] for row in measured if row["mode"] != "peer"]
        tables.append(markdown(dict.fromkeys(["speed relative to", *beside], ""), ours))
    words = {
        "metric": measure.head, "tables": tables, "compared": bool(bases or beside),
        "reasons": _labels_by_text(results["left_out"]),
    }  # fmt: skip
    return render("bench.md", {**results, **words})


def _values(row: Mapping[str, Any]) -> list[Any]:
    latency, throughput, memory, quality = row["latency"], row["throughput"], row["memory"], row["quality"]
    start = row["start"]
    return [
        row["label"], quality and quality["value"], row["passes"], _range(latency["p50"], 1000),
        _range(latency["p95"], 1000), _range(throughput["sentences_per_second"], 1), throughput["batch"],
        in_words(latency["threads"], throughput["threads"]),
        memory and (memory["peak"] - memory["before"]) / MEBI, row["disk"] / MEBI,
        start and start["load"]["median"], start and start["seconds"]["median"],
    ]  # fmt: skip


def _range(spread: Mapping[str, float], factor: float) -> str:
    values = [factor * spread[name] for name in ("median", "lowest", "highest")]
    digits = max(0, min(3, 3 - len(str(int(values[0])))))  # three figures tell rows apart
    middle, low, high = (f"{value:,.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def _ratio(row: Mapping[str, Any], base: str) -> str | None:
    ratio = row["ratios"].get(base)
    return ratio and f"{ratio['latency']:.2f} / {ratio['throughput']:.2f}"


def _labels_by_text(texts: Mapping[str, str]) -> dict[str, list[str]]:
    return {text: [label for label, each in texts.items() if each == text] for text in texts.values()}
