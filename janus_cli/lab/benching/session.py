"""One `janus bench`: which rows, on which sentences, measured, written down."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console
from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.modes import choose
from janus_cli.device import keep_freed_memory
from janus_cli.errors import DataError, JanusError
from janus_cli.files import read_json, write_atomically
from janus_cli.lab.benching import child, peers, plot, report
from janus_cli.lab.benching.contestant import Contestant, Decoded, own
from janus_cli.lab.benching.machine import in_words
from janus_cli.lab.benching.measure import Timed, Work, measure
from janus_cli.lab.benching.prepare import SPLIT, Bench, Request, prepared
from janus_cli.recipe import BENCH_SEED
from janus_cli.scoring.metrics import score
from janus_cli.training.checkpoint import STATE, fingerprint


def run_bench(request: Request) -> dict[str, Any] | None:
    """Measures as asked and returns everything that was found, as plain values; a dry run returns None.

    Raises:
        UsageError: options that do not fit the run, an extra that is missing, or files that are there already.
    """
    bench = prepared(request)
    model, tokenizers = bench.load()
    ours = [own(label, plan, model, tokenizers) for label, plan in bench.selection.plans.items()]
    _announce(bench)
    if request.dry_run:
        _estimate(bench, ours)
        return None
    keep_freed_memory()
    measured = _identity(bench)
    with ExitStack() as closing:
        exported = closing.enter_context(tempfile.TemporaryDirectory())
        about = measured | _run(bench, model, tokenizers, ours, Path(exported) / "model", closing)
    try:
        console.say(f"kept as {report.keep(bench.run, about)}")
    except DataError as problem:  # of a run that others own
        console.warn(f"{problem.message}; kept is only what --json and --plot name")
    if request.json is not None:
        write_atomically(request.json, report.dump(about))
    if request.plot is not None:
        write_atomically(request.plot, plot.svg(about))
    return about


def _identity(bench: Bench) -> dict[str, Any]:
    """What is measured; a training may remove the checkpoint once its weights are read."""
    return {
        "format": 1, "janus": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(bench.run.path), "checkpoint": bench.folder.name, "changes": list(bench.request.changes),
        "step": read_json(bench.folder / STATE).get("step"), "sha256": fingerprint(bench.folder),
        "objective": bench.recipe.objective.name, "split": SPLIT, "machine": dict(bench.machine),
    }  # fmt: skip


def _labels(bench: Bench) -> list[str]:
    return [
        *bench.selection.plans,
        *(label for peer in bench.request.against for label in peers.labels(peer, bench.device)),
    ]


def _announce(bench: Bench) -> None:
    work, labels = bench.work, _labels(bench)
    verb = "would measure" if bench.request.dry_run else "measuring"
    console.say(
        f"{verb} {bench.run.path}, checkpoint {bench.folder.name}, on {in_words(bench.machine)}: {', '.join(labels)}"
    )
    for label, why in bench.selection.left_out.items():
        console.say(f"left out: {label}: {why}")
    console.say(
        f"quality on {len(bench.lines):,} sentences, batches of {', '.join(map(str, work.batches))} on "
        f"{len(work.lines):,}, one by one {len(work.singles):,}; {work.repeats} repeats, {work.warmup} to warm up"
    )


def _total(bench: Bench) -> int:
    """Sentences decoded in all: quality, timing, memory."""
    rows = len(_labels(bench))
    return rows * (len(bench.lines) + len(bench.work.lines)) + bench.work.translations(rows)


def _estimate(bench: Bench, ours: Sequence[Contestant]) -> None:
    """Decodes a few sentences one by one; in batches it goes faster, so what follows is an upper bound."""
    probe = bench.work.singles[: max(1, bench.work.warmup)]
    warm = Work(probe, probe, (1,), 1, 1)
    seconds = [sum(timed.singles[0]) / len(probe) for timed in measure(ours, warm, lambda *_: None).values()]
    per_row = _total(bench) / len(_labels(bench))
    most = console.duration(sum(seconds) * per_row)
    beside = " (peers not counted)" if bench.request.against else ""
    console.say(f"{_total(bench):,} translations: at most {most}{beside}; batches make it several times faster")


def _run(
    bench: Bench, model: Transformer, tokenizers: Tokenizers, ours: list[Contestant], exported: Path, closing: ExitStack
) -> dict[str, Any]:
    """Quality, timing, memory, in this order: decoding everything once is a warm-up, too.

    Every row of a peer has a process of its own, which lives until `closing`.
    """
    decoded: dict[str, Decoded] = {}
    memory: dict[str, Any] = {}
    with console.progress("measuring", _total(bench)) as bar:

        def decode(row: Contestant) -> None:
            decoded[row.label] = row.translate(bench.lines, bench.recipe.decoding.batch_sentences)
            bar.advance(len(bench.lines), f"{row.label}: quality")

        for row in ours:
            decode(row)
        settings: dict[str, peers.Setting] = {}
        workers: dict[str, child.Worker] = {}
        rows = list(ours)
        for name in bench.request.against:
            setting = _setting(bench, name, model, tokenizers, decoded, exported)
            for row in peers.contestants(setting):
                worker = closing.enter_context(child.working(_asked(bench, row.label, bench.lines, setting)))
                row = replace(row, translate=worker.translate)
                decode(row)
                rows.append(row)
                settings[row.label], workers[row.label] = setting, worker
        timed = measure(rows, bench.work, bar.advance)
        for row in rows:
            batch = timed[row.label].batch
            if bench.device.type == "cuda":
                memory[row.label] = _allocated(bench, row, batch, workers.get(row.label), model)
            else:
                memory[row.label] = _memory(bench, row.label, batch, settings.get(row.label))
            bar.advance(len(bench.work.lines), f"{row.label}: memory")
    return _about(bench, rows, decoded, timed, memory)


def _setting(
    bench: Bench, name: peers.Peer, model: Transformer, tokenizers: Tokenizers, decoded: Mapping[str, Decoded],
    exported: Path,
) -> peers.Setting:  # fmt: skip
    """How long a peer with random weights writes: as our greedy output, or as the references where there is none."""
    greedy = {"mode": "ar", "beam": 1, "nbest": 1}
    if "ar.beam1" in decoded:
        sizes, writer = decoded["ar.beam1"].sizes, "ar.beam1 does"
    elif bench.recipe.ar_stream is not None:
        row = own("ar.beam1", choose(bench.recipe, greedy), model, tokenizers)
        sizes, writer = row.translate(bench.lines, bench.recipe.decoding.batch_sentences).sizes, "ar.beam1 does"
    else:
        texts = bench.references or bench.lines
        sizes, writer = [len(row) for row in tokenizers.target.encode(texts)], "the references have"
    lengths = dict(zip(bench.lines, sizes, strict=True))
    trained = name == "ctranslate2" and peers.export(bench.recipe, model, tokenizers, bench.run, exported)
    return peers.Setting(name, bench.recipe, tokenizers, bench.device, lengths, writer, exported, trained)


def _asked(bench: Bench, label: str, lines: Sequence[str], setting: peers.Setting | None) -> dict[str, Any]:
    """What a process of its own is told for this row; `lines` are all that it will see."""
    asked = child.asked_of(bench.run.path, bench.folder, bench.request.changes, bench.device, lines)
    asked |= {"label": label}
    if setting is not None:
        asked |= {
            "peer": setting.peer, "exported": str(setting.folder), "own_weights": setting.own_weights,
            "lengths": [setting.lengths[line] for line in lines],
        }  # fmt: skip
    return asked


def _memory(bench: Bench, label: str, batch: int, setting: peers.Setting | None) -> dict[str, Any] | None:
    try:
        return child.peak_memory({**_asked(bench, label, bench.work.lines, setting), "batch": batch})
    except JanusError as problem:
        bench.warn(f"{label}: its memory could not be measured: {problem.message}")
        return None


def _allocated(
    bench: Bench, row: Contestant, batch: int, worker: child.Worker | None, model: Transformer
) -> dict[str, Any] | None:
    """The most that torch held on a GPU, which it can be asked anew for each row: weights and one decoding."""
    if row.label in peers.labels("ctranslate2", bench.device):
        return None  # its memory is not torch's
    model.pack()  # without what the other rows have recorded
    torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        row.translate(bench.work.lines, batch)
    except JanusError as problem:
        bench.warn(f"{row.label}: its memory could not be measured: {problem.message}")
        return None
    return {"before": 0, "peak": torch.cuda.max_memory_allocated(bench.device) if worker is None else worker.peak}


def _about(
    bench: Bench, rows: Sequence[Contestant], decoded: Mapping[str, Decoded], timed: Mapping[str, Timed],
    memory: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything that was found, as plain values."""
    work = bench.work
    others = [row.label for row in rows if row.mode == "peer"]
    ratios = report.ratios(timed, [*report.BASELINES, *others])
    return {
        "work": {
            "sentences": len(bench.lines), "lines": len(work.lines), "singles": len(work.singles),
            "batches": list(work.batches), "repeats": work.repeats, "warmup": work.warmup, "seed": BENCH_SEED,
        },
        "rows": [
            {
                "label": row.label, "mode": row.mode, "options": dict(row.options), "note": row.note,
                "quality": _quality(bench, row, decoded[row.label]),
                "passes": _passes(decoded[row.label]),
                **report.timings(timed[row.label], len(work.lines)),
                "memory": memory[row.label], "ratios": ratios[row.label],
            }
            for row in rows
        ],
        "left_out": dict(bench.selection.left_out), "warnings": bench.warnings,
    }  # fmt: skip


def _quality(bench: Bench, row: Contestant, decoded: Decoded) -> dict[str, Any] | None:
    if bench.references is None or not row.comparable:
        return None
    found = score(decoded.texts, [bench.references], ["bleu"])[0]
    return {"metric": found.name, "value": found.value, "signature": found.signature}


def _passes(decoded: Decoded) -> float | None:
    return None if decoded.passes is None else decoded.passes / len(decoded.texts)
