"""The whole pipeline through the command line, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path


def must(*arguments: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    done = subprocess.run(
        [sys.executable, "-m", "janus_cli", *arguments], input=stdin, capture_output=True, timeout=1200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done


def test_four_lines_on_a_tiny_recipe(tiny_recipe: Path) -> None:
    """Run, split and references are found without being named."""
    must("preprocess", "--recipe", "tiny.yaml")
    must("train", "--recipe", "tiny.yaml")
    decoded = must("decode", "--mode", "nar", "--iters", "4")
    assert b"runs/tiny-janus" in decoded.stderr
    assert decoded.stdout.count(b"\n") == 8
    scored = must("score", "--json")
    assert {"bleu", "chrf", "ter"} <= {entry["name"] for entry in json.loads(scored.stdout)["scores"]}
    again = must("decode", "--mode", "ar", "--beam", "2")
    assert again.stdout != b""
    piped = must("score", "-", "--metrics", "bleu", stdin=again.stdout)
    assert b"BLEU" in piped.stdout.upper()
    must("average", "--last", "2")
    must("decode", "--checkpoint", "average-last2", "--mode", "ar")
    inspected = must("inspect", "--json")
    assert json.loads(inspected.stdout)["averages"] == ["average-last2"]
