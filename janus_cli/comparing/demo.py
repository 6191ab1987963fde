"""The demo: three trainings of equal size and length, one table, one traced example."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from janus_cli import console, recipe_file, runs
from janus_cli.benching import machine
from janus_cli.comparing import jobs
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.decoding.plan import choose
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translator import Translator
from janus_cli.errors import CheckpointError, DataError
from janus_cli.runs import Run
from janus_cli.scoring.metrics import corpus_bleu
from janus_cli.text.synthetic import is_valid, translations
from janus_cli.text.tokenizer import load_tokenizers
from janus_cli.training.checkpoint import load_model
from janus_cli.training.session import Request, run_training

ITERATIONS = (1, 4, 10)
TITLES = {"ar": "Transformer", "cmlm": "CMLM", "janus": "JANUS"}


@dataclass(frozen=True)
class Row:
    """One way to decode one model. right: share of outputs that are one of the input's right ones, in percent."""

    system: str
    mode: str
    bleu: float
    right: float
    passes: float
    speed: float


def run_demo(*, changes: Sequence[str], seed: int | None, threads: int | None, force: bool) -> None:
    """Trains what is not trained yet, prints the table on stdout and everything else on stderr."""
    started = time.monotonic()
    asked = Request(recipe="demo", changes=tuple(changes), seed=seed, threads=threads, device="cpu")
    at_once = min(machine.usable_cores(), len(TITLES))
    failed = set(TITLES)
    if at_once > 1:
        console.say(f"training {', '.join(TITLES.values())}, {at_once} at a time")
        failed = jobs.run([_job(asked, objective, force) for objective in reversed(TITLES)], at_once)  # longest first
    trained = {}
    for number, objective in enumerate(TITLES, 1):
        console.say(f"\n[{number} of {len(TITLES)}] {TITLES[objective]}")
        again = force and objective in failed  # else a process has begun it anew
        trained[objective] = _train(_training(asked, objective, again))
    rows = [row for objective, run in trained.items() for row in _rows(objective, run)]
    console.say("")
    console.table(
        "test set: BLEU against all right outputs, share of right outputs, decoder passes a sentence",
        ("system", "mode", "BLEU", "right", "passes", "sentences/s"),
        [(r.system, r.mode, f"{r.bleu:.1f}", f"{r.right:.1f} %", f"{r.passes:.1f}", f"{r.speed:.0f}") for r in rows],
        to_stdout=True,
    )
    _trace(trained["janus"])
    console.say(
        f"\n{console.duration(time.monotonic() - started)} in all. Next: janus decode --mode nar --iters 4; janus score"
    )


def _training(asked: Request, objective: str, force: bool) -> Request:
    run = Run(runs.RUNS / f"demo-{objective}")
    return replace(asked, objective=objective, run=run.path, force=force, resume=run.recipe.exists() and not force)


def _job(asked: Request, objective: str, force: bool) -> jobs.Job:
    """One of several processes. Each has one thread: two make nothing faster in layers as small as these."""
    updates = recipe_file.load("demo", asked.changes, objective).training.updates
    training = _training(replace(asked, threads=asked.threads or 1), objective, force)
    return jobs.Job(objective, training, updates)


def _train(request: Request) -> Run:
    try:
        return run_training(request)
    except (CheckpointError, DataError) as problem:
        raise type(problem)(problem.message, "begin anew: rm -r data/demo.*; janus demo --force") from None


def _rows(objective: str, run: Run) -> list[Row]:
    ways: list[tuple[str, dict[str, object]]] = []
    if OBJECTIVES[objective].ar:
        ways.append(("AR, greedy", {"mode": "ar", "beam": 1}))
    if OBJECTIVES[objective].nar:
        ways += [(f"NAR, {n} pass{'es' * (n > 1)}", {"mode": "nar", "iters": n, "length_beam": 1}) for n in ITERATIONS]
    sources = _sources(run)
    references = [list(texts) for texts in zip(*(translations(source) for source in sources), strict=True)]
    found = []
    for name, options in ways:
        translator = _translator(run, options)
        texts = [result.texts[0] for window in translator.windows(sources) for result in window]
        right = sum(is_valid(source, text) for source, text in zip(sources, texts, strict=True))
        timing = translator.timing
        found.append(
            Row(
                TITLES[objective], name, corpus_bleu(texts, references), 100 * right / len(texts),
                timing.passes / timing.sentences, timing.sentences / sum(timing.seconds),
            )
        )  # fmt: skip
    return found


def _sources(run: Run) -> list[str]:
    folder = Path(runs.read_json(run.manifest)["prepared"])
    return (folder / "test.source.txt").read_bytes().decode().split("\n")[:-1]


def _translator(run: Run, options: dict[str, object], traced: int = 0) -> Translator:
    plan = choose(recipe_file.load(str(run.recipe)), options)
    return Translator(load_model(run.checkpoints / "last"), load_tokenizers(run.path), plan, traced)


def _trace(run: Run) -> None:
    translator = _translator(run, {"mode": "nar", "iters": 4, "length_beam": 1}, traced=1)
    source = max(_sources(run)[:20], key=len)
    console.say("how JANUS writes one sentence non-autoregressively, in 4 passes (____ is hidden, ^ is hidden again):")
    for result in next(translator.windows([source])):
        for line in shown(result, translator.tokenizers.target, shutil.get_terminal_size().columns):
            console.say(line)
    for text in translations(source):
        console.say(f"right would be: {text}")
