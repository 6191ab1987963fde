"""The folders: prepared data under `data/`, runs under `runs/`; finds a run and the text that it was trained on.

data/<name>.<source>-<target>/   manifest.json · tokenizer files · SPLIT.*.npy · {valid,test}.{source,target}.txt
                                 {valid,test}.refs.jsonl, where a line has several references
data/<name>-distilled.…/         the same, with a teacher's training targets
data/<name>-from-<run>.…/        the same as the first, with the tokenizer of a run, for `--from`
runs/<name>/                     run.txt · recipe.yaml · manifest.json · tokenizer files · lexicon.json · log.jsonl
                                 checkpoints/step-000123/ · checkpoints/last, best (links)
                                 decode/<split>.<mode>.txt, .jsonl, .json
runs/pretrained-<name>/          a copy of a model that comes with janus, `pretrained:<name>`

An export is a run as well: its folder holds a checkpoint's files beside the tokenizer's, maybe the text of a split.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from janus_cli import console, documents
from janus_cli.errors import DENIED, CheckpointError, UsageError
from janus_cli.files import MANIFEST, copy_files, whole_folder
from janus_cli.recipe import Recipe
from janus_cli.recipe_load import Basis, guess, shipped
from janus_cli.system import followed, is_denied
from janus_cli.terminal import command

PREPARED = Path("data")
RUNS = Path("runs")
LINKS = ("best", "last")  # among the checkpoints of a run
PROVENANCE = "provenance.json"  # of an export in any format
PREFIX = "pretrained:"  # of the name of a model that comes with janus
END_OF_LOG = 1 << 12  # bytes; its last line has fewer
PRETRAINED = shipped("pretrained")


def prepared_dir(recipe: Recipe, tokenizer: Path | None = None) -> Path:
    """The default folder of `janus preprocess` for this recipe; tokenizer: of a run, with the tokenizer in its folder
    instead of the recipe's."""
    own = "" if tokenizer is None else f"-from-{tokenizer.name}"
    return PREPARED / f"{recipe.name}{own}.{recipe.data.source}-{recipe.data.target}"


def distilled_dir(recipe: Recipe) -> Path:
    """The default folder of `janus distill` for this recipe."""
    return PREPARED / f"{recipe.name}-distilled.{recipe.data.source}-{recipe.data.target}"


def teacher(manifest: Mapping[str, Any]) -> str | None:
    """The model that wrote the training targets, in words; None if the targets are those of the text.

    manifest: of prepared data, or of a run.
    """
    distilled = manifest.get("distilled")
    if not distilled:
        return None
    lines = sum(file.get("lines", 0) for file in distilled.get("sources", ()))
    more = f", {lines:,} more sources" if lines else ""
    if "surest" in distilled:
        more = f", the surest {100 * distilled['surest']:g} % of {lines:,} more sources"
    options = distilled["options"]
    how = f"beam {options['beam']}" if "beam" in options else f"samples at temperature {options.get('temperature')}"
    return f"{distilled['run']}, checkpoint {distilled['checkpoint']}, {how}{more}"


def origin(manifest: Mapping[str, Any]) -> str | None:
    """The checkpoint whose weights a run started from, None if they were drawn at random. manifest: of the run."""
    began = manifest.get("from")
    return str(began["checkpoint"]) if began else None


def fresh(manifest: Mapping[str, Any]) -> list[str]:
    """What the checkpoint that a run started from did not have (see `optimizer.Shares.of`). manifest: of the run."""
    return list((manifest.get("from") or {}).get("fresh", ()))


@dataclass(frozen=True)
class Run:
    """The files of one training run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """The prepared data's manifest, copied when the run began."""
        return self.path / "manifest.json"

    @property
    def lexicon(self) -> Path:
        """Translations of tokens, for objectives that switch words."""
        return self.path / "lexicon.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def decoded(self) -> Path:
        return self.path / "decode"

    @property
    def is_unfinished(self) -> bool:
        """Whether its log ends before the training was done; not if it has none."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - END_OF_LOG))
            return b'"kind": "done"' not in log.read().rstrip().rpartition(b"\n")[2]
        return False

    @property
    def is_export(self) -> bool:
        """Whether `janus export` wrote it: the folder itself is its one checkpoint."""
        files = ("recipe.yaml", "tokenizer.json", "model.safetensors")
        return all((self.path / name).is_file() for name in files) and not self.checkpoints.exists()

    def read_manifest(self) -> dict[str, Any]:
        """Raises CheckpointError if the manifest is missing or damaged."""
        return documents.read(self.manifest, documents.RunManifest, CheckpointError)

    def must_have(self, checkpoint: Path) -> None:
        """Raises CheckpointError for a name that nothing has; of best and last, `find_checkpoint` knows more."""
        places = checkpoint, self.checkpoints / checkpoint
        if checkpoint.name not in LINKS and not any(place.exists() for place in places):
            raise self.lacks(checkpoint)

    def lacks(self, checkpoint: Path) -> CheckpointError:
        """The error that says that there is no such checkpoint, and which one may be meant."""
        names = [folder.name for folder in self.checkpoints.glob("[!.]*")]
        wanted = f"step-{checkpoint.name}" if checkpoint.name.isdecimal() else checkpoint.name
        same = [name for name in names if re.sub("-0+", "-", name) == re.sub("-0+", "-", wanted)]
        others = [] if re.fullmatch(r"step-\d+", wanted) else names  # a similar number is another update
        meant = guess(wanted, same or others)
        return CheckpointError(
            f"there is no checkpoint {checkpoint} in {self.path}{meant}",
            f"see `{command('ls', self.checkpoints)}`, or name a folder",
        )

    def name_of(self, checkpoint: Path) -> str:
        """The value of --checkpoint, beside this --run, that names a checkpoint folder."""
        if checkpoint == self.path.resolve():
            return LINKS[0]
        return checkpoint.name if checkpoint.parent == self.checkpoints.resolve() else str(checkpoint)

    def shown(self, path: Path) -> Path:
        """A resolved path in this run, under the run as it was named; any other as it is."""
        inside = path.is_relative_to(self.path.resolve())
        return self.path / path.relative_to(self.path.resolve()) if inside else path


def find_run(path: Path | None) -> Run:
    """The named run, or the newest under `runs/`, by when it was last written to; exports come after all others.

    A model that comes with janus, `pretrained:NAME`, is copied there first, so that all that is written about it lies
    there.

    Raises:
        UsageError: there is no such run or model, or something else lies where it is copied to.
    """
    if path is not None and (model := pretrained(path)):
        return _copied(model)
    if path is not None:
        for folder in (path, RUNS / path):
            _must_not_be_inside(folder)
            if (folder / "recipe.yaml").is_file():
                return Run(folder)
    folders = list(_readable())
    if path is not None:
        hint = f"runs are folders under {RUNS}/; see `ls {RUNS}`"
        if path.is_file():
            hint = "text to decode goes to --input"
        elif inside := sorted(str(file.parent) for file in path.glob("*/recipe.yaml")):
            hint = f"it holds runs: {', '.join(inside)}"
        elif (path / PROVENANCE).is_file():
            hint = f"it is an export for other programs: see {path / 'README.txt'}"
        elif (path / "checkpoints").is_dir():
            hint = f"if it was a run, each checkpoint has a copy: `{command('ls', path / 'checkpoints')}`"
        elif (path / MANIFEST).is_file():
            hint = f"it is prepared data: `{command('janus', 'inspect', path)}` shows it; {hint}"
        meant = guess(path.name, (folder.name for folder in folders))
        why = "it has no recipe.yaml" if path.exists() else "there is no such folder"
        if path.name in _published() and not path.exists():
            hint = f"a model that comes with janus is called {PREFIX}{path.name}"
        raise UsageError(f"{path} is not a run: {why}{meant}", hint)
    if not folders:
        raise UsageError(f"no run under {RUNS}/", "train one with `janus train`, or name one with --run")
    return Run(max(folders, key=lambda folder: (not Run(folder).is_export, _last_written(folder))))


def _must_not_be_inside(folder: Path) -> None:
    """Raises UsageError for a run's folder of checkpoints, and for one of them, which holds a recipe as a run does."""
    for place, name in ((folder, "NAME"), (folder.parent, folder.name)):
        run = place.parent
        if folder.is_dir() and place.name == "checkpoints" and (run / "recipe.yaml").is_file():
            hint = f"name the run, and the checkpoint beside it: --run {run} --checkpoint {name}"
            raise UsageError(f"{folder} is not a run: it belongs to a run's checkpoints", hint)


def basis(start: Path) -> Basis:
    """What a recipe takes over from the run or the checkpoint that `--from` names.

    Raises:
        UsageError: it is neither.
    """
    folder, label = followed(start), f"--from {start}"
    if (folder / "model.safetensors").is_file():
        export = Run(folder).is_export
        return Basis(folder / "recipe.yaml", folder if export else folder.resolve().parent.parent, label)
    run = find_run(start)
    return Basis(run.recipe, run.path, label)


def basis_of(recipe: str | None, run: Path | None, start: Path | None, *, resume: bool) -> Basis | None:
    """The run whose model section and tokenizer go before those of the recipe: that of `--from`, also if resumed."""
    if start is not None:
        return basis(start)
    return basis_of_resumed(run) if resume and recipe else None


def basis_of_resumed(named: Path | None) -> Basis | None:
    """The same for a run that is resumed with a named recipe: what it took over itself, if it began with `--from`.

    named: see `find_run`; it may have yet to begin.
    """
    if named is not None and not any((folder / "recipe.yaml").is_file() for folder in (named, RUNS / named)):
        return None
    run = find_run(named)
    return Basis(run.recipe, None, f"--resume {run.path}") if began_elsewhere(run) else None


def began_elsewhere(run: Run) -> bool:
    """Whether a run began with the weights of another one."""
    return run.manifest.is_file() and origin(run.read_manifest()) is not None


def pretrained(path: Path) -> Path | None:
    """The folder of the model that `pretrained:NAME` names, to read only; None for any other path.

    Raises:
        UsageError: no such model comes with this janus.
    """
    name = str(path).removeprefix(PREFIX)
    if name == str(path):
        return None
    names = _published()
    if name not in names:
        raise UsageError(
            f"no model {name!r} comes with this janus{guess(name, names)}",
            f"it has {', '.join(PREFIX + each for each in names) or 'none'}; the repository of janus may have more in "
            "its folder pretrained/, and --run takes such a folder, too",
        )
    return PRETRAINED / name


def _published() -> list[str]:
    """The names of the models that come with this janus."""
    return sorted(recipe.parent.name for recipe in PRETRAINED.glob("*/recipe.yaml"))


def _copied(model: Path) -> Run:
    """The copy of a model that comes with janus, made when it is first named.

    Raises:
        UsageError: something else lies there.
    """
    run = Run(RUNS / f"pretrained-{model.name}")
    listed = documents.read(model / MANIFEST, documents.CheckpointManifest, CheckpointError)["files"]
    others = "README.*", "config.json", "provenance.json", "draft-head.safetensors"
    beside = [file.name for name in others for file in model.glob(name)]
    # What is there already is compared below: also a copy that another process made meanwhile.
    try:
        with (
            suppress(UsageError),
            whole_folder(run.path, force=False, is_ours=lambda _: False, what="another model") as making,
        ):
            console.say(f"copying {PREFIX}{model.name} to {run.path}")
            copy_files([MANIFEST, *listed, *beside], model, making)
    except OSError as problem:
        if problem.errno not in DENIED:
            raise
        hint = f"work in a folder that you may write to, or name it where it is: --run {model}"
        raise UsageError(f"{PREFIX}{model.name} cannot be copied to {run.path}: {problem.strerror}", hint) from None
    _, changed, gone = filecmp.cmpfiles(model, run.path, [MANIFEST, *listed], shallow=False)
    if changed or gone:
        differs = f"its {changed[0]} differs" if changed else f"it has no {gone[0]}"
        raise UsageError(
            f"{run.path} is not a copy of {PREFIX}{model.name} as this janus has it: {differs}",
            f"rename or remove it, and the model is copied again; or name that one: --run {run.path}",
        )
    return run


def _readable() -> Iterator[Path]:
    """The folders of runs under `runs/`, without those that this user may not read, which are told."""
    for folder in RUNS.glob("*"):
        if is_denied(folder / "recipe.yaml"):
            _tell_denied(folder.absolute())
        elif (folder / "recipe.yaml").is_file():
            yield folder


@cache  # each once
def _tell_denied(folder: Path) -> None:
    console.say(f"passing over {folder}, which you may not read")


def _last_written(folder: Path) -> float:
    files = [folder / "recipe.yaml", folder / "log.jsonl"]
    return max(file.stat().st_mtime for file in files if file.exists())


def text_name(split: str, side: str) -> str:
    """The file of a side of a split in prepared data. `references`: a JSON list a line, if one has several."""
    return f"{split}.refs.jsonl" if side == "references" else f"{split}.{side}.txt"


def run_around(file: Path) -> Run | None:
    """The run in whose folder `decode` a file lies, if any."""
    for place in (file, file.resolve()):  # the name as it was given has no parents where it is relative
        run = Run(place.parent.parent)
        if place.parent == run.decoded and run.recipe.is_file():
            return run
    return None
