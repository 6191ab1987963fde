"""`janus train`, from its options to the training itself: recipe, data, run folder, `run.txt`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from janus_cli import __version__, console, documents, recipe_load, runs
from janus_cli.core.model import Transformer
from janus_cli.data import corpus, lexicon
from janus_cli.data.batching import estimate_epoch, must_fit
from janus_cli.data.prepare import is_prepared, prepare
from janus_cli.data.prepared import (
    Prepared,
    data_of,
    fingerprints,
    open_prepared,
    place_for,
    prepare_again,
    preprocess_command,
    text_is_elsewhere,
    usual_manifest,
)
from janus_cli.device import keep_few_shapes, keep_freed_memory
from janus_cli.errors import CheckpointError, DataError, JanusError, RunInUseError, Stopped, UsageError, require
from janus_cli.files import MANIFEST, copy_files, holder_of, locked, tidy, write_atomically
from janus_cli.recipe import Recipe, tokenizer_of
from janus_cli.recipe_load import Basis
from janus_cli.runs import Run
from janus_cli.scoring.judge import judge_of
from janus_cli.system import followed, usable_cores
from janus_cli.terminal import command
from janus_cli.training import checkpoint, initial, limits, run_txt, size
from janus_cli.training.best import check_scoring, figure
from janus_cli.training.checkpoint import Checkpoint
from janus_cli.training.log import Log
from janus_cli.training.model import build_model
from janus_cli.training.optimizer import Shares
from janus_cli.training.resume import consequences, continued
from janus_cli.training.trainer import Trainer
from janus_cli.world import World, check_world, lost_a_rank, start_world

LOCK = ".lock"


def train(
    *, recipe: str | None = None, objective: str | None = None, run: Path | None = None, prepared: Path | None = None,
    data_dir: Path | None = None, resume: bool = False, start: Path | None = None, allow_change: Sequence[str] = (),
    changes: Sequence[str] = (), device: str = "auto", seed: int | None = None, threads: int | None = None,
    force: bool = False, dry_run: bool = False, data_only: bool = False, advise: bool = True,
) -> Run:  # fmt: skip
    """Train as the options of `janus train` say; returns the run.

    data_only: stop once the data is prepared. advise: say what `janus train` or `decode` could do next; commands that
    train several runs give advice of their own.

    Raises:
        UsageError, DataError, CheckpointError, RunInUseError: it cannot begin.
        NonFiniteError, OutOfMemoryError, Stopped: it ended early, see `Trainer.fit`.
    """
    with _ranks(device) as world:
        _check_options(resume=resume, force=force, start=start, allow_change=allow_change)
        resume = resume and not _has_yet_to_begin(recipe, run)
        basis = runs.basis_of(recipe, run, start, resume=resume)
        settings, target = _recipe_and_run(recipe, objective, run, changes, seed, data_dir, basis, resume=resume)
        if target.is_export:
            hint = f"start from its weights: {command('janus', 'train', '--from', target.path)}"
            raise UsageError(f"{target.path} is an export: it is not trained any further", hint)
        if resume:  # before the data is opened, which other settings do not fit
            settings = continued(settings, target, allow_change, recipe)
        _check_recipe(settings)
        if not (dry_run or data_only):  # which may be done elsewhere
            check_world(world, settings.training.precision, settings.model.attention)
        if not resume:
            _must_be_free(target, force=force)
        saved = None if start is None else initial.find(start, target, settings)
        words = _preprocess_options(recipe, target, changes, seed, start, resume=resume)
        data = _open_data(settings, target, prepared, data_dir, world, words, basis, resume=resume, dry_run=dry_run)
        if saved is not None:
            settings = replace(settings, tokenizer=tokenizer_of(data.manifest))
        settings = limits.settled(settings, data.train)
        if resume:
            checkpoint.tokenizers_of(target)
            _must_be_trained_on(data.folder, data.manifest, target, prepare_again(data, target, settings))
        if data_only:
            return target
        if threads := threads or (_threads_of(target) if resume else 0):
            torch.set_num_threads(threads)
        _describe(settings, data, target, world)
        sizes = data.train.source_vocabulary, data.train.target_vocabulary
        if world.device.type == "cpu":
            size.must_fit(settings.model, sizes, lengths=settings.objective.lengths, frozen=settings.training.freeze)
        if dry_run and start is None and not resume:
            return target
        torch.manual_seed(settings.seed)
        model = build_model(settings, *sizes).to(world.device)
        origin = None if saved is None else initial.copy_weights(saved, model, settings, data.tokenizers.target)
        shares = Shares.of(model, settings.training, runs.fresh(target.read_manifest() if resume else {"from": origin}))
        if not dry_run:
            _train(settings, target, model, data, world, shares, resume=resume, origin=origin, advise=advise)
        elif resume:
            _would_resume(Trainer(settings, model, data, world, target, shares), advise=advise)
    return target


def _threads_of(run: Run) -> int:
    """The threads that a run was trained with, if this machine has as many cores, else 0: others round differently."""
    with suppress(DataError):
        threads = int(checkpoint.read_state(followed(run.checkpoints / "last")).get("threads", 0))
        return threads if threads <= usable_cores() else 0
    return 0


def _would_resume(trainer: Trainer, *, advise: bool) -> None:
    if saved := checkpoint.newest_valid(trainer.run.checkpoints):
        trainer.resume(saved)
        _tell_consequences(trainer, saved)
    if not _is_finished(trainer, advise=advise):
        console.say(f"it would continue after update {trainer.position.step:,}")


@contextmanager
def _ranks(device: str) -> Iterator[World]:
    """Join the other ranks, if any; only the first one prints messages."""
    world, quiet = start_world(device), console.quiet
    console.quiet = quiet or not world.first
    try:
        yield world
    except Stopped:
        world.close()
        raise
    except RuntimeError as problem:
        if world.size > 1 and lost_a_rank(problem):
            reason = str(problem).split("\n")[0]
            raise JanusError(f"rank {world.rank} lost another rank: {reason}", "that one may say why") from None
        raise
    finally:
        console.quiet = quiet
    world.close()  # not if a rank failed: it would wait for ranks that wait for it


def _recipe_and_run(
    recipe: str | None, objective: str | None, folder: Path | None, changes: Sequence[str], seed: int | None,
    data_dir: Path | None, basis: Basis | None, *, resume: bool,
) -> tuple[Recipe, Run]:  # fmt: skip
    """The recipe in force, with `--seed`, `--data-dir` and `--from` (basis) applied, and the run."""
    changes = [*changes, *([] if seed is None else [f"seed={seed}"])]
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(f"the data folder {data_dir} does not exist", "name another with --data-dir")
        changes.insert(0, "data.files={}")  # the recipe's; those of --set stay
        changes.append(f"data.dir={json.dumps(str(data_dir), ensure_ascii=False)}")
    if resume:
        run = runs.find_run(folder)
        if folder is None:
            console.say(f"resuming {run.path}, the newest run")
        return recipe_load.load(recipe or str(run.recipe), changes, objective, basis), run
    if recipe is None:
        console.say("no --recipe: using the built-in recipe demo")
    loaded = recipe_load.load(recipe or "demo", changes, objective, basis)
    return loaded, Run(folder or runs.RUNS / f"{loaded.name}-{loaded.objective.name}")


def _check_options(*, resume: bool, force: bool, start: Path | None, allow_change: Sequence[str]) -> None:
    if resume and force:
        raise UsageError("--resume and --force exclude each other", "--resume continues, --force starts over")
    if resume and start is not None:
        raise UsageError("--resume and --from exclude each other", "--resume continues from the run's own checkpoint")
    if allow_change and not resume:
        raise UsageError("--allow-change needs --resume", "a new run takes any recipe")


def _check_recipe(recipe: Recipe) -> None:
    """Raises UsageError if its scoring has a mistake, or something that it needs is not installed."""
    check_scoring(recipe)
    if recipe.training.tensorboard:
        require("tensorboard", "tensorboard")


def _has_yet_to_begin(recipe: str | None, run: Path | None) -> bool:
    """Whether a run to resume is not there yet, and can begin: so a job may always say --resume."""
    if recipe is None or run is None or any((folder / "recipe.yaml").is_file() for folder in (run, runs.RUNS / run)):
        return False
    console.say(f"{run} has not begun: starting at update 0")
    return True


def _must_be_free(run: Run, *, force: bool) -> None:
    """Raise RunInUseError or UsageError if a new run's folder holds a run, or anything that does not belong there."""
    if run.recipe.exists():
        if not force:
            if holder := holder_of(run.path / LOCK):
                raise _in_use(run, holder)
            again = command("janus", "train", "--resume", "--run", run.path)
            raise UsageError(
                f"{run.path} holds a run already",
                f"resume it: {again}; start over: --force; keep both: --run ANOTHER",
            )
        return
    found = sorted(path for path in run.path.glob("[!.]*") if not _is_for_data(path))
    old = any(path in (run.checkpoints, run.decoded, run.log) for path in found)
    if (run.path / LOCK).exists() and (force or not old):  # a training was stopped before it wrote its recipe
        return
    if old and (run.path / LOCK).exists():
        hint = "a training with --force was stopped here: give --force again"
    elif old:
        hint = "choose another --run"  # --force would remove these
    elif is_prepared(run.path):
        hint = "choose another --run, and give this folder to --prepared"
    elif found and not force:
        hint = "choose another --run, or put the run beside these files with --force"
    else:
        return
    raise UsageError(f"{run.path} holds {found[0].name} but no recipe.yaml, so it is not a run", hint)


def _is_for_data(path: Path) -> bool:
    """Whether a folder is empty, prepared data, or holds nothing but prepared data and what was fetched for it."""
    if is_prepared(path):
        return True
    return path.is_dir() and all(is_prepared(each) or each.suffix == ".downloads" for each in path.glob("[!.]*"))


def _preprocess_options(
    recipe: str | None, run: Run, changes: Sequence[str], seed: int | None, start: Path | None, *, resume: bool
) -> list[str]:
    """The options that tell `janus preprocess` the recipe in force, for hints."""
    own = resume and (recipe is None or runs.began_elsewhere(run))
    words = ["--recipe", str(run.recipe) if own else recipe or "demo"]
    words += [] if start is None else ["--from", str(start)]
    for change in changes:  # `preprocess` has no --objective, so knobs of another objective would be errors
        words += [] if change.startswith(("objective.", "training.", "decoding.")) else ["--set", change]
    return words + (["--seed", str(seed)] if seed is not None else [])


def _open_data(
    recipe: Recipe, run: Run, named: Path | None, text: Path | None, world: World, words: Sequence[str],
    basis: Basis | None, *, resume: bool, dry_run: bool,
) -> Prepared:  # fmt: skip
    """Open prepared data: the named folder, the one that a resumed run had, or the usual one.

    Rank 0 prepares the usual one if it is missing, and verifies the data; the other ranks skip that.
    text: see `--data-dir`. words: see `_preprocess_options`. basis: what `--from` names.
    """
    folder = named or (data_of(run, recipe) if resume else place_for(recipe, basis))
    if resume and named and is_prepared(named) and Path(before := run.read_manifest().get("prepared", "")).is_dir():
        hint = f"leave --prepared out: the run was trained on {before}"
        _must_be_trained_on(named, documents.read(named / MANIFEST, documents.Manifest), run, hint)
    verified = None
    if world.first:
        if text is not None:
            corpus.files(recipe.data, text)  # all are there, whatever was prepared
        if not dry_run:
            tidy(folder)
        if named is None and not (folder / MANIFEST).exists():
            made = run.read_manifest() if resume and text is None and not recipe.data.is_named else {}
            if made.get("data", {}).get("files", {}).get("train") and (gone := made.get("prepared")):
                hint = preprocess_command(("--recipe", str(run.recipe)), recipe, Path(gone), made)
                raise DataError(f"{gone}, which {run.path} was trained on, is gone", hint)
            if dry_run or text_is_elsewhere(recipe):
                why = "everything that can be checked without it is fine; a dry run prepares nothing; " * dry_run
                make = preprocess_command(words, recipe, folder, usual_manifest(recipe), basis)
                raise DataError(f"{folder} is not there yet", why + make)
            console.say(f"{folder} is not there yet: preparing it first, as `janus preprocess` would")
            prepare(recipe, folder, workers=None, force=False)
        verified = open_prepared(recipe, folder, words, of_run=resume, basis=basis)
    world.wait()
    data = verified or open_prepared(recipe, folder, words, text=False, of_run=resume, basis=basis)
    seed = data.manifest.get("seed", recipe.seed)
    if recipe.data.synthetic and not recipe.data.is_named and seed != recipe.seed:
        console.say(f"{folder} is text made from seed {seed}, the training has seed {recipe.seed}")
    return data


def _describe(recipe: Recipe, data: Prepared, run: Run, world: World) -> None:
    for split in ("train", "valid"):
        tokens, limits = data.manifest["splits"][split]["tokens"], recipe.data  # pairs beyond them have no losses
        source, target = (tokens[side]["max"] for side in ("source", "target"))
        longest = max(min(source, limits.source_limit) + 1, min(target, limits.target_limit) + 2)
        must_fit(f"a pair of the {split} split", longest, recipe.training.batch_tokens)
    epoch = estimate_epoch(data.train, recipe.training.batch_tokens, recipe.seed)
    updates = -(-epoch.batches // (world.size * recipe.training.accumulate))
    console.say(
        f"run {run.path}: recipe {recipe.name}, objective {recipe.objective.name}, {len(data.train):,} pairs, "
        f"{'about ' * epoch.approximate}{updates:,} updates an epoch, padding {epoch.padding:.1%}, "
        f"{console.counted(world.size, 'rank')} on {world.device}, "
        f"{console.counted(torch.get_num_threads(), 'thread')}"
    )
    if recipe.ar_stream not in (None, "masks"):
        ratio, extra = recipe.decoding.limit
        console.say(
            f"AR outputs have at most {ratio:g} * source length + {extra} tokens (decoding.max_ratio, max_extra)"
        )
    judge_of(recipe, data.manifest).introduce()


def _train(
    recipe: Recipe, run: Run, model: Transformer, data: Prepared, world: World, shares: Shares, *,
    resume: bool, origin: Mapping[str, Any] | None, advise: bool,
) -> None:  # fmt: skip
    """Train with the run's folder locked: a new run replaces an earlier one, a resumed run continues it."""
    keep_freed_memory()
    keep_few_shapes()
    with _locked_folder(run) if world.first else nullcontext():
        saved = _newest_checkpoint(run, world) if resume else None
        translations = lexicon.make(recipe, data) if world.first and saved is None else b""
        if world.first and not resume:
            _begin(recipe, run, data, origin)
        if translations:
            write_atomically(run.lexicon, translations)
        world.wait()
        lexicon.attach(recipe, data, run.lexicon)
        if resume and saved is None and (origin := run.read_manifest().get("from")):
            initial.copy_weights(initial.again(origin, run), model, recipe, data.tokenizers.target)
        trainer = Trainer(recipe, model, data, world, run, shares)
        if saved is not None:
            trainer.resume(saved)
        if _is_finished(trainer, advise=advise):
            if run_txt.is_at_work(run) and recipe == recipe_load.load(str(run.recipe)):  # killed before it said "done"
                run_txt.write(trainer, run_txt.DONE)
            return
        if world.first:
            write_atomically(run.recipe, recipe_load.dump(recipe).encode())
        _fit(trainer, saved)
        position, best = trainer.position, ""
        if position.best is not None:
            best = f"; best {trainer.metric} {figure(trainer.metric, position.best)} at update {position.best_step:,}"
        console.say(f"done after {position.step:,} updates{best}")
        if advise:
            console.say(f"next: {next(iter(run_txt.what_next(run, recipe).values()))}")


def _is_finished(trainer: Trainer, *, advise: bool) -> bool:
    """Whether there is nothing left to train, which is then said. advise: see `train`."""
    reached, position = trainer.limits_reached(), trainer.position
    if not reached or position.validation_due:
        return False
    finished = f"{trainer.run.path} is finished after {position.step:,} updates"
    console.say(f"{finished}; for more: {' '.join(run_txt.more_updates(reached))}" if advise else finished)
    return True


def _tell_consequences(trainer: Trainer, saved: Checkpoint | None) -> None:
    for warning in consequences(saved, trainer.recipe, trainer.numerics) if saved else ():
        console.warn(warning)


def _fit(trainer: Trainer, saved: Checkpoint | None) -> None:
    """Train, with a log and `run.txt`."""
    run, recipe, world, step = trainer.run, trainer.recipe, trainer.world, trainer.position.step
    _tell_consequences(trainer, saved)
    precision, shares = trainer.precision, trainer.shares
    console.say(f"{shares.in_words(recipe.training)}, {precision}, from update {step:,} to {recipe.training.updates:,}")
    if recipe.training.freeze and not run.read_manifest().get("from"):
        parts = ", ".join(recipe.training.freeze)
        console.warn(f"training.freeze without --from: {parts} will keep their random weights")
    dropouts = recipe.model.dropout, recipe.model.attention_dropout, recipe.model.activation_dropout
    for name in ("rdrop", "two_encodings"):
        if getattr(recipe.objective, name, 0) and not any(dropouts):
            console.warn(f"objective.{name} without dropout in model: both passes are the same, and the second in vain")
    if (warmup := recipe.training.warmup) > recipe.training.updates:
        console.warn(f"training.warmup {warmup:,} is above training.updates: the learning rate never reaches its peak")
    if recipe.training.minutes and recipe.training.schedule != "inverse_sqrt":
        schedule = f"training.schedule {recipe.training.schedule}"
        console.warn(f"training.minutes may end it early: {schedule} falls over all of training.updates")
    board = run.path / "tensorboard" if recipe.training.tensorboard else None
    trainer.log = Log(run.log if world.first else None, board)
    trainer.log.write(
        "resumed" if saved else "start", step, parameters=shares.parameters, precision=precision,
        janus=__version__, torch=torch.__version__, python=sys.version.split()[0], device=str(world.device),
        ranks=world.size, threads=torch.get_num_threads(), command=sys.argv[1:],
        **({"frozen": shares.frozen} if shares.frozen else {}),
    )  # fmt: skip
    trainer.on_save = partial(run_txt.write, trainer, run_txt.TRAINING)
    trainer.on_save()
    try:
        trainer.fit()
    except JanusError as problem:
        run_txt.write(trainer, problem.message.split("\n")[0])
        raise
    finally:
        trainer.log.close()
    run_txt.write(trainer, run_txt.DONE)


def _in_use(run: Run, holder: str) -> RunInUseError:
    return RunInUseError(f"{run.path} is in use by {holder}", "wait for it, or choose --run")


@contextmanager
def _locked_folder(run: Run) -> Iterator[None]:
    """Make the run's folder, and hold its lock: one training in a folder at a time."""

    def refuse(holder: str) -> None:
        raise _in_use(run, holder)

    run.checkpoints.mkdir(parents=True, exist_ok=True)
    with locked(run.path / LOCK, refuse) as killed:
        if killed:
            console.say(f"{killed} left {run.path} without ending its training; taking over")
        yield


def _begin(recipe: Recipe, run: Run, data: Prepared, origin: Mapping[str, Any] | None) -> None:
    """Replace the files of an earlier run by those that a new run begins with."""
    steps, texts = (len([*place.glob(name)]) for place, name in ((run.checkpoints, "step-*"), (run.decoded, "*.txt")))
    if steps or texts:
        gone = f"{console.counted(steps, 'checkpoint')} and {console.counted(texts, 'decoding')}"
        console.say(f"starting over: {gone} of the earlier run are removed")
    if exports := sorted(str(file.parent) for file in run.path.glob(f"export/*/{runs.PROVENANCE}")):
        console.warn(f"exports of the earlier run's model are kept: {', '.join(exports)}")
    run.recipe.unlink(missing_ok=True)  # first: whatever is left by a kill is not resumed with the earlier recipe
    for folder in (run.checkpoints, run.decoded, run.path / "tensorboard"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.log, run.lexicon, run.path / "run.txt"):
        file.unlink(missing_ok=True)
    run.checkpoints.mkdir()
    copy_files(data.tokenizers.files, data.folder, run.path)
    manifest = {**data.manifest, "prepared": str(data.folder.resolve()), "fingerprint": data.train.fingerprint}
    if origin:
        manifest["from"] = origin
    write_atomically(run.manifest, json.dumps(manifest, indent=1).encode())
    write_atomically(run.recipe, recipe_load.dump(recipe).encode())


def _must_be_trained_on(folder: Path, manifest: Mapping[str, Any], run: Run, hint: str) -> None:
    """Raise CheckpointError if prepared data is not what a run was trained and validated on."""
    before, now = fingerprints(run.read_manifest()), fingerprints(manifest)
    if other := [split for split in ("train", "valid") if before.get(split) != now.get(split)]:
        unlike = f"{', '.join(other)} differ{'s' * (len(other) == 1)}"
        raise CheckpointError(f"{folder} is not the data that {run.path} was trained on: {unlike}", hint)


def _newest_checkpoint(run: Run, world: World) -> Checkpoint | None:
    """The newest intact checkpoint of a resumed run, None if it has none yet.

    Raises:
        CheckpointError: there are only others, or the ranks do not find the same one.
    """
    if world.first:
        checkpoint.remove_leftovers(run.checkpoints)
    world.wait()
    saved = checkpoint.newest_valid(run.checkpoints)
    step = float(saved.state["step"]) if saved else 0.0
    sums = world.sums({"step": step, "square": step**2})
    if sums["step"] ** 2 != world.size * sums["square"]:
        raise CheckpointError("the ranks found different checkpoints", "try again: a shared disk may lag")
    if saved is None:
        console.say("no checkpoint yet: starting at update 0")
    elif world.first:
        checkpoint.set_aside_newer(run.checkpoints, saved)
    return saved
