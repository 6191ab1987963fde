"""What a decoding says at its end of sources that were not read as they are, and of outputs that may be bad."""

from __future__ import annotations

from collections.abc import Mapping

from janus_cli import console
from janus_cli.console import counted
from janus_cli.decoding.modes import Plan

MOSTLY_UNKNOWN = 0.1  # a larger share of unknown tokens in the input is worth a warning


def tell(name: str, counts: Mapping[str, int], plan: Plan) -> None:
    """Tells what there is of each kind (see `Timing.counts`), and which knob changes that. name: of the sources."""
    count = {**dict.fromkeys(("read", "unknown", "cut", "unk", "limit", "max_length", "long", "fewer"), 0), **counts}
    if cut := count["cut"]:
        console.warn(f"{name}: {counted(cut, 'line')} cut to the {plan.recipe.reads} tokens that the model reads")
    if unknown := count["unknown"]:
        share = unknown / count["read"]
        said = f"{name}: {unknown:,} of {counted(count['read'], 'token')} ({share:.1%}) are unknown to the tokenizer"
        if share > MOSTLY_UNKNOWN:
            console.warn(f"{said}: is this the kind of text that the model was trained on?")
        else:
            console.say(said)
    if unks := count["unk"]:
        console.warn(f"outputs that contain <unk>: {unks:,}; --unk ban never writes it")
    (ratio, extra), least = plan.limiting.limit, plan.limiting.min_length
    limit = f"{ratio:g} × source + {extra} tokens" + (f", or {least} + {extra} if that is more" if least else "")
    by_model = count["max_length"] if plan.reads("max_ratio") else count["limit"]
    if limited := count["limit"] - by_model:
        console.warn(
            f"{counted(limited, 'output')} may be cut by the length limit ({limit}); raise it with "
            "--set decoding.max_extra=N or --set decoding.max_ratio=X"
        )
    if by_model:
        console.warn(
            f"{counted(by_model, 'output')} may be cut by model.max_length {plan.recipe.model.max_length}; "
            "only a training with a larger one raises it"
        )
    if long := count["long"]:
        console.warn(
            f"{counted(long, 'output')} of predicted length above the limit of left-to-right outputs ({limit}); if "
            "they are too long, the length head needs more training"
        )
    if fewer := count["fewer"]:
        console.say(f"{counted(fewer, 'line')} with fewer than {plan.options.nbest} hypotheses: no others were found")
