"""Greedy search, left to right: what a beam of one finds, without a beam's bookkeeping."""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from janus_cli.core.batch import BOS, EOS, PAD
from janus_cli.core.search import Output

Step = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]]
COMPACT_AT = 0.8  # finished rows are removed once at most this share goes on: before, moving the cache costs more


def greedy(step: Step, max_lengths: Tensor, length_penalty: float = 1.0, *, free_end: bool = False) -> list[Output]:
    """The greedy output of each sentence; of equally likely tokens, the one that `step` prefers.

    Args:
        step: `step(last, kept, at_end)` -> the best next token (R,) and its log-probability (R,). last: (R,) int64, the
            newest token of each row. kept: (R,) int64, the rows of the previous pass that continue; None for all.
            at_end: (R,) bool, rows in which EOS is the only choice. The first pass has one row a sentence, BOS.
        max_lengths: (B,) int64, the most tokens of an output, EOS included; at least 1.
        length_penalty: see `beam_search`; decides the score only. free_end: EOS costs nothing at the maximum length.
    """
    if not len(max_lengths):
        return []
    rows = torch.arange(len(max_lengths), device=max_lengths.device)  # places of the rows that are still decoded
    tokens = torch.full((len(rows), int(max_lengths.max())), PAD, device=rows.device)
    logps = torch.zeros(tokens.shape, device=rows.device)
    last, kept, most = torch.full_like(rows, BOS), None, max_lengths
    going = torch.ones_like(rows, dtype=torch.bool)
    for place in range(tokens.shape[1]):
        at_end = most == place + 1
        best, sure = step(last, kept, at_end)
        tokens[rows, place] = torch.where(going, best, PAD)
        logps[rows, place] = torch.where(going & ~(at_end & free_end), sure.to(logps.dtype), 0.0)
        going = going & (best != EOS)
        left = int(going.sum())
        if not left:
            break
        kept, last = None, best
        if left <= COMPACT_AT * len(rows):
            kept = going.nonzero()[:, 0]
            rows, last, most, going = rows[kept], best[kept], most[kept], going[kept]
    return finished(tokens, logps, max_lengths, length_penalty, forced=free_end)


def finished(
    tokens: Tensor, logps: Tensor, max_lengths: Tensor, length_penalty: float = 1.0, passes: list[int] | None = None,
    *, forced: bool = False,
) -> list[Output]:  # fmt: skip
    """Outputs of rows that end in EOS, then PAD. tokens, logps (B, T); passes: by default one a token.

    One of the maximum length is `limited`, unless the model itself gave EOS more than half of the probability. If EOS
    was `forced`, it always is.
    """
    sizes = (tokens != PAD).sum(1).tolist()
    outputs = []
    for row, (ids, sure, size, most) in enumerate(
        zip(tokens.tolist(), logps.tolist(), sizes, max_lengths.tolist(), strict=True)
    ):
        score = sum(sure[:size]) / size**length_penalty
        limited = size >= most and (forced or sure[size - 1] <= log(0.5))
        outputs.append(Output(ids[: size - 1], sure[:size], score, passes[row] if passes else size, limited=limited))
    return outputs
