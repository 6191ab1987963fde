"""`janus export`: which checkpoint, in which format, where to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from janus_cli import __version__, console
from janus_cli.data.prepared import find_references, find_split
from janus_cli.decoding.modes import own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.errors import UsageError
from janus_cli.export import ctranslate2, onnx, safetensors, transformers
from janus_cli.export.source import README, Source, portable
from janus_cli.files import must_be_free, whole_folder, write_json
from janus_cli.runs import PROVENANCE, Run
from janus_cli.training.checkpoint import fingerprint, read_checkpoint, verify

AS_TRAINED, SPLIT = "float32", "test"
WHAT = "an export"  # in messages
MUST_FIT = {"ctranslate2": ctranslate2.must_fit, "transformers": transformers.must_fit, "onnx": onnx.must_fit}


def export(
    *, kind: Literal["safetensors", "onnx", "ctranslate2", "transformers"], run: Path | None = None,
    checkpoint: Path | None = None, out: Path | None = None, quantization: str | None = None, with_test: bool = False,
    changes: Sequence[str] = (), force: bool = False, dry_run: bool = False,
) -> Path:  # fmt: skip
    """Writes the folder and returns it; for arguments see `janus export`. A dry run checks the same and writes nothing.

    Raises:
        UsageError: the model does not fit the format, the extra is missing, or the folder may not be replaced.
        CheckpointError: the checkpoint is damaged, or was not trained with the run's tokenizer.
        DataError: the text of the test split is asked for, and is not there.
    """
    stored = quantization or AS_TRAINED
    able = [*safetensors.STORED] if kind == "safetensors" else [AS_TRAINED]
    if kind != "ctranslate2" and stored not in able:
        raise UsageError(
            f"--quantization {stored}: {kind} stores {' or '.join(able)}",
            "leave it out, or add --format ctranslate2",
        )
    if kind != "safetensors" and with_test:
        raise UsageError(f"--with-test adds text for janus, which does not read {kind} exports", "leave it out")
    source = read_checkpoint(run, checkpoint, partial(_read, kind=kind, changes=changes, with_test=with_test))
    about = {"format": kind, "quantization": stored, **source.provenance}
    name = f"{about['checkpoint']}.{kind}" + (f".{stored}" if stored != AS_TRAINED else "")
    folder = out or source.run / "export" / name
    must_be_free(folder, force=force, is_ours=_is_export, what=WHAT)
    named = f"{source.run}, checkpoint {about['checkpoint']}, to {folder}"
    if dry_run:
        console.say(f"would export {named}, as {kind}, {stored}")
        return folder
    with whole_folder(folder, force=force, is_ours=_is_export, what=WHAT) as making:
        if kind == "ctranslate2":
            ctranslate2.write(source, making, stored)
            about["ctranslate2"] = ctranslate2.version()
        elif kind == "transformers":
            lost, notes = transformers.write(source, making)
            for note in lost:
                console.warn(f"in transformers, {note}")
            for note in notes:
                console.say(f"in transformers, {note}")
        elif kind == "onnx":
            onnx.write(source, making)
        else:
            safetensors.write(source, making, stored)
        write_json(making / PROVENANCE, about)
        size = sum(file.stat().st_size for file in making.iterdir())
    console.say(f"exported {named}: {kind}, {stored}, {size:,} bytes")
    console.say(f"how to use it: {folder / README}")
    return folder


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export and no more: it has no folders, which a training or `decode` made there."""
    return (folder / PROVENANCE).is_file() and not any(each.is_dir() for each in folder.iterdir())


def _read(run: Run, folder: Path, kind: str, changes: Sequence[str], with_test: bool) -> Source:
    recipe = portable(own_recipe(folder, changes))
    if kind in MUST_FIT:
        MUST_FIT[kind](recipe)
    state = verify(folder).state
    provenance = {
        "run": run.path.resolve().name, "checkpoint": folder.name, "step": state.get("step"),
        **({"averaged": state["averaged"]} if "averaged" in state else {}),
        "objective": recipe.objective.name, "sha256": fingerprint(folder), "janus": __version__,
    }  # fmt: skip
    head = kind == "onnx" and any(plan.drafts for plan in onnx.searches(recipe)[0].values())
    texts = {*find_split(run, recipe, SPLIT), find_references(run, recipe, SPLIT)} if with_test else set()
    return Source(recipe, *read_model(run, folder, head=head), run.path, state, provenance, sorted(filter(None, texts)))
