"""From text that BLEU cannot judge to scores, through the command line: what is said, logged, kept and shown."""

import json
import random
import re
from pathlib import Path

import pytest

from janus_cli import recipe_load
from janus_cli.lab.bench import sampled
from janus_cli.runs import Run
from tests.conftest import TINY_RECIPE
from tests.faults.processes import entries, state
from tests.helpers import Janus, ends, printed, read_json, sets

HAN, LATIN = "天地人日月水火山石田土木", "abcdefghijkl"


def write_corpus() -> None:
    """Latin letters as words, and the Chinese characters that stand for them, without spaces."""
    draw = random.Random(1)
    Path("text").mkdir()
    for split, lines in (("train", 64), ("valid", 8), ("test", 8)):
        rows = [draw.choices(range(12), k=draw.randint(8, 12)) for _ in range(lines)]
        for suffix, letters, space in (("en", LATIN, " "), ("zh", HAN, "")):
            text = "".join(f"{space.join(letters[index] for index in row)}\n" for row in rows)
            Path(f"text/{split}.{suffix}").write_text(text, encoding="utf-8")
    recipe = re.sub("data: .*", "data: {source: en, target: zh, max_ratio: 9, max_tokens: 60}", TINY_RECIPE)
    Path("tiny.yaml").write_text(recipe.replace("vocabulary: 120", "vocabulary: 40"), encoding="utf-8")


PREPARE = ("preprocess", "--recipe", "tiny.yaml", "--data-dir", "text")
TRAIN = ("train", "--recipe", "tiny.yaml", "--data-dir", "text", "--run", "runs/zh", "--device", "cpu")
BENCH = ("bench", "runs/zh", "--mode", "nar1.lb1", "--repeats", "1", "--batches", "4", "--sentences", "2")
COMPARE = ("compare", "--recipe", "tiny.yaml", "--objectives", "ar", "--steps", "2", "--device", "cpu")


def test_what_bleu_cannot_judge_is_judged_by_chrf_from_preprocessing_to_the_tables(
    empty_folder: Path, shell: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus()
    ends(shell(*PREPARE), 0, "has no spaces between words", "chrF judges outputs")
    ends(shell(*TRAIN), 0, "best chrf_ar")
    log = entries(Path("runs/zh/log.jsonl"), "valid")
    assert [line["scoring"] for line in log] == [{"metric": "chrf", "sentences": 4}] * 2
    assert {"chrf", "chrf_ar", "chrf_nar"} <= log[0].keys()
    last = Path("runs/zh/checkpoints/last")
    assert state(last)["scoring"] == log[0]["scoring"]
    assert state(last)["best"] == max(line["chrf_ar"] for line in log)
    assert "judged by: chrf (4 sentences)" in shell("inspect", "runs/zh")[1]
    assert shell("average", "runs/zh", "--best", "1")[0] == 0
    assert shell("decode", "--run", "runs/zh", "--beam", "1")[0] == 0
    monkeypatch.chdir("runs/zh/decode")
    found = [shell("score", *words, "--json") for words in (("--run", Path("..").resolve()), ("test.ar.beam1.txt",))]
    for code, out, _ in found:
        assert (code, [score["name"] for score in json.loads(out)["scores"]]) == (0, ["chrf", "exact", "edit"])
    monkeypatch.chdir("../../..")
    assert shell(*BENCH, "--dry-run")[0] == 0


def test_a_tokenizer_in_the_recipe_lets_bleu_judge(empty_folder: Path, shell: Janus) -> None:
    write_corpus()
    code, _, err = shell(*TRAIN, *sets("scoring.tokenize=char", "training.updates=4", "training.keep_best=1"))
    assert (code, "no spaces between words" in err, "best bleu_ar" in err) == (0, False, True), err
    (line,) = entries(Path("runs/zh/log.jsonl"), "valid")
    assert line["scoring"] == {"metric": "bleu", "tokenize": "char", "sentences": 4}


def test_bench_is_judged_as_the_run_is(empty_folder: Path, shell: Janus) -> None:
    """Also by a checkpoint from before it was resumed with another metric."""
    write_corpus()
    assert shell(*TRAIN, *sets("scoring.metric=exact", "training.updates=4"))[0] == 0
    more = {"training.updates": 5, "training.validate_every": 9, "scoring.metric": "edit"}
    allowed = [word for knob in more for word in ("--allow-change", knob)]
    changes = sets(*(f"{knob}={value}" for knob, value in more.items()))
    ends(shell("train", "--resume", "runs/zh", *changes, *allowed), 0)
    code, out, err = shell(*BENCH, "--checkpoint", "step-000004")
    assert (code, "| edit distance (lower is better) |" in out) == (0, True), err


def test_a_tokenizer_that_the_metric_of_the_text_does_not_read_is_refused_before_training(
    empty_folder: Path, shell: Janus
) -> None:
    write_corpus()
    ends(shell(*COMPARE, "--data-dir", "text", "--tokenize", "intl"), 2, "--tokenize intl would change nothing: chrf")
    assert not Path("runs").exists()


def test_scoring_asks_a_recipe_only_for_what_is_not_given(tiny_recipe: Path, shell: Janus) -> None:
    Path("run/decode").mkdir(parents=True)
    for path, text in (("run/recipe.yaml", "{"), ("run/decode/test.txt", "a b c d\n"), ("right", "a b c d\n")):
        Path(path).write_text(text, encoding="utf-8")
    score = ("score", "run/decode/test.txt", "--reference", "right")
    for words, expected in (
        ((), 2), (("--metrics", "bleu"), 2), (("--metrics", "bleu", "--tokenize", "13a"), 0), (("--metrics", "ter"), 0)
    ):  # fmt: skip
        assert shell(*score, *words)[0] == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["scoring.metric=rouge"], "scoring.metric"),
        (["scoring.tokenize=ja-mecap"], "did you mean ja-mecab?"),
        (["scoring.tokenize=flores200"], "SentencePiece model is not at"),
        (["training.best_metric=bleu_foo"], "bleu_foo"),
        (["scoring.metric=chrf", "training.best_metric=bleu_ar"], "choose one of chrf_ar, chrf_nar, chrf, loss"),
    ],
)
def test_mistakes_are_found_before_anything_is_prepared(
    tiny_recipe: Path, shell: Janus, monkeypatch: pytest.MonkeyPatch, changes: list[str], said: str
) -> None:
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", "nowhere")
    ends(shell("train", "--recipe", "tiny.yaml", *sets(*changes)), 2, said)
    assert not Path("data").exists()


def test_compare_and_bench_take_a_metric_for_the_call(tiny_recipe: Path, shell: Janus) -> None:
    out = printed(shell(*COMPARE, "--modes", "ar.beam1,ar.beam2", "--no-speed", "--metric", "edit"))
    assert re.search(r"\| edit distance \(lower is better\) +\| +chrF ", out)
    assert "* difference: edit distance of the row less that of ar ar.beam1; below 0 is better" in out
    found = read_json("runs/compare-tiny/comparison.json")
    assert (found["scoring"], list(found["rows"][0]["scores"])) == ({"metric": "edit"}, ["edit", "chrf"])
    ends(shell("bench", "runs/compare-tiny/ar.seed1", "--metric", "rouge"), 2, "'rouge' is none of bleu")


def test_compare_and_bench_score_against_all_references(empty_folder: Path, shell: Janus) -> None:
    write_corpus()
    targets = Path("text/test.zh").read_text(encoding="utf-8").splitlines()
    others = "".join(f"{line}\t{line[::-1]}\n" for line in targets)
    Path("text/test.refs.tsv").write_text(others, encoding="utf-8")
    ends(shell(*COMPARE, "--data-dir", "text", "--modes", "ar.beam1", "--no-speed"), 0)
    found = read_json("runs/compare-tiny/comparison.json")
    assert found["rows"][0]["scores"]["chrf"]["signature"].startswith("nrefs:2|")
    run = Run(Path("runs/compare-tiny/ar.seed1"))
    lines, references = sampled(run, recipe_load.load(str(run.recipe)), 3)
    assert references is not None
    assert [len(column) for column in references] == [len(lines)] * 2
    assert [line[::-1] for line in references[0] if line] == references[1]
