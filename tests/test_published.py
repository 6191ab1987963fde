"""The models that come with janus: their cards tell what they do, and they are small."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Janus

CARDS = sorted((Path(__file__).parents[1] / "pretrained").glob("*/README.md"))
NAMES = [card.parent.name for card in CARDS]
LARGE = 300_000  # bytes of a test split, whose decoding takes a minute
ROUNDING = 0.15  # of a score: on another processor a few outputs may differ


def cases() -> Iterator[Any]:
    """Of each card, the first command that decodes left to right, and all at once, with the score that it gives."""
    for card in CARDS:
        rows = re.findall(r"^\| `janus (decode .+?)` +\| +([\d.]+)", card.read_text(), re.M)
        slow = [pytest.mark.slow] * ((card.parent / "test.target.txt").stat().st_size > LARGE)
        for side in ("ar", "nar"):
            for words, score in [row for row in rows if f"--mode {side} " in row[0]][:1]:
                yield pytest.param(card.parent.name, words, float(score), marks=slow, id=f"{card.parent.name}-{side}")


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


def test_drafts_of_the_model_with_a_head_halve_the_passes(shell: Janus, empty_folder: Path) -> None:
    name = next(card.parent.name for card in CARDS if (card.parent / "draft-head.safetensors").exists())
    source = next(card.parent for card in CARDS if card.parent.name == name) / "test.source.txt"
    Path("lines").write_text("".join(f"{line}\n" for line in source.read_text("utf-8").split("\n")[:100]), "utf-8")
    found = []
    for mode in (["ar", "--beam", "1"], ["spec"]):
        code, out, err = shell("decode", "--run", f"pretrained:{name}", "--input", "lines", "--jsonl", "--mode", *mode)
        assert code == 0, err
        found.append([json.loads(line) for line in out.splitlines()])
    assert [line["hypothesis"] for line in found[0]] == [line["hypothesis"] for line in found[1]]
    greedy, drafted = (sum(line["passes"] for line in lines) for lines in found)
    assert drafted < 0.5 * greedy


@pytest.mark.parametrize(("name", "words", "score"), [*cases()])
def test_the_model_has_the_score_of_its_card(
    name: str, words: str, score: float, shell: Janus, empty_folder: Path
) -> None:
    assert shell(*shlex.split(words))[0] == 0
    code, out, err = shell("score", "--run", f"pretrained:{name}", "--json")
    assert code == 0, err
    assert json.loads(out)["scores"][0]["value"] == pytest.approx(score, abs=ROUNDING)
