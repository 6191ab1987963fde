"""Is this version slower than that one? Two checkouts of janus in alternating pairs, through their command lines.

python benchmarks/two_versions.py OLD NEW --pairs 15 --folder /tmp/versions

OLD, NEW: folders that hold a `janus_cli`. Rows: an update of AR and JANUS, decoding one by one and in batches of 64,
preprocessing, `--help`. For each the ratio of times NEW / OLD: its mean over the pairs and a 95 % interval.
The machine should have nothing else to do: a pair takes about four minutes on two cores. Each is kept in the folder
when it is complete, and the same command continues behind it. Exit code 1 where a whole interval lies above 1.03.
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
import torch

LIMIT = 1.03
UPDATES = 4  # of which the first one is not counted
LINES = 60_000
MODES = ("ar.beam1", "ar.beam5", "nar4.lb1", "spec.redraft-ar")
TRAININGS = (("ar", "float32"), ("janus", "float32"), ("janus", "bf16"))
WIDTHS = (128, 256)  # with a feed-forward of four times that
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


def prepare(version: Path, folder: Path, width: int) -> None:
    """What this version is measured on, made by itself where it is not there yet: text, ids, a trained run."""
    if not (folder / "text").exists():
        write_text(folder / "text")
    file = folder / f"{width}.yaml"
    file.write_text(RECIPE.format(width=width, feedforward=4 * width, updates=UPDATES))
    if not (folder / "ids").exists():
        janus(version, folder, "preprocess", "--recipe", file.name, "--data-dir", "text", "--out", "ids")
    if not (folder / "runs" / str(width) / "checkpoints" / "last").exists():
        options = ["--prepared", "ids", "--run", f"runs/{width}", "--force"]
        janus(version, folder, "train", "--recipe", file.name, *options)


def help_seconds(version: Path, folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    return {"": statistics.median(janus(version, folder, "--help") for _ in range(5))}


def preprocessing_seconds(version: Path, folder: Path) -> dict[str, float]:
    prepare(version, folder, WIDTHS[0])
    again = ["--set", "tokenizer.reuse=ids", "--workers", "2", "--out", "again", "--force"]
    return {"": janus(version, folder, "preprocess", "--recipe", f"{WIDTHS[0]}.yaml", "--data-dir", "text", *again)}


def update_seconds(version: Path, folder: Path, width: int, objective: str, precision: str) -> dict[str, float]:
    prepare(version, folder, width)
    run = f"runs/{width}-{objective}-{precision}"
    options = ["--recipe", f"{width}.yaml", "--objective", objective, "--prepared", "ids", "--run", run, "--force"]
    janus(version, folder, "train", *options, "--set", f"training.precision={precision}")
    log = [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
    taken = [entry["seconds_per_update"] for entry in log if entry["kind"] == "train"]
    return {"update": statistics.median(taken[1:])}


def decoding_seconds(version: Path, folder: Path, width: int) -> dict[str, float]:
    prepare(version, folder, width)
    kept = folder / "runs" / str(width) / "bench"
    before = set(kept.glob("*.json"))
    options = ["--sentences", "64", "--batches", "64", "--repeats", "1", "--threads", str(torch.get_num_threads())]
    limits = ["--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=12"]  # random weights seldom write EOS
    janus(version, folder, "bench", f"runs/{width}", "--mode", ",".join(MODES), *options, *limits)
    (file,) = set(kept.glob("*.json")) - before
    rows = {row["label"]: row for row in json.loads(file.read_text())["rows"]}
    one_by_one = {f"{label}, one by one": row["latency"]["p50"]["median"] for label, row in rows.items()}
    return one_by_one | {
        f"{label}, batches of 64": 1 / row["throughput"]["sentences_per_second"]["median"]
        for label, row in rows.items()
    }


def rows() -> Iterator[tuple[str, Callable[[Path, Path], dict[str, float]]]]:
    """What is measured: a name, and what gives seconds by what they are for, of a version in its folder."""
    yield "--help", help_seconds
    yield "preprocess", preprocessing_seconds
    for width in WIDTHS:
        shape = f"{width}/{4 * width}"
        for objective, precision in TRAININGS:
            seconds = partial(update_seconds, width=width, objective=objective, precision=precision)
            yield f"{shape} {objective} {precision}", seconds
        yield shape, partial(decoding_seconds, width=width)


def commit(version: Path) -> str:
    """What tells a version from others: its path and, in a repository, its commit."""
    found = subprocess.run(
        ["git", "-C", str(version), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{version.resolve()} {found.stdout.strip()}".strip()


def pair_of(versions: dict[str, Path], folder: Path, number: int, only: str) -> dict[str, float]:
    """The ratio NEW / OLD of every row, measured once; who comes first changes from pair to pair."""
    ratios = dict[str, float]()
    order = ("old", "new") if number % 2 == 0 else ("new", "old")
    for name, seconds in rows():
        if only in name:
            taken = {which: seconds(versions[which], folder / which) for which in order}
            ratios |= {f"{name} {part}".strip(): taken["new"][part] / taken["old"][part] for part in taken["old"]}
    return ratios


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
    parser.add_argument("--folder", type=Path, required=True, help="for text, ids, runs and what was measured")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    measured = asked.folder / "ratios.jsonl"
    made_of = {"old": commit(asked.old), "new": commit(asked.new), "only": asked.only}
    if not measured.exists():
        measured.write_text(json.dumps(made_of) + "\n")
    earlier, *pairs = [json.loads(line) for line in measured.read_text().splitlines()]
    if earlier != made_of:
        sys.exit(f"{measured} is of {earlier}, not of {made_of}: name another --folder")
    for number in range(len(pairs), asked.pairs):
        pairs.append(pair_of({"old": asked.old, "new": asked.new}, asked.folder, number, asked.only))
        with measured.open("a") as file:
            file.write(json.dumps(pairs[-1]) + "\n")
        sys.stderr.write(f"pair {number + 1} of {asked.pairs}\n")
    slower = 0
    for name in pairs[0]:
        mean, low, high = interval([pair[name] for pair in pairs])
        slower += low > LIMIT
        sys.stdout.write(f"{name:<36} new / old {mean:.3f}  ({low:.3f} … {high:.3f}){'  SLOWER' * (low > LIMIT)}\n")
    sys.exit(slower > 0)


if __name__ == "__main__":
    main()
