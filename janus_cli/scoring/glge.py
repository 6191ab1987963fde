"""The tasks of GLGE (Liu et al. 2021) as its scripts score them: what they make of outputs and references before they
compare, and their metrics. docs/decoding.md says where the scripts' numbers differ.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from janus_cli import console
from janus_cli.console import counted
from janus_cli.data.lines import SENTENCE_MARK, name_of
from janus_cli.data.tables import text_or_column
from janus_cli.errors import UsageError
from janus_cli.recipe import Recipe
from janus_cli.scoring.caption import meteor_jar
from janus_cli.scoring.report import Named, Output, pooled

Edit = Callable[[str], str]

_ROUGE = ("rouge155-1", "rouge155-2", "rouge155-L")
_QUESTIONS = ("rougeL-coco", "bleu4-coco", "meteor")
# Between sentences, in the scripts' outputs, in GLGE's files, and in what `data.clean: [mark_sentences]` makes of them.
_SEPARATOR = re.compile(rf"\[X_SEP\]|<S_SEP>|{SENTENCE_MARK}")
_SPACED_SEPARATOR = re.compile(f" (?:<S_SEP>|{SENTENCE_MARK}) ")  # in references
_SAME = 0.7  # a sentence of a summary goes if earlier ones have more than this share of its words
_SHORT = 4  # or if it has no more words than this
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_NAMES = {
    **{bracket: name.lower() for bracket, name in _BRACKETS.items()},
    "[UNK]": "UNK", "&": "&amp;", "<": "&lt;", ">": "&gt;",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """metrics: the official ones, then others that papers report. output, reference: of a line, what is compared.

    source: of a line, what pools references (see `report.pooled`); None where they are not pooled.
    """

    metrics: tuple[str, ...]
    output: Edit = str
    reference: Edit = str
    source: Edit | None = None


def treebank(text: str, names: Mapping[str, str]) -> str:
    """Joins words that BERT's tokenizer has split, and writes quotes as the Penn Treebank does (`don ' t`: `do n't`).

    names: what single tokens become, such as brackets.
    """
    tokens, out, place, hyphen = text.split(), list[str](), 0, False
    quotes = {'"': cycle(("``", "''")), "'": cycle(("`", "'"))}
    while place < len(tokens):
        token, used = tokens[place], 1
        after_hyphen, hyphen = hyphen, False
        if token in names:
            out.append(names[token])
        elif joined := _join(tokens[place : place + 3], out):
            used = joined
        elif token in quotes:
            out.append(next(quotes[token]))
        elif token == "-" and 0 < place < len(tokens) - 1 and _are_words(out[-1], tokens[place + 1][0]):
            out[-1] += "-"
            hyphen = True
        elif after_hyphen and _are_words(token[0]):
            out[-1] += token
        else:
            out.append(token)
        place += used
    return " ".join(out)


def _are_words(*texts: str) -> bool:
    return not any(text in string.punctuation for text in texts)


def _join(tokens: Sequence[str], out: list[str]) -> int:
    """Writes the first of these tokens with those that belong to it; returns how many, 0 if it stands for itself."""
    token, last, after = tokens[0], out[-1] if out else "", tokens[1] if len(tokens) > 1 else ""
    if token == "'" and last.endswith("n") and after == "t":
        out[-1:] = [last[:-1], "n't"]
    elif (token == "'" and after in ("s", "d", "ll")) or token == after == "-":
        out.append(token + after)
    elif tokens == [".", ".", "."]:
        out.append("...")
        return 3
    elif (token == "," and _is_number(last) and _is_number(after)) or (
        token == "." and last.isdigit() and after.isdigit()
    ):
        out[-1] += token + after
    elif token == "." and tokens[2:] == ["."] and all(len(each) == 1 and each.isupper() for each in (last, after)):
        out[-1] += f".{after}."
    else:
        return 0
    return 2


def _is_number(text: str) -> bool:
    return bool(text) and text.replace(",", "0").isdigit()


def _read(sentence: str) -> str:
    """What ROUGE-1.5.5 reads of a sentence in the HTML that it is given: up to a tag, brackets and quotes by name."""
    return re.sub(r"-[lr][rcs]b-|``|''", " ", sentence.lower()).partition("<")[0]


def _summary(line: str) -> str:
    """Without short sentences and those that repeat earlier ones."""
    kept, known = list[str](), set[str]()
    for part in _SEPARATOR.split(line):
        sentence = treebank(part, _BRACKETS)
        words = sentence.lower().split()
        if len(words) > _SHORT:
            if len(known.intersection(words)) / len(set(words)) <= _SAME:
                kept.append(_read(sentence))
            known.update(words)
    return "\n".join(kept)


def _sentences(line: str) -> str:
    return "\n".join(sentence.partition("<")[0] for sentence in line.strip().split(" ."))


def _lower(line: str) -> str:
    """A-Z only."""
    return line.strip().encode().lower().decode()


TASKS = {
    "cnndm": Task(_ROUGE, _summary, lambda line: "\n".join(map(_read, _SPACED_SEPARATOR.split(line.strip())))),
    "gigaword": Task(_ROUGE, lambda line: _read(treebank(line, _NAMES).replace("1", "#")), _read),
    "xsum": Task(_ROUGE, _sentences, _sentences),
    "msnews": Task(_ROUGE, _sentences, _sentences),
    "squad_qg": Task(_QUESTIONS, lambda line: _lower(treebank(line, _NAMES)), _lower, _lower),
    "msqg": Task(_QUESTIONS, source=str),
    "coqa": Task(("f1",)),
    "personachat": Task(
        ("bleu1-sentence", "bleu2-sentence", "distinct1", "distinct2", "bleu1-coco", "bleu2-coco")
    ),
}  # fmt: skip


def metrics(task: str) -> list[str]:
    """The metrics of a task, without METEOR where it cannot run; a warning says so."""
    names = list(TASKS[task].metrics)
    try:
        if "meteor" in names:
            meteor_jar()
    except UsageError as problem:
        console.warn(f"METEOR is left out: {problem}; {problem.hint}")
        names.remove("meteor")
    return names


def as_task(
    task: str, outputs: Sequence[Output], references: Sequence[Named], sources: Output | None
) -> tuple[list[Output], list[Named]]:
    """What GLGE compares for a task instead of these lines; a line for each source where it pools references.

    Raises:
        UsageError: this task pools references, and there are no sources; or it does not, and there are.
        DataError: line counts differ.
    """
    edit = TASKS[task]
    if edit.source and not sources:
        raise UsageError("this task pools the references of equal sources", "add --pool-references SOURCES")
    if sources and not edit.source:
        raise UsageError("this task pools no references", "leave out --pool-references SOURCES")
    edited = [Output(name, list(map(edit.output, lines))) for name, lines in outputs]
    columns: list[Named] = [
        (name, [[None if line is None else edit.reference(line) for line in lines] for lines in each])
        for name, each in references
    ]
    if sources and edit.source:
        return pooled(edited, columns, Output(sources.name, list(map(edit.source, sources.lines))), output=-1)
    return edited, columns


def tell_of_validations(recipe: Recipe | None, name: object) -> None:
    """Says it if validations of what has this recipe, and that name, prepare their lines for a task."""
    if recipe and (task := recipe.scoring.task):
        console.say(f"validations of {name} prepare the lines as `score --task {task}` does; this call does not")


def compared(
    task: str | None, outputs: Sequence[Output], references: Sequence[Named], sources: Path | None, records: Path | None
) -> tuple[list[Output], list[Named]]:
    """What is compared: with a task, see `as_task`; with sources, a line for each, see `report.pooled`.

    sources: a text or a table. records: of the outputs, if there are some; the sources in them are used by a task that
    needs some where no others are named. Raises as `as_task`.
    """
    place = sources or (records if task and TASKS[task].source else None)
    pooling = Output(name_of(place), list(text_or_column(place, ("source",)))) if place else None
    if task:
        outputs, references = as_task(task, outputs, references, pooling)
    elif pooling:
        outputs, references = pooled(outputs, references, pooling)
    if pooling:
        lines, sets = counted(len(pooling.lines), "line"), counted(len(outputs[0].lines), "source")
        console.say(f"{lines} of {sets}: their references are pooled")
    return [*outputs], [*references]
