"""One `janus export`: which checkpoint, in which format, where to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from janus_cli import __version__, console
from janus_cli.decoding.modes import own_recipe
from janus_cli.decoding.translate import read_model
from janus_cli.errors import UsageError
from janus_cli.export import ctranslate2, safetensors
from janus_cli.export.folder import PROVENANCE, README, Source, is_export
from janus_cli.files import must_be_free, whole_folder, write_json
from janus_cli.runs import Run
from janus_cli.training import checkpoint
from janus_cli.training.checkpoint import read_checkpoint

Format = Literal["ctranslate2", "safetensors"]
AS_TRAINED = "float32"
EXPORT = "an export"  # in messages


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `janus export`."""

    run: Path | None = None
    checkpoint: Path | None = None
    format: Format = "safetensors"
    output: Path | None = None
    quantization: str | None = None
    force: bool = False
    dry_run: bool = False


def run_export(request: Request) -> Path:
    """Writes the folder and returns it. A dry run checks the same and writes nothing.

    Raises:
        UsageError: the model does not fit the format, the extra is missing, or the folder may not be replaced.
        CheckpointError: the checkpoint is damaged, or was not trained with the run's tokenizer.
    """
    quantization = _quantization(request)
    source = read_checkpoint(request.run, request.checkpoint, partial(_read, request))
    about = {"format": request.format, "quantization": quantization, **source.provenance}
    output = request.output or _usual_place(source, request.format, quantization)
    must_be_free(output, force=request.force, is_ours=is_export, what=EXPORT, option="--output")
    named = f"{source.run}, checkpoint {about['checkpoint']}, to {output}"
    if request.dry_run:
        console.say(f"would export {named}, as {request.format}, {quantization}")
        return output
    with whole_folder(
        output, force=request.force, is_ours=is_export, what=EXPORT, option="--output", error=UsageError
    ) as fresh:
        if request.format == "ctranslate2":
            ctranslate2.write(source, fresh, quantization)
            about["ctranslate2"] = ctranslate2.version()
        else:
            safetensors.write(source, fresh)
        write_json(fresh / PROVENANCE, about)
        size = sum(file.stat().st_size for file in fresh.iterdir())
    console.say(f"exported {named}: {request.format}, {quantization}, {size:,} bytes")
    console.say(f"how to use it: {output / README}")
    return output


def _quantization(request: Request) -> str:
    if request.format != "ctranslate2" and request.quantization not in (None, AS_TRAINED):
        raise UsageError(
            f"--quantization {request.quantization}: {request.format} keeps the weights as they are, {AS_TRAINED}",
            "leave it out, or add --format ctranslate2",
        )
    return request.quantization or AS_TRAINED


def _usual_place(source: Source, kind: Format, quantization: str) -> Path:
    suffix = "" if quantization == AS_TRAINED else f".{quantization}"
    return source.run / "export" / f"{source.provenance['checkpoint']}.{kind}{suffix}"


def _read(request: Request, run: Run, folder: Path) -> Source:
    recipe = own_recipe(folder, ())
    if request.format == "ctranslate2":
        ctranslate2.must_fit(recipe)
    state, (model, tokenizers) = checkpoint.verify(folder).state, read_model(run, folder)
    provenance = {
        "run": run.path.resolve().name,
        "checkpoint": folder.name,
        "step": state.get("step"),
        **({"averaged": state["averaged"]} if "averaged" in state else {}),
        "objective": recipe.objective.name,
        "sha256": checkpoint.fingerprint(folder),
        "janus": __version__,
    }
    return Source(recipe, model, tokenizers, run.path, state, provenance)
