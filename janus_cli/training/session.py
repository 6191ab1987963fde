"""One `janus train`, from options to a finished run: which recipe, which folder, fresh or resumed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from janus_cli import __version__, console, recipe_load, runs
from janus_cli.data import corpus, lexicon
from janus_cli.data.batching import first_look, must_fit
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import fingerprints, open_prepared
from janus_cli.device import World, keep_few_shapes, keep_freed_memory, start_world
from janus_cli.errors import CheckpointError, DataError, JanusError, Stopped, UsageError, require
from janus_cli.files import copy_files, read_json, tidy, write_atomically
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training import checkpoint, starting
from janus_cli.training.checkpoint import Checkpoint
from janus_cli.training.explain import explain
from janus_cli.training.lock import LOCK, locked
from janus_cli.training.log import Log
from janus_cli.training.request import Request, must_agree, must_be_free, recipe_and_run, words_of
from janus_cli.training.starting import Origin
from janus_cli.training.trainer import Trainer, circumstances
from janus_cli.training.validation import best_metric

if TYPE_CHECKING:
    from janus_cli.data.prepared import Prepared


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
        recipe, run = recipe_and_run(request)
        best_metric(recipe)  # a wrong name is found now, not after hours
        must_be_free(request, run)
        if request.resume:  # before the data is opened, which other settings do not fit
            must_agree(recipe_load.load(str(run.recipe)), recipe, request.allow_change)
        prepared = _open_data(request, recipe, run, world)
        origin = None if request.start is None else starting.find(request.start, recipe, prepared, run)
        _describe(recipe, prepared, run, world)
        if not request.dry_run:
            _train(request, recipe, run, prepared, origin, world)
    except Stopped:
        world.close()
        raise
    finally:
        console.quiet = before
    world.close()  # not where one rank failed: it would wait there for others that wait for it
    return run


def prepare_data(request: Request) -> None:
    """Makes the ids that a training wants, where they are not there yet."""
    recipe, run = recipe_and_run(request)
    _open_data(request, recipe, run, World(0, 1, torch.device("cpu")))


def _recorded(run: Run) -> Path | None:
    """Where the data of a resumed run was, if it is still there."""
    folder = Path(read_json(run.manifest)["prepared"])
    return folder if folder.is_dir() else None


def _open_data(request: Request, recipe: Recipe, run: Run, world: World) -> Prepared:
    """The ids; made first (by the first rank) where they are not there."""
    folder = request.prepared or (_recorded(run) if request.resume else None) or runs.prepared_dir(recipe)
    words = words_of(request, run)
    if world.first and request.data_dir is not None:
        corpus.files(recipe.data, request.data_dir)  # all are there, whatever was prepared
    if world.first and not request.dry_run:
        tidy(folder)
    if world.first and request.prepared is None and not (folder / "manifest.json").exists():
        if request.dry_run:
            raise DataError(f"{folder} is not there yet", "a dry run prepares nothing: run `janus preprocess` first")
        console.say(f"{folder} is not there yet: preparing it first, as `janus preprocess` would")
        prepare(recipe, folder, workers=None, force=False)
    mine = open_prepared(recipe, folder, words) if world.first else None  # what it has checked, the others need not
    world.wait()
    found = mine or open_prepared(recipe, folder, words, text=False)
    made = found.manifest.get("seed", recipe.seed)
    if recipe.data.synthetic and recipe.data.dir is None and made != recipe.seed:
        console.say(f"{folder} is text made from seed {made}, the training has seed {recipe.seed}")
    return found


def _describe(recipe: Recipe, prepared: Prepared, run: Run, world: World) -> None:
    for split in ("train", "valid"):
        tokens = prepared.manifest["splits"][split]["tokens"]
        longest = max(tokens["source"]["max"] + 1, tokens["target"]["max"] + 2)
        must_fit(f"a pair of the {split} split", longest, recipe.training.batch_tokens)
    look = first_look(prepared.train, recipe.training.batch_tokens, recipe.seed)
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
        saved = _begin(request, recipe, run, prepared, origin, world)
        if world.first and saved is None:
            lexicon.make(recipe, prepared, run.lexicon)
        world.wait()
        lexicon.attach(recipe, prepared, run.lexicon)
        torch.manual_seed(recipe.seed)
        vocabularies = (prepared.train.source_vocabulary, prepared.train.target_vocabulary)
        model = checkpoint.build_model(recipe, *vocabularies).to(world.device)
        if saved is None:
            starting.take_over(run, model)
        trainer = Trainer(recipe, model, prepared, world, run)
        if saved is not None:
            trainer.resume(saved)
        position = trainer.position
        if (ended := trainer.ended_by()) and not position.owed:
            more = " ".join(f"--set {key}=N --allow-change {key}" for key in ended)
            console.say(f"{run.path} is finished after {position.step:,} updates; for more: {more}")
            return
        if world.first:
            write_atomically(run.recipe, recipe_load.dump(recipe).encode())
        about = _announce(trainer, saved)

        def tell(ended: str | None = None) -> None:
            if world.first:
                explain(run, recipe, about, position, world, ended)

        trainer.log = Log(
            run.log if world.first else None, run.path / "tensorboard" if recipe.training.tensorboard else None
        )
        trainer.log.write("resumed" if saved else "start", position.step, **about)
        tell()
        trainer.on_save = tell
        try:
            trainer.fit()
        except JanusError as problem:
            tell(problem.message.split("\n")[0])
            raise
        finally:
            trainer.log.close()
        tell("done")
        best = (
            ""
            if position.best is None
            else f"; best {trainer.metric} {position.best:.4g} at update {position.best_step:,}"
        )
        console.say(f"done after {position.step:,} updates{best}")
        console.say(f"next: janus decode --run {run.path}")


def _announce(trainer: Trainer, saved: Checkpoint | None) -> dict[str, Any]:
    """Says what is trained, and what is not as it was; returns what the log says of the machine."""
    step, recipe = trainer.position.step, trainer.recipe
    count = sum(weight.numel() for weight in trainer.model.parameters())
    for name, now in circumstances(recipe, trainer.world).items():
        before = saved.state.get(name, now) if saved else now
        if before != now:
            console.warn(f"up to update {step:,} this run had {name} {before}, now it has {name} {now}")
    console.say(f"{count:,} parameters, {trainer.precision}, from update {step:,} to {recipe.training.updates:,}")
    return {"parameters": count, "precision": trainer.precision, **_machine(trainer.world)}


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
        theirs, ours = fingerprints(read_json(run.manifest)), fingerprints(prepared.manifest)
        if other := [name for name in ("train", "valid") if theirs.get(name) != ours.get(name)]:
            raise CheckpointError(
                f"{prepared.folder} is not the data that {run.path} was trained on: {', '.join(other)} differ",
                "prepare the same text again",
            )
        if world.first:
            checkpoint.remove_leftovers(run.checkpoints)
        world.wait()
        saved = checkpoint.newest_valid(run.checkpoints)
        step = float(saved.state["step"]) if saved else 0.0
        sums = world.sums({"step": step, "square": step**2})
        if sums["step"] ** 2 != world.size * sums["square"]:
            raise CheckpointError("the ranks found different checkpoints", "start again: a shared disk may lag behind")
        if saved is None:
            console.say("no checkpoint yet: starting at update 0")
        elif world.first:
            checkpoint.set_aside_newer(run.checkpoints, saved)
        return saved
    if world.first:
        for old in (run.checkpoints, run.decoded, run.path / "tensorboard"):
            shutil.rmtree(old, ignore_errors=True)
        for file in (run.log, run.lexicon, run.path / "run.txt"):
            file.unlink(missing_ok=True)
        run.checkpoints.mkdir()
        copy_files(prepared.tokenizers.files, prepared.folder, run.path)
        about = {
            **prepared.manifest,
            "prepared": str(prepared.folder.resolve()),
            "fingerprint": prepared.train.fingerprint,
            **({"from": origin} if origin else {}),
        }
        write_atomically(run.manifest, json.dumps(about, indent=1).encode())
        write_atomically(run.recipe, recipe_load.dump(recipe).encode())
    return None


def _machine(world: World) -> dict[str, Any]:
    return {
        "janus": __version__, "torch": torch.__version__, "python": sys.version.split()[0], "device": str(world.device),
        "ranks": world.size, "threads": torch.get_num_threads(), "command": sys.argv[1:],
    }  # fmt: skip
