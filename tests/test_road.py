"""The whole road through the command line, as a user types it, and the README's commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from janus_cli import recipe_load
from janus_cli.cli import app
from janus_cli.lab import systems

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    """The README's four lines, with a smaller recipe; run, split and references are found without being named."""
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


@pytest.mark.slow
def test_the_four_lines_literally(empty_folder: Path) -> None:
    block = re.search(r"## Four lines\n.*?```sh\n(.*?)```", README, re.S)
    assert block is not None
    lines = [line.split("#")[0].split() for line in block[1].strip().split("\n")]
    assert [line[:2] for line in lines] == [["janus", verb] for verb in ("preprocess", "train", "decode", "score")]
    for line in lines:
        must(*line[1:])


def test_every_janus_line_of_the_readme_is_accepted(empty_folder: Path) -> None:
    """Each command reads all of its options and their values, and its recipe takes every --set; none is run."""
    commands = typer.main.get_command(app).commands
    lines = re.findall(r"^janus .*$", README.replace("\\\n", ""), re.M)
    found = [shlex.split(line, comments=True)[1:] for line in lines]
    assert len(found) >= 15
    for verb, *arguments in found:
        given = commands[verb].make_context(verb, list(arguments)).params
        if verb in ("train", "compare"):
            recipe_load.load(given["recipe"], given["changes"] or (), given.get("objective"))
        if verb == "compare":
            systems.asked(given["objectives"].split(","), given["variants"] or ())
