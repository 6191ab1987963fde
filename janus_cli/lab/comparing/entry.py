"""One system of a comparison with a seed: trained and decoded; what is there already is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from janus_cli import console, runs
from janus_cli.core.generate import Generator
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding.lines import Reader
from janus_cli.decoding.modes import Plan, own_recipe
from janus_cli.decoding.translate import Translator, read_model
from janus_cli.errors import JanusError, Stopped
from janus_cli.files import read_json, write_atomically
from janus_cli.lab.comparing.systems import System
from janus_cli.lab.rows import select
from janus_cli.recipe import Recipe
from janus_cli.runs import Run, find_split
from janus_cli.training import checkpoint
from janus_cli.training.averaging import average_checkpoints
from janus_cli.training.checkpoint import STATE
from janus_cli.training.run import train

SPLIT = "test"


@dataclass(frozen=True)
class Entry:
    """A system with a seed, and where its run is."""

    system: System
    seed: int
    run: Run

    @property
    def name(self) -> str:
        return f"{self.system.name}.seed{self.seed}"

    @property
    def origin(self) -> str | None:
        """The checkpoint whose weights its run began with, if any."""
        return runs.origin(read_json(self.run.manifest)) if self.run.manifest.is_file() else None


@dataclass(frozen=True)
class Row:
    """What one mode of an entry wrote. passes: decoder passes a sentence."""

    label: str
    texts: list[str]
    passes: float


@dataclass
class Outcome:
    """What became of an entry: its rows by label. failed: what went wrong, and why.

    checkpoint: what was decoded; None where the training failed. training: updates, epochs, seconds in updates, size,
    the part of their weights that terms with a warm-up came to, checkpoints in the mean.
    """

    entry: Entry
    checkpoint: Path | None = None
    training: dict[str, Any] | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The decoded checkpoint."""
        assert self.checkpoint is not None, "the training failed"
        return self.checkpoint

    @property
    def recipe(self) -> Recipe:
        """That of the checkpoint."""
        return own_recipe(self.folder, ())

    def load(self, device: torch.device) -> tuple[Generator, Tokenizers]:
        """The checkpoint's model and tokenizers."""
        model, tokenizers = read_model(self.entry.run, self.folder, device, self.recipe.decoding.precision)
        return Generator(model), tokenizers

    def plan(self, label: str) -> Plan:
        """How the row of this label was decoded."""
        return select(self.recipe, (label,)).plans[label]

    @property
    def sha256(self) -> str:
        """Of the decoded weights."""
        return checkpoint.fingerprint(self.folder)


def trained(entry: Entry, training: Mapping[str, Any], average: int) -> Outcome:
    """Trains the entry, or goes on with it, and finds the checkpoint to decode. What goes wrong is its outcome.

    average: decode the mean of so many last checkpoints, or of as many as a short training has; 0: the last one.

    Raises:
        Stopped: a signal ended the training; it was saved.
    """
    outcome = Outcome(entry)
    try:
        train(**training)
        folder = (entry.run.checkpoints / "last").resolve()
        if average:
            there = len(list(checkpoint.steps(entry.run.checkpoints)))
            folder, _ = average_checkpoints(entry.run, last=min(average, there), best=None, force=True)
    except Stopped:
        raise
    except JanusError as problem:
        console.error(f"{entry.name}: {problem.message}", problem.hint)
        outcome.failed["training"] = problem.message
        return outcome
    outcome.checkpoint, outcome.training = folder, _training(entry.run, folder)
    return outcome


def _training(run: Run, folder: Path) -> dict[str, Any]:
    state = read_json(folder / STATE)
    log = [json.loads(line) for line in run.log.read_bytes().split(b"\n") if line.startswith(b'{"kind": "start"')]
    return {
        "risen": own_recipe(folder, ()).objective.risen(max(0, state["step"] - 1)),
        "averaged": len(state.get("averaged", ())),
        "updates": state["step"], "epochs": state["epoch"], "seconds": round(state.get("seconds", 0.0), 1),
        "parameters": log[-1]["parameters"] if log else None, "precision": state.get("precision"),
        "checkpoint": folder.name,
    }  # fmt: skip


def decoded(outcome: Outcome, names: Sequence[str], outputs: Path, device: torch.device) -> None:
    """Fills `rows`: the test split in each of the modes `names` (see `rows.select`) that the run has.

    Texts go to `outputs`, with what wrote them: the same weights do not decode the same text in the same way again.
    """
    try:
        recipe = outcome.recipe
        plans = select(recipe, names).plans
        source, _ = find_split(outcome.entry.run, recipe, SPLIT)
    except JanusError as problem:
        outcome.failed["decoding"] = problem.message
        return
    lines = list(Reader(source))
    text = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    model: tuple[Generator, Tokenizers] | None = None
    for label, plan in plans.items():
        stem = outputs / f"{outcome.entry.name}.{label}"
        about = {"sha256": outcome.sha256, "text": text, "mode": plan.mode, "options": plan.used}
        row = _kept(stem, label, about)
        if row is None:
            try:
                model = model or outcome.load(device)
                row = _decode(model, plan, label, lines, outcome.entry.name)
            except Stopped:
                raise
            except JanusError as problem:
                console.error(f"{outcome.entry.name} {label}: {problem.message}", problem.hint)
                outcome.failed[label] = problem.message
                continue
            _keep(stem, row, about)
        outcome.rows[label] = row


def _decode(model: tuple[Generator, Tokenizers], plan: Plan, label: str, lines: Sequence[str], name: str) -> Row:
    translator = Translator(*model, plan)
    with console.progress(f"{name} {label}", len(lines)) as bar:
        translator.advance = bar.advance
        texts = [result.texts[0] for window in translator.windows(lines) for result in window]
    return Row(label, texts, translator.timing.passes / max(1, translator.timing.sentences))


def _kept(stem: Path, label: str, about: Mapping[str, Any]) -> Row | None:
    """What an earlier call wrote, if all of `about` is as it was."""
    text, file = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("txt", "json"))
    if not (text.is_file() and file.is_file()):
        return None
    found = read_json(file)
    if any(found.get(key) != value for key, value in about.items()):
        return None
    return Row(label, text.read_bytes().decode().split("\n")[:-1], float(found["passes"]))


def _keep(stem: Path, row: Row, about: Mapping[str, Any]) -> None:
    write_atomically(stem.with_name(f"{stem.name}.txt"), "".join(f"{text}\n" for text in row.texts).encode())
    full = json.dumps({**about, "passes": row.passes})
    write_atomically(stem.with_name(f"{stem.name}.json"), full.encode())
