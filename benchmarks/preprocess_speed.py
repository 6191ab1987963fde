"""Memory and speed of `janus preprocess` on a large made-up corpus, beside bare SentencePiece; memory of `janus train`.

    python benchmarks/preprocess_speed.py --pairs 5000000 --folder /tmp/speed
    python benchmarks/preprocess_speed.py --lines 60000000 --folder /tmp/speed      # plain text, some 5 GB

Makes the text, runs `janus preprocess` on it in a process of its own, watches the memory of it and its children,
then encodes the same text with nothing but the SentencePiece library, in batches, on as many threads, and trains a
small model with it for a few updates. Plain text is for denoising, pairs for translation.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import sentencepiece

from janus_cli import console

MARK = "preprocess_speed"  # an empty file in a folder of ours, whose contents may be replaced
WORDS = 60_000  # of each side
MEAN_WORDS = 12  # of a line
BLOCK = 50_000  # pairs made at once
BATCH = 4000  # lines encoded at once
PAIRS = """name: speed
data: {source: aa, target: bb, max_ratio: 9.0}
tokenizer: {vocabulary: 16000}
"""
PLAIN = """name: speed
data: {task: denoising, source: noised, target: aa, max_tokens: 120}
tokenizer: {vocabulary: 16000}
"""
TRAINING = ("model.width=64", "model.feedforward=64", "training.updates=10", "training.valid_sentences=10")


def main() -> None:
    """Reads the options, runs everything, and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--lines", type=int, help="of plain text, instead of pairs")
    parser.add_argument("--folder", type=Path, required=True, help="gets the text and the prepared data (2 to 10 GB)")
    parser.add_argument("--workers", type=int, default=2, help="processes, and threads of bare SentencePiece")
    options = parser.parse_args()
    text, out = options.folder / "text", options.folder / "prepared"
    if options.folder.exists() and any(options.folder.iterdir()) and not (options.folder / MARK).is_file():
        parser.error(f"{options.folder} holds something else: name a folder that is empty or not there yet")
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / MARK).touch()
    sides, count = (("aa",), options.lines) if options.lines else (("aa", "bb"), options.pairs)
    make_text(text, sides, count)
    recipe = options.folder / "speed.yaml"
    recipe.write_text(PLAIN if options.lines else PAIRS, encoding="utf-8")
    words = ("--recipe", recipe, "--data-dir", text, "--out", out, "--workers", options.workers, "--force")
    seconds, peak = janus(options.folder, "preprocess", *words)
    lines = len(sides) * count
    encoding = seconds["train"] - seconds["tokenizer"]
    bare = encode_bare(text, sides, out / "tokenizer.model", options.workers)
    trained = ("--recipe", recipe, "--prepared", out, "--run", options.folder / "run", "--force")
    changes = [word for change in TRAINING for word in ("--set", change)]
    _, training = janus(options.folder, "train", *trained, "--threads", 1, *changes)
    rows = [
        ("text", f"{sum(file.stat().st_size for file in text.iterdir()) / 1e9:,.2f} GB, {lines:,} lines"),
        ("peak memory of all processes (RSS)", f"{peak / 2**20:,.0f} MiB"),
        ("that of a training", f"{training / 2**20:,.0f} MiB"),
        ("whole command", f"{seconds['end']:,.1f} s"),
        ("of it encoding the training split", f"{encoding:,.1f} s"),
        ("encoding", f"{lines / encoding:,.0f} lines/s"),
        ("bare SentencePiece", f"{lines / bare:,.0f} lines/s"),
        ("bare / encoding", f"{encoding / bare:.2f}"),
        ("bare / whole command", f"{seconds['end'] / bare:.2f}"),
    ]
    console.table("janus preprocess", ("what", "measured"), rows)


def make_text(folder: Path, sides: Sequence[str], lines: int) -> None:
    """Lines of made-up words with the frequencies of a real text (Zipf), the same at each call."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for side in sides:
        words = list(dict.fromkeys(_words(rng)))
        chances = 1 / np.arange(2, len(words) + 2)
        chances = np.cumsum(chances / chances.sum())
        for split, count in (("train", lines), ("valid", 1000), ("test", 1000)):
            with (folder / f"{split}.{side}").open("w", encoding="utf-8", newline="\n") as file:
                for start in range(0, count, BLOCK):
                    lengths = 1 + rng.poisson(MEAN_WORDS - 1, min(BLOCK, count - start))
                    chosen = np.searchsorted(chances, rng.random(lengths.sum()))
                    stream = iter([words[index] for index in np.minimum(chosen, len(words) - 1).tolist()])
                    file.writelines(" ".join(islice(stream, length)) + "\n" for length in lengths.tolist())


def _words(rng: np.random.Generator) -> Iterator[str]:
    letters = np.array(list("etaoinshrdlucmfwypvbgkäöüß"))
    chances = 1 / np.arange(2, len(letters) + 2)
    for length in rng.integers(2, 11, WORDS).tolist():
        yield "".join(rng.choice(letters, length, p=chances / chances.sum()))


def janus(folder: Path, *words: object) -> tuple[dict[str, float], int]:
    """Runs a command; seconds from its start to each line it says (by the line's first word), and peak bytes."""
    command = [sys.executable, "-m", "janus_cli", *map(str, words)]
    seconds: dict[str, float] = {}
    began, peak = time.monotonic(), 0
    log = folder / "log.txt"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stderr=sink)
        while process.poll() is None:
            time.sleep(0.1)
            peak = max(peak, _memory(process.pid))
            for line in log.read_text(encoding="utf-8").split("\n"):
                if ":" in line:
                    seconds.setdefault(line.split(":")[0], time.monotonic() - began)
    seconds["end"] = time.monotonic() - began
    if process.returncode:
        raise SystemExit(log.read_text(encoding="utf-8"))
    return seconds, peak


def _memory(root: int) -> int:
    """Bytes of resident memory of a process and all its descendants."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue  # it ended
        parents[int(fields["Pid"])] = int(fields["PPid"])
        sizes[int(fields["Pid"])] = 1024 * int(fields.get("VmRSS", "0 kB").split()[0])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(sizes.get(member, 0) for member in family)


def encode_bare(text: Path, sides: Sequence[str], model: Path, threads: int) -> float:
    """Seconds that the library alone takes for the training split."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    began = time.monotonic()
    for side in sides:
        with (text / f"train.{side}").open(encoding="utf-8", newline="\n") as file:
            while lines := [line.removesuffix("\n") for line in islice(file, BATCH)]:
                processor.encode(lines, num_threads=threads)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
