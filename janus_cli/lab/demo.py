"""`janus demo`: the objectives that the paper compares, small, on made-up text; one table, one traced example.

A comparison like those of `janus compare`, but with runs of its own and scores against all right outputs, which are
known for made-up text.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from janus_cli import console, recipe_load, runs
from janus_cli.data.synthetic import is_valid, translations
from janus_cli.decoding.trace import shown
from janus_cli.decoding.translate import Translator
from janus_cli.errors import CheckpointError, DataError
from janus_cli.lab.entries import SPLIT, Entry, decode
from janus_cli.lab.processes import Job, run_jobs
from janus_cli.lab.rows import select, sentences
from janus_cli.lab.systems import System
from janus_cli.runs import Run
from janus_cli.scoring.judge import Judge
from janus_cli.system import usable_cores
from janus_cli.terminal import command
from janus_cli.training.run import train

SYSTEMS = {"ar": "Transformer", "cmlm": "CMLM", "janus": "JANUS"}
ROWS = {
    "ar.beam1": "AR, greedy", "nar1.lb1": "NAR, 1 pass", "nar4.lb1": "NAR, 4 passes", "nar10.lb1": "NAR, 10 passes"
}  # fmt: skip
CPU = torch.device("cpu")


def run_demo(*, changes: Sequence[str], seed: int | None, threads: int | None, force: bool) -> None:
    """Trains the systems that are not trained yet, prints the table on stdout and everything else on stderr.

    Runs as many trainings at once as there are cores for. threads: of each training, by default 1: for layers this
    small a second one is no faster.
    """
    started, decoding_threads = time.monotonic(), threads or torch.get_num_threads()
    recipe = recipe_load.load("demo", changes)
    entries = [
        Entry(System(title, objective), recipe.seed if seed is None else seed, Run(runs.RUNS / f"demo-{objective}"))
        for objective, title in SYSTEMS.items()
    ]
    options = partial(
        Entry.options, recipe="demo", changes=changes, threads=threads or 1, device="cpu", force=force
    )  # fmt: skip
    at_once = min(usable_cores() // (threads or 1), len(entries))
    waiting, began = entries, time.time()
    try:
        jobs = []
        for entry in entries:  # the data is made, and mistakes are found, before any of them trains
            work = partial(train, **options(entry))
            work(data_only=True)
            work(dry_run=True)
            jobs.append(Job(entry.system.objective, entry.run, recipe.training.updates, work))
        if at_once > 1:
            console.say(f"training {', '.join(SYSTEMS.values())}, {at_once} at a time")
            failed = run_jobs(jobs[::-1], at_once, force=force)  # the longest training first
            waiting = [entry for entry in entries if entry.system.objective in failed]
        for number, entry in enumerate(waiting, 1):
            console.say("")
            console.say(f"[{number} of {len(waiting)}] {entry.system.name}")
            train(**options(entry, force=force and not entry.begun_since(began)))
    except (CheckpointError, DataError) as problem:
        hint = "rename that run if it is yours; or start over: rm -r data/demo.*; janus demo --force"
        raise type(problem)(problem.message, hint) from None
    torch.set_num_threads(decoding_threads)
    cells = [row for entry in entries for row in _rows(entry)]
    console.say("")
    console.table(
        "test set: BLEU against all right outputs, share of right outputs, decoder passes a sentence",
        ("system", "mode", "BLEU", "right", "passes", "sentences/s"), cells,
    )  # fmt: skip
    _show_trace(entries[-1])
    console.say("")
    decode = command("janus", "decode", "--run", entries[-1].run.path, "--mode", "nar", "--iters", "4")
    console.say(f"{console.duration(time.monotonic() - started)} in all. Next: {decode}; janus score")


def _rows(entry: Entry) -> Iterator[list[str]]:
    """A row of the table for each way to decode the entry."""
    sources, model = sentences(entry.run, entry.recipe, SPLIT), entry.load(CPU)
    references = [list(texts) for texts in zip(*(translations(source) for source in sources), strict=True)]
    for label, plan in select(entry.recipe, list(ROWS)).plans.items():
        texts, timing = decode(*model, plan, sources, f"{entry.system.name} {label}")
        bleu = Judge("bleu").score(texts, references).value
        right = sum(is_valid(source, text) for source, text in zip(sources, texts, strict=True)) / len(texts)
        yield [
            entry.system.name, ROWS[label], f"{bleu:.1f}", f"{100 * right:.1f} %",
            f"{timing.passes / timing.sentences:.1f}", f"{timing.sentences / sum(timing.seconds):.0f}",
        ]  # fmt: skip


def _show_trace(entry: Entry) -> None:
    (plan,) = select(entry.recipe, ["nar4.lb1"]).plans.values()
    translator = Translator(*entry.load(CPU), plan, traced=1)
    source = max(sentences(entry.run, entry.recipe, SPLIT)[:20], key=len)
    console.say("how JANUS writes one sentence non-autoregressively, in 4 passes (____ is hidden, ^ is hidden again):")
    for result in next(translator.windows([source])):
        for line in shown(result, shutil.get_terminal_size().columns):
            console.say(line)
    for text in translations(source):
        console.say(f"right would be: {text}")
