"""`janus score`: hypotheses and references in, numbers with signatures out."""

from pathlib import Path
from typing import Annotated

import typer

from janus_cli.commands import options
from janus_cli.measures import BOOTSTRAP_SEED, GlgeTask, short_names


def score(
    hypotheses: Annotated[
        Path | None,
        typer.Argument(
            help="Text, a table (such as `janus decode --jsonl` writes), a run, or - for stdin. By default the newest "
            "decoding."
        ),
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Reference text, or a table (several per line). Repeatable."),
    ] = None,
    reference_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NUMBER",
            help="Column with references. Repeatable. By default those called reference, else all of a TSV that is "
            "called NAME.refs.tsv.",
        ),
    ] = None,
    pool_references: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCES",
            help="Text with the source of each line: a source that is on several lines is scored once, against the "
            "references of all these lines, as coco-caption does.",
        ),
    ] = None,
    task: Annotated[
        GlgeTask | None, typer.Option(help="Prepare the lines and score them as GLGE does for this task.")
    ] = None,
    column: options.Column = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|RUN",
            help="A second output to compare with, by paired bootstrap; for a run, its output of the same name.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            "--metric",
            metavar="NAME,…",
            help=f"{', '.join(short_names())}. By default that of the run's recipe, else bleu, with chrf, and ter or, "
            "where words say little, exact and edit.",
        ),
    ] = None,
    tokenize: options.Tokenize = None,
    run: options.Run = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**6,
            metavar="N",
            help="Bootstrap samples; 0 for none. By default 1000 with --against, else none.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=options.LARGEST, metavar="N", help="Seed of the bootstrap.")
    ] = BOOTSTRAP_SEED,
    as_json: options.Json = False,
) -> None:
    """The references are those of the decoded split, unless --reference names others.

    Examples:
      janus score
      janus score --metrics bleu,rouge,exact --json
      janus score out.zh --reference test.zh --tokenize zh
      janus decode --mode nar --iters 4 | janus score -
      janus score runs/a --against runs/b
      janus score out.txt --reference first.en --reference second.en
      janus score out.txt --reference e2e.refs.tsv --bootstrap 1000
      janus score out.txt --reference test.tgt --pool-references test.src
      janus score out.txt --reference test.tgt --task xsum
      janus score out.jsonl --column summary --reference test.csv --reference-column human
    """
    import json

    from janus_cli import console, runs
    from janus_cli.data.lines import name_of
    from janus_cli.data.tables import column_of_each
    from janus_cli.errors import UsageError
    from janus_cli.scoring import glge, inputs, report
    from janus_cli.scoring.bootstrap import SAMPLES
    from janus_cli.scoring.judge import judge_of_outputs
    from janus_cli.scoring.metrics import expand, looks_tokenised

    wanted = expand(options.names(metrics)) if metrics is not None else glge.metrics(task) if task else None
    if reference_column and not reference:
        raise UsageError("--reference-column is of a table, and none is named", "name it with --reference")
    named = (runs.pretrained(hypotheses) or hypotheses) if hypotheses else None
    places = [place for place in (named, runs.RUNS / named) if place.exists()] if named else []
    if places and places[0].is_dir():
        hypotheses, run = None, options.one_run(hypotheses, run)
    first = hypotheses or inputs.newest_decoding(run)[0]
    files = reference or inputs.find_references(first, run)
    paths = [first, inputs.decoding_like(first, against)] if against else [first]
    columns = zip(paths, column_of_each(paths, column), strict=True)
    outputs = [report.Output(name_of(path), inputs.read_hypotheses(path, own)) for path, own in columns]
    references = [(str(file), inputs.read_references(file, reference_column or ())) for file in files]
    console.say(f"scoring {outputs[0].name} against {', '.join(map(str, files))}")
    outputs, references = glge.compared(task, outputs, references, pool_references, inputs.records_of(first))
    own = runs.find_run(run) if run else runs.run_around(first) or runs.run_around(files[0])
    inputs.warn_of_sources(reference_column or (), own)
    glge.tell_of_validations(inputs.recipe_of(own) if own and not task else None, own and own.path)
    judge, chosen = judge_of_outputs(own, references, wanted, tokenize)
    if "bleu" in chosen and judge.tokenize != "none" and looks_tokenised(outputs[0].lines):
        console.warn("the hypotheses look tokenised; `--metrics bleu-tok` scores them as they are")
    samples = bootstrap if bootstrap is not None else SAMPLES if against else 0
    found = report.measure(outputs, references, judge, chosen, samples=samples, seed=seed)
    found |= {"task": task} if task else {}
    for output in outputs:
        if empty := sum(not line.strip() for line in output.lines):
            console.say(f"{output.name}: {empty:,} of {console.counted(len(output.lines), 'output')} are empty")
    for warning in found["warnings"]:
        console.warn(warning)
    if as_json:
        console.data(json.dumps(found, ensure_ascii=False) + "\n")
        return
    console.table("", *report.table(found))
    console.out(*report.notes(found))
