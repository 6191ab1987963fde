"""`run.txt` of a run: what it is, how far it got, and what can be done with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from janus_cli import __version__, console, runs
from janus_cli.files import write_atomically
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.terminal import command, visible
from janus_cli.training.best import figure
from janus_cli.training.trainer import Trainer, resume_command

FILE, TRAINING, DONE = "run.txt", "training", "done"
TEMPLATE = """\
{name}: a training of janus {version}

what       objective {recipe.objective.name}, recipe {recipe.name} (recipe.yaml holds every knob), seed {recipe.seed}
model      {model.encoder_layers}+{model.decoder_layers} layers, {model.width}/{model.feedforward}, \
{model.heads} heads, {size}, {precision}
data       {recipe.data.source} to {recipe.data.target}: {prepared}{targets}
           fingerprint {fingerprint}{origin}
began      {began}
command    {command}
state      {state}

go on      {again}
{use}
look       {look}

log.jsonl        one JSON object a line: losses in nats, speed, validation
checkpoints/     step-NNNNNN, each with its own recipe and a manifest of sizes and sha256; last and best are links
decode/          what `janus decode` wrote, with a .json beside it that says how
"""


def write(trainer: Trainer, state: str) -> None:
    """Write `run.txt` for whoever finds the run a year later; time and command of the run's start are kept."""
    if not trainer.world.first:
        return
    run, recipe, position, file = trainer.run, trainer.recipe, trainer.position, trainer.run.path / FILE
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    kept = {"began": now, "command": command("janus", *sys.argv[1:])}
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
            if line.startswith(("began ", "command ")):
                name, value = line.split(maxsplit=1)
                kept[name] = value
    more = more_updates(trainer.limits_reached())
    unsaved = "" if (run.checkpoints / "last").exists() else "once a checkpoint is saved: "
    commands = {
        "use": "\n".join(f"{name:10} {unsaved}{words}" for name, words in what_next(run, recipe).items()),
        "look": command("janus", "inspect", run.path), "again": resume_command(run.path, trainer.world, *more),
    }  # fmt: skip
    manifest = run.read_manifest()
    teacher, origin = runs.teacher(manifest), runs.origin(manifest)
    best = ""
    if position.best is not None:
        best = f", the best so far {figure(trainer.metric, position.best)} at update {position.best_step:,}"
    text = TEMPLATE.format(
        name=visible(run.path.name), recipe=recipe, model=recipe.model, version=__version__, **kept, **commands,
        size=trainer.shares.in_words(recipe.training), precision=trainer.precision,
        prepared=visible(str(manifest.get("prepared"))), fingerprint=manifest.get("fingerprint"),
        targets=f"\n           targets by {visible(teacher)}" if teacher else "",
        origin=f"\nfrom       {visible(origin)}" if origin else "",
        state=f"{visible(state)} ({now}), update {position.step:,} of {recipe.training.updates:,}{best}",
    )  # fmt: skip
    try:
        write_atomically(file, text.encode(errors="surrogateescape"))  # paths may be no text
    except OSError as problem:
        console.warn(f"{file} cannot be written ({problem.strerror}); training continues without it")


def is_at_work(run: Run) -> bool:
    """Whether it says that the training goes on."""
    with suppress(OSError):
        return f"\nstate      {TRAINING} " in (run.path / FILE).read_text(encoding="utf-8", errors="replace")
    return False


def what_next(run: Run, recipe: Recipe) -> dict[str, str]:
    """Commands that do something with a trained run; plain text has no test split to decode."""
    if recipe.data.is_plain:
        return {"fine-tune": command("janus", "train", "--recipe", "RECIPE", "--from", run.path)}
    return {verb: command("janus", verb, "--run", run.path) for verb in ("decode", "score")}


def more_updates(reached: Sequence[str]) -> list[str]:
    """The options that train a finished run on. reached: the knobs whose limit is reached."""
    return [word for key in reached for word in ("--set", f"{key}=N", "--allow-change", key)]
