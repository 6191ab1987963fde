"""What a decoding says at its end of outputs that are not what they might be."""

from __future__ import annotations

from collections.abc import Mapping

from janus_cli import console
from janus_cli.console import counted
from janus_cli.decoding.modes import Plan


def tell(counts: Mapping[str, int], plan: Plan) -> None:
    """Tells how many lines there are of each kind (see `Timing.counts`), and which knob changes that."""
    options = plan.options
    by_model = counts.get("max_length" if plan.reads("max_ratio") else "limit", 0)
    if unknown := counts.get("unk", 0):
        console.warn(f"outputs that contain <unk>: {unknown:,}; --unk ban never writes it")
    if limited := counts.get("limit", 0) - by_model:
        ratio, extra = options.limit
        limit = f"{ratio:g} × source + {extra} tokens"
        limit += f", or {options.min_length} + {extra} if that is more" if options.min_length else ""
        console.warn(
            f"{counted(limited, 'output')} may be cut by the length limit ({limit}); raise it with "
            "--set decoding.max_extra=N or --set decoding.max_ratio=X"
        )
    if by_model:
        most = plan.recipe.model.max_length
        console.warn(
            f"{counted(by_model, 'output')} may be cut by model.max_length {most}; only a training with a larger one "
            "raises it"
        )
    if fewer := counts.get("fewer", 0):
        console.say(f"{counted(fewer, 'line')} with fewer than {options.nbest} hypotheses: no others were found")
