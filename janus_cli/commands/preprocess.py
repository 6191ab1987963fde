"""`janus preprocess`: text becomes token ids."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from janus_cli.commands import options

BadUtf8 = Literal["stop", "skip", "replace"]


def _files(split: str, text: str) -> Any:
    return typer.Option(f"--{split}", metavar="FILE…", help=text)


def preprocess(
    context: typer.Context,
    recipe: options.Recipe = None,
    data_dir: options.DataDir = None,
    train: Annotated[
        list[Path] | None,
        _files(
            "train",
            "Training text by name: two aligned files, the source first, or one table (TSV, CSV, JSON lines, Parquet, "
            "Arrow, the folder of a data set). All words up to the next option are files.",
        ),
    ] = None,
    valid: Annotated[list[Path] | None, _files("valid", "The same for validation text.")] = None,
    test: Annotated[
        list[Path] | None,
        _files("test", "The same for test text, or a source alone; a third file may hold references."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to make; by default data/RECIPE.SOURCE-TARGET.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN|CHECKPOINT",
            help="Use the tokenizer of a run whose weights `train --from` will take.",
        ),
    ] = None,
    changes: options.Set = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, metavar="N", help="Worker processes; by default as many as help.")
    ] = None,
    bad_utf8: Annotated[
        BadUtf8,
        typer.Option(help="What to do with lines that are not UTF-8: stop, skip the pair, or replace the bytes."),
    ] = "stop",
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
) -> None:
    """Reads FOLDER/train.SRC, train.TGT, valid.* and test.* (plain or .gz), aligned, one sentence a line; or tables,
    as FOLDER/train.tsv (.csv, .jsonl, .parquet, ...). Writes one folder, completely or not at all; its manifest.json
    counts the pairs kept, and those dropped by reason.

    Examples:
      janus preprocess
      janus preprocess --recipe multi30k --data-dir corpora/multi30k
      janus preprocess --recipe mine.yaml --train a.de b.en --valid c.de d.en --test e.de f.en
      janus preprocess --recipe mine.yaml --train t.csv --valid v.csv --set data.columns=[german,english]
      janus preprocess --recipe mine.yaml --set tokenizer.vocabulary=4000 --force
      janus preprocess --recipe iwslt14 --data-dir iwslt14.tokenized.de-en --set tokenizer.kind=words
      janus preprocess --recipe multi30k --data-dir corpora/multi30k --bad-utf8 skip --dry-run
      janus preprocess --recipe squad_qg --data-dir SQUAD --from runs/bart-base
    """
    from janus_cli import console, recipe_load, runs
    from janus_cli.terminal import command

    if recipe is None:
        console.say("no --recipe: using the built-in recipe demo")
    named = {"train": train, "valid": valid, "test": test}
    files = [f"data.files.{split}={json.dumps(list(map(str, paths)))}" for split, paths in named.items() if paths]
    afresh = [] if data_dir is None else ["data.files={}"]  # the recipe's; those of --set stay
    basis = None if start is None else runs.basis(start)
    loaded = recipe_load.load(recipe or "demo", [*afresh, *(changes or ()), *files], basis=basis)
    if data_dir is not None:
        loaded = replace(loaded, data=replace(loaded.data, dir=str(data_dir)))
    if seed is not None:
        loaded = replace(loaded, seed=seed)
    from janus_cli.data.prepare import prepare, rehearse
    from janus_cli.data.prepared import place_for
    from janus_cli.scoring.judge import judge_of

    place = out or place_for(loaded, basis)
    if dry_run:
        rehearse(loaded, place, force=force, bad_utf8=bad_utf8)
        return
    manifest = prepare(loaded, place, workers=workers, force=force, bad_utf8=bad_utf8)
    judge_of(loaded, manifest).introduce()
    words = options.typed(context, "data_dir", "train", "valid", "test", "out", "workers", "bad_utf8", "force")
    words += ["--prepared", str(out)] if out is not None else []
    console.say(f"written to {place}; next: {command('janus', 'train', *words)}")
