"""What a decoding says of itself at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from janus_cli import console
from janus_cli.decoding.lines import Reader
from janus_cli.decoding.translator import Translator
from janus_cli.decoding.where import Place
from janus_cli.files import write_atomically


def warn(translator: Translator, reader: Reader) -> None:
    """Says what had to be mended in the text."""
    if reader.bad_utf8:
        console.warn(f"{reader.name}: lines that are not UTF-8: {reader.bad_utf8:,}; the bad bytes were replaced")
    if cut := max(translator.truncated, reader.cut):
        console.warn(f"{reader.name}: lines cut to the {translator.longest} tokens that the model reads: {cut:,}")


def measured(translator: Translator, seconds: float, device: torch.device, *, whole: bool) -> dict[str, Any]:
    """Says how fast it was, and returns it. whole: no other process did a part of it, so all batches are known."""
    timing = translator.timing
    mean, p95 = timing.latency()
    batch = translator.plan.options.batch_sentences
    batches = f"; a batch of up to {batch} took {1000 * mean:.0f} ms from start to end, p95 {1000 * p95:.0f} ms"
    rates = [count / max(seconds, 1e-9) for count in (timing.sentences, timing.tokens)]
    passes = timing.passes / max(1, timing.sentences)
    console.say(
        f"{timing.sentences:,} sentence{'s' * (timing.sentences != 1)} in {seconds:.1f} s: {rates[0]:.1f} sentences/s, "
        f"{rates[1]:.0f} tokens/s, {passes:.1f} decoder passes a sentence{batches if whole else ''} "
        "(loading the model not counted)"
    )
    return {
        "sentences": timing.sentences, "tokens": timing.tokens, "seconds": round(seconds, 3),
        "sentences_per_second": round(rates[0], 3), "tokens_per_second": round(rates[1], 3),
        "passes_mean": round(passes, 3), "batches": len(timing.seconds) if whole else None,
        "batch_latency_ms": {"mean": round(1000 * mean, 3), "p95": round(1000 * p95, 3)} if whole else None,
        "threads": torch.get_num_threads(), "device": str(device), "torch": torch.__version__,
    }  # fmt: skip


def keep(place: Place, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the summary and the reference beside the hypotheses; the summary last, `janus score` starts from it."""
    references = []
    if place.target is not None:
        references = [f"{place.split}.reference.txt"]
        write_atomically(place.folder / references[0], place.target.read_bytes())
    files = {"hypotheses": place.path("txt").name, "records": place.path("jsonl").name, "references": references}
    write_atomically(
        place.path("json"),
        (json.dumps({**about, **files}, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"),
    )
    console.say(f"kept as {place.path('txt')} (.jsonl, .json); score it with `janus score {place.path('txt')}`")
    return files
