"""`janus distill`: a trained run -> prepared data whose training targets are what the run makes of the sources."""

from pathlib import Path
from typing import Annotated, Any

import typer

from janus_cli.commands import options


@options.with_decoding_options("beam", "batch_sentences", before="resume")
def distill(
    context: typer.Context,
    run: options.RunArgument = None,
    run_option: options.Run = None,
    checkpoint: options.Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where to; by default data/RECIPE-distilled.SOURCE-TARGET."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option("--source", metavar="FILE", help="Decode these lines as well: plain or .gz. Repeatable."),
    ] = None,
    surest: Annotated[
        float,
        typer.Option(
            "--surest",
            min=0.01,
            max=1.0,
            metavar="SHARE",
            help="Of what those lines become, keep this share: the highest scores.",
        ),
    ] = 1.0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue after the last finished sentence of a distillation that was stopped."),
    ] = False,
    changes: options.Set = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    **given: Any,
) -> None:
    """Make training data from what a trained model says: sequence-level knowledge distillation (Kim & Rush 2016).

    The run's left-to-right side decodes the source of every training pair. Its token ids become the targets of a new
    folder of prepared data, with the same tokenizer and the same valid and test splits, references and all.
    Pairs that the recipe's data section would not let in (empty, too short or long, lengths too different, duplicates
    where it wants none) are dropped and counted; outputs that reached the longest length allowed are kept and counted.

    --source names more text of the kind, which needs no translation: a student that sees more sources learns its
    teacher better (Zhou & Keung 2020), if the teacher can translate them. --surest 0.7 keeps the 70 % of
    their outputs that have the highest scores, and counts the others as `unsure`; the training pairs all stay. The
    share may be another one on --resume.
    The manifest.json says which weights wrote the targets, how, and from which data.

    Options left out are those of the recipe's decoding section; --set decoding.… changes the others, as in
    --set decoding.precision=bf16. Whatever stops the work leaves the finished sentences beside FOLDER, as
    .FOLDER.partial: --resume, with the same options, continues to the same bytes. The folder appears when complete.

    Examples:
      janus distill
      janus distill runs/multi30k-ar
      janus distill multi30k-ar --checkpoint average-best5 --beam 4 --out data/multi30k-by-average.de-en
      janus distill runs/iwslt14-ar --source more.de.gz --surest 0.7
      janus train --recipe multi30k --objective cmlm --prepared data/multi30k-distilled.de-en --run runs/cmlm-distilled
    """
    teacher = options.named_run(run, run_option, checkpoint, changes)
    from janus_cli.decoding import distill as distilling

    distilling.distill(
        run=teacher, checkpoint=checkpoint, out=out, device=device, threads=threads,
        source=source or (), surest=surest, options=given, changes=changes or (), resume=resume,
        force=force, dry_run=dry_run,
        words=options.typed(context, "run", "run_option", "checkpoint", "out", "resume", "force"),
    )  # fmt: skip
