"""Which searches ONNX Runtime does, and why torch does the others."""

from __future__ import annotations

from janus_cli.core.generate import Mode
from janus_cli.core.knobs import ARSide, Decoding

UNKNOWN = {  # options that graphs do not know
    "ar": ("temperature", "diversity", "no_repeat_ngram", "min_length", "first_token"),
    "nar": ("remove_repeats", "no_repeat_ngram", "avoid_repeats", "rewrite_repeats"),
}


def without_graph(mode: Mode, options: Decoding, side: ARSide | None, device: str, *, lengths: bool) -> str:
    """Why a search is not done by a graph; empty if it is. device: its type. lengths: of a length head."""
    if options.engine == "torch":
        return "decoding.engine is torch"
    if device != "cpu" or options.precision == "bf16":
        return "graphs run on a CPU, in float32 or int8"
    if mode not in UNKNOWN or (mode == "nar" and not lengths):
        return "no graph for it"
    if side not in ("content", "query") and (mode == "ar" or options.rerank == "ar"):
        return "no graph for this AR side"
    return next((f"no graph for {name}" for name in UNKNOWN[mode] if getattr(options, name)), "")
