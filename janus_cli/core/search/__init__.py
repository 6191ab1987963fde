"""Searches over callables: they know nothing of the model that fills them in (`core/generate.py` does)."""

from janus_cli.core.search.beam import beam_search
from janus_cli.core.search.blocks import write_blocks
from janus_cli.core.search.greedy import greedy
from janus_cli.core.search.mask_predict import mask_predict, masks, mean_logp, predicted_lengths, without_repeats
from janus_cli.core.search.output import Iteration, Output
from janus_cli.core.search.speculative import speculative

__all__ = [
    "Iteration",
    "Output",
    "beam_search",
    "greedy",
    "mask_predict",
    "masks",
    "mean_logp",
    "predicted_lengths",
    "speculative",
    "without_repeats",
    "write_blocks",
]
