"""Whether words of a text lie between spaces, which BLEU needs: of real sentences in several scripts."""

from dataclasses import asdict

import pytest

from janus_cli.data.spacing import Shape

GERMAN = "Der Donaudampfschifffahrtsgesellschaftskapitän fährt heute nicht."
KINDS = {
    "english": (["Two men are playing chess.", "A dog runs."], "spaced"),
    "long words": ([GERMAN, "Ein Hund läuft."], "spaced"),
    "russian": (["Две собаки бегут по снегу.", "Мужчина читает книгу дома."], "spaced"),
    "korean": (["나는 오늘 학교에 갔다.", "개가 눈 위를 달린다."], "spaced"),
    "hindi": (["दो आदमी शतरंज खेल रहे हैं।", "एक कुत्ता दौड़ रहा है।"], "spaced"),
    "chinese": (["两个男人在下棋。", "一只狗在雪地里跑。"], "unspaced"),
    "chinese, split into words": (["两 个 男人 在 下棋 。", "一 只 狗 在 雪地 里 跑 。"], "spaced"),
    "chinese among latin": (["用 Python 写的程序需要很长时间才能完成", "他在 Berlin 住了很多年"], "unspaced"),
    "japanese": (["二人の男性がチェスをしています。", "犬が雪の中を走る。"], "unspaced"),
    "thai": (["ผู้ชายสองคนกำลังเล่นหมากรุก", "สุนัขวิ่งบนหิมะ"], "unspaced"),
    "khmer": (["បុរសពីរនាក់កំពុងលេងអុក"], "unspaced"),
    "proteins": (["MKTAYIAKQRQISFVKSHFSRQ", "GVHELRKLFSQGTPEEMKRALNQ"], "unspaced"),
    "names": (["Шекспир", "Гёте", "Лев Толстой"], "short"),
    "chinese words": (["汉字", "语言", "学习"], "short"),
    "nothing": ([], "short"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind(name: str) -> None:
    lines, kind = KINDS[name]
    shape = Shape.of(["", *lines, "  "])
    assert shape.kind == kind
    assert bool(shape.why) == (kind != "spaced")
    assert Shape.of(lines) == shape, "empty lines say nothing"


def test_what_a_manifest_holds() -> None:
    shape = Shape.of(KINDS["english"][0])
    assert Shape.read({"target_text": asdict(shape)}) == shape
    for damaged in (
        {},
        {"target_text": 3},
        {"target_text": {"words": 3.0}},
        {"target_text": {**asdict(shape), "words": "x"}},
    ):
        assert Shape.read(damaged) is None
