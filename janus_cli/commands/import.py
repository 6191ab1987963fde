"""`janus import`: a model folder of Hugging Face's transformers -> a run."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options
from janus_cli.errors import DataError


def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With config.json, model.safetensors, a tokenizer.")],
    run: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The run to make; by default runs/NAME.")] = None,
    source_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="mBART: the language of sources, such as en_XX.")
    ] = None,
    target_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="mBART: the language to write, such as ro_RO.")
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """BART, mBART, Marian (OPUS-MT) and Pegasus fit. The run decodes left to right as `generate` of transformers does,
    token for token; `janus train --from` teaches it any objective. Pickles are never read.

    Examples:
      hf download facebook/bart-base --local-dir bart-base
      janus import bart-base
      janus import mbart-large-50 --source-language de_DE --target-language en_XX --run runs/de-en
      echo "Some text." | janus decode --run bart-base --input -
    """
    if not folder.is_dir():
        place = folder.name or "FOLDER"
        model = folder if len(folder.parts) == 2 else f"ORG/{place}"
        fetch = f"hf download {model} --local-dir {place}"
        hint = f"models of the Hub are not fetched: `{fetch}`, then `janus import {place}`"
        raise DataError(f"there is no folder {folder}", hint)
    from janus_cli.export.importing import import_model

    import_model(folder, run=run, languages=(source_language, target_language), force=force, dry_run=dry_run)
