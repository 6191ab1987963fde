"""One `janus train`: which recipe, data and folder; fresh, resumed, or from other weights; the lock; `run.txt`.

A run that begins with other weights (`--from`: fine-tuning, or AR first, then JANUS) takes over nothing else: updates,
learning rate and moments start afresh. What the other model does not have (the length table, where it was an AR model)
stays as drawn from the seed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from janus_cli import __version__, console, recipe_load, runs
from janus_cli.core.model import Transformer
from janus_cli.data import corpus, lexicon
from janus_cli.data.batching import first_look, must_fit
from janus_cli.data.prepare import prepare
from janus_cli.data.prepared import Prepared, fingerprints, open_prepared
from janus_cli.device import World, keep_few_shapes, keep_freed_memory, start_world
from janus_cli.errors import CheckpointError, DataError, JanusError, RunInUseError, Stopped, UsageError, require
from janus_cli.files import MANIFEST, copy_files, locked, read_json, tidy, write_atomically
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import MODEL, Checkpoint
from janus_cli.training.log import Log
from janus_cli.training.trainer import Trainer, circumstances, resume_command
from janus_cli.training.validation import best_metric

LOCK = ".lock"
# Knobs of the model section that a change of shape does not show, and that give the weights another meaning.
SHAPELESS = ("heads", "activation", "norm")
RUN_TXT = """\
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


def train(
    *, recipe: str | None = None, objective: str | None = None, run: Path | None = None, prepared: Path | None = None,
    data_dir: Path | None = None, resume: bool = False, start: Path | None = None, allow_change: Sequence[str] = (),
    changes: Sequence[str] = (), device: str = "auto", seed: int | None = None, threads: int | None = None,
    force: bool = False, dry_run: bool = False,
) -> Run:  # fmt: skip
    """Train as the options of `janus train` say; returns the run.

    Raises:
        UsageError, DataError, CheckpointError, RunInUseError: it cannot begin.
        NonFiniteError, OutOfMemoryError, Stopped: it ended early, see `Trainer.fit`.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    keep_few_shapes()
    world, quiet = start_world(device), console.quiet
    console.quiet = quiet or not world.first
    try:
        settings, target = _recipe_and_run(recipe, objective, run, _all_changes(changes, seed, data_dir), resume=resume)
        best_metric(settings)  # a wrong name is found now, not after hours
        _must_be_free(target, resume=resume, force=force, start=start, allow_change=allow_change)
        if resume:  # before the data is opened, which other settings do not fit
            _must_agree(recipe_load.load(str(target.recipe)), settings, allow_change)
        folder = _data_folder(settings, target, prepared, resume=resume)
        if world.first:
            _prepare_if_missing(settings, folder, data_dir, named=prepared is not None, dry_run=dry_run)
        data = _open_data(settings, folder, world, _preprocess_options(recipe, target, changes, seed, resume=resume))
        origin = None if start is None else _origin(start, settings, data, target)
        _describe(settings, data, target, world)
        if not dry_run:
            _train(settings, target, data, world, resume=resume, origin=origin)
    except Stopped:
        world.close()
        raise
    finally:
        console.quiet = quiet
    world.close()  # not where one rank failed: it would wait there for others that wait for it
    return target


def prepare_data(
    *, recipe: str | None = None, objective: str | None = None, run: Path | None = None, prepared: Path | None = None,
    data_dir: Path | None = None, resume: bool = False, changes: Sequence[str] = (), seed: int | None = None,
    **_: object,
) -> None:  # fmt: skip
    """Prepare what `train` would read with the same options, where it is not there yet."""
    settings, target = _recipe_and_run(recipe, objective, run, _all_changes(changes, seed, data_dir), resume=resume)
    folder = _data_folder(settings, target, prepared, resume=resume)
    _prepare_if_missing(settings, folder, data_dir, named=prepared is not None, dry_run=False)
    options = _preprocess_options(recipe, target, changes, seed, resume=resume)
    _open_data(settings, folder, World(0, 1, torch.device("cpu")), options)


def _all_changes(changes: Sequence[str], seed: int | None, data_dir: Path | None) -> list[str]:
    """`--set`, `--seed` and `--data-dir` as changes of the recipe."""
    more = [] if seed is None else [f"seed={seed}"]
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(f"the data folder {data_dir} does not exist", "name another with --data-dir")
        more.append(f"data.dir={json.dumps(str(data_dir), ensure_ascii=False)}")
    return [*changes, *more]


def _recipe_and_run(
    recipe: str | None, objective: str | None, folder: Path | None, changes: Sequence[str], *, resume: bool
) -> tuple[Recipe, Run]:
    """The recipe in force, and the run."""
    if resume and (recipe is None or folder is None):
        run = runs.find_run(folder)
        if folder is None:
            console.say(f"resuming {run.path}, the newest run")
        return recipe_load.load(recipe or str(run.recipe), changes, objective), run
    if recipe is None:
        console.say("no --recipe: using the built-in recipe demo")
    loaded = recipe_load.load(recipe or "demo", changes, objective)
    return loaded, Run(folder or runs.RUNS / f"{loaded.name}-{loaded.objective.name}")


def _must_be_free(run: Run, *, resume: bool, force: bool, start: Path | None, allow_change: Sequence[str]) -> None:
    """Raise UsageError where the folder holds a run and should not, or no run and should, or where options clash."""
    if resume and force:
        raise UsageError("--resume and --force exclude each other", "--resume continues, --force starts over")
    if resume and start is not None:
        raise UsageError("--resume and --from exclude each other", "--resume continues from the run's own checkpoint")
    if allow_change and not resume:
        raise UsageError("--allow-change needs --resume", "a new run takes any recipe")
    places = (run.checkpoints, run.decoded, run.log)
    filled = [path for path in places if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if filled and not run.recipe.exists():
        raise UsageError(
            f"{run.path} holds {filled[0].name} but no recipe.yaml, so it is not a run", "choose another --run"
        )
    if run.recipe.exists() and not (resume or force):
        raise UsageError(
            f"{run.path} holds a run already",
            f"resume it: janus train --resume --run {run.path}; start over: --force; keep both: --run ANOTHER",
        )
    if resume and not run.recipe.exists():
        raise UsageError(f"--resume: {run.path} holds no run", "leave out --resume to start it")


def _must_agree(before: Recipe, now: Recipe, allowed: Sequence[str]) -> None:
    """Raise CheckpointError with all knobs that a resumed run has changed without being allowed to."""
    old, new = dict(_leaves(before.plain())), dict(_leaves(now.plain()))
    free = (*allowed, "data.dir", "about", "data.notes")
    changed = [
        f"\n  {key}: {old.get(key)!r} in the run, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == each or key.startswith(f"{each}.") for each in free)
    ]
    if changed:
        raise CheckpointError(
            f"the recipe has changed since the run began:{''.join(changed)}", "allow a change with --allow-change KEY"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _preprocess_options(
    recipe: str | None, run: Run, changes: Sequence[str], seed: int | None, *, resume: bool
) -> list[str]:
    """The options that tell `janus preprocess` the recipe in force, for hints."""
    words = ["--recipe", recipe or (str(run.recipe) if resume else "demo")]
    for change in changes:  # `preprocess` knows no --objective, so knobs of another one mean nothing there
        words += [] if change.startswith("objective.") else ["--set", change]
    return words + (["--seed", str(seed)] if seed is not None else [])


def _data_folder(recipe: Recipe, run: Run, named: Path | None, *, resume: bool) -> Path:
    """The folder of prepared data: the named one, the one that a resumed run had, or the usual one."""
    if named is None and resume and (before := Path(read_json(run.manifest)["prepared"])).is_dir():
        return before
    return named or runs.prepared_dir(recipe)


def _prepare_if_missing(recipe: Recipe, folder: Path, data_dir: Path | None, *, named: bool, dry_run: bool) -> None:
    """Prepare the data as `janus preprocess` would, unless the user named the folder."""
    if data_dir is not None:
        corpus.files(recipe.data, data_dir)  # all are there, whatever was prepared
    if not dry_run:
        tidy(folder)
    if named or (folder / MANIFEST).exists():
        return
    if dry_run:
        raise DataError(f"{folder} is not there yet", "a dry run prepares nothing: run `janus preprocess` first")
    console.say(f"{folder} is not there yet: preparing it first, as `janus preprocess` would")
    prepare(recipe, folder, workers=None, force=False)


def _open_data(recipe: Recipe, folder: Path, world: World, options: Sequence[str]) -> Prepared:
    """Open prepared data; rank 0 verifies it, the others skip that. options: see `_preprocess_options`."""
    verified = open_prepared(recipe, folder, options) if world.first else None
    world.wait()
    data = verified or open_prepared(recipe, folder, options, text=False)
    seed = data.manifest.get("seed", recipe.seed)
    if recipe.data.synthetic and recipe.data.dir is None and seed != recipe.seed:
        console.say(f"{folder} is text made from seed {seed}, the training has seed {recipe.seed}")
    return data


def _describe(recipe: Recipe, data: Prepared, run: Run, world: World) -> None:
    for split in ("train", "valid"):
        tokens = data.manifest["splits"][split]["tokens"]
        longest = max(tokens["source"]["max"] + 1, tokens["target"]["max"] + 2)
        must_fit(f"a pair of the {split} split", longest, recipe.training.batch_tokens)
    look = first_look(data.train, recipe.training.batch_tokens, recipe.seed)
    updates = -(-look.batches // (world.size * recipe.training.accumulate))
    console.say(
        f"run {run.path}: recipe {recipe.name}, objective {recipe.objective.name}, {len(data.train):,} pairs, "
        f"{'about ' * look.approximate}{updates:,} updates an epoch, padding {look.padding:.1%}, "
        f"{world.size} rank{'s' * (world.size > 1)} on {world.device}, {torch.get_num_threads()} threads"
    )


def _train(
    recipe: Recipe, run: Run, data: Prepared, world: World, *, resume: bool, origin: Mapping[str, str] | None
) -> None:
    if recipe.training.tensorboard:
        require("tensorboard", "tensorboard")  # before anything is replaced
    if world.first:
        _make_folder(run)
    with _locked(run) if world.first else nullcontext():
        saved = _newest_checkpoint(run, data, world) if resume else None
        if world.first and not resume:
            _begin(recipe, run, data, origin)
        if world.first and saved is None:
            lexicon.make(recipe, data, run.lexicon)
        world.wait()
        lexicon.attach(recipe, data, run.lexicon)
        torch.manual_seed(recipe.seed)
        vocabularies = data.train.source_vocabulary, data.train.target_vocabulary
        model = checkpoint.build_model(recipe, *vocabularies).to(world.device)
        if saved is None:
            _take_over(run, model)
        trainer = Trainer(recipe, model, data, world, run)
        if saved is not None:
            trainer.resume(saved)
        position = trainer.position
        if (reasons := trainer.ended_by()) and not position.owed:
            more = " ".join(f"--set {key}=N --allow-change {key}" for key in reasons)
            console.say(f"{run.path} is finished after {position.step:,} updates; for more: {more}")
            return
        if world.first:
            write_atomically(run.recipe, recipe_load.dump(recipe).encode())
        _fit(trainer, saved)
        best = ""
        if position.best is not None:
            best = f"; best {trainer.metric} {position.best:.4g} at update {position.best_step:,}"
        console.say(f"done after {position.step:,} updates{best}")
        console.say(f"next: janus decode --run {run.path}")


def _fit(trainer: Trainer, saved: Checkpoint | None) -> None:
    """Train, with a log and `run.txt`."""
    run, recipe, world, step = trainer.run, trainer.recipe, trainer.world, trainer.position.step
    for name, now in circumstances(recipe, world).items():
        if saved and (before := saved.state.get(name, now)) != now:
            console.warn(f"up to update {step:,} this run had {name} {before}, now it has {name} {now}")
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    console.say(f"{parameters:,} parameters, {trainer.precision}, from update {step:,} to {recipe.training.updates:,}")
    board = run.path / "tensorboard" if recipe.training.tensorboard else None
    trainer.log = Log(run.log if world.first else None, board)
    trainer.log.write(
        "resumed" if saved else "start", step, parameters=parameters, precision=trainer.precision, janus=__version__,
        torch=torch.__version__, python=sys.version.split()[0], device=str(world.device), ranks=world.size,
        threads=torch.get_num_threads(), command=sys.argv[1:],
    )  # fmt: skip
    trainer.on_save = partial(_write_run_txt, trainer, "training")
    trainer.on_save()
    try:
        trainer.fit()
    except JanusError as problem:
        _write_run_txt(trainer, problem.message.split("\n")[0])
        raise
    finally:
        trainer.log.close()
    _write_run_txt(trainer, "done")


def _make_folder(run: Run) -> None:
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        (run.path / LOCK).touch()
    except OSError as problem:
        raise UsageError(
            f"{run.path} cannot be written: {problem.strerror}", "choose another folder with --run"
        ) from None


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """One training in a folder at a time."""

    def refuse(holder: str) -> None:
        raise RunInUseError(f"{run.path} is in use by {holder}", "wait for it, or choose --run")

    with locked(run.path / LOCK, refuse) as killed:
        if killed:
            console.say(f"{killed} left {run.path} without ending its training; taking over")
        yield


def _begin(recipe: Recipe, run: Run, data: Prepared, origin: Mapping[str, str] | None) -> None:
    """Replace what an earlier run left by the files that a fresh one begins with."""
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


def _newest_checkpoint(run: Run, data: Prepared, world: World) -> Checkpoint | None:
    """The newest whole checkpoint of a resumed run, None where it has none yet.

    Raises:
        CheckpointError: the data is not the run's, or the ranks do not find the same checkpoint.
    """
    before, now = fingerprints(read_json(run.manifest)), fingerprints(data.manifest)
    if other := [split for split in ("train", "valid") if before.get(split) != now.get(split)]:
        raise CheckpointError(
            f"{data.folder} is not the data that {run.path} was trained on: {', '.join(other)} differ",
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


def _origin(named: Path, recipe: Recipe, data: Prepared, run: Run) -> dict[str, str]:
    """Which weights `run` is to begin with, for its manifest. named: see `checkpoint.locate`.

    Raises:
        UsageError: it is no run or checkpoint, or one of `run` itself, which would be replaced.
        CheckpointError: it belongs to another tokenizer, does not fit the recipe's model, or is damaged.
    """
    other, folder = checkpoint.locate(named)
    if other.path.resolve() == run.path.resolve():
        raise UsageError(f"--from {named} lies in {run.path}, which a new run would replace", "choose another --run")
    for name in data.tokenizers.files:
        file = other.path / name
        if not file.is_file() or file.read_bytes() != (data.folder / name).read_bytes():
            raise CheckpointError(
                f"{other.path} has another tokenizer than {data.folder}: its weights mean other words",
                f"prepare the text with its tokenizer: "
                f"janus preprocess --set tokenizer.reuse={other.path} --out FOLDER",
            )
    saved = checkpoint.verify(folder)
    before, now = saved.recipe.model, recipe.model
    keys = SHAPELESS + ("embedding_scale",) * (before.embedding == now.embedding)
    differing = {key: value for key in keys if (value := getattr(before, key)) != getattr(now, key)}
    if differing:
        values = ", ".join(f"model.{key} {value}" for key, value in differing.items())
        raise CheckpointError(
            f"{folder} was trained with {values}: here its weights mean nothing",
            " ".join(f"--set model.{key}={value}" for key, value in differing.items()),
        )
    store = data.train
    _expected(saved, checkpoint.build_model(recipe, store.source_vocabulary, store.target_vocabulary).weights())
    return {"checkpoint": str(folder.resolve()), "sha256": checkpoint.fingerprint(folder)}


def _expected(saved: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights like those that a checkpoint holds; all that are among `weights` too must have the same shape there."""
    expected = saved.build().weights()
    for name in sorted(weights.keys() & expected.keys()):
        if weights[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{saved.folder} does not fit: {name} has shape {list(expected[name].shape)}, "
                f"here {list(weights[name].shape)}",
                "the sections model and tokenizer must be those of its recipe.yaml",
            )
    return expected


def _take_over(run: Run, model: Transformer) -> None:
    """Put the weights that the run's manifest names into a fresh model; nothing where it names none.

    Raises:
        CheckpointError: they are gone, changed or damaged, or of another shape.
    """
    origin = read_json(run.manifest).get("from")
    if origin is None:
        return
    saved = checkpoint.verify(Path(origin["checkpoint"]))
    if checkpoint.fingerprint(saved.folder) != origin["sha256"]:
        raise CheckpointError(f"{saved.folder} has changed since {run.path} began from it", "--force starts over")
    fresh = model.weights()
    loaded = checkpoint.tensors(saved.folder / MODEL, _expected(saved, fresh))
    model.load_weights({**fresh, **{name: loaded[name] for name in fresh if name in loaded}})
    missing, unused = sorted(fresh.keys() - loaded.keys()), sorted(loaded.keys() - fresh.keys())
    notes = [f"fresh: {', '.join(missing)}"] * bool(missing) + [f"not used: {', '.join(unused)}"] * bool(unused)
    console.say("; ".join([f"weights from {saved.folder}", *notes]))


def _write_run_txt(trainer: Trainer, state: str) -> None:
    """Write `run.txt` for whoever finds the run a year later; it keeps when and with what command the run began."""
    if not trainer.world.first:
        return
    run, recipe, position, file = trainer.run, trainer.recipe, trainer.position, trainer.run.path / "run.txt"
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        lines = []
    before = dict(line.split(maxsplit=1) for line in lines if line.startswith(("began ", "command ")))
    manifest, model = read_json(run.manifest), recipe.model
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    best = "" if position.best is None else f", the best so far {position.best:.4g} at update {position.best_step:,}"
    teacher, origin = runs.teacher(manifest), runs.origin(manifest)
    text = RUN_TXT.format(
        name=run.path.name, version=__version__, objective=recipe.objective.name, recipe=recipe.name, seed=recipe.seed,
        layers=f"{model.encoder_layers}+{model.decoder_layers}", width=model.width, feedforward=model.feedforward,
        heads=model.heads, source=recipe.data.source, target=recipe.data.target, prepared=manifest.get("prepared"),
        fingerprint=manifest.get("fingerprint"), began=before.get("began", now),
        command=before.get("command", shlex.join(["janus", *sys.argv[1:]])), path=run.path,
        state=f"{state} ({now}), update {position.step:,} of {recipe.training.updates:,}{best}",
        again=resume_command(run.path, trainer.world), targets=f"\n           targets by {teacher}" * bool(teacher),
        origin=f"\nfrom       {origin}" * bool(origin), precision=trainer.precision,
        parameters=sum(weight.numel() for weight in trainer.model.parameters()),
    )  # fmt: skip
    try:
        write_atomically(file, text.encode(errors="surrogateescape"))  # paths may be no text
    except OSError as problem:
        console.warn(f"{file} cannot be written ({problem.strerror}); training continues without it")
