"""Who judges outputs: one metric with its tokenizer, the same for validation, the best checkpoint, patience, compare,
bench and score.

`scoring.metric: auto` is BLEU where BLEU can tell outputs apart, and chrF where the target text has no spaces between
words or is very short; the training targets decide (`data/spacing.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from janus_cli import console, recipe_load
from janus_cli.console import counted
from janus_cli.data.spacing import Shape
from janus_cli.errors import UsageError
from janus_cli.measures import MEASURES, NO_REFERENCE, UNSPACED_TOKENIZERS, Measure, measure_of
from janus_cli.recipe import Recipe
from janus_cli.runs import Run
from janus_cli.scoring.caption import meteor_jar
from janus_cli.scoring.metrics import must_be_at_hand, score
from janus_cli.scoring.scores import Hypotheses, References, Score

USUAL = "13a"
FEW_OUTPUTS = 10  # that are one text by chance


@dataclass(frozen=True)
class Judge:
    """A metric. tokenize: how BLEU splits words.

    trouble: what keeps words from judging the target text; empty if nothing does. unknown: the text decides, and there
    is none to look at.
    """

    metric: str
    tokenize: str = USUAL
    trouble: str = field(default="", compare=False)
    unknown: bool = field(default=False, compare=False)

    @property
    def measure(self) -> Measure:
        return MEASURES[self.metric]

    @property
    def plain(self) -> dict[str, Any]:
        """For logs, checkpoints and results."""
        return {"metric": self.metric, **({"tokenize": self.tokenize} if self.measure.tokenize else {})}

    def score(self, hypotheses: Hypotheses, references: References) -> Score:
        """See `metrics.score`."""
        return self.scores(hypotheses, references, [self.metric])[0]

    def scores(self, hypotheses: Hypotheses, references: References, metrics: Sequence[str]) -> list[Score]:
        """The same for several metrics, with this judge's tokenizer."""
        return score(hypotheses, references, metrics, self.tokenize)

    def must_be_at_hand(self) -> None:
        """See `metrics.must_be_at_hand` and `caption.meteor_jar`."""
        if self.measure.tokenize:
            must_be_at_hand(self.tokenize)
        if self.metric == "meteor":
            meteor_jar()

    def introduce(self) -> None:
        """Says which metric judges text that is not made of words between spaces, or may not be."""
        title, others = self.measure.title, "`scoring.metric: chrf` or `--metric chrf`"
        if self.unknown:
            console.warn(f"the kind of text was not noted, so {title} may be unable to judge it; {others} can")
        elif self.trouble and self.measure.words:
            console.warn(f"the target text {self.trouble}: {title} cannot judge it; {others} can")
        elif self.trouble:
            console.say(f"the target text {self.trouble}: {title} judges outputs (scoring.metric, scoring.tokenize)")


# What judged the checkpoints and logs that do not say.
BEFORE = Judge("bleu").plain


def named_metric(recipe: Recipe) -> str | None:
    """The metric that the recipe names, if only as training.best_metric; None if the text decides."""
    if recipe.scoring.metric != "auto":
        return recipe.scoring.metric
    best = recipe.training.best_metric
    return best.removesuffix("_ar").removesuffix("_nar") if measure_of(best) else None


def choose(metric: str | None, tokenize: str, shape: Shape | None) -> Judge:
    """metric: None if the text decides. tokenize: a value of `measures.Tokenize`. shape: of the text, if known."""
    split = tokenize in UNSPACED_TOKENIZERS and (metric is None or MEASURES[metric].tokenize)
    trouble = "" if shape is None or (split and shape.kind == "unspaced") else shape.why
    name = metric or ("chrf" if trouble else "bleu")
    return Judge(name, USUAL if tokenize == "auto" else tokenize, trouble)


def judge_of(
    recipe: Recipe, manifest: Mapping[str, Any], metric: str | None = None, tokenize: str | None = None,
    text: Sequence[str] = (),
) -> Judge:  # fmt: skip
    """The judge of outputs for prepared data.

    manifest: of the data or of a run. metric, tokenize: as given on the command line, instead of the recipe's. text:
    references, which decide if there is nothing else.
    """
    named, shape = metric or named_metric(recipe), Shape.read(manifest)
    if shape is None and text:
        shape = Shape.of(text)
    judge = choose(named, tokenize or recipe.scoring.tokenize, shape)
    return replace(judge, unknown=shape is None and named is None)


def judge_of_run(run: Run, metric: str | None = None, tokenize: str | None = None, text: Sequence[str] = ()) -> Judge:
    """The same for the data that a run was trained on. Raises UsageError if the run's recipe has mistakes."""
    manifest = run.read_manifest() if run.manifest.is_file() else {}
    return judge_of(recipe_load.load(str(run.recipe)), manifest, metric, tokenize, text)


def judge_of_outputs(
    run: Run | None, references: Sequence[tuple[str, References]], metrics: Sequence[str] | None, tokenize: str | None
) -> tuple[Judge, list[str]]:
    """The judge of outputs in files, and the metrics to score them by.

    run: the one that wrote them, whose recipe decides what is not given; None: BLEU. references: by file. metrics: as
    asked for; None: the judge's and what goes with it. Raises UsageError: see `must_be_read`.
    """
    undecided = metrics is None or (tokenize is None and any(MEASURES[name].tokenize for name in metrics))
    if run is None or not undecided:
        judge = choose("bleu", tokenize or "auto", None)
    else:
        text = [line for _, columns in references for column in columns for line in column if line]
        judge = judge_of_run(run, tokenize=tokenize, text=text)
    if metrics is None:
        judge.introduce()
    in_words = not judge.trouble and judge.tokenize not in UNSPACED_TOKENIZERS
    usual = [judge.metric, "chrf", *(["ter"] if in_words else ["exact", "edit"])]
    wanted = list(metrics or dict.fromkeys(usual))
    must_be_read(tokenize, wanted)
    return judge, wanted


def must_be_read(tokenize: str | None, metrics: Sequence[str]) -> None:
    """Raises UsageError if an option --tokenize would change nothing."""
    if tokenize is not None and not any(MEASURES[name].tokenize for name in metrics):
        raise UsageError(
            f"--tokenize {tokenize} would change nothing: {', '.join(metrics)} split the text in their own way",
            "leave it out, or score by bleu as well",
        )


def without_reference(references: References) -> int:
    """How many lines have no reference, or only empty ones."""
    return sum(not any(text and text.strip() for text in others) for others in zip(*references, strict=True))


def one_text(lines: Sequence[str]) -> str:
    """What is to be said if more than half of some outputs are one text; empty if they are not."""
    text, count = Counter(lines).most_common(1)[0] if len(lines) >= FEW_OUTPUTS else ("", 0)
    found = 2 * count > len(lines) and text.strip()
    return f"{count:,} of {len(lines):,} outputs are one text: {text!r:.60}" if found else ""


def doubts(hypotheses: Hypotheses, references: References, scores: Sequence[Score], judge: Judge) -> Iterator[str]:
    """Why some of these scores may not tell, each with advice."""
    if empty := without_reference(references):
        yield f"{empty:,} of {counted(len(hypotheses), 'line')} have an empty reference: {NO_REFERENCE}"
    if (said := one_text(hypotheses)) and not any(one_text([text or "" for text in column]) for column in references):
        yield said
    words = [each.name for each in scores if each.measure.words]
    if judge.tokenize in UNSPACED_TOKENIZERS:
        words = [name for name in words if not MEASURES[name].tokenize]
    titles = ", ".join(MEASURES[name].title for name in words)
    shape = Shape.of(line for column in references for line in column if line)
    if words and shape.kind == "unspaced":
        yield (
            f"{titles} split words at spaces, but the reference {shape.why}: "
            "chrf needs none, and --tokenize char splits any such text, --tokenize zh Chinese, ja-mecab Japanese"
        )
    if any(name.startswith("bleu") for name in words) and shape.kind == "short":
        yield f"the reference {shape.why}, and BLEU prefers longer, wrong outputs: see --metrics chrf,exact,edit"
    right = all(line in others for line, others in zip(hypotheses, zip(*references, strict=True), strict=True))
    for each in scores if right else ():
        if each.measure.higher_is_better and each.value == 0:
            yield f"every output equals its reference, yet {each.measure.title} is 0: it cannot judge such text"
