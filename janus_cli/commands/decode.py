"""`janus decode`: a checkpoint and text -> hypotheses."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from janus_cli.commands.options import (
    CheckpointOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    RunArgument,
    RunOption,
    SetOption,
    ThreadsOption,
    check_run,
    one_run,
    typed,
)


def decode(
    context: typer.Context,
    run: RunArgument = None,
    run_option: RunOption = None,
    checkpoint: CheckpointOption = None,
    text: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help="Text to decode, plain or .gz; - for stdin. By default a split."),
    ] = None,
    split: Annotated[
        Literal["test", "valid"] | None,
        typer.Option(
            "--split", help="Decode this split of the run's data and keep the result in the run. Default: test."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--output", metavar="FILE", help="Write hypotheses here, not to stdout."),
    ] = None,
    mode: Annotated[
        Literal["auto", "ar", "nar", "semi", "spec"] | None,
        typer.Option(
            "--mode",
            help="ar: left to right. nar: mask-predict (bang: all in one pass). semi: --block tokens a pass (bang). "
            "spec: greedy ar, drafted by nar. auto: ar where the model can.",
        ),
    ] = None,
    beam: Annotated[int | None, typer.Option("--beam", min=1, metavar="N", help="ar: beam size; 1 is greedy.")] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option("--length-penalty", min=0, max=10, metavar="P", help="ar: score = log-probability / length ** P."),
    ] = None,
    nbest: Annotated[
        int | None, typer.Option("--nbest", min=1, metavar="N", help="Hypotheses for each line, best first.")
    ] = None,
    iters: Annotated[int | None, typer.Option("--iters", min=1, metavar="T", help="nar: decoder passes.")] = None,
    length_beam: Annotated[
        int | None, typer.Option("--length-beam", min=1, metavar="K", help="nar: lengths tried for each line.")
    ] = None,
    update: Annotated[
        Literal["hidden", "all"] | None,
        typer.Option("--update", help="nar: a pass rewrites hidden tokens only, or all of them (cmlmc)."),
    ] = None,
    rerank: Annotated[
        Literal["none", "ar"] | None,
        typer.Option("--rerank", help="nar: ar lets the model's AR side pick among the lengths, in one more pass."),
    ] = None,
    remove_repeats: Annotated[
        bool | None,
        typer.Option("--remove-repeats/--keep-repeats", help="nar: drop a token equal to the one before it."),
    ] = None,
    block: Annotated[
        int | None, typer.Option("--block", min=1, metavar="N", help="semi: tokens written in each pass.")
    ] = None,
    draft_iters: Annotated[
        int | None, typer.Option("--draft-iters", min=1, metavar="T", help="spec: decoder passes that write a draft.")
    ] = None,
    draft_length: Annotated[
        int | None, typer.Option("--draft-length", min=1, metavar="N", help="spec: tokens drafted ahead, at most.")
    ] = None,
    verify_window: Annotated[
        int | None, typer.Option("--verify-window", min=1, metavar="N", help="spec: tokens verified at once, at most.")
    ] = None,
    redraft: Annotated[
        Literal["nar", "ar", "joint"] | None,
        typer.Option(
            "--redraft",
            help="spec: who writes the next draft. ar: what verifying left over. joint: nar in the verifying pass.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bf16"] | None,
        typer.Option("--precision", help="Of weights and states; bf16 is fast where the hardware multiplies it."),
    ] = None,
    batch_sentences: Annotated[
        int | None, typer.Option("--batch-sentences", min=1, metavar="N", help="Lines decoded together.")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Write a JSON object a line: text, tokens, scores, length, passes.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show how the first hypothesis came about, pass by pass.")
    ] = False,
    trace_lines: Annotated[
        int | None, typer.Option("--trace-lines", min=1, metavar="N", help="As --trace, for the first N lines.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished line of a decoding that was stopped.")
    ] = False,
    changes: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Decode text, autoregressively or not, with a trained model.

    One line in, one line out, in order; an empty line gives an empty line. With --nbest, N lines for each (one for an
    empty line): number of the line from 0, tab, score, tab, text. Options left out are those of the recipe's decoding
    section. A decoded split is also kept in the run, as decode/SPLIT.MODE.txt, .jsonl and .json, where `janus score`
    finds it; what has the same name is replaced. On a terminal it is then not printed.

    Files appear under their names when they are complete. Until then each grows as .NAME.partial beside its place, with
    .NAME.journal, and whatever stops the work leaves all finished lines there: --resume, with the same text, weights
    and options, goes on, and the result is that of an unbroken decoding, to the byte on the same machine.
    --batch-sentences, --threads and --device may differ; hypotheses then agree up to rounding. Stdout is not kept;
    a split's hypotheses are sent there from the first line again.

    Examples:
      janus decode
      janus decode --mode nar --iters 4
      janus decode --mode nar --iters 10 --length-beam 5 --rerank ar --run runs/multi30k-janus
      janus decode --mode nar --iters 4 --trace > hypotheses.txt
      janus decode --mode spec --batch-sentences 1
      echo "ein mann fährt fahrrad ." | janus decode --input - --beam 5 --nbest 3
      janus decode multi30k-janus --input book.de --out book.en --jsonl
      janus decode multi30k-janus --input book.de --out book.en --jsonl --resume
    """
    chosen = one_run(run, run_option)
    check_run(chosen, checkpoint, changes)
    from janus_cli.decoding import decode as decoding

    options = {
        "mode": mode, "beam": beam, "length_penalty": length_penalty, "nbest": nbest, "iters": iters,
        "length_beam": length_beam, "update": update, "rerank": rerank, "remove_repeats": remove_repeats,
        "block": block,
        "draft_iters": draft_iters, "draft_length": draft_length, "verify_window": verify_window, "redraft": redraft,
        "precision": precision, "batch_sentences": batch_sentences,
    }  # fmt: skip
    decoding.decode(
        run=chosen, checkpoint=checkpoint, text=text, split=split, out=out, jsonl=jsonl,
        options={name: value for name, value in options.items() if value is not None}, changes=changes or (),
        trace=trace_lines or int(trace), device=device, threads=threads, resume=resume, force=force, dry_run=dry_run,
        words=typed(context, "run", "run_option", "checkpoint", "resume", "force"),
    )  # fmt: skip
