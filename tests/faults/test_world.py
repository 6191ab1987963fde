"""FAULTS 26, 37: long lines stay bounded; neither place, locale, time zone nor hash seed changes a byte."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from processes import digest, ended, go, janus

ELSEWHERE = {
    "PYTHONHASHSEED": "77", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    "TZ": "Asia/Kathmandu",
}  # fmt: skip
WEIGH = "import resource; print('KiB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
WORDS = ["Straße", "größer", "ein", "Mann", "läuft", "naïve", "日本", "fährt", "Bäume", "zwei"]


def write_text(folder: Path, more: str = "") -> None:
    draw = random.Random(4)
    folder.mkdir()
    for split, count in (("train", 64), ("valid", 8), ("test", 8)):
        for side in ("src", "tgt"):
            lines = [" ".join(draw.choices(WORDS, k=draw.randint(2, 7))) for _ in range(count)]
            text = "".join(f"{line}\n" for line in lines) + (f"{more}\n" if more else "")
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")


def road(recipe: Path, folder: Path, **environment: str) -> tuple[str, list[bytes]]:
    """Prepares, trains and decodes in a folder; the weights, and the bytes of ids, tokenizer and outputs."""
    folder.mkdir(parents=True)
    write_text(folder / "text")
    text = ("--recipe", str(recipe), "--data-dir", "text")
    train = ("train", *text, "--run", "run", "--device", "cpu", "--set", "training.updates=4")
    for arguments in (train, ("decode", "--run", "run", "--device", "cpu", "--mode", "nar")):
        code, said = ended(janus(*arguments, folder=folder, **environment))
        assert code == 0, said
    names = ("data/tiny.src-tgt/train.source.npy", "data/tiny.src-tgt/tokenizer.model", "run/decode/test.nar2.lb2.txt")
    return digest(folder / "run/checkpoints/last"), [(folder / name).read_bytes() for name in names]


@pytest.fixture
def recipe(tiny_recipe: Path) -> Path:
    """A vocabulary that so few words allow."""
    tiny_recipe.write_text(tiny_recipe.read_text().replace("vocabulary: 120", "vocabulary: 60"), encoding="utf-8")
    return tiny_recipe


def test_hash_seed_locale_time_zone_and_folder_change_nothing(recipe: Path, empty_folder: Path) -> None:
    first = road(recipe, empty_folder / "here", PYTHONHASHSEED="1")
    assert first == road(recipe, empty_folder / "dört" / "with space", **ELSEWHERE)
    assert any(byte > 127 for byte in first[1][2])


@pytest.mark.parametrize("command", ["preprocess", "decode"])
def test_the_memory_for_a_long_line_is_bounded(recipe: Path, empty_folder: Path, command: str) -> None:
    """A line of a megabyte, measured against the same work without it."""
    peaks = []
    write_text(empty_folder / "short")
    write_text(empty_folder / "long", "Straße fährt " * (1 << 16))
    if command == "decode":
        go(recipe, "run", 'data.dir="short"', "training.updates=1")
    for text in ("short", "long"):
        arguments = {
            "preprocess": ("--recipe", str(recipe), "--data-dir", text, "--out", f"{text}-out", "--workers", "1"),
            "decode": ("--run", "run", "--input", f"{text}/test.src", "--output", f"{text}.txt"),
        }[command]
        code, said = ended(
            janus(command, *arguments, before=f"import atexit\natexit.register(lambda: exec({WEIGH!r}))")
        )
        assert code == 0, said
        peaks.append(int(said.split("KiB")[1].split()[0]))
    assert "too_long 1" in said or command == "decode"
    assert "cut to the" in said or command == "preprocess"
    assert peaks[1] - peaks[0] < 100 * 1024, peaks
