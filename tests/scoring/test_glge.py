"""The tasks of GLGE: every number of its scripts, digit for digit, for the lines of `glge_lines`."""

from pathlib import Path

import numpy as np
import pytest

from janus_cli.errors import UsageError
from janus_cli.scoring import caption, report, rouge155
from janus_cli.scoring.glge import TASKS, as_task, treebank
from janus_cli.scoring.metrics import score
from tests.scoring.glge_lines import ANSWERS, QUESTIONS, SUMMARIES, columns


def scores(task: str, text: str, *metrics: str) -> dict[str, float]:
    """What `janus score --task` computes for lines of `glge_lines`, as GLGE prints it."""
    *sources, references, outputs = columns(text)
    pooling = report.Output("src", sources[0]) if sources else None
    found, compared = as_task(task, [report.Output("out", outputs)], [("tgt", [references])], pooling)
    names = metrics or [name for name in TASKS[task].metrics if name != "meteor"]
    return {each.name: round(each.value, 3) for each in score(found[0].lines, compared[0][1], names)}


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("cnndm", SUMMARIES, {"rouge155-1": 59.974, "rouge155-2": 37.288, "rouge155-L": 58.468}),
        ("gigaword", SUMMARIES, {"rouge155-1": 41.459, "rouge155-2": 25.089, "rouge155-L": 40.276}),
        ("xsum", SUMMARIES, {"rouge155-1": 48.922, "rouge155-2": 29.815, "rouge155-L": 47.739}),
        ("msnews", SUMMARIES, {"rouge155-1": 48.922, "rouge155-2": 29.815, "rouge155-L": 47.739}),
        ("squad_qg", QUESTIONS, {"rougeL-coco": 58.065, "bleu4-coco": 17.63}),
        ("msqg", QUESTIONS, {"rougeL-coco": 59.91, "bleu4-coco": 16.651}),
        ("coqa", ANSWERS, {"f1": 73.611}),
        # The script adds 1e-5 to what Distinct divides by, and prints shares. BLEU-1 and 2 of the text are coco's.
        ("personachat", ANSWERS, {"bleu1-sentence": 55.421, "bleu2-sentence": 40.705, "distinct1": 80.488,
                                  "distinct2": 100, "bleu1-coco": 56.098, "bleu2-coco": 50.147}),
    ],
)  # fmt: skip
def test_the_numbers_are_those_of_glges_scripts(task: str, text: str, expected: dict[str, float]) -> None:
    assert scores(task, text) == expected


def test_marked_sentences_score_as_those_of_glges_files() -> None:
    marked = SUMMARIES.replace("<S_SEP>", "¶").replace("[X_SEP]", "¶")
    assert scores("cnndm", marked) == scores("cnndm", SUMMARIES)


@pytest.mark.parametrize(("task", "expected"), [("squad_qg", 39.606), ("msqg", 37.932)])
def test_meteor_is_that_of_its_program(task: str, expected: float) -> None:
    try:
        caption.meteor_jar()
    except UsageError as problem:
        pytest.skip(str(problem))
    assert scores(task, QUESTIONS, "meteor") == {"meteor": expected}


# What METEOR's program tells of five lines, and the score that it computes for them together.
MATCHES = """\
7.0 7.0 4.0 4.0 3.0 3.0 4.0 4.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 1.0 7.0 7.0
8.0 9.0 6.0 7.0 2.0 2.0 3.0 3.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 4.0 5.0 5.0
8.0 7.0 3.0 2.0 0.0 0.0 2.0 2.0 0.0 0.0 0.0 0.0 4.0 4.0 0.0 0.0 1.0 1.0 1.0 0.0 1.0 8.0 7.0
0.0 2.0 0.0 1.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0
"""


def test_meteor_reads_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"pycocoevalcap is not installed|METEOR needs Java"):
        score(["a"], [["a"]], ["meteor"])
    (tmp_path / "pycocoevalcap").mkdir()
    (tmp_path / "pycocoevalcap" / "__init__.py").touch()
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n/bin/cat > {tmp_path}/asked\nprintf '%s' '{MATCHES}'\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = score(["a  b", "c", "d", "x ||| y"], [["a", "c", "d\r", "é"], ["b", None, "e", None]], ["meteor"])[0]
    asked = (tmp_path / "asked").read_bytes().decode().splitlines()
    assert asked == [
        "SCORE ||| a ||| b ||| a b",
        "SCORE ||| c ||| c",
        "SCORE ||| d  ||| e ||| d",
        "SCORE ||| é ||| x y",
    ]
    assert [found.aggregate(row) for row in found.statistics] == pytest.approx(
        [100, 29.84977821894008, 78.6648775578665, 0]
    )
    java.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    with pytest.raises(UsageError, match="0 of 1 lines: no memory"):
        score(["a"], [["a"]], ["meteor"])


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("argument", "argum"), ("replacement", "replac"), ("relational", "relat"), ("said", "said"), ("agreed", "agre"),
        ("hopping", "hop"), ("falling", "fall"), ("filing", "file"), ("skies", "ski"), ("yearly", "yearli"),
        ("adoption", "adopt"), ("controlled", "control"), ("was", "was"), ("1990s", "1990"),
    ],
)  # fmt: skip
def test_the_stemmer_of_rouge_155(word: str, stem: str) -> None:
    """nltk's gives argument and agre for the first and the fifth, Porter's own argument."""
    assert rouge155.stem(word) == stem


def test_rouge_155_averages_over_its_own_samples() -> None:
    values = np.arange(12) / 11
    assert rouge155.average(values) == pytest.approx(0.5, abs=0.01)
    assert rouge155.average(values) != 0.5
    assert rouge155.average(np.full(5, 0.123456)) == 0.12346


@pytest.mark.parametrize(("lines", "expected"), [(1000, 0.24956), (1001, 0.2495), (2500, 0.24986)])
def test_rouge_155_draws_as_its_generator_however_many_lines_there_are(lines: int, expected: float) -> None:
    """Expected is what drand48 gives, one number after another."""
    assert rouge155.average((np.arange(lines) / lines) ** 3) == expected


def test_several_references_of_rouge_155_are_pooled() -> None:
    one, other = ["the cat sat"], ["a dog ran off"]
    # Three words of three and four; two times three are in the output.
    assert score(["the cat ran"], [one, other], ["rouge155-1"])[0].value == pytest.approx(100 * 2 * 3 / 13, abs=1e-3)
    assert score([""], [one], ["rouge155-L"])[0].value == 0


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("don ' t", "do n't"), ("can ' t say", "ca n't say"), ("it ' s", "it 's"), ("' a ' b '", "` a ' b `"),
        ('" a " b "', "`` a '' b ``"), ("3 , 000 . 5", "3,000 . 5"), ("3 . 5", "3.5"), (". . . .", "... ."),
        ("well - known", "well-known"), ("- a -", "- a -"), ("a - - b", "a -- b"), ("a - ( b", "a - -lrb- b"),
        ("U . N . , x", "U.N. . , x"), ("[UNK] & <", "UNK &amp; &lt;"), ("x - 's", "x - 's"),
    ],
)  # fmt: skip
def test_words_that_bert_splits_are_joined(text: str, fixed: str) -> None:
    names = {"(": "-lrb-", "[UNK]": "UNK", "&": "&amp;", "<": "&lt;"}
    assert treebank(text, names) == fixed


def test_sources_are_needed_where_references_are_pooled() -> None:
    for task, sources in (("squad_qg", None), ("xsum", report.Output("src", ["s"]))):
        with pytest.raises(UsageError, match="pools"):
            as_task(task, [report.Output("out", ["a"])], [("tgt", [["a"]])], sources)
