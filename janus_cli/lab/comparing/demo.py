"""The demo: three trainings of equal size and length, one table, one traced example."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from janus_cli import console, recipe_load, runs
from janus_cli.core.generate import Generator
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.synthetic import is_valid, translations
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import choose
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Translator
from janus_cli.errors import CheckpointError, DataError
from janus_cli.files import read_json
from janus_cli.lab import machine
from janus_cli.lab.comparing import jobs
from janus_cli.runs import Run
from janus_cli.scoring.metrics import corpus_bleu
from janus_cli.training.checkpoint import load_model
from janus_cli.training.run import prepare_data, train

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
    """Trains what is not trained yet, prints the table on stdout and everything else on stderr.

    As many trainings at once as there are cores for. threads: of each; in layers as small as these a second one makes
    nothing faster.
    """
    started, decoding_threads = time.monotonic(), threads or torch.get_num_threads()
    asked = {
        "recipe": "demo", "changes": changes, "seed": seed, "threads": threads or 1, "device": "cpu", "force": force
    }  # fmt: skip
    at_once = min(machine.usable_cores() // (threads or 1), len(TITLES))
    requests = {objective: _training(asked, objective) for objective in TITLES}
    waiting = set(TITLES)
    if at_once > 1:
        for request in requests.values():
            _check(request)
        console.say(f"training {', '.join(TITLES.values())}, {at_once} at a time")
        updates = recipe_load.load("demo", changes).training.updates
        longest_first = [jobs.Job(objective, requests[objective], updates) for objective in reversed(TITLES)]
        waiting = jobs.run(longest_first, at_once)
    for number, objective in enumerate(TITLES, 1):
        if objective in waiting:
            console.say(f"\n[{number} of {len(TITLES)}] {TITLES[objective]}")
            with _explained():
                train(**_training(asked, objective))  # a process may have begun it and died
    trained = {objective: _run_of(objective) for objective in TITLES}
    torch.set_num_threads(decoding_threads)
    rows = [row for objective, run in trained.items() for row in _rows(objective, run)]
    console.say("")
    console.table(
        "test set: BLEU against all right outputs, share of right outputs, decoder passes a sentence",
        ("system", "mode", "BLEU", "right", "passes", "sentences/s"),
        [(r.system, r.mode, f"{r.bleu:.1f}", f"{r.right:.1f} %", f"{r.passes:.1f}", f"{r.speed:.0f}") for r in rows],
    )
    _trace(trained["janus"])
    console.say(
        f"\n{console.duration(time.monotonic() - started)} in all. Next: janus decode --mode nar --iters 4; janus score"
    )


def _run_of(objective: str) -> Run:
    return Run(runs.RUNS / f"demo-{objective}")


def _training(asked: Mapping[str, Any], objective: str) -> dict[str, Any]:
    """The keywords of `train`."""
    run = _run_of(objective)
    return {**asked, "objective": objective, "run": run.path, "resume": run.recipe.exists() and not asked["force"]}


def _check(request: Mapping[str, Any]) -> None:
    """Makes the data and finds what would stop the training, before others are under way."""
    with _explained():
        prepare_data(**request)
        train(**request, dry_run=True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
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
    folder = Path(read_json(run.manifest)["prepared"])
    return (folder / "test.source.txt").read_bytes().decode().split("\n")[:-1]


def _translator(run: Run, options: dict[str, object], traced: int = 0) -> Translator:
    plan = choose(recipe_load.load(str(run.recipe)), options)
    return Translator(Generator(load_model(run.checkpoints / "last")), load_tokenizers(run.path), plan, traced)


def _trace(run: Run) -> None:
    translator = _translator(run, {"mode": "nar", "iters": 4, "length_beam": 1}, traced=1)
    source = max(_sources(run)[:20], key=len)
    console.say("how JANUS writes one sentence non-autoregressively, in 4 passes (____ is hidden, ^ is hidden again):")
    for result in next(translator.windows([source])):
        for line in shown(result, shutil.get_terminal_size().columns):
            console.say(line)
    for text in translations(source):
        console.say(f"right would be: {text}")
