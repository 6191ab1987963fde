"""`run.txt`: what a run directory is, for whoever finds it a year later."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from janus_cli import __version__, console, runs
from janus_cli.device import World
from janus_cli.files import read_json, write_atomically
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training.trainer import Position, resume_command

TEXT = """\
{name}: a training of janus {version}

what       objective {objective}, recipe {recipe} (recipe.yaml holds every knob), seed {seed}
model      {layers} layers, {width}/{feedforward}, {heads} heads, {parameters:,} parameters, {precision}
data       {source} to {target}: {prepared}{targets}
           fingerprint {fingerprint}{origin}
began      {began}
command    {command}
state      {state}

go on      {again}
decode     janus decode --run {path}
score      janus score --run {path}
look       janus inspect {path}

log.jsonl        one JSON object a line: losses in nats, speed, validation
checkpoints/     step-NNNNNN, each with its own recipe and a manifest of sizes and sha256; last and best are links
decode/          what `janus decode` wrote, with a .json beside it that says how
"""


def explain(
    run: Run, recipe: Recipe, about: dict[str, Any], at: Position, world: World, ended: str | None = None
) -> None:
    """Writes `run.txt` anew; keeps when and with what command the run began.

    about: parameters and precision. ended: why the training is over; None while it runs.
    """
    manifest, model, file = read_json(run.manifest), recipe.model, run.path / "run.txt"
    old = dict(line.split(maxsplit=1) for line in _lines(file) if line.startswith(("began ", "command ")))
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    best = "" if at.best is None else f", the best so far {at.best:.4g} at update {at.best_step:,}"
    state = f"{ended or 'training'} ({now}), update {at.step:,} of {recipe.training.updates:,}{best}"
    text = TEXT.format(
        name=run.path.name, version=__version__, objective=recipe.objective.name, recipe=recipe.name, seed=recipe.seed,
        layers=f"{model.encoder_layers}+{model.decoder_layers}", width=model.width, feedforward=model.feedforward,
        heads=model.heads, source=recipe.data.source, target=recipe.data.target, prepared=manifest.get("prepared"),
        fingerprint=manifest.get("fingerprint"), began=old.get("began", now),
        command=old.get("command", shlex.join(["janus", *sys.argv[1:]])), state=state, path=run.path,
        again=resume_command(run.path, world),
        targets=f"\n           targets by {teacher}" if (teacher := runs.teacher(manifest)) else "",
        origin=f"\nfrom       {begun}" if (begun := runs.origin(manifest)) else "",
        parameters=about["parameters"], precision=about["precision"],
    )  # fmt: skip
    try:
        write_atomically(file, text.encode(errors="surrogateescape"))  # paths may be no text
    except OSError as problem:
        console.warn(f"{file} cannot be written ({problem.strerror}); training goes on without it")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return []
