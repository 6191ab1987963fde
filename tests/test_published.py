"""The models that come with janus: their cards tell what they do, and they are small."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers import Janus

CARDS = sorted((Path(__file__).parents[1] / "pretrained").glob("*/README.md"))
NAMES = [card.parent.name for card in CARDS]
LARGE = 300_000  # bytes of a test split, whose decoding takes a minute
SCORED = [
    pytest.param(card, marks=[pytest.mark.slow] * ((card.parent / "test.target.txt").stat().st_size > LARGE))
    for card in CARDS
]
ROUNDING = 0.15  # of a score: on another processor a few outputs may differ


def scores(card: Path) -> dict[str, float]:
    """The first score that a card gives, by the command that decoded."""
    return {
        words: float(value)
        for words, value in re.findall(r"^\| `(janus decode .+?)` +\| +([\d.]+)", card.read_text(), re.M)
    }


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_a_card_has_the_sizes_of_its_files(card: Path) -> None:
    table = card.read_text().split("## Files")[1]
    sizes = dict(re.findall(r"^\| ([\w.]+) +\| +([\d,]+) \|", table, re.M))
    assert {name: int(size.replace(",", "")) for name, size in sizes.items()} == {
        name: (card.parent / name).stat().st_size for name in sizes
    }
    assert "model.safetensors" in sizes


def test_all_of_them_are_small() -> None:
    assert CARDS
    assert sum(file.stat().st_size for card in CARDS for file in card.parent.iterdir() if file.is_file()) < 30 << 20


@pytest.mark.parametrize("side", ["ar", "nar"])
@pytest.mark.parametrize("card", SCORED, ids=NAMES)
def test_the_model_has_the_score_of_its_card(card: Path, side: str, shell: Janus, empty_folder: Path) -> None:
    """Of the first command of its card that decodes left to right, and all at once."""
    rows = {words: score for words, score in scores(card).items() if f"--mode {side} " in words}
    if not rows and side == "nar":
        pytest.skip("it has no such side")
    words, score = next(iter(rows.items()))
    assert shell(*shlex.split(words)[1:])[0] == 0
    code, out, err = shell("score", "--run", f"pretrained:{card.parent.name}", "--json")
    assert code == 0, err
    assert json.loads(out)["scores"][0]["value"] == pytest.approx(score, abs=ROUNDING)
