"""Which outputs on the made-up text are right: any of the four, and nothing that mixes them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from janus_cli.data.synthetic import generate, translations

ROOT = Path(__file__).parents[2]


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "right_outputs.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("empty_folder")
def test_each_of_the_four_is_right_and_half_of_one_is_not() -> None:
    sources = [source for source, _ in generate(8, 1, "test")]
    Path("test.source.txt").write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    four = [translations(source) for source in sources]
    for name, texts in (
        ("any", [texts[number % 4] for number, texts in enumerate(four)]),
        ("half", [texts[0] if number % 2 else texts[0].rsplit(" ", 1)[0] for number, texts in enumerate(four)]),
    ):
        Path(name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    done = called(".", "any", "half")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| any +\| +100\.0 \| +100\.0 \|", done.stdout)
    assert re.search(r"\| half +\| +50\.0 \| +[789]\d\.\d \|", done.stdout)


@pytest.mark.usefixtures("empty_folder")
def test_other_text_and_other_lines_are_named() -> None:
    Path("test.source.txt").write_text("ein Mann\n", encoding="utf-8")
    Path("two").write_text("a\nb\n", encoding="utf-8")
    assert "is not the demo's data" in called(".", "two").stderr
    assert "nowhere/test.source.txt cannot be read" in called("nowhere", "two").stderr
    source = next(iter(generate(1, 1, "test")))[0]
    Path("test.source.txt").write_text(f"{source}\n", encoding="utf-8")
    assert "two has 2 lines for 1 inputs" in called(".", "two").stderr
