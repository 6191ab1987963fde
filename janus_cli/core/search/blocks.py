"""Semi-autoregressive search: blocks of tokens, left to right, up to the first EOS; one block for all is NAR.

BANG, Qi 2021 (semi-NAR generation).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD

Step = Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]


def write_blocks(step: Step, max_lengths: Tensor, block: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Writes each sentence until its first EOS.

    Args:
        step: `step(last, count, kept)` -> the best `count` tokens that follow and their log-probabilities, (R, count)
            each. last: (R, N) int64, the tokens of the block before, BOS at first. kept: (R,) int64, the rows of the
            previous pass that continue; None for all.
        max_lengths: (B,) int64, the most tokens of an output, EOS included; at least 1.
        block: tokens of a pass; None for all of them in one.

    Returns:
        tokens (B, T) int64 without EOS, then PAD, their log-probabilities (B, T) in nats, the passes (B,),
        and which outputs the maximum length cut off (B,) bool: no EOS was written up to there.
    """
    longest = int(max_lengths.max()) if len(max_lengths) else 0
    rows = torch.arange(len(max_lengths), device=max_lengths.device)
    tokens = torch.full((len(rows), longest), PAD, device=rows.device)
    logps, passes = torch.zeros(tokens.shape, device=rows.device), torch.zeros_like(max_lengths)
    last, kept = torch.full((len(rows), 1), BOS, device=rows.device), None
    for start in range(0, longest, block or max(1, longest)):
        stop = min(longest, start + (block or longest))
        best, sure = step(last, stop - start, kept)
        tokens[rows, start:stop], logps[rows, start:stop] = best, sure.to(logps.dtype)
        passes[rows] += 1
        going = ~(best == EOS).any(1) & (max_lengths[rows] > stop)
        if not bool(going.any()):
            break
        kept = None if bool(going.all()) else going.nonzero()[:, 0]
        last, rows = (best, rows) if kept is None else (best[kept], rows[kept])
    place = torch.arange(longest, device=tokens.device)
    ended = (tokens == EOS).cumsum(1) > 0
    last_place = max_lengths[:, None] - 1  # which is EOS's
    over, cut = ended | (place >= last_place), ~(ended & (place <= last_place)).any(1)
    return tokens.masked_fill(over, PAD), logps.masked_fill(over, 0.0), passes, cut
