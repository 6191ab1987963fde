"""The whole pipeline through the command line, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path


def janus(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "janus_cli", *arguments], input=stdin, capture_output=True, timeout=1200, env=environment
    )


def must(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    done = janus(*arguments, stdin=stdin)
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


def test_nar_on_an_ar_run_is_refused(tiny_recipe: Path) -> None:
    must("train", "--recipe", "tiny.yaml", "--objective", "ar", "--set", "training.updates=1")
    done = janus("decode", "--mode", "nar")
    assert done.returncode == 2
    assert b"error:" in done.stderr
    assert b"hint:" in done.stderr
