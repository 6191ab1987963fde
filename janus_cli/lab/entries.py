"""One entry of a comparison, a system with a seed: trained and decoded; results of an earlier call are reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from janus_cli import console, documents, runs
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import Plan, own_recipe
from janus_cli.decoding.translate import Timing, Translator, read_model
from janus_cli.engines.engine import Engine
from janus_cli.errors import DataError, JanusError, Stopped
from janus_cli.files import MANIFEST, sha256, write_atomically
from janus_cli.lab.labels import REPEATS, WARMUP
from janus_cli.lab.rows import Work, janus_row, measure, select, sentences
from janus_cli.lab.systems import System
from janus_cli.lab.threads import to_try
from janus_cli.measures import BOOTSTRAP_SEED
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring import bootstrap, repeats
from janus_cli.scoring.judge import Judge, one_text
from janus_cli.scoring.scores import References, Score
from janus_cli.system import followed
from janus_cli.training import checkpoint, size
from janus_cli.training.average import average_checkpoints
from janus_cli.training.run import train

SPLIT = "test"
SENTENCES = 200  # of that split, timed in batches
SINGLES = 50  # timed one by one
CLOCK = 1.0  # seconds that a file system may be behind
BASELINES = ("ar ar.beam5", "ar ar.beam1")  # rows to compare with by default


class Output(NamedTuple):
    """One mode's hypotheses for the split. passes: decoder passes a sentence."""

    texts: list[str]
    passes: float


@dataclass
class Entry:
    """A system with a seed, its run, and its results.

    training: as in comparison.json; None if it failed. outputs: by label of the mode. failed: the reason of each
    failure, by what failed.
    """

    system: System
    seed: int
    run: Run
    training: dict[str, Any] | None = None
    outputs: dict[str, Output] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkpoint = self.run.checkpoints / "last"  # the one to decode

    @property
    def name(self) -> str:
        return f"{self.system.name}.seed{self.seed}"

    @property
    def origin(self) -> str | None:
        """The checkpoint whose weights its run started from, if any."""
        return runs.origin(self.run.read_manifest()) if self.run.manifest.is_file() else None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the checkpoint to decode."""
        return own_recipe(self.checkpoint, ())

    @property
    def text(self) -> tuple[str, ...]:
        """See `text_of`."""
        return text_of(self.run.read_manifest() if self.run.manifest.is_file() else {})

    def begun_since(self, when: float) -> bool:
        """Whether its training began after this time, in seconds since the epoch."""
        return self.run.recipe.is_file() and self.run.recipe.stat().st_mtime >= when - CLOCK

    def options(
        self, *, changes: Sequence[str], force: bool, start: Path | None = None, allow_change: Sequence[str] = (),
        **shared: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The keywords of `train`; an existing run is resumed, unless `force` replaces it."""
        resume = self.run.recipe.exists() and not force
        return {
            **shared, "objective": self.system.objective, "changes": (*changes, *self.system.changes),
            "run": self.run.path, "seed": self.seed, "force": force, "resume": resume,
            "start": None if resume else start, "allow_change": allow_change if resume else (), "advise": False,
        }  # fmt: skip

    def load(self, device: torch.device, plans: Iterable[Plan] = ()) -> tuple[Engine, Tokenizers]:
        """The checkpoint's model, with its draft head if a plan has use for it, and tokenizers."""
        head, precision = any(plan.drafts for plan in plans), self.recipe.decoding.precision
        model, tokenizers = read_model(self.run, self.checkpoint, device, precision, head=head)
        return Engine(model), tokenizers

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Records a failure inside as the reason of `what` in `failed`; a signal is passed on."""
        try:
            yield
        except Stopped:
            raise
        except JanusError as problem:
            console.error(f"{self.name} {what}: {problem.message}", problem.hint)
            self.failed[what] = problem.message

    def train(self, options: Mapping[str, Any], average: int) -> None:
        """Trains the system, or continues its training, and sets the checkpoint to decode.

        options: the keywords of `train`. average: decode the mean of this many last checkpoints, or of fewer if the
        training has no more; 0: the last one.
        """
        with self.noted("training"):
            train(**options)
            self.checkpoint = followed(self.checkpoint).resolve()
            if average:
                names = [folder.name for folder in checkpoint.steps(self.run.checkpoints)]
                self.checkpoint = self._averaged(names[-average:])
            state, knobs = checkpoint.read_state(self.checkpoint), self.recipe.objective
            step = state.get("step", 0)
            vocabularies = state["source_vocabulary"], state["target_vocabulary"]
            self.training = {
                "risen": OBJECTIVES[knobs.name].kl_share(knobs, max(0, step - 1)),
                "averaged": len(state.get("averaged", ())),
                "updates": step, "flops": state.get("flops"),
                "epochs": state.get("epoch", 0), "seconds": round(state.get("seconds", 0.0), 1),
                "parameters": size.parts(self.recipe.model, vocabularies, lengths=knobs.lengths).total(),
                "precision": state.get("precision"), "checkpoint": self.checkpoint.name,
            }  # fmt: skip

    def _averaged(self, names: Sequence[str]) -> Path:
        """The mean of these checkpoints, its last ones. One that is there, whole and newer, stays."""
        folder = self.run.checkpoints / f"average-last{len(names)}"
        newest = max(self.run.checkpoints.joinpath(name, MANIFEST).stat().st_mtime_ns for name in names)
        with suppress(JanusError, OSError):
            made = checkpoint.verify(folder)
            if made.state.get("averaged") == list(names) and (folder / MANIFEST).stat().st_mtime_ns >= newest:
                return folder
        return average_checkpoints(self.run, last=len(names), best=None, force=True)[0]

    def decode(self, modes: Sequence[str], folder: Path, device: torch.device) -> None:
        """Decodes the split in each of these modes (see `rows.select`) that the run has.

        Hypotheses are kept in `folder`, with weights, text and options: nothing is decoded twice, but what was changed.
        """
        plans: Mapping[str, Plan] = {}
        with self.noted("decoding"):
            lines = sentences(self.run, self.recipe, SPLIT)
            text, weights = hashlib.sha256("\n".join(lines).encode()), checkpoint.fingerprint(self.checkpoint)
            plans = select(self.recipe, modes).plans
        load = cache(partial(self.load, device, plans.values()))
        for label, plan in plans.items():
            file, about = (folder / f"{self.name}.{label}.{suffix}" for suffix in ("txt", "json"))
            made_by = {"sha256": weights, "text": text.hexdigest(), "mode": plan.mode, "options": plan.used}
            with self.noted(label):
                before = documents.read(about, documents.ComparedOutput) if about.is_file() and file.is_file() else {}
                if before != before | made_by or before.get("output") not in (None, sha256(file)):
                    texts, timing = decode(*load(), plan, lines, f"{self.name} {label}")
                    write_atomically(file, "".join(f"{line}\n" for line in texts).encode())
                    passes = timing.passes / max(1, timing.sentences)
                    before = {**made_by, "passes": passes, "output": sha256(file)}
                    write_atomically(about, json.dumps(before).encode())
                self.outputs[label] = Output(file.read_bytes().decode().split("\n")[:-1], before["passes"])


def decode(
    generator: Engine, tokenizers: Tokenizers, plan: Plan, lines: Sequence[str], name: str
) -> tuple[list[str], Timing]:
    """The best hypothesis of each line, and the cost of decoding."""
    translator = Translator(generator, tokenizers, plan)
    with console.progress(name, len(lines)) as bar:
        translator.advance = bar.advance
        texts = [result.text for result in translator.results(lines)]
    return texts, translator.timing


def timings(
    decoded: Sequence[Entry], device: torch.device, threads: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The speed of each system's modes, for its first seed, and how it was timed: in turns, see `rows.measure`.

    threads: of all rows; None tries which number is best for each.
    """
    rows, firsts = [], {entry.system.name: entry for entry in reversed(decoded)}
    for entry in (entry for entry in decoded if entry is firsts[entry.system.name]):
        plans = select(entry.recipe, tuple(entry.outputs)).plans
        model, tokenizers = entry.load(device, plans.values())
        for label, plan in plans.items():
            row = janus_row(label, plan, model, tokenizers)
            rows.append(replace(row, label=f"{entry.system.name} {label}"))
    texts = [line for line in sentences(decoded[0].run, decoded[0].recipe, SPLIT) if line.strip()]
    batch, settings = decoded[0].recipe.decoding.batch_sentences, to_try(threads, device)
    work = Work(texts[:SENTENCES], texts[:SINGLES], (batch,), REPEATS, WARMUP, settings)
    with console.progress("timing", len(rows) * work.translations()) as bar:
        measure(rows, work, bar.advance)
    speeds = {}
    for row in rows:
        latency, throughput = row.timings(len(work.lines)).values()
        speeds[row.label] = {
            "p50": latency["p50"], "sentences_per_second": throughput["sentences_per_second"], "batch": batch,
            "threads": [latency["threads"], throughput["threads"]],
        }  # fmt: skip
    tried = [str(each) for each in work.settings(several=False)]
    about = {"sentences": len(work.lines), "singles": len(work.singles), "repeats": REPEATS, "threads": tried}
    return speeds, about


def text_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What the text of the split that is decoded is known by, in prepared data or a run with this manifest."""
    names = [runs.text_name(SPLIT, side) for side in ("source", "target", "references")]
    return tuple(manifest["files"][name]["sha256"] for name in names if name in manifest.get("files", {}))


def must_share_data(entries: Sequence[Entry], prepared: Mapping[str, Any]) -> None:
    """Raises DataError unless these runs, and prepared data with this manifest, if any, have one text to decode: their
    outputs are scored against the same references. What they were trained on may differ (distilled targets)."""
    found = {entry.text: entry.name for entry in reversed(entries)}
    if found and prepared:
        found.setdefault(text_of(prepared), "the data to train with")
    if len(found) > 1:
        raise DataError(
            f"{' and '.join(found.values())} do not have the same {SPLIT} split: they cannot be compared",
            "use the same --prepared for all, another --out, or --force to restart",
        )


def with_one_text(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the first one's text to decode; the others fail (see `must_share_data`)."""
    for entry in entries:
        if entry.text != entries[0].text:
            entry.failed["scores"] = f"its {SPLIT} split is not that of {entries[0].name}"
            console.error(f"{entry.name}: {entry.failed['scores']}", "compare it in another folder")
    return [entry for entry in entries if "scores" not in entry.failed]


def scored(
    entries: Sequence[Entry], references: References | None, judge: Judge, against: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A row for each system and mode, over its seeds, and the name of the baseline row; None without references.

    against: "SYSTEM MODE" of the baseline; by default, or if that row failed, the AR baseline or the first row.
    """
    metrics = list(dict.fromkeys([judge.metric, "edit" if judge.metric == "exact" else "chrf"]))
    outputs: dict[str, dict[int, Output]] = {}
    for entry in entries:
        for label, output in entry.outputs.items():
            outputs.setdefault(f"{entry.system.name} {label}", {})[entry.seed] = output
    scores = {
        name: {seed: judge.scores(output.texts, references, metrics) for seed, output in seeds.items()}
        if references is not None else {}
        for name, seeds in outputs.items()
    }  # fmt: skip
    base = next((name for name in (against, *BASELINES, *scores) if scores.get(name or "")), None)
    rows, alike = [], any(one_text([text or "" for text in column]) for column in references or ())
    for name, seeds in outputs.items():
        values: dict[str, Any] = {}
        for seed, output in seeds.items():
            if not alike and (said := one_text(output.texts)):
                console.warn(f"{name}, seed {seed}: {said}")
        for seed, found in scores[name].items():
            for metric in found:
                about = values.setdefault(metric.name, {"signature": metric.signature, "values": {}})
                about["values"][str(seed)] = metric.value
        system, label = name.split(" ")
        rows.append({
            "system": system, "label": label, "seeds": list(seeds),
            "passes": fmean(output.passes for output in seeds.values()), "scores": values,
            "repeats": _mean_rates([repeats.rates(output.texts, references) for output in seeds.values()]),
            "comparison": None if base is None or name == base else _compared(
                scores[name], scores[base], one_system=base.startswith(f"{system} ")
            ),
        })  # fmt: skip
    return rows, base


def _mean_rates(seeds: Sequence[repeats.Rates]) -> repeats.Rates:
    """The mean of each rate over the seeds that have it."""
    known = {name: [rate for each in seeds if (rate := each[name]) is not None] for name in repeats.NOTHING}
    return {name: fmean(values) if values else None for name, values in known.items()}


def _compared(
    ours: Mapping[int, Sequence[Score]], base: Mapping[int, Sequence[Score]], *, one_system: bool
) -> dict[str, Any] | None:
    """The first metric over the seeds that both rows have, and for each of them; None without such seeds."""
    pairs = {str(seed): (metrics[:1], base[seed][:1]) for seed, metrics in ours.items() if seed in base}
    if not pairs:
        return None
    how = (bootstrap.SAMPLES, BOOTSTRAP_SEED)
    first, second = ([score for each in side for score in each] for side in zip(*pairs.values(), strict=True))
    seeds = {seed: asdict(bootstrap.compare(*pair, *how)[0]) for seed, pair in pairs.items()}
    return {**asdict(bootstrap.compare_seeds(first, second, *how, one_system=one_system)), "seeds": seeds}
