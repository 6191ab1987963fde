"""One `janus train`, from options to a finished run: which recipe, which folder, fresh or resumed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from janus_cli import __version__, console, recipe_file, runs
from janus_cli.errors import CheckpointError, DataError, JanusError, UsageError, require
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.text import lexicon
from janus_cli.text.batching import first_look
from janus_cli.text.prepare import open_prepared, prepare
from janus_cli.training import checkpoint, saving, starting
from janus_cli.training.checkpoint import Checkpoint
from janus_cli.training.distributed import World, keep_few_shapes, keep_freed_memory, start_world
from janus_cli.training.explain import explain
from janus_cli.training.lock import LOCK, locked
from janus_cli.training.log import Log
from janus_cli.training.loop import train
from janus_cli.training.precision import chosen
from janus_cli.training.saving import Position, Saver
from janus_cli.training.starting import Origin
from janus_cli.training.update import make_optimizer
from janus_cli.training.validation import best_metric

if TYPE_CHECKING:
    from janus_cli.text.prepare import Prepared


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus train`."""

    recipe: str | None = None
    objective: str | None = None
    run: Path | None = None
    prepared: Path | None = None
    data_dir: Path | None = None
    resume: bool = False
    start: Path | None = None
    allow_change: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    device: str = "auto"
    seed: int | None = None
    threads: int | None = None
    force: bool = False
    dry_run: bool = False


def run_training(request: Request) -> Run:
    """Trains as asked, and returns the run."""
    if request.threads:
        torch.set_num_threads(request.threads)
    keep_freed_memory()
    keep_few_shapes()
    world = start_world(request.device)
    before = console.quiet
    console.quiet = before or not world.first
    try:
        recipe, run = _recipe_and_run(request)
        best_metric(recipe)  # a wrong name is found now, not after hours
        _must_be_free(request, run)
        if request.resume:  # before the data is opened, which other settings do not fit
            _must_agree(recipe_file.load(str(run.recipe)), recipe, request.allow_change)
        prepared = _open_data(request, recipe, run, world)
        origin = None if request.start is None else starting.find(request.start, recipe, prepared, run)
        _describe(recipe, prepared, run, world)
        if not request.dry_run:
            _train(request, recipe, run, prepared, origin, world)
        return run
    finally:
        console.quiet = before
        world.close()


def prepare_data(request: Request) -> None:
    """Makes the ids that a training wants, where they are not there yet."""
    recipe, run = _recipe_and_run(request)
    _open_data(request, recipe, run, World(0, 1, torch.device("cpu")))


def _recipe_and_run(request: Request) -> tuple[Recipe, Run]:
    """The recipe in force and the run's folder."""
    changes = list(request.changes) + ([f"seed={request.seed}"] if request.seed is not None else [])
    if request.data_dir is not None:
        changes.append(f"data.dir={json.dumps(str(request.data_dir))}")
    if request.resume and (request.recipe is None or request.run is not None):
        run = runs.find_run(request.run)
        if request.run is None:
            console.say(f"resuming {run.path}, the newest run")
        return recipe_file.load(request.recipe or str(run.recipe), changes, request.objective), run
    if request.recipe is None:
        console.say("no --recipe: using the built-in recipe demo")
    recipe = recipe_file.load(request.recipe or "demo", changes, request.objective)
    return recipe, Run(request.run or runs.RUNS / f"{recipe.name}-{recipe.objective.name}")


def _must_be_free(request: Request, run: Run) -> None:
    if request.resume and request.force:
        raise UsageError("--resume and --force exclude each other", "--resume goes on, --force starts anew")
    if request.resume and request.start is not None:
        raise UsageError("--resume and --from exclude each other", "--resume goes on from the run's own checkpoint")
    if request.allow_change and not request.resume:
        raise UsageError("--allow-change needs --resume", "a new run takes any recipe")
    theirs = [path for path in (run.checkpoints, run.decoded, run.log) if path.exists()]
    if theirs and not run.recipe.exists():
        raise UsageError(f"{run.path} holds {theirs[0].name} but no recipe.yaml: it is no run", "choose another --run")
    if run.recipe.exists() and not (request.resume or request.force):
        raise UsageError(
            f"{run.path} holds a run already",
            f"go on with it: janus train --resume --run {run.path}; start anew: --force; keep both: --run ANOTHER",
        )
    if request.resume and not run.recipe.exists():
        raise UsageError(f"--resume: {run.path} holds no run", "leave out --resume to start it")


def _recorded(run: Run) -> Path | None:
    """Where the data of a resumed run was, if it is still there."""
    folder = Path(runs.read_json(run.manifest)["prepared"])
    return folder if folder.is_dir() else None


def _open_data(request: Request, recipe: Recipe, run: Run, world: World) -> Prepared:
    """The ids; made first (by the first rank) where they are not there."""
    folder = request.prepared or (_recorded(run) if request.resume else None) or runs.prepared_dir(recipe)
    if world.first and not (folder / "manifest.json").exists():
        if request.prepared is not None:
            raise DataError(
                f"{folder} holds no prepared data", f"janus preprocess --recipe {recipe.name} --out {folder}"
            )
        if request.dry_run:
            raise DataError(f"{folder} is not there yet", "a dry run prepares nothing: run `janus preprocess` first")
        console.say(f"{folder} is not there yet: preparing it first, as `janus preprocess` would")
        prepare(recipe, folder, workers=None, force=False)
    mine = open_prepared(recipe, folder) if world.first else None  # what it has checked, the others need not
    world.wait()
    return mine or open_prepared(recipe, folder)


def _describe(recipe: Recipe, prepared: Prepared, run: Run, world: World) -> None:
    tokens = prepared.manifest["splits"]["train"]["tokens"]
    longest = max(tokens["source"]["max"] + 1, tokens["target"]["max"] + 2)
    look = first_look(prepared.train, recipe.training.batch_tokens, recipe.seed, longest)
    per_update = world.size * recipe.training.accumulate
    console.say(
        f"run {run.path}: recipe {recipe.name}, objective {recipe.objective.name}, {len(prepared.train):,} pairs, "
        f"{look.about}{-(-look.batches // per_update):,} updates an epoch, padding {look.padding.share:.1%}, "
        f"{world.size} rank{'s' * (world.size > 1)} on {world.device}, {torch.get_num_threads()} threads"
    )


def _train(request: Request, recipe: Recipe, run: Run, prepared: Prepared, origin: Origin | None, world: World) -> None:
    if recipe.training.tensorboard:
        require("tensorboard", "tensorboard")  # before anything is replaced
    if world.first:
        _make_folder(run)
    with locked(run, world):
        found = _begin(request, recipe, run, prepared, origin, world)
        if world.first and found is None:
            lexicon.make(recipe, prepared, run.lexicon)
        world.wait()
        lexicon.attach(recipe, prepared, run.lexicon)
        torch.manual_seed(recipe.seed)
        vocabularies = (prepared.train.source_vocabulary, prepared.train.target_vocabulary)
        model = checkpoint.build_model(recipe, *vocabularies).to(world.device)
        optimizer = make_optimizer(model, recipe.training)
        if found is None:
            starting.take_over(run, model)
        at = saving.resume(found, model, optimizer, world.device) if found else Position()
        saver = Saver(run.checkpoints, recipe, vocabularies, world)
        knobs = recipe.training
        over = at.step >= knobs.updates or at.is_late(knobs.minutes) or saver.patience_is_over(at)
        if over and not at.owed:
            console.say(
                f"{run.path} is finished after {at.step:,} updates; "
                "for more: --set training.updates=N --allow-change training.updates"
            )
            return
        log = Log(run.log if world.first else None, run.path / "tensorboard" if recipe.training.tensorboard else None)
        if world.first:
            runs.write_atomically(run.recipe, recipe_file.dump(recipe).encode())
        count = sum(weight.numel() for weight in model.parameters())
        precision = chosen(recipe.training, world.device)
        before = found.state.get("precision", precision) if found else precision
        if before != precision:
            console.warn(
                f"up to update {at.step:,} this run was trained in {before}; training.precision now means {precision}"
            )
        console.say(f"{count:,} parameters, {precision}, from update {at.step:,} to {recipe.training.updates:,}")
        about = {"parameters": count, "precision": precision, **_machine(world)}
        log.write("resumed" if found else "start", at.step, **about)

        def tell(ended: str | None = None) -> None:
            if world.first:
                explain(run, recipe, about, at, ended)

        tell()
        try:
            train(model, optimizer, recipe, prepared, world, at, saver, log)
        except JanusError as problem:
            tell(problem.message.split("\n")[0])
            raise
        finally:
            log.close()
        tell("done")
        best = "" if at.best is None else f"; best {saver.metric} {at.best:.4g} at update {at.best_step:,}"
        console.say(f"done after {at.step:,} updates{best}")
        console.say(f"next: janus decode --run {run.path}")


def _make_folder(run: Run) -> None:
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        (run.path / LOCK).touch()
    except OSError as problem:
        raise UsageError(
            f"{run.path} cannot be written: {problem.strerror}", "choose another folder with --run"
        ) from None


def _begin(
    request: Request, recipe: Recipe, run: Run, prepared: Prepared, origin: Origin | None, world: World
) -> Checkpoint | None:
    """What to go on from: nothing in a fresh run, the newest whole checkpoint in a resumed one."""
    if request.resume:
        theirs = runs.read_json(run.manifest)
        if theirs["fingerprint"] != prepared.train.fingerprint:
            raise CheckpointError(
                f"{prepared.folder} is not the data that {run.path} was trained on", "prepare the same text again"
            )
        if world.first:
            saving.remove_leftovers(run.checkpoints)
        found = checkpoint.newest_valid(run.checkpoints)
        if found is None:
            console.say("no checkpoint yet: starting at update 0")
        return found
    if world.first:
        for old in (run.checkpoints, run.decoded, run.path / "tensorboard"):
            shutil.rmtree(old, ignore_errors=True)
        for file in (run.log, run.lexicon, run.path / "run.txt"):
            file.unlink(missing_ok=True)
        run.checkpoints.mkdir()
        runs.copy_files(prepared.tokenizers.files, prepared.folder, run.path)
        about = {
            **prepared.manifest,
            "prepared": str(prepared.folder.resolve()),
            "fingerprint": prepared.train.fingerprint,
            **({"from": origin} if origin else {}),
        }
        runs.write_atomically(run.manifest, json.dumps(about, indent=1).encode())
        runs.write_atomically(run.recipe, recipe_file.dump(recipe).encode())
    return None


def _must_agree(before: Recipe, now: Recipe, allowed: tuple[str, ...]) -> None:
    """A resumed run keeps its recipe, but for the knobs that the user names.

    Raises:
        CheckpointError: with every difference.
    """
    old, new = dict(_leaves(before.plain())), dict(_leaves(now.plain()))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    free = (*allowed, "data.dir", "about", "data.notes")
    bad = [key for key in differing if not any(key == each or key.startswith(f"{each}.") for each in free)]
    if bad:
        lines = "\n  ".join(f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} now" for key in bad)
        raise CheckpointError(
            f"the recipe has changed since the run began:\n  {lines}", "allow a change with --allow-change KEY"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _machine(world: World) -> dict[str, Any]:
    return {
        "janus": __version__, "torch": torch.__version__, "python": sys.version.split()[0], "device": str(world.device),
        "ranks": world.size, "threads": torch.get_num_threads(), "command": sys.argv[1:],
    }  # fmt: skip
