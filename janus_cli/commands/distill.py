"""`janus distill`: a trained run -> prepared data whose training targets are the run's outputs for the sources."""

from pathlib import Path
from typing import Annotated, Any

import typer

from janus_cli.commands import options


@options.with_decoding_options("beam", "unk", "batch_sentences", before="resume")
def distill(
    context: typer.Context,
    run: options.RunArgument = None,
    run_option: options.Run = None,
    checkpoint: options.Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to make; by default data/RECIPE-distilled.SOURCE-TARGET."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="More source text to decode, or a table with it, plain or .gz. Repeatable."),
    ] = None,
    column: options.Column = None,
    surest: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            metavar="SHARE",
            help="Of the outputs for --source, keep this share: those with the highest scores.",
        ),
    ] = 1.0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue a stopped distillation after its last finished sentence, if there is one."
        ),
    ] = False,
    changes: options.SetDecoding = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    **given: Any,
) -> None:
    """The run's left-to-right side decodes the source of every training pair. Its outputs, as token ids, become the
    targets of a new folder of prepared data; the tokenizer and the valid and test splits stay the same.
    Pairs that the recipe's data section would filter out (empty, too short or long, lengths too different, duplicates)
    are dropped and counted; outputs that contain <unk>, or that the limit of their length may have cut, are kept and
    counted. --unk ban never writes <unk>.

    --source adds source text of the same kind; it needs no translation. A student that sees more sources learns more
    from its teacher (Zhou & Keung 2020), provided that the teacher can translate them. --surest 0.7 keeps the 70 % of
    these outputs with the highest scores and counts the others as `unsure`; the training pairs all stay. As long as
    the distillation is not finished, --resume may change this share.
    The manifest.json says which weights wrote the targets, how, and from which data.

    Options left out come from the decoding section of the checkpoint's recipe; change its other knobs with --set, as in
    --set decoding.precision=bf16. The folder appears when it is complete. Until then the finished sentences are beside
    it, in .FOLDER.partial, and survive a stop or a crash: --resume, with the same options, continues to the same bytes.

    Examples:
      janus distill
      janus distill runs/multi30k-ar
      janus distill multi30k-ar --checkpoint average-best5 --beam 4 --out data/multi30k-by-average.de-en
      janus distill runs/iwslt14-ar --source more.de.gz --surest 0.7
      janus train --recipe multi30k --objective cmlm --prepared data/multi30k-distilled.de-en --run runs/cmlm-distilled
    """
    teacher = options.named_run(run, run_option, checkpoint, changes)
    from janus_cli.decoding.distill import Distill

    Distill(
        run=teacher, checkpoint=checkpoint, out=out, device=device, threads=threads,
        source=source or (), column=column, surest=surest, options=given, changes=changes or (), resume=resume,
        force=force, dry_run=dry_run,
        words=options.typed(context, "run", "run_option", "checkpoint", "out", "resume", "force"),
    ).do()  # fmt: skip
