"""`janus draft-head`: makes the drafts of speculative decoding fit, so that it is faster than greedy search."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options


def draft_head(
    run: options.RunArgument = None,
    run_option: options.Run = None,
    checkpoint: options.Checkpoint = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Source text to draft for, or a table with it; by default that of the training data."
        ),
    ] = None,
    column: options.Column = None,
    sentences: Annotated[int, typer.Option(min=1, max=10**7, metavar="N", help="Use at most N sentences.")] = 24000,
    threads: options.Threads = None,
    force: options.Force = False,
) -> None:
    """Speculative decoding (`decode --mode spec`) drafts once, by one NAR pass, and verifies the draft from left to
    right. The head says which of the likely tokens of neighbouring places follow each other, so that more of a draft
    holds. It changes no output. The model decodes some source text greedily and drafts for it, and the head is fitted
    to that, within minutes; it is a small file in the checkpoint's folder.

    Examples:
      janus draft-head
      janus draft-head multi30k-janus --checkpoint average-last10
      janus draft-head pretrained/translit-enru --source names.txt
      janus decode multi30k-janus --mode spec --batch-sentences 1
    """
    named = options.named_run(run, run_option, checkpoint, None)
    import torch

    from janus_cli.decoding.drafting import make_head

    if threads:
        torch.set_num_threads(threads)
    make_head(run=named, checkpoint=checkpoint, source=source, column=column, sentences=sentences, force=force)
