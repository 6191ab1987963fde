"""Which searches ONNX Runtime does, and why torch does the others."""

from __future__ import annotations

from janus_cli.core.knobs import ARSide, Decoding, Mode
from janus_cli.errors import UsageError

UNKNOWN = {  # options that graphs do not know
    "ar": ("temperature", "diversity"),
    "spec": ("first_token",),
    "nar": ("no_repeat_ngram", "avoid_repeats"),
}


def without_graph(
    mode: Mode, options: Decoding, side: ARSide | None, device: str, *, lengths: bool, trace: bool = False
) -> str:
    """Why a search is not done by a graph; empty if it is.

    device: its type. lengths: of a length head. trace: whether passes are recorded.

    Raises UsageError: only a graph would do what the options say.
    """
    why = _without_graph(mode, options, side, device, lengths=lengths)
    if trace and mode == "nar":
        why = "only torch records a trace"
    if why and options.precision == "int8":
        raise UsageError(f"int8 is for ONNX Runtime only, but: {why}", "leave that out, or --precision float32")
    if why and options.engine == "onnx":
        raise UsageError(f"decoding.engine is onnx, but: {why}", "leave that out, or --engine auto")
    return why


def _without_graph(mode: Mode, options: Decoding, side: ARSide | None, device: str, *, lengths: bool) -> str:
    if options.engine == "torch":
        return "decoding.engine is torch"
    if device != "cpu" or options.precision == "bf16":
        return "graphs run on a CPU, in float32 or int8"
    if mode not in UNKNOWN or (mode == "nar" and not lengths):
        return f"no graph for {mode}" + " without predicted lengths" * (mode == "nar")
    if mode == "nar" and options.rewrite_repeats > 1:
        return "no graph for rewrite_repeats above 1"
    if mode == "spec" and (options.redraft not in ("nar", "source") or options.draft_iters > 1):
        return "no graph for draft_iters above 1, nor for redraft ar"
    if side not in ("content", "query") and (mode != "nar" or options.rerank == "ar"):
        return "no graph for this AR side"
    return next((f"no graph for {name}" for name in UNKNOWN[mode] if getattr(options, name)), "")
