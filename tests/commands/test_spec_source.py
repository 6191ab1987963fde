"""`--redraft source`: greedy's text for any model with an AR side in order, refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import Janus, ends


@pytest.mark.parametrize("run", ["runs/ar", "runs/janus"])
def test_the_text_is_greedys(any_janus: Janus, run: str) -> None:
    for name, how in (("greedy", ("ar", "--beam", "1")), ("copied", ("spec", "--redraft", "source"))):
        err = ends(any_janus("decode", run, "--mode", *how, "--output", f"{name}.txt"), 0)
        assert "draft-head" not in err
    assert Path("greedy.txt").read_bytes() == Path("copied.txt").read_bytes()


def test_a_damaged_draft_head_does_not_matter(any_janus: Janus) -> None:
    Path("runs/janus/checkpoints/last/draft-head.safetensors").write_bytes(b"nothing")
    words = "decode", "runs/janus", "--checkpoint", "last", "--mode", "spec", "--output", "out.txt"
    assert any_janus(*words)[0] != 0
    assert any_janus(*words, "--redraft", "source")[0] == 0


@pytest.mark.parametrize(
    ("run", "more", "said"),
    [
        ("runs/cmlm", (), "cmlm"),
        ("runs/janus", ("--draft-iters", "2"), "--draft-iters"),
        ("runs/ar", ("--redraft", "nar"), "--redraft source"),
    ],
)
def test_what_cannot_be_is_refused(any_janus: Janus, run: str, more: tuple[str, ...], said: str) -> None:
    ends(any_janus("decode", run, "--mode", "spec", "--redraft", "source", *more), 2, said)
