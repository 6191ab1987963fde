"""Which outputs on the made-up text are right: any of the four, and nothing that mixes them."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from janus_cli.data.synthetic import generate, translations

Called = Callable[..., SimpleNamespace]  # returncode, stdout, stderr


def test_each_of_the_four_is_right_and_half_of_one_is_not(called: Called) -> None:
    sources = [source for source, _ in generate(8, 1, "test")]
    Path("test.source.txt").write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    four = [translations(source) for source in sources]
    for name, texts in (
        ("any", [texts[number % 4] for number, texts in enumerate(four)]),
        ("half", [texts[0] if number % 2 else texts[0].rsplit(" ", 1)[0] for number, texts in enumerate(four)]),
    ):
        Path(name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    done = called("right_outputs", ".", "any", "half")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| any +\| +100\.0 \| +100\.0 \|", done.stdout)
    assert re.search(r"\| half +\| +50\.0 \| +[789]\d\.\d \|", done.stdout)


@pytest.mark.slow
def test_other_text_and_other_lines_are_named(called: Called) -> None:
    Path("test.source.txt").write_text("ein Mann\n", encoding="utf-8")
    Path("two").write_text("a\nb\n", encoding="utf-8")
    assert "is not the demo's data" in called("right_outputs", ".", "two").stderr
    assert "nowhere/test.source.txt cannot be read" in called("right_outputs", "nowhere", "two").stderr
    source = next(iter(generate(1, 1, "test")))[0]
    Path("test.source.txt").write_text(f"{source}\n", encoding="utf-8")
    assert "two has 2 lines for 1 inputs" in called("right_outputs", ".", "two").stderr
