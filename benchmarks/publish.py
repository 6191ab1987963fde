"""Publishes a trained model with janus: exports it, measures exactly the exported file, and writes its model card.

    python benchmarks/publish.py RUN NAME --checkpoint average-last10 --trained-at COMMIT \\
        --decode "--mode ar --beam 5" --decode "--mode nar --iters 4 --length-beam 5 --rerank ar"

Makes pretrained/NAME/ with weights in bfloat16 and the test split; README.md there is the card. What differs from one
data set to another (licence, attribution, what the model is for, limits) is in `cards/RECIPE.md`, or in --about FILE.
Every change must be committed before: a card names the commit that its scores can be had with again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import shared

import janus_cli
from janus_cli import __version__, recipe_load
from janus_cli.errors import DataError, JanusError, UsageError
from janus_cli.export.export import export
from janus_cli.files import write_atomically
from janus_cli.lab import logbook
from janus_cli.lab.tables import markdown
from janus_cli.measures import MEASURES
from janus_cli.runs import PREFIX, Run, find_run
from janus_cli.terminal import command
from janus_cli.training.inspect import describe

ROOT = Path(__file__).resolve().parents[1]
CARDS = Path(__file__).resolve().parent / "cards"
INSTALLED = {  # whether a wheel has the model: how it can be named
    True: "It comes with every installed janus",
    False: "It has this name where janus was installed from a clone by `pip install -e .`; elsewhere, name the folder "
    "that this file is in: `--run FOLDER`",
}
Row = tuple[str, Mapping[str, Any], float]  # the command that decoded, what `janus score --json` says, passes


def main(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="of the folder under pretrained/")
    parser.add_argument("--checkpoint", type=Path, help="as of `janus export`")
    parser.add_argument("--trained-at", required=True, metavar="COMMIT", help="the code that trained it")
    parser.add_argument("--decode", required=True, action="append", metavar="OPTIONS", help="of `janus decode`; repeat")
    parser.add_argument("--set", default=[], action="append", metavar="KEY=VALUE", help="a knob of decoding; repeat")
    parser.add_argument("--draft-head", metavar="FILE", help="the training sources: makes a head for `--mode spec`")
    parser.add_argument("--about", type=Path, metavar="FILE", help="Markdown; by default cards/RECIPE.md")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    asked = parser.parse_args(arguments)
    if Path(janus_cli.__file__).resolve().parents[1] != ROOT:
        raise UsageError(f"{janus_cli.__file__} is not of this checkout", f"begin the command with PYTHONPATH={ROOT}")
    if changed := git("status", "--porcelain", "--", ".", ":!pretrained"):
        raise UsageError(f"the work tree has changes that no commit holds:\n{changed}", "commit them first")
    if asked.draft_head and not Path(asked.draft_head).is_file():
        raise DataError(f"{asked.draft_head} does not exist", "--draft-head takes the sources of the training split")
    commits = {"code": git("rev-parse", f"{asked.trained_at}^{{commit}}"), "scores": git("rev-parse", "HEAD")}
    run, folder = find_run(asked.run), ROOT / "pretrained" / asked.name
    file = asked.about or CARDS / f"{recipe_load.load(str(run.recipe)).name}.md"
    if not file.is_file():
        raise DataError(f"{file} does not exist", "write what the model is for, its data, licence and limits there")
    export(
        run=run.path, checkpoint=asked.checkpoint, kind="safetensors", out=folder, quantization="bfloat16",
        with_test=True, changes=asked.set, force=asked.force,
    )  # fmt: skip
    if asked.draft_head:
        janus(Path.cwd(), "draft-head", "--run", str(folder), "--source", asked.draft_head)
    rows = [measured(asked.name, options) for options in asked.decode]
    write_atomically(folder / "README.md", card(asked.name, run, folder, file.read_text("utf-8"), commits, rows))
    sys.stdout.write(f"{folder / 'README.md'}\n")


def git(*words: str) -> str:
    """What git says of this checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"git {' '.join(words)}: {done.stderr.strip()}", "publish from a clone of the repository")
    return done.stdout.strip()


def measured(name: str, options: str) -> Row:
    """Decodes the test split of a model that comes with janus, as a stranger would, and scores it."""
    words = ["decode", "--run", PREFIX + name, *shlex.split(options)]
    with TemporaryDirectory() as place:
        janus(Path(place), *words)
        found = json.loads(janus(Path(place), "score", "--run", PREFIX + name, "--json"))
        summary = next(Path(place).glob("runs/*/decode/*.json"))
        return command("janus", *words), found, json.loads(summary.read_bytes())["passes_mean"]


def janus(place: Path, *words: str) -> str:
    """The stdout of a command of this checkout, run in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-m", "janus_cli", *words], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise JanusError(f"{command('janus', *words)} ended with exit code {done.returncode}")
    return done.stdout


def card(name: str, run: Run, folder: Path, about: str, commits: Mapping[str, str], rows: Sequence[Row]) -> bytes:
    """The card, made of `cards/template.md`."""
    made, exported = describe(folder), json.loads((folder / "provenance.json").read_bytes())
    splits = json.loads((folder / "manifest.json").read_bytes())["splits"]
    averaged = exported.get("averaged", [])
    scores = rows[0][1]["scores"]
    table = markdown(
        {"command": "", **{MEASURES[score["name"]].title: ".2f" for score in scores}, "decoder passes": ".1f"},
        [[f"`{words}`", *(score["value"] for score in found["scores"]), passes] for words, found, passes in rows],
    )
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    with (folder / "test.source.txt").open(encoding="utf-8") as lines:
        example = next(line.strip() for line in lines if line.strip())
    values = {
        "name": name, "installed": INSTALLED[in_wheel(name)], "about": about.strip(),
        "objective": made["objective"]["name"], "recipe": made["recipe"],
        "model": made["model"], "parameters": f"{made['parameters']['all']:,}", "pair": made["pair"],
        "seed": made["seed"], "updates": f"{exported['step']:,}", "janus": __version__, **commits,
        "weights": f"the mean of {', '.join(averaged)}" if averaged else exported["checkpoint"],
        "data": ", ".join(f"{split} {found['kept']:,}" for split, found in splits.items()),
        "fingerprint": splits["train"]["fingerprint"], "training": training(run), "example": command("echo", example),
        "text": json.dumps(example, ensure_ascii=False), "scores_table": table, "pairs": f"{splits['test']['kept']:,}",
        "signatures": "\n".join(f"* {MEASURES[score['name']].title}: `{score['signature']}`" for score in scores),
        "sizes": markdown({"file": "", "bytes": ","}, [*sizes.items(), ("in all", sum(sizes.values()))]),
    }  # fmt: skip
    return Template((CARDS / "template.md").read_text(encoding="utf-8")).substitute(values).encode()


def in_wheel(name: str) -> bool:
    """Whether an installed janus has the model, too."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    return f"pretrained/{name}" in built["targets"]["wheel"]["force-include"]


def training(run: Run) -> str:
    """The command that began the training; of each path only the last name: folders are of one machine."""
    begun = logbook.read(run.log).of("start")
    words = begun[0]["command"] if begun else []
    return command("janus", *(re.sub(r"""[^][{}"'=:,]*/""", "", word) for word in words))


if __name__ == "__main__":
    shared.run(main)
