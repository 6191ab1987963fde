"""`janus decode` and what is, or could be, on stdin."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from tests.helpers import Janus, ends


@pytest.fixture
def pipe() -> Iterator[int]:
    """The writing end of a pipe on stdin."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    yield writing
    os.dup2(before, 0)
    for each in (before, reading, writing):
        os.close(each)


@pytest.mark.parametrize("text", [b"", b"ba du\n"])
@pytest.mark.parametrize("more", [(), ("--split", "test")])
def test_text_that_is_not_read_is_named(janus: Janus, pipe: int, text: bytes, more: tuple[str, ...]) -> None:
    os.write(pipe, text)
    err = ends(janus("runs/ar", *more, "--dry-run"), 0)
    assert ("--input -" in err) == (bool(text) and not more)


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_answered_line_by_line(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    code, out, err = janus("runs/ar", "--input", "-", stdin=b"ba du\nge ba\n")
    assert (code, len(out.splitlines())) == (0, 2), err
    assert "Ctrl-D" in err
    assert "batch_sentences 1," in err.replace("\n", " ")
