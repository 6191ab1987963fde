"""Which metric judges which text, and what is said where a metric cannot."""

import sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest

from janus_cli import recipe_load
from janus_cli.data.references import prepared_references
from janus_cli.data.spacing import Shape
from janus_cli.errors import DataError, UsageError
from janus_cli.measures import GROUPS, MEASURES, measure_of, short_names
from janus_cli.recipe import Recipe
from janus_cli.scoring.judge import BEFORE, Judge, choose, doubts, judge_of
from janus_cli.scoring.metrics import METRICS, score
from janus_cli.training.best import check_scoring

ENGLISH, CHINESE, NAMES = Shape.of(["two dogs run in the snow"]), Shape.of(["两只狗在雪地里跑"]), Shape.of(["Goethe"])


def recipe(*changes: str) -> Recipe:
    return recipe_load.load("demo", changes)


@pytest.mark.parametrize(
    ("shape", "tokenize", "expected"),
    [
        (ENGLISH, "auto", {"metric": "bleu", "tokenize": "13a"}),
        (ENGLISH, "intl", {"metric": "bleu", "tokenize": "intl"}),
        (None, "auto", {"metric": "bleu", "tokenize": "13a"}),
        (CHINESE, "auto", {"metric": "chrf"}),
        (CHINESE, "13a", {"metric": "chrf"}),
        (CHINESE, "zh", {"metric": "bleu", "tokenize": "zh"}),
        (NAMES, "auto", {"metric": "chrf"}),
        (NAMES, "char", {"metric": "chrf"}),
    ],
)
def test_auto_is_bleu_where_bleu_can_judge(shape: Shape | None, tokenize: str, expected: dict[str, str]) -> None:
    assert choose(None, tokenize, shape).plain == expected


def test_a_named_metric_is_taken_and_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    judge = choose("bleu", "auto", CHINESE)
    assert judge.plain == BEFORE == {"metric": "bleu", "tokenize": "13a"}
    judge.introduce()
    said = capsys.readouterr().err
    assert "warning: the target text has no spaces between words" in said
    assert "BLEU cannot judge it" in said
    assert "; `scoring.metric: chrf` or `--metric chrf` can" in said
    choose("ter", "zh", CHINESE).introduce()
    assert "TER cannot judge it" in capsys.readouterr().err, "only BLEU is split by a tokenizer"
    choose("bleu", "zh", CHINESE).introduce()
    assert "BLEU judges outputs" not in capsys.readouterr().err
    choose("exact", "auto", CHINESE).introduce()
    assert "exact match judges outputs" in capsys.readouterr().err
    choose(None, "auto", ENGLISH).introduce()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ([], "chrf"), (["scoring.metric=exact"], "exact"), (["training.best_metric=bleu_ar"], "bleu"),
        (["training.best_metric=loss"], "chrf"), (["training.best_metric=edit"], "edit"),
        (["training.best_metric=exact_nar", "scoring.metric=exact"], "exact"),
    ],
)  # fmt: skip
def test_the_recipe_names_the_metric_if_only_as_best_metric(changes: list[str], metric: str) -> None:
    assert judge_of(recipe(*changes), {"target_text": asdict(CHINESE)}).metric == metric
    assert judge_of(recipe(*changes), {"target_text": asdict(CHINESE)}, "ter").metric == "ter"


def test_where_no_text_is_known_references_decide(capsys: pytest.CaptureFixture[str]) -> None:
    judge = judge_of(recipe(), {})
    assert (judge.metric, capsys.readouterr().err) == ("bleu", "")
    judge.introduce()
    assert "BLEU may be unable to judge it" in capsys.readouterr().err
    assert judge_of(recipe(), {}, text=["Goethe"]).metric == "chrf"


def test_a_tokenizer_that_the_metric_does_not_need_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MeCab", None)
    check_scoring(recipe("scoring.metric=chrf", "scoring.tokenize=ja-mecab"))
    for metric in ("auto", "bleu"):
        with pytest.raises(UsageError, match="MeCab"):
            check_scoring(recipe(f"scoring.metric={metric}", "scoring.tokenize=ja-mecab"))


@pytest.mark.parametrize(
    ("lines", "metrics", "judge", "said"),
    [
        (["two dogs run in the snow"], ["bleu", "ter"], Judge("bleu"), ""),
        (["两只狗在雪地里跑"], ["bleu"], Judge("bleu"), "BLEU split words at spaces"),
        (["两只狗在雪地里跑"], ["bleu-tok", "ter"], Judge("bleu"), "BLEU-tok, TER split words"),
        (["两只狗在雪地里跑"], ["bleu"], Judge("bleu", "zh"), ""),
        (["两只狗在雪地里跑"], ["chrf", "rouge1", "exact", "edit"], Judge("chrf"), ""),
        (["Goethe"], ["bleu"], Judge("bleu"), "BLEU prefers longer, wrong outputs"),
        (["Goethe"], ["ter"], Judge("bleu"), ""),
        (["!? … …… !!! ?"], ["rouge1"], Judge("bleu"), "yet ROUGE-1 is 0"),
        (["a b c"], ["bleu-tok"], Judge("bleu"), "every output equals its reference, yet BLEU-tok is 0"),
    ],
)
def test_doubts(lines: list[str], metrics: list[str], judge: Judge, said: str) -> None:
    found = list(doubts(lines, [lines], score(lines, [lines], metrics, judge.tokenize), judge))
    assert said in "\n".join(found)
    assert bool(found) == bool(said)


def test_every_metric_has_a_name_and_a_function() -> None:
    assert list(MEASURES) == list(METRICS)
    assert [name for name, each in MEASURES.items() if not each.higher_is_better] == ["ter", "edit"]
    assert {*short_names(), *chain(*GROUPS.values())} == {*MEASURES, *GROUPS}
    assert [measure_of(name) is None for name in ("bleu_ar", "edit", "ter_nar", "ce_ar", "kl_ar_nar", "loss")] == [
        False, False, False, True, True, True,
    ]  # fmt: skip


def test_references_of_prepared_data(tmp_path: Path) -> None:
    (tmp_path / "valid.target.txt").write_text("a\n\nc\n")
    assert prepared_references(tmp_path, "valid") == [["a", "", "c"]]
    assert prepared_references(tmp_path, "valid", [0, 2]) == [["a", "c"]]
    several = tmp_path / "valid.refs.jsonl"
    several.write_text('["a", "A"]\n["b"]\n["c", "\\u2028"]\n')
    assert prepared_references(tmp_path, "valid") == [["a", "b", "c"], ["A", None, "\u2028"]]
    assert prepared_references(tmp_path, "valid", [1]) == [["b"]]
    with pytest.raises(DataError, match="too few references"):
        prepared_references(tmp_path, "valid", [3])
    several.write_text("[3]\n")
    with pytest.raises(DataError, match=r"refs\.jsonl:1 is no JSON list of texts"):
        prepared_references(tmp_path, "valid")
