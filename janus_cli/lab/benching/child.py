"""One row in a process of its own: `python -m janus_cli.lab.benching.child`.

Peers are timed there, because libraries in one process disturb each other (their idle threads wait for work in
different ways), and every row's memory is measured there, because peaks within one process cannot be told apart.

One JSON object a line: the first on stdin says which row to build, each that follows what to decode; each is answered
by one on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import own_recipe
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import JanusError, OutOfMemoryError
from janus_cli.lab.benching import machine, peers
from janus_cli.lab.benching.contestant import Contestant, Decoded, own
from janus_cli.lab.benching.modes import select
from janus_cli.training.checkpoint import load_model


class Worker:
    """A process that decodes for one row; see `working`.

    Raises (anywhere):
        JanusError: the process ended; the message is the last line that it wrote.
    """

    def __init__(self, process: subprocess.Popen[str], words: IO[bytes], asked: Mapping[str, Any]) -> None:
        """words: what the process writes to stderr. asked: see `asked_of`."""
        self._process, self._words = process, words
        self.before: int = self._ask(asked)["before"]
        self.peak = 0

    def translate(self, lines: Sequence[str], batch: int) -> Decoded:
        """As `Contestant.translate`; `peak` is then the most memory that it took, in bytes."""
        found = self._ask({"lines": list(lines), "batch": batch})
        if "too_large" in found:
            raise OutOfMemoryError(found["too_large"])
        self.peak = found.pop("peak")
        return Decoded(**found)

    def _ask(self, what: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._words.seek(0)
            words = self._words.read().decode(errors="replace").strip().split("\n")[-1]
            raise JanusError(words or f"exit code {code}")
        return json.loads(answer)


@contextmanager
def working(asked: Mapping[str, Any]) -> Iterator[Worker]:
    """Starts a worker and ends it."""
    command = [sys.executable, "-m", "janus_cli.lab.benching.child"]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=words, text=True, encoding="utf-8") as process,
    ):
        try:
            yield Worker(process, words, asked)
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.close()


def peak_memory(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Decodes `lines` in batches of `batch`, in a new process, and says what it took, in bytes.

    before: the process (imports) before anything is loaded.

    Raises:
        JanusError: it failed.
    """
    with working(asked) as worker:
        worker.translate(asked["lines"], asked["batch"])
        return {"before": worker.before, "peak": worker.peak}


def asked_of(
    run: Path, folder: Path, changes: Sequence[str], device: torch.device, lines: Sequence[str]
) -> dict[str, Any]:
    """What every child is told; `label`, `batch` and, for a peer, its fields come on top."""
    return {
        "run": str(run), "folder": str(folder), "changes": list(changes), "device": str(device),
        "threads": torch.get_num_threads(), "lines": list(lines),
    }  # fmt: skip


def main() -> None:
    """Builds a row and decodes what stdin asks for, until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(asked["threads"])
    device = choose_device(asked["device"])  # peers too do without what slows our rows
    keep_freed_memory()
    if asked.get("peer"):
        peers.load(asked["peer"])
    machine.forget_peak()  # of importing: that of decoding counts anew, too
    before = machine.peak_bytes() if device.type == "cpu" else 0
    row = _row(asked, device)
    if asked.get("peer"):  # whose models load when first used
        row.translate(asked["lines"][:1], 1)
    _answer({"before": before})
    for line in sys.stdin:
        _answer(answer(row, json.loads(line), device))


def answer(row: Contestant, wish: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What became of the lines, or that they do not fit into memory."""
    _forget_peak(device)
    started = time.perf_counter()
    try:
        found = row.translate(wish["lines"], wish["batch"])
    except (MemoryError, RuntimeError, OutOfMemoryError) as problem:
        if isinstance(problem, RuntimeError) and "memory" not in str(problem):
            raise
        return {"too_large": str(problem).split("\n")[0] or "out of memory"}
    seconds = time.perf_counter() - started
    peak = machine.peak_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return {"texts": found.texts, "sizes": found.sizes, "passes": found.passes, "seconds": seconds, "peak": peak}


def _answer(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _row(asked: Mapping[str, Any], device: torch.device) -> Contestant:
    recipe, tokenizers = own_recipe(Path(asked["folder"]), asked["changes"]), load_tokenizers(Path(asked["run"]))
    if not asked.get("peer"):
        plan = select(recipe, [asked["label"]]).plans[asked["label"]]
        model = load_model(Path(asked["folder"]), device, plan.options.precision)
        return own(asked["label"], plan, model, tokenizers)
    setting = peers.Setting(
        asked["peer"], recipe, tokenizers, device, dict(zip(asked["lines"], asked["lengths"], strict=True)), "",
        Path(asked["exported"]), asked["own_weights"],
    )  # fmt: skip
    return next(row for row in peers.contestants(setting) if row.label == asked["label"])


def _forget_peak(device: torch.device) -> None:
    """Loading holds the weights twice for a moment; what counts is the peak of decoding."""
    if device.type == "cuda":
        torch.zeros(1, device=device)  # nothing can be reset before something was taken
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.forget_peak()


if __name__ == "__main__":
    main()
