"""Is this version slower than that one? Two checkouts of janus in alternating pairs, through their command lines.

python benchmarks/two_versions.py OLD NEW --pairs 15 --folder /tmp/versions

OLD, NEW: folders that hold a `janus_cli`. Rows: an update of AR and JANUS, decoding one by one and in batches of 64,
preprocessing, `--help`. For each the ratio of times NEW / OLD: its mean over the pairs and a 95 % interval.
The machine should have nothing else to do. Exit code 1 where a whole interval lies above 1.03.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

LIMIT = 1.03
UPDATES = 5  # of which the first one is not counted
LINES = 60_000
MODES = ("ar.beam1", "ar.beam5", "nar4.lb1", "spec")
SHAPES = {"128/512": (128, 512), "256/1024": (256, 1024)}
RECIPE = """
name: versions
data: {{source: src, target: tgt, max_tokens: 60}}
tokenizer: {{vocabulary: 4000, train_lines: 20000}}
model: {{width: {width}, feedforward: {feedforward}, heads: 4, encoder_layers: 3, decoder_layers: 3, max_length: 64}}
training: {{updates: {updates}, log_every: 1, validate_every: 100000, save_every: 100000, valid_sentences: 2}}
"""


def write_text(folder: Path) -> None:
    """Made-up pairs of 5 to 20 words out of 5,000."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(5000)]
    for split, count in {"train": LINES, "valid": 20, "test": 300}.items():
        sources = [draw.choices(words, k=draw.randint(5, 20)) for _ in range(count)]
        for suffix, rows in {"src": sources, "tgt": [row[::-1] for row in sources]}.items():
            (folder / f"{split}.{suffix}").write_text("".join(f"{' '.join(row)}\n" for row in rows))


def janus(version: Path, folder: Path, *arguments: str) -> float:
    """Runs one command of this version in the folder; seconds."""
    environment = {**os.environ, "PYTHONPATH": str(version.resolve())}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "janus_cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"janus {' '.join(arguments)} of {version} failed:\n{done.stderr}")
    return time.perf_counter() - started


def prepare(version: Path, folder: Path) -> None:
    """Everything that a version is measured on, made by that version: text, ids, one trained run of each shape."""
    write_text(folder / "text")
    for name, (width, feedforward) in SHAPES.items():
        file = folder / f"{width}.yaml"
        file.write_text(RECIPE.format(width=width, feedforward=feedforward, updates=UPDATES))
        if not (folder / "ids").exists():
            janus(version, folder, "preprocess", "--recipe", file.name, "--data-dir", "text", "--out", "ids")
        sys.stderr.write(f"{version}: a run of {name}\n")
        janus(version, folder, "train", "--recipe", file.name, "--prepared", "ids", "--run", f"runs/{width}", "--force")


def update_seconds(version: Path, folder: Path, width: int, objective: str) -> dict[str, float]:
    run = f"runs/{width}-{objective}"
    options = ["--recipe", f"{width}.yaml", "--objective", objective, "--prepared", "ids", "--run", run, "--force"]
    janus(version, folder, "train", *options, "--set", "training.precision=float32")
    log = [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
    taken = [entry["seconds_per_update"] for entry in log if entry["kind"] == "train"]
    return {"update": statistics.median(taken[1:])}


def decoding_seconds(version: Path, folder: Path, width: int) -> dict[str, float]:
    kept = folder / "runs" / str(width) / "bench"
    before = set(kept.glob("*.json"))
    options = ["--sentences", "100", "--batches", "64", "--repeats", "1"]
    limits = ["--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=12"]  # random weights seldom write EOS
    janus(version, folder, "bench", f"runs/{width}", "--mode", ",".join(MODES), *options, *limits)
    (file,) = set(kept.glob("*.json")) - before
    rows = {row["label"]: row for row in json.loads(file.read_text())["rows"]}
    one_by_one = {f"{label}, one by one": row["latency"]["p50"]["median"] for label, row in rows.items()}
    return one_by_one | {
        f"{label}, batches of 64": 1 / row["throughput"]["sentences_per_second"]["median"]
        for label, row in rows.items()
    }


def rows_of(version: Path, folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """What is measured: a name, and what gives seconds by what they are for."""
    yield "--help", lambda: {"": janus(version, folder, "--help")}
    reuse = ["--set", "tokenizer.reuse=ids", "--workers", "2", "--out", "again", "--force"]
    encode = partial(janus, version, folder, "preprocess", "--recipe", "128.yaml", "--data-dir", "text", *reuse)
    yield "preprocess", lambda: {"": encode()}
    for name, (width, _) in SHAPES.items():
        for objective in ("ar", "janus"):
            yield f"{name} {objective}", partial(update_seconds, version, folder, width, objective)
        yield name, partial(decoding_seconds, version, folder, width)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean of the ratios, and a 95 % interval of it (bootstrap over the pairs)."""
    logs = np.log(ratios)
    means = np.random.default_rng(1).choice(logs, (10_000, len(logs))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--folder", type=Path, required=True, help="for text, ids and runs; made if it is not there")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    asked = parser.parse_args()
    versions = {"old": asked.old, "new": asked.new}
    for which, version in versions.items():
        if not (asked.folder / which / "runs").exists():
            prepare(version, asked.folder / which)
    ratios: dict[str, list[float]] = {}
    for pair in range(asked.pairs):
        both = {which: dict(rows_of(version, asked.folder / which)) for which, version in versions.items()}
        for name in both["old"]:
            if asked.only not in name:
                continue
            order = ("old", "new") if pair % 2 == 0 else ("new", "old")
            taken = {which: both[which][name]() for which in order}
            for part, seconds in taken["old"].items():
                ratios.setdefault(f"{name} {part}".strip(), []).append(taken["new"][part] / seconds)
        sys.stderr.write(f"pair {pair + 1} of {asked.pairs}\n")
    slower = 0
    for name, found in ratios.items():
        mean, low, high = interval(found)
        slower += low > LIMIT
        sys.stdout.write(f"{name:<36} new / old {mean:.3f}  ({low:.3f} … {high:.3f}){'  SLOWER' * (low > LIMIT)}\n")
    sys.exit(slower > 0)


if __name__ == "__main__":
    main()
