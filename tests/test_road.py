"""The whole pipeline through the command line, as a user types it."""

import json
from pathlib import Path

from tests.helpers import Janus


def test_four_lines_on_a_tiny_recipe(tiny_recipe: Path, janus: Janus) -> None:
    """Run, split and references are found without being named."""

    def must(line: str, stdin: str = "") -> tuple[str, str]:
        code, out, err = janus(*line.split(), stdin=stdin.encode())
        assert code == 0, err
        return out, err

    must("preprocess --recipe tiny.yaml")
    must("train --recipe tiny.yaml")
    out, err = must("decode --mode nar --iters 4")
    assert "runs/tiny-janus" in err
    assert out.count("\n") == 8
    assert {"bleu", "chrf", "ter"} <= {score["name"] for score in json.loads(must("score --json")[0])["scores"]}
    decoded, _ = must("decode --mode ar --beam 2")
    assert "BLEU" in must("score - --metrics bleu", stdin=decoded)[0].upper()
    must("average --last 2")
    must("decode --checkpoint average-last2 --mode ar")
    assert json.loads(must("inspect --json")[0])["averages"] == ["average-last2"]
