"""One `janus distill`, from options to a folder: which teacher, which sentences, where to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from janus_cli import console, recipe_load, runs
from janus_cli.core.objectives import OBJECTIVES
from janus_cli.data.prepare import PREPARED, is_prepared
from janus_cli.data.prepared import Prepared, fingerprints, open_prepared
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding import distilled, results
from janus_cli.decoding.distilled import IdLines
from janus_cli.decoding.journal import writable
from janus_cli.decoding.plan import Plan, choose
from janus_cli.decoding.sources import Sources
from janus_cli.decoding.translator import Translator
from janus_cli.decoding.unfinished import Unfinished
from janus_cli.decoding.where import checkpoint_name, load, own_recipe, read_checkpoint
from janus_cli.device import choose_device, interruptible, keep_freed_memory
from janus_cli.errors import DataError, UsageError
from janus_cli.files import must_be_free, read_json
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.training.checkpoint import STATE, fingerprint

ELSEWHERE = "name another folder with --out"


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus distill`.

    source: text to decode besides the training pairs. surest: the share of it that stays, see `distilled.write`; work
    that goes on may have another one.
    given: options of the decoding section.
    words: the command line's options but for the run, --checkpoint, --out, --resume and --force, to tell how to do it
    again.
    """

    run: Path | None = None
    checkpoint: Path | None = None
    out: Path | None = None
    source: Sequence[Path] = ()
    surest: float = 1.0
    given: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    words: Sequence[str] = ()


@dataclass
class Job:
    """All that distilling needs. about: what the manifest will say. translator: None in a dry run."""

    sources: Sources
    out: Path
    about: dict[str, Any]
    files: Unfinished
    translator: Translator | None = None


def run_distilling(request: Request) -> Path:
    """Distills as asked, and returns the folder."""
    if request.resume and request.force:
        raise UsageError("--resume and --force exclude each other", "--resume goes on, --force starts over")
    if request.surest < 1 and not request.source:
        raise UsageError("--surest chooses among the lines of --source, and there is none", "name text with --source")
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    with interruptible():
        job = read_checkpoint(request.run, request.checkpoint, partial(_job, request, device))
        if job.translator is None:
            return job.out
        with writable(job.out, ELSEWHERE):
            job.out.parent.mkdir(parents=True, exist_ok=True)
        with job.files.opened():
            _decode(job, job.translator)
            about = job.about | {"seconds": job.files.point.seconds}
            replace = job.files.targets[job.out]
            written = distilled.write(
                job.sources, job.files.partials[0], job.out, about, surest=request.surest, force=replace
            )
            job.files.discard()
        _tell(job, written)
    return job.out


def _job(request: Request, device: torch.device, run: Run, folder: Path) -> Job:
    """Checks everything that can be checked beforehand, then loads the model."""
    recipe = own_recipe(folder, request.changes)
    plan = _plan(request, run, recipe)
    out = request.out or runs.distilled_dir(recipe)
    if not request.resume:  # whether a resumed one may replace it was said when it began
        must_be_free(out, force=request.force, is_ours=is_prepared, what=PREPARED)
    prepared = _prepared(run, recipe)
    sources = Sources(prepared, recipe, request.source)
    weights, name = fingerprint(folder), checkpoint_name(run, folder)
    command = shlex.join(["janus", "distill", str(run.path), "--checkpoint", name, *request.words])
    about = {
        "run": str(run.path), "checkpoint": name, "sha256": weights, "objective": recipe.objective.name,
        "options": plan.used, "device": str(device), "torch": torch.__version__, "command": command,
        "prepared": str(prepared.folder.resolve()), "fingerprint": prepared.train.fingerprint,
        **sources.about(),
    }  # fmt: skip
    files = _files(request, plan, out, about)
    if not request.dry_run:
        keep_freed_memory()
    more = f" and {sources.lines:,} lines of text" if sources.lines else ""
    more += f", of which the surest {100 * request.surest:g} % stay," if request.surest < 1 else ""
    console.say(
        f"{'would decode' if request.dry_run else 'decoding'} the {len(prepared.train):,} training sources of "
        f"{prepared.folder}{more} with {run.path}, checkpoint {folder.name}: "
        + ", ".join(f"{name} {value}" for name, value in plan.used.items())
    )
    if files.resumed:
        console.say(f"going on after {files.point.lines:,} finished sentences")
    job = Job(sources, out, about, files)
    if request.dry_run:
        console.say(f"would write {out}")
        return job
    model, tokenizers = load(run, folder, device, plan.options.precision)
    job.about["step"] = read_json(folder / STATE).get("step")
    ids = Tokenizers(IdLines(tokenizers.source), IdLines(tokenizers.target), tokenizers.files)
    job.translator = Translator(model, ids, plan)
    return job


def _plan(request: Request, run: Run, recipe: Recipe) -> Plan:
    """How to decode: left to right, one hypothesis."""
    if not OBJECTIVES[recipe.objective.name].ar:
        raise UsageError(
            f"{run.path} was trained with objective {recipe.objective.name}: it has no autoregressive side to distil",
            "name a run of objective ar or janus",
        )
    for change in request.changes:
        if change.startswith(("decoding.mode=", "decoding.nbest=")):
            raise UsageError(f"--set {change}: a teacher writes one output, left to right", "leave it out")
    return choose(recipe, {"mode": "ar", "nbest": 1, **request.given})


def _prepared(run: Run, recipe: Recipe) -> Prepared:
    """The data that the run was trained on.

    Raises:
        DataError: it is gone, or it was made anew from something else.
    """
    theirs = read_json(run.manifest)
    recorded = Path(theirs.get("prepared", ""))
    folder = recorded if recorded.is_dir() else runs.prepared_dir(recipe)
    prepared = open_prepared(recipe, folder, ("--recipe", str(run.recipe)))
    if fingerprints(prepared.manifest) != fingerprints(theirs):
        raise DataError(
            f"{prepared.folder} is not the data that {run.path} was trained on", "prepare the same text again"
        )
    return prepared


def _files(request: Request, plan: Plan, out: Path, about: Mapping[str, Any]) -> Unfinished:
    """Where the work grows; checked."""
    # Batches of another size give the same hypotheses: who ran out of memory may go on with smaller ones.
    options = {name: value for name, value in plan.used.items() if name != "batch_sentences"}
    options |= {"data": about["fingerprint"], "lines": "score and ids"}
    if "sources" in about:
        options["source"] = {file["path"]: file["sha256"][:12] for file in about["sources"]}
    again = f"{about['command']}{f' --out {shlex.quote(str(out))}' if request.out else ''} --resume"
    files = Unfinished({out: request.force}, (about["checkpoint"], about["sha256"]), options, again, ELSEWHERE)
    files.check(resume=request.resume, force=request.force)
    return files


def _decode(job: Job, translator: Translator) -> None:
    """Decodes the sources that are not done yet. A score and ids of each go into the unfinished file."""
    begun, timing = job.files.point, translator.timing
    timing.sentences, timing.tokens, timing.passes = begun.lines, begun.tokens, begun.passes
    sources = job.files.skipped(map(distilled.as_line, job.sources))
    with console.progress("distilling", len(job.sources), start=begun.lines) as bar:
        translator.advance = bar.advance
        started = perf_counter()
        for some in translator.windows(sources, begun.lines):
            seconds = begun.seconds + perf_counter() - started
            done = [result.source for result in some]
            job.files.write([results.scored(some)], done, timing.tokens, timing.passes, seconds)


def _tell(job: Job, written: Mapping[str, Any]) -> None:
    split, about, name = written["splits"]["train"], written["distilled"], job.sources.recipe.name
    if about["at_limit"]:
        console.warn(f"{about['at_limit']:,} outputs reached the longest length allowed; they are kept")
    known = name if name in recipe_load.available() else Path(about["run"]) / "recipe.yaml"
    console.say(
        f"{split['kept']:,} pairs written to {job.out}; next: janus train --recipe {known} --objective cmlm "
        f"--prepared {job.out} --run {runs.RUNS / f'{name}-cmlm-distilled'}"
    )
