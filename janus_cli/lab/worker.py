"""One row of a bench in a process of its own: `python -m janus_cli.lab.worker`.

Peers are timed there, because libraries in one process disturb each other (their idle threads wait for work in
different ways), and every row's memory is measured there, because peaks within one process cannot be told apart.

The two talk in JSON, an object a line: the first on stdin says which row to build, each that follows what to decode;
each is answered by one on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from janus_cli.core.generate import Generator
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.decoding.modes import own_recipe
from janus_cli.device import choose_device, keep_freed_memory
from janus_cli.errors import JanusError, OutOfMemoryError
from janus_cli.lab import machine, peers, rows
from janus_cli.lab.timing import Decoded, Row, own
from janus_cli.training.checkpoint import load_model

Message = Mapping[str, Any]


@contextmanager
def started(order: Message) -> Iterator[tuple[Row, int]]:
    """Starts a process for a row: the row, which decodes there, and the bytes that its imports alone take.

    Raises (also where the row decodes):
        JanusError: the process ended; the message is the last line that it wrote.
    """
    command, pipe = [sys.executable, "-m", "janus_cli.lab.worker"], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, encoding="utf-8") as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        to, answers = process.stdin, process.stdout

        def ask(message: Message) -> dict[str, Any]:
            with suppress(BrokenPipeError):
                to.write(json.dumps(message) + "\n")
                to.flush()
            if answer := answers.readline():
                return json.loads(answer)
            code = process.wait()
            stderr.seek(0)
            raise JanusError(stderr.read().decode(errors="replace").strip().split("\n")[-1] or f"exit code {code}")

        def translate(lines: Sequence[str], batch: int) -> Decoded:
            return read(ask({"lines": list(lines), "batch": batch}))

        try:
            row = ask(order)
            before = row.pop("before")
            yield Row(translate=translate, **row), before
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                to.close()


def read(answer: dict[str, Any]) -> Decoded:
    """What `answer` returned in the other process."""
    if "too_large" in answer:
        raise OutOfMemoryError(answer["too_large"])
    return Decoded(**answer)


def peak_memory(order: Message, batch: int) -> dict[str, int | None]:
    """Decodes the order's lines in batches of `batch`, in a new process: bytes before and at the peak.

    Raises:
        JanusError: it failed.
    """
    with started(order) as (row, before):
        return {"before": before, "peak": row.translate(order["lines"], batch).peak}


def main() -> None:
    """Builds a row and decodes what stdin asks for, until stdin ends."""
    order = json.loads(sys.stdin.readline())
    torch.set_num_threads(order["threads"])
    device = choose_device(order["device"])  # peers too do without what slows our rows
    keep_freed_memory()
    if "peer" in order:
        peers.load(order["peer"])
    machine.forget_peak()  # of importing: the peak of decoding is counted from here, too
    before = machine.peak_bytes() if device.type == "cpu" else 0
    row = build(order, device)
    if "peer" in order:  # whose models load when first used
        row.translate(order["lines"][:1], 1)
    described = {name: getattr(row, name) for name in ("label", "mode", "options", "note", "comparable")}
    _send({"before": before, **described})
    for line in sys.stdin:
        _send(answer(row, json.loads(line), device))


def build(order: Message, device: torch.device) -> Row:
    """The row that an order is about; where that is a peer's, the order holds the fields of `peers.Setting`, too."""
    label, folder = order["label"], Path(order["folder"])
    recipe, tokenizers = own_recipe(folder, order["changes"]), load_tokenizers(Path(order["run"]))
    if "peer" in order:
        exported, lengths = Path(order["exported"]), order["lengths"]
        setting = peers.Setting(
            order["peer"], recipe, tokenizers, device, lengths, order["writer"], exported, order["own_weights"]
        )  # fmt: skip
        return peers.row(setting, label)
    plan = rows.select(recipe, [label]).plans[label]
    return own(label, plan, Generator(load_model(folder, device, plan.options.precision)), tokenizers)


def answer(row: Row, message: Message, device: torch.device) -> dict[str, Any]:
    """The outputs of the lines, or that they do not fit into memory."""
    if device.type == "cuda":
        torch.zeros(1, device=device)  # nothing can be reset before something was allocated
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.forget_peak()  # loading holds the weights twice for a moment; what counts is the peak of decoding
    begun = time.perf_counter()
    try:
        decoded = row.translate(message["lines"], message["batch"])
    except (MemoryError, RuntimeError, OutOfMemoryError) as problem:
        if isinstance(problem, RuntimeError) and "memory" not in str(problem):
            raise
        return {"too_large": str(problem).split("\n")[0] or "out of memory"}
    seconds = time.perf_counter() - begun
    peak = machine.peak_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return asdict(replace(decoded, seconds=seconds, peak=peak))


def _send(message: Message) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
